//! Unread payload stays within its window, and what was lent to a port comes back. `[R13]`

use super::{Checker, Fault};

impl Checker {
    /// A rank holds eager payload of one stream that it has not read.
    pub fn unread(&mut self, rank: usize, bytes: u64, window: u64) {
        if bytes > window {
            let bound = window;
            self.fault(Fault::TooMuchRetained { rank, bytes, bound });
        }
    }

    /// Everything is drained: the port has given back what it was lent.
    pub fn given_back(&mut self, rank: usize, buffers: usize) {
        if buffers > 0 {
            self.fault(Fault::NotGivenBack { rank, buffers });
        }
    }
}

//! Unread payload stays within its window, copies within the port's bound, and what was lent to a port
//! comes back. `[R13]` `[R56]`

use std::collections::BTreeMap;

use meander_core::BufferId;

use super::{Checker, Fault};

/// The copies that were made for a port and that it has not given back: counted apart from the port.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies {
    bytes: BTreeMap<BufferId, u64>,
}

impl Copies {
    /// The port has taken a copy.
    pub fn taken(&mut self, buffer: BufferId, bytes: u64) {
        self.bytes.insert(buffer, bytes);
    }

    /// It is done with it, if it was one.
    pub fn given_back(&mut self, buffer: BufferId) {
        self.bytes.remove(&buffer);
    }

    fn bytes(&self) -> u64 {
        self.bytes.values().sum()
    }
}

impl Checker {
    /// A rank's port has taken a copy.
    pub fn copied(&mut self, rank: usize, copies: &Copies, bound: u64) {
        let bytes = copies.bytes();
        if bytes > bound {
            self.fault(Fault::TooMuchRetained { rank, bytes, bound });
        }
    }

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

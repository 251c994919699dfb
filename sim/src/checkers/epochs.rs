//! No data is accepted from a stale epoch. `[R6]`

use meander_core::Epoch;

use super::{Checker, Fault};

impl Checker {
    /// A rank has taken a message, or payload, over a link that a process of epoch `sent` set up, when it
    /// knew of epoch `known`.
    pub fn accepted(&mut self, rank: usize, sent: Epoch, known: Epoch) {
        if sent < known {
            self.fault(Fault::StaleEpoch { rank, sent, known });
        }
    }
}

//! One live owner per port and epoch.

use std::collections::BTreeMap;

use meander_core::Epoch;

use super::{Checker, Fault};

/// Where each epoch of each rank has run.
#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<(usize, Epoch), usize>);

impl Checker {
    /// A process of this rank begins to run, or goes on. `others` of the rank run already.
    pub fn runs(&mut self, rank: usize, epoch: Epoch, slot: usize, others: usize) {
        if others > 0 {
            self.fault(Fault::TwoOwners { rank, epoch });
        }
        if *self.owners.0.entry((rank, epoch)).or_insert(slot) != slot {
            self.fault(Fault::EpochReused { rank, epoch });
        }
        if self.is_buried(rank) {
            self.fault(Fault::BuriedAlive(rank));
        }
    }
}

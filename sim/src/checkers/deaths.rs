//! Who is dead is reported; who is reported is dead, and was killed.

use std::collections::BTreeSet;

use super::{Checker, Fault};

#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// Ranks of which something was killed that may have been all there was, each with its node.
    killed: BTreeSet<(usize, usize)>,
    /// Ranks that agents have reported dead.
    buried: BTreeSet<usize>,
}

impl Checker {
    /// The rank may be dead from now on, and rightly, if the directory has it on this node.
    pub fn killed(&mut self, rank: usize, node: usize) {
        self.deaths.killed.insert((rank, node));
    }

    /// The directory has it that the rank, on this node, has ended. `runs`: whether a process of it does.
    pub fn buried(&mut self, rank: usize, node: usize, runs: bool) {
        if runs {
            self.fault(Fault::BuriedAlive(rank));
        } else if !self.deaths.killed.contains(&(rank, node)) {
            self.fault(Fault::Lost(rank));
        }
        self.deaths.buried.insert(rank);
    }

    pub fn is_buried(&self, rank: usize) -> bool {
        self.deaths.buried.contains(&rank)
    }

    pub fn may_be_dead(&self, rank: usize) -> bool {
        let mut killed = self.deaths.killed.iter();
        killed.any(|(killed, _)| *killed == rank)
    }
}

//! What happens to links and to old copies: cuts, silence, partitions, copies that wake up.

use std::time::Duration;

use crate::network::{Cut, Side};
use crate::world::{Later, Life, World};

impl World {
    /// Something breaks, somewhere.
    pub(crate) fn break_something(&mut self) {
        if self.below(12) == 0 && self.partition.is_none() {
            return self.part();
        }
        let sides = self.network.sides();
        if sides.is_empty() {
            return;
        }
        let side = sides[self.below(sides.len() as u64) as usize];
        match self.below(8) {
            0 | 1 => {
                self.coverage.hit("fault: one-way dead link");
                self.note("link half dead", &[side.slot as u64, side.link.0]);
                self.network.deafen(side);
                let pause = self.pause(40_000);
                self.at(pause, Later::Cut(side));
            }
            2 => self.stall(side),
            _ => self.cut(side),
        }
    }

    /// One side takes the link for dead and makes another; what it had sent before comes to the other
    /// side later, if it comes.
    fn stall(&mut self, side: Side) {
        self.coverage.hit("fault: link dead for a while");
        self.note("link stalls", &[side.slot as u64, side.link.0]);
        let until = self.now + self.pause(20_000);
        self.network.stall(side, self.now, until);
        self.processes[side.slot].port.broken(self.now, side.link);
    }

    /// Cuts a link, at whatever byte.
    pub(crate) fn cut(&mut self, side: Side) {
        let late = self.below(3) == 0;
        self.coverage.hit("fault: link cut");
        if late {
            self.coverage.hit("fault: link cut, one side learns late");
        }
        let mut ways = [Cut {
            kept: 0,
            torn: None,
            late: Duration::ZERO,
        }; 2];
        for (place, way) in ways.iter_mut().enumerate() {
            way.kept = self.below(4) as usize;
            let share = self.below(2000) as usize;
            way.torn = (share < 1000).then_some(share);
            if late && place == 1 {
                way.late = self.pause(100_000);
            }
        }
        self.note("link cut", &[side.slot as u64, side.link.0]);
        if self.network.cut(side, self.now, ways) {
            self.coverage.hit("fault: frame torn");
        }
    }

    /// Splits the nodes in two for a while. Links across break; the directory stays with one part.
    fn part(&mut self) {
        let mask = self.below(1 << self.nodes);
        self.partition = Some(mask);
        self.coverage.hit("fault: partition");
        self.note("partition", &[mask]);
        for side in self.network.sides() {
            let Some(other) = self.network.other_slot(side) else {
                continue;
            };
            if self.is_parted(self.processes[side.slot].node, self.processes[other].node) {
                self.cut(side);
            }
        }
        let pause = self.pause(200_000);
        self.at(pause, Later::Rejoin);
    }

    /// Whether two nodes can't reach each other.
    pub(crate) fn is_parted(&self, one: usize, other: usize) -> bool {
        self.partition
            .is_some_and(|mask| (mask >> one ^ mask >> other) & 1 == 1)
    }

    /// A copy that a move has left behind goes on, with the epoch it had.
    pub(crate) fn wake_a_zombie(&mut self) {
        let ended: Vec<usize> = (0..self.processes.len())
            .filter(|slot| self.lives[*slot] == Life::Ended)
            .filter(|slot| !self.processes[*slot].port.is_attached())
            .collect();
        if ended.is_empty() {
            return;
        }
        let slot = ended[self.below(ended.len() as u64) as usize];
        // Woken, it only waits for a verdict: its port is suspended, and nobody gives one. That it
        // attaches all the same is worse than what can happen, and refused by all who have met the
        // port since; `[R6]` promises no more.
        if !self.is_known_to_be_stale(slot) {
            return;
        }
        self.coverage.hit("fault: old copy wakes up");
        self.note("old copy wakes up", &[slot as u64]);
        let host = &mut self.processes[slot];
        host.zombie = true;
        let epoch = host.port.epoch();
        host.attach(self.now, epoch);
        self.lives[slot] = Life::Running;
        for _ in 0..3 {
            let others = self.ranks as u64 - 1;
            let rank = self.processes[slot].rank;
            let to = (rank + 1 + self.below(others) as usize) % self.ranks;
            self.send(slot, to);
        }
    }

    /// Whether every other rank has heard of a later epoch of this process's port.
    fn is_known_to_be_stale(&self, slot: usize) -> bool {
        let (port, epoch) = (
            self.processes[slot].port.id(),
            self.processes[slot].port.epoch(),
        );
        let rank = self.processes[slot].rank;
        let others = (0..self.processes.len()).filter(|other| {
            let host = &self.processes[*other];
            host.rank != rank
                && !host.zombie
                && matches!(self.lives[*other], Life::Running | Life::Held)
        });
        let knows = |other: usize| {
            let known = self.processes[other].port.contact_of(port);
            known.is_some_and(|contact| contact.epoch > epoch)
        };
        // A copy being made knows what its original knew when it was frozen.
        self.movings.is_empty() && others.into_iter().all(knows)
    }

    /// Nothing fails any more, and what is broken is mended.
    pub(crate) fn mend_links(&mut self) {
        self.partition = None;
        for side in self.network.deaf_sides() {
            self.cut(side);
        }
        for slot in 0..self.processes.len() {
            if self.processes[slot].zombie && self.lives[slot] == Life::Running {
                self.processes[slot].port.suspend();
                self.drive(slot);
                self.lives[slot] = Life::Ended;
            }
        }
    }
}

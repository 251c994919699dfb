//! The end of a run: nothing fails any more, and everything must come about.

use std::time::Duration;

use crate::host::port_id;
use crate::world::{Life, Report, World};

/// Rounds, of 50 virtual milliseconds each, that a healed world has to come to rest.
const ROUNDS: usize = 1000;

impl World {
    /// Ends all faults, reads every envelope, and lets links, agents and moves do their work.
    pub fn heal(&mut self) {
        self.healed = true;
        self.mend_links();
        self.restart_all();
        self.note("healed", &[]);
        // Envelopes and control need no window: everything is announced, though nobody reads.
        self.rest("announced", false, |world| world.checker.has_all_arrived());
        self.rest("at rest", true, World::is_quiet);
        if self.checker.is_content() {
            for rank in 0..self.ranks {
                if let Some(slot) = self.slot_of(rank) {
                    self.checker.given_back(rank, self.processes[slot].lent());
                }
            }
        }
    }

    /// Lets time pass until the world is as it should be.
    fn rest(&mut self, what: &str, reading: bool, done: impl Fn(&World) -> bool) {
        for _ in 0..ROUNDS {
            for slot in 0..self.processes.len() {
                let running = self.lives[slot] == Life::Running;
                let host = &mut self.processes[slot];
                if !reading || !running || !host.port.is_attached() {
                    continue;
                }
                host.read();
                while host.has_announced() {
                    host.pull_one(self.now, false, &mut self.checker);
                }
            }
            self.run_until(self.now + Duration::from_millis(50));
            if done(self) || !self.checker.is_content() {
                return;
            }
        }
        let moves: Vec<usize> = self.movings.keys().copied().collect();
        let living: Vec<usize> = (0..self.ranks)
            .filter(|rank| self.slot_of(*rank).is_some())
            .collect();
        self.checker.stuck(format!(
            "not {what} in the end; moves under way: {moves:?}; ranks alive: {living:?}"
        ));
    }

    /// Every move is over, every living rank has what it is owed and knows who is dead.
    fn is_quiet(&self) -> bool {
        self.movings.is_empty() && (0..self.ranks).all(|rank| self.is_at_rest(rank))
    }

    fn is_at_rest(&self, rank: usize) -> bool {
        let Some(slot) = self.slot_of(rank) else {
            return self.checker.is_buried(rank);
        };
        let host = &self.processes[slot];
        let dead = (0..self.ranks).filter(|other| self.slot_of(*other).is_none());
        host.port.is_attached()
            && host.is_idle()
            && host.listed
            && dead
                .into_iter()
                .all(|other| host.knows_dead(port_id(other)))
    }

    /// The verdict.
    pub fn finish(mut self) -> Report {
        self.checker.finish();
        Report {
            moves: self.next_move as u64,
            messages: self.messages,
            coverage: self.coverage,
            trace: self.trace.hash(),
            faults: self.checker.into_faults(),
        }
    }
}

//! What movers and guardians want done, done; or not, where a seed says so.

use std::time::Duration;

use meander_core::Epoch;
use meander_core::directory::Request as Question;
use meander_core::moves::{
    DestinationEffect, DestinationEnd, FromGuardian, Phase, Source, SourceEffect, SourceEnd,
    ToGuardian, Trouble, Verdict,
};

use super::{Step, To};
use crate::asking::Asker;
use crate::host::Host;
use crate::world::{Life, World};

/// Longer than a word takes from one side to the other.
const LAST_WORDS: Duration = Duration::from_millis(5);
const COPY_KILLED: &str = "fault: held copy killed";
const STEP_FAILS: &str = "fault: step of a move fails";

fn trouble(once: bool, what: &str) -> Result<(), Trouble> {
    if once {
        Err(Trouble::new(what))
    } else {
        Ok(())
    }
}

impl World {
    pub(super) fn source_effect(&mut self, number: usize, effect: SourceEffect) {
        let moving = &self.movings[&number];
        let (from, there, life) = (moving.from, moving.there, moving.lives[0]);
        if self.mishap(60, "fault: mover and guardian part") {
            self.part_movers(number);
        }
        match effect {
            SourceEffect::Check => {
                let fails = self.mishap(15, STEP_FAILS) || !self.agents[there].up;
                let result = trouble(fails, "it can't move");
                self.soon(number, To::Source, Step::Checked(result));
            }
            // What was killed does nothing any more.
            SourceEffect::Suspend | SourceEffect::Freeze | SourceEffect::Resume { .. }
                if self.lives[from] == Life::Dead =>
            {
                self.soon(number, To::Source, Step::OriginalEnded);
            }
            SourceEffect::Suspend => {
                let refuses = self.mishap(15, STEP_FAILS);
                if !refuses {
                    self.processes[from].port.suspend();
                    self.drive(from);
                }
                let result = trouble(refuses, "not now");
                self.soon(number, To::Source, Step::Suspended(result));
            }
            SourceEffect::Freeze => {
                self.lives[from] = Life::Held;
                let fails = self.mishap(15, STEP_FAILS);
                let image = self.processes[from].image();
                self.moving(number).image = Some(image);
                let result = trouble(fails, "dump failed");
                self.soon(number, To::Source, Step::Frozen(result));
            }
            SourceEffect::Copy => {
                let fails = self.mishap(15, STEP_FAILS) || self.movings[&number].parted;
                let result = trouble(fails, "copy failed");
                self.soon(number, To::Guardian, Step::Received(result.clone()));
                self.soon(number, To::Source, Step::Copied(result));
            }
            SourceEffect::Ask(question) => {
                let source = self.movings[&number].source.as_ref();
                let commits = matches!(question, Question::Commit { .. });
                if commits && source.is_some_and(Source::is_rolling_back) {
                    self.kill_on_the_way_back(number);
                } else if commits && self.mishap(15, COPY_KILLED) {
                    self.soon(number, To::Guardian, Step::CopyKilled);
                }
                self.ask(Asker::Mover(number, life), question);
            }
            SourceEffect::TellCommitted(epoch) => {
                self.coverage.hit("move: committed");
                self.tell_guardian(number, ToGuardian::Committed { epoch });
            }
            SourceEffect::TellAbort(why) => self.tell_guardian(number, ToGuardian::Abort { why }),
            SourceEffect::Resume { thaw, verdict } => self.resume(number, thaw, verdict),
            SourceEffect::Shadow => {
                if self.lives[from] != Life::Dead {
                    self.lives[from] = Life::Ended;
                }
                self.soon(number, To::Source, Step::Shadowed);
            }
            SourceEffect::Finish(end) => self.source_finished(number, end),
        }
    }

    fn source_finished(&mut self, number: usize, end: SourceEnd) {
        let moving = self.moving(number);
        moving.source = None;
        moving.lives[0] += 1;
        let (from, rank) = (moving.from, moving.rank);
        self.line_ends(number, To::Guardian);
        match &end {
            SourceEnd::RolledBack { phase, .. } => {
                // After the commit it is taken back by another commit.
                let name = if *phase > Phase::Commit {
                    "move: taken back after commit".to_owned()
                } else {
                    format!("move: rolled back in {phase}")
                };
                self.coverage.hit(&name);
            }
            SourceEnd::Moved { .. } => {
                self.coverage.hit("move: ended, moved");
                if self.below(3) == 0 && !self.healed {
                    self.again.push(rank);
                }
            }
            SourceEnd::Ended { .. } | SourceEnd::Fenced { .. }
                if self.checker.may_be_dead(rank) =>
            {
                self.coverage.hit("move: ended with its rank");
                self.lives[from] = Life::Dead;
            }
            SourceEnd::Ended { .. } | SourceEnd::Fenced { .. } => {
                self.checker
                    .stuck(format!("move {number} ended as {end:?}"));
            }
        }
    }

    fn resume(&mut self, number: usize, thaw: bool, verdict: Option<Verdict>) {
        let from = self.movings[&number].from;
        if thaw {
            self.lives[from] = Life::Running;
        }
        let epoch = self.processes[from].port.epoch();
        match verdict {
            // It had refused to leave the fabric, or was not asked yet.
            _ if self.processes[from].port.is_attached() => {}
            Some(Verdict::Resume) => self.attach(from, epoch),
            Some(Verdict::Attach(epoch)) => self.attach(from, epoch),
            None => {}
        }
        self.soon(number, To::Source, Step::Resumed);
    }

    pub(super) fn guardian_effect(&mut self, number: usize, effect: DestinationEffect) {
        match effect {
            DestinationEffect::Receive => {}
            DestinationEffect::Restore => {
                let fails = self.mishap(12, STEP_FAILS);
                if !fails {
                    self.restore(number);
                }
                let result = trouble(fails, "restore failed");
                self.soon(number, To::Guardian, Step::Restored(result));
            }
            DestinationEffect::Tell(message) => {
                let confirms = matches!(message, FromGuardian::Confirmed { .. });
                self.moving(number).confirmed |= confirms;
                if !self.movings[&number].parted {
                    self.soon(number, To::Source, Step::ToSource(message));
                }
            }
            DestinationEffect::Ask(question) => {
                let asker = Asker::Guardian(number, self.movings[&number].lives[1]);
                self.ask(asker, question);
            }
            DestinationEffect::Release { epoch } => self.release(number, epoch),
            DestinationEffect::Discard => {
                if let Some(copy) = self.movings[&number].copy
                    && self.lives[copy] != Life::Dead
                {
                    self.lives[copy] = Life::Ended;
                }
            }
            DestinationEffect::Finish(end) => {
                self.moving(number).guardian = None;
                self.line_ends(number, To::Source);
                self.coverage.hit(match end {
                    DestinationEnd::Running { .. } => "guardian: its rank runs",
                    DestinationEnd::Discarded { .. } => "guardian: nothing is left",
                });
            }
        }
    }

    fn restore(&mut self, number: usize) {
        let fresh = self.below(u64::MAX);
        let slot = self.processes.len();
        let moving = self.movings.get_mut(&number).expect("under way");
        let image = moving
            .image
            .as_ref()
            .expect("it was frozen before it was copied");
        let host = Host::restore(slot, moving.rank, moving.there, image, fresh);
        moving.copy = Some(slot);
        self.processes.push(host);
        self.lives.push(Life::Held);
        if self.mishap(20, COPY_KILLED) {
            self.soon(number, To::Guardian, Step::CopyKilled);
        }
    }

    fn release(&mut self, number: usize, epoch: Epoch) {
        let copy = self.movings[&number].copy.expect("it was restored");
        self.lives[copy] = Life::Running;
        self.attach(copy, epoch);
        self.soon(number, To::Guardian, Step::Released);
    }

    fn tell_guardian(&mut self, number: usize, message: ToGuardian) {
        if !self.movings[&number].parted {
            self.soon(number, To::Guardian, Step::ToGuardian(message));
        }
    }

    /// One side is done, and its last words are said: then the line ends.
    fn line_ends(&mut self, number: usize, noticed_by: To) {
        let pause = LAST_WORDS + self.pause(2000);
        let why = Trouble::new("the line has ended");
        self.later(number, noticed_by, pause, Step::LineLost(why));
    }

    /// Mover and guardian lose each other for good; each notices.
    fn part_movers(&mut self, number: usize) {
        let moving = self.moving(number);
        let copy_ended = moving.copy;
        if copy_ended.is_some_and(|copy| matches!(self.lives[copy], Life::Ended | Life::Dead)) {
            return;
        }
        self.moving(number).parted = true;
        for to in [To::Source, To::Guardian] {
            self.soon(number, to, Step::LineLost(Trouble::new("out of reach")));
        }
    }
}

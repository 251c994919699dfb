//! Moves: core's two state machines, with a world that carries out what they want, mostly.

use std::time::Duration;

use meander_core::directory::{Request as Question, Shadow};
use meander_core::moves::{
    Asked, Destination, DestinationEffect, FromGuardian, MoveLimits, Phase, Plan, Source,
    SourceEffect, SourceEnd, ToGuardian, Trouble, Verdict,
};
use meander_core::{Epoch, MoveId, Time};

use crate::host::{Host, Image, node_name, port_id};
use crate::world::{Later, Life, World};

/// A move under way.
#[derive(Debug)]
pub(crate) struct Moving {
    rank: usize,
    /// The original.
    from: usize,
    /// Where it goes to.
    node: usize,
    image: Option<Image>,
    /// The copy, once it is restored.
    copy: Option<usize>,
    source: Option<Source>,
    guardian: Option<Destination>,
    /// Mover and guardian can't reach each other any more.
    parted: bool,
}

/// A step that was begun is done.
#[derive(Debug)]
pub(crate) enum Step {
    Checked(Result<(), Trouble>),
    Suspended(Result<(), Trouble>),
    Frozen(Result<(), Trouble>),
    Copied(Result<(), Trouble>),
    Restored(Result<(), Trouble>),
    Resumed,
    Shadowed,
    Released,
    /// A message arrives.
    ToSource(FromGuardian),
    ToGuardian(ToGuardian),
    /// Each side notices that the other is out of reach.
    Parted,
    /// The question reaches the directory, from the source or the guardian.
    Ask(bool, Question),
    Answer(bool, Asked),
    CopyKilled,
}

impl Moving {
    pub fn poll_timeout(&self) -> Option<Time> {
        let source = self.source.as_ref().and_then(Source::poll_timeout);
        let guardian = self.guardian.as_ref().and_then(Destination::poll_timeout);
        source.into_iter().chain(guardian).min()
    }
}

fn limits() -> MoveLimits {
    MoveLimits {
        suspend: Duration::from_millis(100),
        confirm: Duration::from_millis(300),
        attach: Duration::from_millis(200),
        directory: Duration::from_millis(50),
        retry: Duration::from_millis(10),
    }
}

fn trouble(once: bool, what: &str) -> Result<(), Trouble> {
    if once {
        Err(Trouble::new(what))
    } else {
        Ok(())
    }
}

const STEP_FAILS: &str = "fault: step of a move fails";

impl World {
    /// Begins to move a rank that is not being moved.
    pub fn begin_move(&mut self) {
        let rank = self.below(self.ranks as u64) as usize;
        let busy = |rank: usize| self.movings.values().any(|it| it.rank == rank);
        let Some(from) = self.slot_of(rank).filter(|_| !busy(rank)) else {
            return;
        };
        if !self.movings.is_empty() {
            self.coverage.hit("both ends move at once");
        }
        let here = self.processes[from].node;
        let node = (here + 1 + self.below(self.nodes as u64 - 1) as usize) % self.nodes;
        let number = self.next_move;
        self.next_move += 1;
        let id = |half: u128| MoveId((number as u128) << 2 | half);
        let plan = Plan {
            port: port_id(rank),
            from: self.processes[from].port.epoch(),
            move_id: id(1),
            reclaim_id: id(2),
            here: node_name(here),
            host_pid: from as u32 + 1,
            there: node_name(node),
            shadow: None::<Shadow>,
        };
        let guardian = Destination::new(plan.port, plan.move_id, limits());
        let source = Some(Source::new(plan, limits(), self.now));
        let (image, copy) = (None, None);
        let guardian = Some(guardian);
        let moving = Moving {
            rank,
            from,
            node,
            image,
            copy,
            source,
            guardian,
            parted: false,
        };
        self.movings.insert(number, moving);
        self.note("move begins", &[rank as u64, here as u64, node as u64]);
    }

    /// Carries out all that the movers and guardians want.
    pub(crate) fn drive_moves(&mut self) {
        let numbers: Vec<usize> = self.movings.keys().copied().collect();
        for number in numbers {
            loop {
                let moving = self.movings.get_mut(&number).expect("removed only below");
                if let Some(effect) = moving.source.as_mut().and_then(Source::poll_effect) {
                    self.source_effect(number, effect);
                } else if let Some(effect) =
                    moving.guardian.as_mut().and_then(Destination::poll_effect)
                {
                    self.guardian_effect(number, effect);
                } else {
                    break;
                }
            }
            let moving = &self.movings[&number];
            if moving.source.is_none() && moving.guardian.is_none() {
                self.movings.remove(&number);
            }
        }
    }

    pub(crate) fn move_timeouts(&mut self) {
        for moving in self.movings.values_mut() {
            if let Some(source) = &mut moving.source {
                source.handle_timeout(self.now);
            }
            if let Some(guardian) = &mut moving.guardian {
                guardian.handle_timeout(self.now);
            }
        }
    }

    fn soon(&mut self, number: usize, step: Step) {
        let pause = self.pause(4000);
        self.at(pause, Later::Step(number, step));
    }

    fn source_effect(&mut self, number: usize, effect: SourceEffect) {
        let from = self.movings[&number].from;
        if self.mishap(60, "fault: mover and guardian part") {
            self.part_movers(number);
        }
        match effect {
            SourceEffect::Check => {
                let result = trouble(self.mishap(15, STEP_FAILS), "it can't move");
                self.soon(number, Step::Checked(result));
            }
            SourceEffect::Suspend => {
                let refuses = self.mishap(15, STEP_FAILS);
                if !refuses {
                    self.processes[from].port.suspend();
                    self.drive(from);
                }
                self.soon(number, Step::Suspended(trouble(refuses, "not now")));
            }
            SourceEffect::Freeze => {
                self.lives[from] = Life::Held;
                let fails = self.mishap(15, STEP_FAILS);
                let image = self.processes[from].image();
                self.moving(number).image = Some(image);
                self.soon(number, Step::Frozen(trouble(fails, "dump failed")));
            }
            SourceEffect::Copy => {
                let fails = self.mishap(15, STEP_FAILS) || self.movings[&number].parted;
                self.soon(number, Step::Copied(trouble(fails, "copy failed")));
            }
            SourceEffect::Ask(question) => self.ask(number, true, question),
            SourceEffect::TellCommitted(epoch) => {
                self.committed += 1;
                self.coverage.hit("move: committed");
                self.tell_guardian(number, ToGuardian::Committed { epoch });
            }
            SourceEffect::TellAbort(why) => self.tell_guardian(number, ToGuardian::Abort { why }),
            SourceEffect::Resume { thaw, verdict } => self.resume(number, thaw, verdict),
            SourceEffect::Shadow => {
                self.lives[from] = Life::Ended;
                self.soon(number, Step::Shadowed);
            }
            SourceEffect::Finish(end) => self.source_finished(number, end),
        }
    }

    fn source_finished(&mut self, number: usize, end: SourceEnd) {
        self.moving(number).source = None;
        self.note("move ends", &[number as u64]);
        match end {
            SourceEnd::RolledBack { phase, .. } => {
                let name = format!("move: rolled back in {phase}");
                // After the commit it is taken back by another commit.
                let after = phase > Phase::Commit;
                self.coverage.hit(if after {
                    "move: taken back after commit"
                } else {
                    &name
                });
            }
            SourceEnd::Moved { .. } => {
                if self.below(3) == 0 && !self.healed {
                    self.coverage.hit("rank moves again at once");
                    self.begin_move();
                }
            }
            SourceEnd::Ended { .. } | SourceEnd::Fenced { .. } => {
                let fault = crate::Fault::Stuck(format!("move {number} ended as {end:?}"));
                self.checker.fault(fault);
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
            // It had refused to leave the fabric.
            _ if self.processes[from].port.is_attached() => {}
            Some(Verdict::Resume) => self.attach(from, epoch),
            Some(Verdict::Attach(epoch)) => self.attach(from, epoch),
            None => {}
        }
        self.soon(number, Step::Resumed);
    }

    fn guardian_effect(&mut self, number: usize, effect: DestinationEffect) {
        match effect {
            DestinationEffect::Receive => {}
            DestinationEffect::Restore => {
                let fails = self.mishap(12, STEP_FAILS);
                if !fails {
                    self.restore(number);
                }
                self.soon(number, Step::Restored(trouble(fails, "restore failed")));
            }
            DestinationEffect::Tell(message) => {
                if !self.movings[&number].parted {
                    self.soon(number, Step::ToSource(message));
                }
            }
            DestinationEffect::Ask(question) => self.ask(number, false, question),
            DestinationEffect::Release { epoch } => self.release(number, epoch),
            DestinationEffect::Discard => {
                if let Some(copy) = self.movings[&number].copy {
                    self.discard(copy);
                }
            }
            DestinationEffect::Finish(_) => self.moving(number).guardian = None,
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
        let host = Host::restore(slot, moving.rank, moving.node, image, fresh);
        moving.copy = Some(slot);
        self.processes.push(host);
        self.lives.push(Life::Held);
        if self.mishap(20, "fault: held copy killed") {
            self.soon(number, Step::CopyKilled);
        }
    }

    fn release(&mut self, number: usize, epoch: Epoch) {
        let copy = self.movings[&number].copy.expect("it was restored");
        self.lives[copy] = Life::Running;
        self.attach(copy, epoch);
        self.soon(number, Step::Released);
    }

    fn discard(&mut self, copy: usize) {
        self.lives[copy] = Life::Ended;
    }

    fn tell_guardian(&mut self, number: usize, message: ToGuardian) {
        if !self.movings[&number].parted {
            self.soon(number, Step::ToGuardian(message));
        }
    }

    fn part_movers(&mut self, number: usize) {
        let moving = &self.movings[&number];
        if moving
            .copy
            .is_some_and(|copy| self.lives[copy] == Life::Ended)
        {
            return;
        }
        self.moving(number).parted = true;
        self.soon(number, Step::Parted);
    }

    /// A question goes to the directory. It may not get there, and its answer may be lost.
    fn ask(&mut self, number: usize, source: bool, question: Question) {
        let moving = &self.movings[&number];
        let node = if source {
            self.processes[moving.from].node
        } else {
            moving.node
        };
        if self.is_cut_off(node) || self.mishap(8, "fault: directory not reached") {
            self.coverage.hit("fault: directory not reached");
            let asked = Asked::NotSent("out of reach".to_owned());
            return self.soon(number, Step::Answer(source, asked));
        }
        self.soon(number, Step::Ask(source, question));
    }

    fn asked(&mut self, number: usize, source: bool, question: Question) {
        let (reply, _) = self.directory.handle(question);
        let lost = self.mishap(8, "fault: directory's answer lost");
        let asked = if lost {
            Asked::Unknown("no answer".to_owned())
        } else {
            Asked::Answered(reply)
        };
        self.soon(number, Step::Answer(source, asked));
    }

    fn moving(&mut self, number: usize) -> &mut Moving {
        self.movings
            .get_mut(&number)
            .expect("the move is under way")
    }

    /// Hands the result of a step to whoever waits for it.
    pub(crate) fn step_done(&mut self, number: usize, step: Step) {
        let now = self.now;
        let Some(moving) = self.movings.get_mut(&number) else {
            return;
        };
        let (source, guardian) = (&mut moving.source, &mut moving.guardian);
        match (step, source, guardian) {
            (Step::Checked(result), Some(source), _) => source.handle_checked(now, result),
            (Step::Suspended(result), Some(source), _) => source.handle_suspended(now, result),
            (Step::Frozen(result), Some(source), _) => source.handle_frozen(now, result),
            (Step::Copied(result), source, guardian) => {
                if let Some(guardian) = guardian {
                    guardian.handle_received(result.clone());
                }
                if let Some(source) = source {
                    source.handle_copied(now, result);
                }
            }
            (Step::Restored(result), _, Some(guardian)) => {
                guardian.handle_restored(result.map(|()| (1, Vec::new())));
            }
            (Step::Resumed, Some(source), _) => source.handle_resumed(now, Ok(())),
            (Step::Shadowed, Some(source), _) => source.handle_shadowed(now, Ok(())),
            (Step::Released, _, Some(guardian)) => guardian.handle_released(Ok(())),
            (Step::ToSource(message), Some(source), _) => source.handle_guardian(now, message),
            (Step::ToGuardian(message), _, Some(guardian)) => guardian.handle_source(message),
            (Step::Parted, source, guardian) => {
                if let Some(source) = source {
                    source.handle_guardian_lost(now, Trouble::new("out of reach"));
                }
                if let Some(guardian) = guardian {
                    guardian.handle_source_lost(Trouble::new("out of reach"));
                }
            }
            (Step::Ask(source, question), _, _) => self.asked(number, source, question),
            (Step::Answer(true, asked), Some(source), _) => source.handle_directory(now, asked),
            (Step::Answer(false, asked), _, Some(guardian)) => {
                guardian.handle_directory(now, asked);
            }
            (Step::CopyKilled, _, Some(guardian)) => {
                let copy = moving.copy.expect("it was restored");
                // Once it runs it is a rank that ends, which is another story. So is a copy that is
                // killed when nobody can be told any more: that rank is lost.
                if self.lives[copy] == Life::Held && !moving.parted {
                    self.lives[copy] = Life::Ended;
                    guardian.handle_copy_ended(Trouble::new("killed"));
                }
            }
            _ => {}
        }
    }
}

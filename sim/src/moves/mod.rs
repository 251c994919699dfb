//! Moves: core's two state machines, with a world that carries out what they want, mostly.

mod effects;

use std::time::Duration;

use meander_core::moves::{
    Destination, FromGuardian, MoveLimits, Phase, Plan, Source, ToGuardian, Trouble,
};
use meander_core::{MoveId, Time};

use crate::crash::Victim;
use crate::host::{Image, node_name, port_id};
use crate::world::{Later, Life, World};

/// A move under way.
#[derive(Debug)]
pub(crate) struct Moving {
    pub rank: usize,
    /// The original.
    pub from: usize,
    /// The node where it is.
    pub here: usize,
    /// The node it goes to.
    pub there: usize,
    /// What the journal says.
    plan: Plan,
    image: Option<Image>,
    /// The copy, once it is restored.
    pub copy: Option<usize>,
    pub source: Option<Source>,
    pub guardian: Option<Destination>,
    /// Counts how often source and guardian were killed.
    pub lives: [u32; 2],
    /// The source was killed, its journal is there.
    pub orphaned: bool,
    /// The guardian has said that the copy is there: it may be all there is from now on.
    pub confirmed: bool,
    /// Mover and guardian can't reach each other any more.
    pub parted: bool,
    noted: Phase,
    /// Who is to be killed, and when.
    crashes: Vec<(Phase, Victim)>,
}

/// Whom a step concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Source,
    Guardian,
}

/// A step that was begun is done, or something is noticed.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Checked(Result<(), Trouble>),
    Suspended(Result<(), Trouble>),
    Frozen(Result<(), Trouble>),
    Copied(Result<(), Trouble>),
    Received(Result<(), Trouble>),
    Restored(Result<(), Trouble>),
    Resumed,
    Shadowed,
    Released,
    /// The guardian's word arrives.
    ToSource(FromGuardian),
    /// The source's word arrives.
    ToGuardian(ToGuardian),
    /// The other side is out of reach.
    LineLost(Trouble),
    /// The original was killed.
    OriginalEnded,
    /// The held copy is killed.
    CopyKilled,
}

impl Moving {
    pub fn poll_timeout(&self) -> Option<Time> {
        let source = self.source.as_ref().and_then(Source::poll_timeout);
        let guardian = self.guardian.as_ref().and_then(Destination::poll_timeout);
        source.into_iter().chain(guardian).min()
    }

    /// The phase that its owner is in, or was when it was killed.
    pub fn phase(&self) -> Phase {
        self.source.as_ref().map_or(self.noted, Source::phase)
    }

    fn is_over(&self) -> bool {
        self.source.is_none() && !self.orphaned && self.guardian.is_none()
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

impl World {
    /// Begins to move some rank that is not being moved. Returns whether there is one.
    pub fn begin_move(&mut self) -> bool {
        let first = self.below(self.ranks as u64) as usize;
        let ranks = self.ranks;
        let found = (0..ranks).any(|more| self.begin_move_of((first + more) % ranks));
        if !found && self.ranks_left() == 0 {
            return true;
        }
        found
    }

    /// Begins to move a rank, if it can be.
    pub(crate) fn begin_move_of(&mut self, rank: usize) -> bool {
        let busy = self.movings.values().any(|it| it.rank == rank);
        let Some(from) = self.slot_of(rank).filter(|_| !busy) else {
            return false;
        };
        let here = self.processes[from].node;
        if !self.agents[here].up {
            return false;
        }
        let connected = self.processes[from].port.connected_peers();
        let at_once = self
            .movings
            .values()
            .any(|other| connected.contains(&port_id(other.rank)));
        if at_once {
            self.coverage.hit("both ends of a stream move at once");
        }
        let there = (here + 1 + self.below(self.nodes as u64 - 1) as usize) % self.nodes;
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
            there: node_name(there),
            shadow: None,
        };
        let crashes = self.plan_crashes();
        let moving = Moving {
            rank,
            from,
            here,
            there,
            image: None,
            copy: None,
            source: Some(Source::new(plan.clone(), limits(), self.now)),
            guardian: Some(Destination::new(plan.port, plan.move_id, limits())),
            plan,
            lives: [0; 2],
            orphaned: false,
            confirmed: false,
            parted: false,
            noted: Phase::Check,
            crashes,
        };
        self.movings.insert(number, moving);
        self.note(
            "move begins",
            &[number as u64, rank as u64, here as u64, there as u64],
        );
        self.phase_entered(number, Phase::Check);
        true
    }

    /// Ranks that run, or are being moved.
    fn ranks_left(&self) -> usize {
        let lives = |rank: &usize| {
            self.slot_of(*rank).is_some() || self.movings.values().any(|it| it.rank == *rank)
        };
        (0..self.ranks).filter(lives).count()
    }

    /// The rank has moved a moment ago, and moves again, whoever may not have heard of the first time.
    pub(crate) fn move_again(&mut self, rank: usize) {
        let Some(slot) = self.slot_of(rank) else {
            return;
        };
        let port = &self.processes[slot].port;
        let behind = port.connected_peers().into_iter().any(|peer| {
            let peer = self.slot_of(crate::host::rank_of(peer));
            let known = peer.and_then(|peer| self.processes[peer].port.contact_of(port.id()));
            known.is_some_and(|known| known.epoch < port.epoch())
        });
        if self.begin_move_of(rank) && behind {
            self.coverage
                .hit("rank moves again before its peers have caught up");
        }
    }

    /// Carries out all that the movers and guardians want.
    pub(crate) fn drive_moves(&mut self) {
        let numbers: Vec<usize> = self.movings.keys().copied().collect();
        for number in numbers {
            loop {
                let moving = self.moving(number);
                if let Some(effect) = moving.source.as_mut().and_then(Source::poll_effect) {
                    let text = format_args!("move {number}: {effect:?}");
                    self.trace.note(self.now, "source", &[number as u64], text);
                    self.source_effect(number, effect);
                } else if let Some(effect) =
                    moving.guardian.as_mut().and_then(Destination::poll_effect)
                {
                    let text = format_args!("move {number}: {effect:?}");
                    self.trace
                        .note(self.now, "guardian", &[number as u64], text);
                    self.guardian_effect(number, effect);
                } else {
                    break;
                }
            }
            let moving = &self.movings[&number];
            let (phase, noted) = (moving.phase(), moving.noted);
            if moving.is_over() {
                self.movings.remove(&number);
            } else if phase != noted {
                self.coverage.hit(&format!("phase: {noted} to {phase}"));
                self.moving(number).noted = phase;
                self.phase_entered(number, phase);
            }
        }
    }

    fn phase_entered(&mut self, number: usize, phase: Phase) {
        let crashes = self.movings[&number].crashes.clone();
        for (_, victim) in crashes.into_iter().filter(|(at, _)| *at == phase) {
            let pause = self.pause(3000);
            self.at(pause, Later::Crash(number, victim));
        }
    }

    /// The agent of a node gives moves whose owner was killed another one.
    pub(crate) fn recover_moves(&mut self, node: usize) {
        let now = self.now;
        for (number, moving) in &mut self.movings {
            if moving.here == node && moving.orphaned {
                moving.orphaned = false;
                moving.source = Some(Source::recover(moving.plan.clone(), limits(), now));
                self.coverage.hit("move taken over from its journal");
                self.trace.note(
                    now,
                    "taken over",
                    &[*number as u64],
                    format_args!("move {number}"),
                );
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

    pub(crate) fn soon(&mut self, number: usize, to: To, step: Step) {
        let pause = self.pause(4000);
        self.later(number, to, pause, step);
    }

    pub(crate) fn later(&mut self, number: usize, to: To, pause: Duration, step: Step) {
        let life = self.moving(number).lives[to as usize];
        self.at(pause, Later::Step(number, to, life, step));
    }

    pub(crate) fn moving(&mut self, number: usize) -> &mut Moving {
        self.movings
            .get_mut(&number)
            .expect("the move is under way")
    }

    /// Hands the result of a step to whoever waits for it.
    pub(crate) fn step_done(&mut self, number: usize, to: To, life: u32, step: Step) {
        let now = self.now;
        let Some(moving) = self.movings.get_mut(&number) else {
            return;
        };
        if moving.lives[to as usize] != life {
            return;
        }
        let text = format_args!("move {number}, {to:?}: {step:?}");
        self.trace.note(now, "step", &[number as u64], text);
        match (to, &mut moving.source, &mut moving.guardian) {
            (To::Source, Some(source), _) => match step {
                Step::Checked(result) => source.handle_checked(now, result),
                Step::Suspended(result) => source.handle_suspended(now, result),
                Step::Frozen(result) => source.handle_frozen(now, result),
                Step::Copied(result) => source.handle_copied(now, result),
                Step::Resumed => source.handle_resumed(now, Ok(())),
                Step::Shadowed => source.handle_shadowed(now, Ok(())),
                Step::ToSource(message) => source.handle_guardian(now, message),
                Step::LineLost(why) => source.handle_guardian_lost(now, why),
                Step::OriginalEnded => source.handle_ended(now),
                _ => {}
            },
            (To::Guardian, _, Some(guardian)) => match step {
                Step::Received(result) => guardian.handle_received(result),
                Step::Restored(result) => {
                    guardian.handle_restored(result.map(|()| (1, Vec::new())));
                }
                Step::Released => guardian.handle_released(Ok(())),
                Step::ToGuardian(message) => guardian.handle_source(message),
                Step::LineLost(why) => guardian.handle_source_lost(why),
                Step::CopyKilled => self.kill_copy(number),
                _ => {}
            },
            _ => {}
        }
    }

    /// Something kills the copy while it is held. Once it runs it is a rank that ends, which is another
    /// story. So is a copy that is killed when nobody can be told any more: that rank is lost.
    fn kill_copy(&mut self, number: usize) {
        let moving = &self.movings[&number];
        let Some(copy) = moving.copy else { return };
        let (parted, confirmed) = (moving.parted, moving.confirmed);
        let (rank, there) = (moving.rank, moving.there);
        if self.lives[copy] != Life::Held || parted || self.healed {
            return;
        }
        if confirmed {
            // Whether its node's agent or the way back is faster is not told beforehand.
            if self.living() <= self.quorum {
                return;
            }
            self.checker.killed(rank, there);
        }
        self.lives[copy] = Life::Dead;
        if let Some(guardian) = &mut self.moving(number).guardian {
            guardian.handle_copy_ended(Trouble::new("killed"));
        }
    }
}

//! Processes and nodes are killed, at every phase of a move, and started again.

use meander_core::moves::{Phase, Trouble};

use crate::directory::Moment;
use crate::moves::{Moving, Step, To};
use crate::world::{Later, Life, World};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The owner of the move.
    Mover,
    /// The guardian at its destination, and the copy with it.
    Guardian,
    /// The process that is moved.
    Rank,
    /// The agent where it comes from.
    SourceAgent,
    /// The agent where it goes to.
    DestinationAgent,
    /// All of the node where it comes from.
    SourceNode,
    /// All of the node where it goes to.
    DestinationNode,
    /// The directory's process.
    Directory,
}

/// What comes back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Restart {
    Agent(usize),
    Directory,
}

impl Victim {
    pub const ALL: [Victim; 8] = [
        Victim::Mover,
        Victim::Guardian,
        Victim::Rank,
        Victim::SourceAgent,
        Victim::DestinationAgent,
        Victim::SourceNode,
        Victim::DestinationNode,
        Victim::Directory,
    ];

    /// As it is counted.
    pub fn counted(self, phase: Phase) -> String {
        let who = match self {
            Victim::Mover => "mover",
            Victim::Guardian => "guardian",
            Victim::Rank => "rank",
            Victim::SourceAgent => "source agent",
            Victim::DestinationAgent => "destination agent",
            Victim::SourceNode => "source node",
            Victim::DestinationNode => "destination node",
            Victim::Directory => "directory",
        };
        format!("crash: {who} in {phase}")
    }
}

/// How long it takes until something is started again, in microseconds.
const RESTART_US: u64 = 40_000;
/// How long others may take to notice that a node is gone.
const SILENCE_US: u64 = 50_000;

impl World {
    /// The crashes that a move is to see, each in its phase.
    pub(crate) fn plan_crashes(&mut self) -> Vec<(Phase, Victim)> {
        let count = [0, 0, 0, 1, 1, 1, 1, 2][self.below(8) as usize];
        let one = |world: &mut World| {
            let phase = Phase::ALL[world.below(Phase::ALL.len() as u64) as usize];
            let victim = Victim::ALL[world.below(Victim::ALL.len() as u64) as usize];
            (phase, victim)
        };
        (0..count).map(|_| one(self)).collect()
    }

    /// Somebody of a move is killed, if that leaves enough ranks to go on with.
    pub(crate) fn crash(&mut self, number: usize, victim: Victim) {
        let Some(moving) = self.movings.get(&number).filter(|_| !self.healed) else {
            return;
        };
        let (phase, here, there, from) = (moving.phase(), moving.here, moving.there, moving.from);
        let copy = moving.copy.filter(|copy| self.lives[*copy] != Life::Ended);
        let dies: Vec<usize> = match victim {
            // Its last word may be on its way: then the move is committed all the same.
            Victim::Guardian if moving.confirmed => copy.into_iter().collect(),
            Victim::Rank => vec![self.slot_of(moving.rank).unwrap_or(from)],
            Victim::SourceNode => self.living_on(here),
            Victim::DestinationNode => self.living_on(there),
            _ => Vec::new(),
        };
        let mut doomed: Vec<usize> = dies.iter().map(|slot| self.processes[*slot].rank).collect();
        doomed.sort_unstable();
        doomed.dedup();
        if !doomed.is_empty() && self.living() < doomed.len() + self.quorum {
            return;
        }
        let happens = match victim {
            Victim::Mover => self.kill_mover(number),
            Victim::Guardian => self.kill_guardian(number),
            Victim::Rank => self.kill_rank(number),
            Victim::SourceAgent => self.kill_agent(here),
            Victim::DestinationAgent => self.kill_agent(there),
            Victim::SourceNode => self.kill_node(here),
            Victim::DestinationNode => self.kill_node(there),
            Victim::Directory => self.kill_directory(),
        };
        if happens {
            self.coverage.hit(&victim.counted(phase));
            let text = format_args!("{victim:?} of move {number} in {phase}");
            self.trace.note(self.now, "crash", &[number as u64], text);
        }
    }

    /// What was killed is there again.
    pub(crate) fn restart(&mut self, what: Restart) {
        match what {
            Restart::Agent(node) if !self.agents[node].up => {
                self.note("agent starts", &[node as u64]);
                self.agents[node].up = true;
            }
            Restart::Agent(_) => {}
            Restart::Directory => {
                self.note("directory starts", &[]);
                self.directory.restart();
            }
        }
    }

    /// The owner of a move that is taken back is killed, perhaps.
    pub(crate) fn kill_on_the_way_back(&mut self, number: usize) {
        if self.mishap(2, "crash: mover on the way back") {
            let pause = self.pause(8000);
            self.at(pause, Later::Crash(number, Victim::Mover));
        }
    }

    pub(crate) fn restart_all(&mut self) {
        for node in 0..self.nodes {
            self.restart(Restart::Agent(node));
        }
        self.restart(Restart::Directory);
    }

    fn restart_later(&mut self, what: Restart) {
        let most = if self.below(2) == 0 {
            RESTART_US
        } else {
            RESTART_US / 20
        };
        let pause = self.pause(most);
        self.at(pause, Later::Restart(what));
    }

    /// Ranks that live, or can.
    pub(crate) fn living(&self) -> usize {
        (0..self.ranks)
            .filter(|rank| !self.checker.may_be_dead(*rank))
            .count()
    }

    fn living_on(&self, node: usize) -> Vec<usize> {
        (0..self.processes.len())
            .filter(|slot| self.processes[*slot].node == node && !self.processes[*slot].zombie)
            .filter(|slot| matches!(self.lives[*slot], Life::Running | Life::Held))
            .collect()
    }

    fn kill_mover(&mut self, number: usize) -> bool {
        let moving = self.moving(number);
        if moving.source.take().is_none() {
            return false;
        }
        moving.lives[0] += 1;
        moving.orphaned = true;
        self.lose_line(number, To::Guardian);
        // What it asked last is perhaps still on its way when all is settled without it.
        if self.mishap(3, "crash: directory after mover") {
            let pause = self.pause(SILENCE_US);
            self.at(pause, Later::Crash(number, Victim::Directory));
        }
        true
    }

    fn kill_guardian(&mut self, number: usize) -> bool {
        let moving = self.moving(number);
        let (guardian, copy) = (moving.guardian.take(), moving.copy);
        moving.lives[1] += 1;
        // A guardian that has released its rank stays with it, as its parent.
        let Some(copy) =
            copy.filter(|copy| matches!(self.lives[*copy], Life::Running | Life::Held))
        else {
            self.lose_line(number, To::Source);
            return guardian.is_some();
        };
        self.kill_process(copy);
        self.lose_line(number, To::Source);
        true
    }

    fn kill_rank(&mut self, number: usize) -> bool {
        let moving = &self.movings[&number];
        let (from, rank) = (moving.from, moving.rank);
        let slot = self.slot_of(rank).unwrap_or(from);
        if !matches!(self.lives[slot], Life::Running | Life::Held) {
            return false;
        }
        self.kill_process(slot);
        if slot == from {
            self.soon(number, To::Source, Step::OriginalEnded);
        }
        true
    }

    fn kill_agent(&mut self, node: usize) -> bool {
        let was_up = self.agents[node].up;
        if was_up {
            self.agents[node].kill();
            self.restart_later(Restart::Agent(node));
        }
        was_up
    }

    fn kill_directory(&mut self) -> bool {
        if !self.directory.is_up() {
            return false;
        }
        match self.below(3) {
            0 => {
                self.directory.crash();
                self.directory_goes_down();
            }
            1 => self.directory.doom(Moment::BeforeTheDisk),
            _ => self.directory.doom(Moment::BeforeTheAnswer),
        }
        true
    }

    /// Its process was killed: its agent starts another.
    pub(crate) fn directory_goes_down(&mut self) {
        self.note("directory down", &[]);
        self.restart_later(Restart::Directory);
    }

    /// Everything on a node ends, and its journals with it.
    fn kill_node(&mut self, node: usize) -> bool {
        self.agents[node].kill();
        for slot in self.living_on(node) {
            self.kill_process(slot);
        }
        let numbers: Vec<usize> = self.movings.keys().copied().collect();
        for number in numbers {
            let moving = self.moving(number);
            if moving.here == node {
                moving.source = None;
                moving.orphaned = false;
                moving.lives[0] += 1;
                self.lose_line(number, To::Guardian);
            } else if moving.there == node {
                moving.guardian = None;
                moving.lives[1] += 1;
                self.lose_line(number, To::Source);
            }
        }
        if node == 0 && self.directory.is_up() {
            self.directory.crash();
            self.directory_goes_down();
        }
        self.restart_later(Restart::Agent(node));
        true
    }

    fn kill_process(&mut self, slot: usize) {
        let is_unconfirmed = |moving: &Moving| moving.copy == Some(slot) && !moving.confirmed;
        if !self.movings.values().any(is_unconfirmed) {
            let host = &self.processes[slot];
            self.checker.killed(host.rank, host.node);
        }
        let listing = self.listing(slot);
        let attached = self.processes[slot].port.is_attached();
        if attached && self.mishap(3, "fault: rank dies while it is listed") {
            self.asked_in_vain(listing);
        }
        self.lives[slot] = Life::Dead;
        for side in self.network.sides_of(slot) {
            let silence = self.pause(SILENCE_US);
            self.network.close(side, self.now + silence);
        }
    }

    /// One end of the line between mover and guardian is gone; the other notices.
    fn lose_line(&mut self, number: usize, noticed_by: To) {
        self.moving(number).parted = true;
        let silence = self.pause(SILENCE_US);
        let why = Trouble::new("the line is dead");
        self.later(number, noticed_by, silence, Step::LineLost(why));
    }
}

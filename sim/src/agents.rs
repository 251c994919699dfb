//! What the agent of a node does while others live and die: it lists the ports that are there, gives
//! moves whose owner was killed a new one, buries the dead, and tells the living of them.

use std::time::Duration;

use meander_core::directory::{Ending, Reply, Request as Question};
use meander_core::moves::{Asked, Burial, BurialEffect};
use meander_core::{PortId, Time};

use crate::asking::Asker;
use crate::checkers::Fault;
use crate::directory::entry;
use crate::host::{node_name, port_id, rank_of};
use crate::world::{Later, Life, World};

/// An agent looks around about this often.
const LOOKS_US: u64 = 20_000;
/// Pause before it asks again.
const RETRY: Duration = Duration::from_millis(10);
/// How long it leaves alone what may be on its way back.
const PATIENCE: Duration = Duration::from_millis(60);

/// The agent of one node.
#[derive(Debug)]
pub(crate) struct Agent {
    pub up: bool,
    /// Counts how often it was started.
    pub life: u32,
    burial: Option<Burial>,
}

impl Default for Agent {
    fn default() -> Agent {
        Agent {
            up: true,
            life: 0,
            burial: None,
        }
    }
}

impl Agent {
    pub fn poll_timeout(&self) -> Option<Time> {
        self.burial.as_ref().and_then(Burial::poll_timeout)
    }

    pub fn kill(&mut self) {
        self.up = false;
        self.life += 1;
        self.burial = None;
    }
}

impl World {
    pub(crate) fn look_later(&mut self, node: usize) {
        let pause = self.pause(LOOKS_US);
        self.at(pause, Later::Look(node));
    }

    /// The agent of a node, if it lives, does what there is to do.
    pub(crate) fn look_after(&mut self, node: usize) {
        self.look_later(node);
        if !self.agents[node].up {
            return;
        }
        self.recover_moves(node);
        let here: Vec<usize> = (0..self.processes.len())
            .filter(|slot| self.lives[*slot] == Life::Running && !self.processes[*slot].zombie)
            .filter(|slot| self.processes[*slot].node == node)
            .filter(|slot| self.processes[*slot].port.is_attached())
            .collect();
        for slot in here {
            self.list(slot);
            self.tell_of_the_dead(slot);
        }
        let burial = || Burial::new(node_name(node), RETRY, PATIENCE);
        self.agents[node].burial.get_or_insert_with(burial);
    }

    /// Has the directory list a process where it is, if it does not yet.
    pub(crate) fn list(&mut self, slot: usize) {
        let host = &self.processes[slot];
        if host.listed || !self.agents[host.node].up || !self.reaches_directory(host.node) {
            return;
        }
        let question = self.listing(slot);
        match self.directory.ask(question) {
            Some(Reply::Done) => self.processes[slot].listed = true,
            Some(reply) => self
                .checker
                .stuck(format!("the directory does not list {slot}: {reply:?}")),
            None => self.directory_goes_down(),
        }
    }

    /// Whoever missed a report hears it now.
    fn tell_of_the_dead(&mut self, slot: usize) {
        if !self.reaches_directory(self.processes[slot].node) {
            return;
        }
        for rank in 0..self.ranks {
            let port = port_id(rank);
            let news = self.checker.is_buried(rank) && !self.processes[slot].knows_dead(port);
            if news && rank != self.processes[slot].rank {
                let ended = self.directory.ask(Question::Lookup { port });
                if let Some(Reply::Ended(Ending::Died)) = ended {
                    self.tell_dead(slot, port);
                }
            }
        }
    }

    /// A process hears that a port is dead, if it is on the fabric to hear it.
    pub(crate) fn tell_dead(&mut self, slot: usize, port: PortId) {
        if self.lives[slot] == Life::Running && self.processes[slot].port.is_attached() {
            self.note("told dead", &[slot as u64, rank_of(port) as u64]);
            self.coverage.hit("peer reported dead");
            self.processes[slot].told_dead(port);
            self.drive(slot);
        }
    }

    pub(crate) fn drive_burials(&mut self) {
        for node in 0..self.nodes {
            while let Some(burial) = &mut self.agents[node].burial
                && let Some(effect) = burial.poll_effect()
            {
                match effect {
                    BurialEffect::Ask(question) => {
                        let asker = Asker::Agent(node, self.agents[node].life);
                        self.ask(asker, question);
                    }
                    BurialEffect::Report(port) => self.report(node, port),
                    BurialEffect::Finish => self.agents[node].burial = None,
                }
            }
        }
    }

    pub(crate) fn burial_timeouts(&mut self) {
        for agent in &mut self.agents {
            if let Some(burial) = &mut agent.burial {
                burial.handle_timeout(self.now);
            }
        }
    }

    pub(crate) fn burial_answered(&mut self, node: usize, life: u32, asked: Asked) {
        let agent = &mut self.agents[node];
        let Some(mut burial) = agent.burial.take().filter(|_| agent.life == life) else {
            return;
        };
        burial.handle_directory(self.now, asked, |port, _| self.is_held(node, rank_of(port)));
        self.agents[node].burial = Some(burial);
    }

    /// Whether a process on this node holds a rank's port.
    fn is_held(&self, node: usize, rank: usize) -> bool {
        let lives = |slot: usize| matches!(self.lives[slot], Life::Running | Life::Held);
        let holds = |slot: usize| {
            let host = &self.processes[slot];
            host.rank == rank && host.node == node && !host.zombie && lives(slot)
        };
        let taken_in = self
            .movings
            .values()
            .any(|moving| moving.rank == rank && moving.there == node && moving.guardian.is_some());
        taken_in || (0..self.processes.len()).any(holds)
    }

    /// Something of a port was asked: what has ended is dead, and stays so.
    pub(crate) fn look_whether_ended(&mut self, port: PortId) {
        let rank = rank_of(port);
        match (self.checker.is_buried(rank), self.directory.has_ended(port)) {
            (true, false) => self.checker.fault(Fault::Unburied(rank)),
            (false, true) => {
                self.note("buried", &[rank as u64]);
                let runs = self.slot_of(rank).is_some();
                let node = self.directory.node_of(port);
                self.checker.buried(rank, node, runs);
            }
            _ => {}
        }
    }

    /// What an agent asks to have a process listed.
    pub(crate) fn listing(&self, slot: usize) -> Question {
        let host = &self.processes[slot];
        let contact = host.port.contact();
        Question::Register {
            port: contact.port,
            entry: entry(host.rank, contact.epoch, contact.location),
        }
    }

    /// A death is told to those who can be reached now; the others hear of it from their agents.
    fn report(&mut self, node: usize, port: PortId) {
        let rank = rank_of(port);
        if !self.checker.is_buried(rank) {
            self.checker.fault(Fault::BuriedAlive(rank));
        }
        for slot in 0..self.processes.len() {
            let host = &self.processes[slot];
            let there = host.node;
            if host.rank != rank && self.agents[there].up && !self.is_parted(node, there) {
                let pause = self.pause(4000);
                self.at(pause, Later::Told(slot, port));
            }
        }
    }
}

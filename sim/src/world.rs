//! A run: processes, a network, a plan, and a seed that decides what happens when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::time::Duration;

use meander_core::directory::{Reply, Request as Question};
use meander_core::{Card, Contact, Epoch, Limits, PortId, StreamKind, Time};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::agents::Agent;
use crate::asking::{Asker, Asking};
use crate::checkers::{Checker, Fault};
use crate::coverage::Coverage;
use crate::crash::{Restart, Victim};
use crate::directory::DirectoryHost;
use crate::host::{Host, REFUSED_SERVICE, Request, port_id};
use crate::moves::{Moving, Step, To};
use crate::network::{Delivery, Network, Sent, Side};
use crate::trace::Trace;

/// What a run should do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Ranks; 0: the seed says how many, 2 to 16.
    pub ranks: usize,
    /// Moves to begin before everything is healed.
    pub moves: usize,
    /// Steps between two moves.
    pub steps: usize,
    /// Whether to print what happens.
    pub trace: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            ranks: 0,
            moves: 20,
            steps: 20,
            trace: false,
        }
    }
}

/// How a run went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Moves that were begun; each came to an end, unless a fault says otherwise.
    pub moves: u64,
    /// Messages that were sent.
    pub messages: u64,
    /// What was come by.
    pub coverage: Coverage,
    /// A hash over everything that happened.
    pub trace: u64,
    /// Broken promises; empty if all is well.
    pub faults: Vec<Fault>,
}

/// Drives one run from its seed.
pub fn run(seed: u64, plan: &Plan) -> Report {
    let mut world = World::new(seed, plan);
    for number in 0..plan.moves {
        // Late in a run all may die but one.
        world.quorum = if number + 2 < plan.moves { 2 } else { 1 };
        for _ in 0..plan.steps {
            world.step();
        }
        // Whoever may be moved may be on the move.
        for _ in 0..PATIENCE_STEPS {
            if !world.checker.is_content() {
                return world.finish();
            }
            if world.begin_move() {
                break;
            }
            world.step();
        }
    }
    world.heal();
    world.finish()
}

/// Steps for which a run waits until there is a rank to move.
const PATIENCE_STEPS: usize = 400;

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It runs; its port may be suspended.
    Running,
    /// It is held: not one instruction of it runs.
    Held,
    /// It has become a shadow, or was discarded.
    Ended,
    /// It was killed.
    Dead,
}

/// Something that happens at a later time.
#[derive(Debug)]
pub(crate) enum Later {
    /// A step of a move is done, for the side that was in this life when it began it.
    Step(usize, To, u32, Step),
    /// A question reaches the directory, or its answer comes.
    Asking(Asker, Asking),
    /// A link whose one direction is dead is noticed at last.
    Cut(Side),
    /// The directory's answer to a look-up comes.
    Found(usize, Option<Contact>),
    /// An agent tells a process that a port is dead.
    Told(usize, PortId),
    /// Somebody of this move is killed.
    Crash(usize, Victim),
    /// What was killed is started again.
    Restart(Restart),
    /// The agent of a node looks after what is on it.
    Look(usize),
    /// The partition ends.
    Rejoin,
}

/// The state of a run.
pub struct World {
    pub(crate) now: Time,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) processes: Vec<Host>,
    pub(crate) lives: Vec<Life>,
    pub(crate) nodes: usize,
    pub(crate) ranks: usize,
    pub(crate) network: Network,
    pub(crate) directory: DirectoryHost,
    pub(crate) agents: Vec<Agent>,
    pub(crate) checker: Checker,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    pub(crate) movings: BTreeMap<usize, Moving>,
    pub(crate) next_move: usize,
    /// Nothing fails any more.
    pub(crate) healed: bool,
    /// Ranks that are to live on whoever is killed.
    pub(crate) quorum: usize,
    /// Ranks to be moved again at once.
    pub(crate) again: Vec<usize>,
    later: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<(Time, u64), Later>,
    next_event: u64,
    /// Nodes with this bit set can't reach the others; the directory is with node 0.
    pub(crate) partition: Option<u64>,
    pub(crate) messages: u64,
}

impl World {
    /// Ranks that know one another, attached.
    pub fn new(seed: u64, plan: &Plan) -> World {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let ranks = match plan.ranks {
            0 => [2, 2, 3, 3, 4, 6, 9, 16][rng.next_u64() as usize % 8],
            ranks => ranks,
        };
        let mut world = World {
            now: Time(1),
            rng,
            processes: Vec::new(),
            lives: Vec::new(),
            nodes: ranks.min(6) + 1,
            ranks,
            network: Network::default(),
            directory: DirectoryHost::new(),
            agents: Vec::new(),
            checker: Checker::default(),
            coverage: Coverage::default(),
            trace: Trace::new(plan.trace),
            movings: BTreeMap::new(),
            next_move: 0,
            healed: false,
            quorum: 2,
            again: Vec::new(),
            later: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            partition: None,
            messages: 0,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let limits = Limits {
            eager_bytes: 8192,
            window_bytes: 64 * 1024 + self.below(4096),
            retained_bytes: 32 * 1024 + self.below(4096),
            // Nobody is declared dead for that in these runs: every partition ends.
            peer_timeout: Duration::from_secs(100_000),
        };
        self.agents.resize_with(self.nodes, Agent::default);
        for rank in 0..self.ranks {
            let host = Host::new(rank, rank % self.nodes, limits.clone());
            self.processes.push(host);
            self.lives.push(Life::Running);
            self.attach(rank, Epoch(0));
        }
        let contacts: Vec<Contact> = self.processes.iter().map(|it| it.port.contact()).collect();
        for host in &mut self.processes {
            let own = host.port.id();
            for contact in contacts.iter().filter(|contact| contact.port != own) {
                host.port.learn(self.now, contact);
            }
        }
        for node in 0..self.nodes {
            self.look_later(node);
        }
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    /// True once in so many times, and never once the world is healed.
    pub(crate) fn mishap(&mut self, once_in: u64, what: &str) -> bool {
        let happens = self.below(once_in) == 0 && !self.healed;
        if happens {
            self.coverage.hit(what);
        }
        happens
    }

    pub(crate) fn at(&mut self, delay: Duration, event: Later) {
        self.next_event += 1;
        let at = (self.now + delay, self.next_event);
        self.later.push(Reverse(at));
        self.events.insert(at, event);
    }

    /// A pause of up to so many microseconds.
    pub(crate) fn pause(&mut self, most: u64) -> Duration {
        Duration::from_micros(1 + self.below(most))
    }

    /// The slot where a rank runs.
    pub(crate) fn slot_of(&self, rank: usize) -> Option<usize> {
        (0..self.processes.len())
            .filter(|slot| self.processes[*slot].rank == rank && !self.processes[*slot].zombie)
            .find(|slot| self.lives[*slot] == Life::Running)
    }

    /// One thing happens, then time goes on a little.
    pub fn step(&mut self) {
        for rank in std::mem::take(&mut self.again) {
            self.move_again(rank);
        }
        let rank = self.below(self.ranks as u64) as usize;
        match self.below(100) {
            0..=4 => self.break_something(),
            5 => self.wake_a_zombie(),
            6 => self.improve_a_link(rank),
            _ => {
                if let Some(slot) = self.slot_of(rank) {
                    self.work(slot);
                }
            }
        }
        let pause = self.pause(3000);
        self.run_until(self.now + pause);
    }

    /// A port tries for a better link to a peer that it has one to.
    fn improve_a_link(&mut self, rank: usize) {
        let others = self.ranks as u64 - 1;
        let to = (rank + 1 + self.below(others) as usize) % self.ranks;
        let Some(slot) = self.slot_of(rank) else {
            return;
        };
        if self.processes[slot].port.improve(port_id(to)) {
            self.coverage.hit("better link dialled");
            self.note("better link", &[slot as u64, to as u64]);
            self.drive(slot);
        }
    }

    /// The application of one process does something. One whose port is suspended may compute, but
    /// calls of the port block.
    fn work(&mut self, slot: usize) {
        if !self.processes[slot].port.is_attached() {
            return;
        }
        let others = self.ranks as u64 - 1;
        let to = (self.processes[slot].rank + 1 + self.below(others) as usize) % self.ranks;
        let dice = self.below(u64::MAX);
        let host = &mut self.processes[slot];
        let (now, checker) = (self.now, &mut self.checker);
        match dice % 20 {
            0 => {
                let service = (dice >> 32) as u32 % (REFUSED_SERVICE + 1);
                let bytes = dice >> 20 & 1 == 0;
                let kind = if bytes {
                    StreamKind::Bytes
                } else {
                    StreamKind::Messages
                };
                host.open(now, to, service, kind);
                self.coverage.hit(if bytes {
                    "stream of bytes opened"
                } else {
                    "stream of messages opened"
                });
            }
            1 => {
                if host.finish(now, dice >> 8) {
                    self.coverage.hit("stream half closed");
                }
            }
            2..=7 => {
                let decline = dice >> 8 & 15 == 0;
                if decline && host.has_announced() {
                    self.coverage.hit("message declined");
                }
                host.pull_one(now, decline, checker);
                if dice >> 16 & 3 == 0 {
                    host.read();
                }
            }
            19 if dice >> 40 & 15 == 0 => self.flood(slot, to),
            _ => self.send(slot, to),
        }
    }

    /// More than a window of messages at once, on one stream.
    fn flood(&mut self, slot: usize, to: usize) {
        self.coverage.hit("window filled");
        let host = &mut self.processes[slot];
        let Some(at) = host.pick(to, 1) else { return };
        let mut taken = true;
        for number in 0..30 {
            let checker = &mut self.checker;
            match number % 2 {
                0 => host.send(self.now, at, 4000, false, checker),
                _ => taken &= host.send_copy(self.now, at, 4000, false, checker),
            }
            self.messages += 1;
        }
        if !taken {
            self.coverage.hit("no room for a copy");
        }
    }

    pub(crate) fn send(&mut self, slot: usize, to: usize) {
        let len = match self.below(20) {
            0 => 0,
            1..=12 => self.below(256),
            13..=17 => self.below(12_000),
            _ => self.below(600_000),
        };
        let synchronous = self.below(8) == 0;
        let dice = self.below(u64::MAX);
        let host = &mut self.processes[slot];
        if let Some(at) = host.pick(to, dice) {
            let checker = &mut self.checker;
            let copied = dice >> 8 & 1 == 0;
            if !copied {
                host.send(self.now, at, len, synchronous, checker);
            } else if !host.send_copy(self.now, at, len, synchronous, checker) {
                self.coverage.hit("no room for a copy");
            }
            self.messages += 1;
        }
    }

    pub(crate) fn attach(&mut self, slot: usize, epoch: Epoch) {
        let rank = self.processes[slot].rank;
        self.processes[slot].attach(self.now, epoch);
        let others = (0..self.processes.len()).filter(|other| {
            let host = &self.processes[*other];
            *other != slot
                && host.rank == rank
                && !host.zombie
                && self.lives[*other] == Life::Running
        });
        let others = others.count();
        self.checker.runs(rank, epoch, slot, others);
        self.note("attach", &[rank as u64, slot as u64, epoch.0]);
        self.list(slot);
    }

    /// Lets virtual time pass.
    pub fn run_until(&mut self, end: Time) {
        loop {
            for slot in 0..self.processes.len() {
                if self.lives[slot] == Life::Running {
                    self.drive(slot);
                }
            }
            self.drive_moves();
            self.drive_burials();
            let Some(next) = self.next_time() else { break };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            self.happen();
        }
        self.now = self.now.max(end);
    }

    fn next_time(&self) -> Option<Time> {
        let running = (0..self.processes.len()).filter(|slot| self.lives[*slot] == Life::Running);
        let timers = running.filter_map(|slot| self.processes[slot].port.poll_timeout());
        let moves = self.movings.values().filter_map(Moving::poll_timeout);
        let burials = self.agents.iter().filter_map(Agent::poll_timeout);
        let later = self.later.peek().map(|Reverse((at, _))| *at);
        timers
            .chain(moves)
            .chain(burials)
            .chain(later)
            .chain(self.network.next_time())
            .min()
    }

    fn happen(&mut self) {
        if let Some(Reverse(key)) = self.later.peek().copied()
            && key.0 <= self.now
        {
            self.later.pop();
            let event = self.events.remove(&key).expect("one event a key");
            return self.handle(event);
        }
        match self.network.poll(self.now) {
            Some((side, delivery)) => self.deliver(side, delivery),
            None => {
                for slot in 0..self.processes.len() {
                    if self.lives[slot] == Life::Running {
                        self.processes[slot].port.handle_timeout(self.now);
                    }
                }
                self.move_timeouts();
                self.burial_timeouts();
            }
        }
    }

    fn deliver(&mut self, side: Side, delivery: Delivery) {
        let host = &mut self.processes[side.slot];
        match delivery {
            Delivery::Frame(sent) => {
                let numbers = [
                    side.slot as u64,
                    side.link.0,
                    u64::from(sent.frame.header.kind),
                ];
                if self.network.has_later(side) {
                    self.coverage
                        .hit("frame on a link after a later one was made");
                    if self.network.has_stalled(side) {
                        self.coverage.hit("fault: old link comes back to life");
                    }
                }
                let text = Described(side, &sent);
                self.trace.note(self.now, "frame", &numbers, text);
                let checker = &mut self.checker;
                if !host.receive(self.now, side.link, *sent, checker, &mut self.coverage) {
                    self.network.close(side, self.now);
                    host.port.broken(self.now, side.link);
                }
            }
            Delivery::Broken => host.port.broken(self.now, side.link),
        }
    }

    fn handle(&mut self, event: Later) {
        match event {
            Later::Step(number, to, life, step) => self.step_done(number, to, life, step),
            Later::Asking(asker, asking) => self.asking(asker, asking),
            Later::Cut(side) => self.cut(side),
            Later::Rejoin => self.partition = None,
            Later::Found(slot, contact) => match contact {
                Some(contact) => self.processes[slot].port.learn(self.now, &contact),
                None => self.coverage.hit("fault: directory's answer lost"),
            },
            Later::Told(slot, port) => self.tell_dead(slot, port),
            Later::Crash(number, victim) => self.crash(number, victim),
            Later::Restart(what) => self.restart(what),
            Later::Look(node) => self.look_after(node),
        }
    }

    /// Carries out what a port wants done, and puts its frames on the network.
    pub(crate) fn drive(&mut self, slot: usize) {
        loop {
            let (now, rng) = (self.now, &mut self.rng);
            let delay = || now + Duration::from_micros(10 + rng.next_u64() % 400);
            let host = &mut self.processes[slot];
            let requests = host.drive(now, &mut self.network, &mut self.checker, delay);
            for hit in host.take_hits() {
                self.coverage.hit(hit);
            }
            if requests.is_empty() {
                return;
            }
            for request in requests {
                match request {
                    Request::Dial { peer, cards } => self.dial(slot, peer, &cards[0]),
                    Request::Ask(peer) => self.look_up(slot, peer),
                }
            }
        }
    }

    /// Asks the directory where a port is. The answer comes late, stale, or never: then it is asked again.
    fn look_up(&mut self, slot: usize, peer: PortId) {
        if !self.reaches_directory(self.processes[slot].node) {
            return self.coverage.hit("fault: directory not reached");
        }
        let stale = self.directory.stale(peer);
        if stale.is_some() && self.mishap(12, "fault: directory's answer stale") {
            let pause = self.pause(5000);
            return self.at(pause, Later::Found(slot, stale));
        }
        let lost = self.below(10) == 0 && !self.healed;
        let pause = self.pause(5000);
        let answer = match self.directory.ask(Question::Lookup { port: peer }) {
            Some(Reply::Found(Some(entry))) if !lost => {
                Later::Found(slot, Some(entry.contact(peer)))
            }
            Some(Reply::Ended(_)) if !lost => Later::Told(slot, peer),
            _ => Later::Found(slot, None),
        };
        self.at(pause, answer);
    }

    fn dial(&mut self, from: usize, peer: PortId, card: &Card) {
        let (to, incarnation) = Host::read_card(card);
        let there = &self.processes[to];
        let answers = port_id(there.rank) == peer
            && there.incarnation == incarnation
            && there.port.is_attached()
            && self.lives[to] == Life::Running;
        if !answers || self.is_parted(self.processes[from].node, there.node) {
            self.processes[from].port.dial_failed(self.now, peer);
            return;
        }
        let sides = [from, to].map(|slot| (slot, self.processes[slot].port.epoch()));
        let (near, far) = self.network.connect(sides[0], sides[1]);
        self.processes[from].port.dialled(self.now, peer, near.link);
        self.processes[from].port.connected(near.link);
        self.processes[to].port.accepted(self.now, far.link);
    }

    pub(crate) fn note(&mut self, what: &'static str, numbers: &[u64]) {
        self.trace
            .note(self.now, what, numbers, format_args!("{numbers:?}"));
    }
}

/// A frame that arrives, for a person who reads the trace.
struct Described<'a>(Side, &'a Sent);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Described(side, sent) = self;
        let header = &sent.frame.header;
        let (slot, link) = (side.slot, side.link.0);
        let (stream, seq, arg) = (header.stream.get(), header.seq.get(), header.arg.get());
        let torn = if sent.torn.is_some() { " (torn)" } else { "" };
        match header.frame_kind() {
            Ok(kind) => write!(f, "to {slot} on {link}: {kind:?}{torn}")?,
            Err(_) => write!(f, "to {slot} on {link}: nonsense{torn}")?,
        }
        write!(
            f,
            " stream {stream:#x} seq {seq} arg {arg} ack {}",
            header.ack.get()
        )
    }
}

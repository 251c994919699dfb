//! A run: processes, a network, a plan, and a seed that decides what happens when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::time::Duration;

use meander_core::directory::{Directory, Entry, Identity, Reply, Request as Question};
use meander_core::{Contact, Epoch, JobId, Limits, PortId, StreamKind, Time};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::checker::{Checker, Fault};
use crate::coverage::Coverage;
use crate::host::{Host, REFUSED_SERVICE, Request, port_id};
use crate::moving::{Moving, Step};
use crate::network::{Cut, Delivery, Network, Sent, Side};
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
            steps: 12,
            trace: false,
        }
    }
}

/// How a run went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Moves that were committed.
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
    for _ in 0..plan.moves {
        for _ in 0..plan.steps {
            world.step();
        }
        if !world.checker.is_content() {
            return world.finish();
        }
        world.begin_move();
    }
    world.heal();
    world.finish()
}

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It runs; its port may be suspended.
    Running,
    /// It is held: not one instruction of it runs.
    Held,
    /// It has ended, or become a shadow.
    Ended,
}

/// Something that happens at a later time.
#[derive(Debug)]
pub(crate) enum Later {
    /// A step of a move is done.
    Step(usize, Step),
    /// A link whose one direction is dead is noticed at last.
    Cut(Side),
    /// The directory's answer to a look-up comes.
    Found(usize, Option<Contact>),
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
    pub(crate) directory: Directory,
    pub(crate) checker: Checker,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    pub(crate) movings: BTreeMap<usize, Moving>,
    pub(crate) next_move: usize,
    /// Nothing fails any more.
    pub(crate) healed: bool,
    pub(crate) committed: u64,
    later: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<(Time, u64), Later>,
    next_event: u64,
    /// Nodes with this bit set can't reach the others; the directory is with the others.
    partition: Option<u64>,
    messages: u64,
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
            directory: Directory::from_records([]),
            checker: Checker::default(),
            coverage: Coverage::default(),
            trace: Trace::new(plan.trace),
            movings: BTreeMap::new(),
            next_move: 0,
            healed: false,
            committed: 0,
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
            // Nobody is declared dead in these runs: every partition ends.
            peer_timeout: Duration::from_secs(100_000),
            ..Limits::default()
        };
        for rank in 0..self.ranks {
            let host = Host::new(rank, rank, rank % self.nodes, limits.clone());
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

    /// The slot where a rank runs, or is held.
    pub(crate) fn slot_of(&self, rank: usize) -> Option<usize> {
        (0..self.processes.len())
            .filter(|slot| self.processes[*slot].rank == rank && !self.processes[*slot].zombie)
            .find(|slot| self.lives[*slot] == Life::Running)
    }

    /// One thing happens, then time goes on a little.
    pub fn step(&mut self) {
        let rank = self.below(self.ranks as u64) as usize;
        match self.below(100) {
            0..=4 => self.break_something(),
            5 => self.wake_a_zombie(),
            _ => {
                if let Some(slot) = self.slot_of(rank) {
                    self.work(slot);
                }
            }
        }
        let pause = self.pause(3000);
        self.run_until(self.now + pause);
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
            }
            1 => drop(host.finish(now, dice >> 8)),
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
        for _ in 0..30 {
            host.send(self.now, at, 4000, false, &mut self.checker);
            self.messages += 1;
        }
    }

    fn send(&mut self, slot: usize, to: usize) {
        let len = match self.below(20) {
            0 => 0,
            1..=12 => self.below(256),
            13..=18 => self.below(12_000),
            _ => self.below(600_000),
        };
        let synchronous = self.below(8) == 0;
        let dice = self.below(u64::MAX);
        let host = &mut self.processes[slot];
        if let Some(at) = host.pick(to, dice) {
            host.send(self.now, at, len, synchronous, &mut self.checker);
            self.messages += 1;
        }
    }

    fn break_something(&mut self) {
        if self.below(12) == 0 && self.partition.is_none() {
            return self.part();
        }
        let sides = self.network.sides();
        if sides.is_empty() {
            return;
        }
        let side = sides[self.below(sides.len() as u64) as usize];
        if self.below(4) == 0 {
            self.coverage.hit("fault: one-way dead link");
            self.network.deafen(side);
            let pause = self.pause(40_000);
            self.at(pause, Later::Cut(side));
        } else {
            self.cut(side);
        }
    }

    fn cut(&mut self, side: Side) {
        let late = self.below(3) == 0;
        self.coverage.hit("fault: link cut");
        if late {
            self.coverage.hit("fault: link cut, one side learns late");
        }
        let mut ways = [Cut {
            kept: 0,
            torn: false,
            late: Duration::ZERO,
        }; 2];
        for (place, way) in ways.iter_mut().enumerate() {
            way.kept = self.below(4) as usize;
            way.torn = self.below(2) == 0;
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

    pub(crate) fn is_parted(&self, one: usize, other: usize) -> bool {
        self.partition
            .is_some_and(|mask| (mask >> one ^ mask >> other) & 1 == 1)
    }

    /// Whether a node can't reach the directory, which lives on node 0.
    pub(crate) fn is_cut_off(&self, node: usize) -> bool {
        self.is_parted(node, 0)
    }

    /// A copy that a move has left behind goes on, with the epoch it had.
    fn wake_a_zombie(&mut self) {
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
            host.rank != rank && !host.zombie && self.lives[*other] != Life::Ended
        });
        let knows = |other: usize| {
            let known = self.processes[other].port.contact_of(port);
            known.is_some_and(|contact| contact.epoch > epoch)
        };
        // A copy being made knows what its original knew when it was frozen.
        self.movings.is_empty() && others.into_iter().all(knows)
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
        self.register(slot);
    }

    /// What an agent does for a process of its node. It is not lost: the agent tries again.
    fn register(&mut self, slot: usize) {
        let host = &self.processes[slot];
        let port = host.port.id();
        let contact = host.port.contact();
        let (epoch, location) = (contact.epoch, contact.location);
        let known = self.directory.handle(Question::Lookup { port }).0;
        let request = match known {
            Reply::Found(Some(_)) => Question::Locate {
                port,
                epoch,
                location,
            },
            _ => Question::Register {
                port,
                entry: entry(host.rank, epoch, location),
            },
        };
        let (reply, _) = self.directory.handle(request);
        if let Reply::Refused(refusal) = reply {
            self.checker
                .fault(Fault::Stuck(format!("directory: {refusal}")));
        }
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
        let later = self.later.peek().map(|Reverse((at, _))| *at);
        timers
            .chain(moves)
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
                let text = Described(side, &sent);
                self.trace.note(self.now, "frame", &numbers, text);
                let checker = &mut self.checker;
                if !host.receive(self.now, side.link, sent, checker, &mut self.coverage) {
                    self.network.close(side, self.now);
                    host.port.broken(self.now, side.link);
                }
            }
            Delivery::Broken => host.port.broken(self.now, side.link),
        }
    }

    fn handle(&mut self, event: Later) {
        match event {
            Later::Step(number, step) => self.step_done(number, step),
            Later::Cut(side) => self.cut(side),
            Later::Rejoin => self.partition = None,
            Later::Found(slot, contact) => match contact {
                Some(contact) => self.processes[slot].port.learn(self.now, &contact),
                None => self.coverage.hit("fault: directory's answer lost"),
            },
        }
    }

    /// Carries out what a port wants done, and puts its frames on the network.
    pub(crate) fn drive(&mut self, slot: usize) {
        loop {
            let (now, rng) = (self.now, &mut self.rng);
            let delay = || now + Duration::from_micros(10 + rng.next_u64() % 400);
            let host = &mut self.processes[slot];
            let requests = host.drive(now, &mut self.network, &mut self.checker, delay);
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

    /// Asks the directory where a port is. The answer comes late, or never: then it is asked again.
    fn look_up(&mut self, slot: usize, peer: PortId) {
        if self.is_cut_off(self.processes[slot].node) {
            return self.coverage.hit("fault: directory not reached");
        }
        let lost = self.below(10) == 0 && !self.healed;
        let reply = self.directory.handle(Question::Lookup { port: peer }).0;
        let contact = match reply {
            Reply::Found(Some(entry)) if !lost => Some(entry.contact(peer)),
            _ => None,
        };
        let pause = self.pause(5000);
        self.at(pause, Later::Found(slot, contact));
    }

    fn dial(&mut self, from: usize, peer: PortId, card: &meander_core::Card) {
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
        let (near, far) = self.network.connect(from, to);
        self.processes[from].port.dialled(self.now, peer, near.link);
        self.processes[from].port.connected(near.link);
        self.processes[to].port.accepted(self.now, far.link);
    }

    pub(crate) fn note(&mut self, what: &'static str, numbers: &[u64]) {
        self.trace
            .note(self.now, what, numbers, format_args!("{numbers:?}"));
    }

    /// Ends all faults, reads every envelope, and lets links and moves do their work.
    pub fn heal(&mut self) {
        self.healed = true;
        self.partition = None;
        for side in self.network.deaf_sides() {
            self.cut(side);
        }
        for slot in 0..self.processes.len() {
            if self.processes[slot].zombie {
                self.processes[slot].port.suspend();
                self.drive(slot);
                self.lives[slot] = Life::Ended;
            }
        }
        self.note("healed", &[]);
        // Envelopes and control need no window: everything is announced, though nobody reads.
        self.rest("announced", false, |world| world.checker.has_all_arrived());
        self.rest("at rest", true, World::is_quiet);
    }

    /// Lets time pass until the world is as it should be.
    fn rest(&mut self, what: &str, reading: bool, done: impl Fn(&World) -> bool) {
        for _ in 0..4000 {
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
        let text = format!("not {what} in the end; moves under way: {moves:?}");
        self.checker.fault(Fault::Stuck(text));
    }

    fn is_quiet(&self) -> bool {
        let idle = |rank| {
            self.slot_of(rank).is_some_and(|slot| {
                let host = &self.processes[slot];
                host.port.is_attached() && host.is_idle()
            })
        };
        self.movings.is_empty() && (0..self.ranks).all(idle)
    }

    /// The verdict.
    pub fn finish(mut self) -> Report {
        self.checker.finish();
        Report {
            moves: self.committed,
            messages: self.messages,
            coverage: self.coverage,
            trace: self.trace.hash(),
            faults: self.checker.into_faults(),
        }
    }
}

fn entry(rank: usize, epoch: Epoch, location: meander_core::Location) -> Entry {
    let job = JobId("51m00000".to_owned());
    let identity = Identity {
        job,
        rank: rank as u32,
        size: 16,
        program: "sim".to_owned(),
    };
    Entry {
        identity,
        epoch,
        location,
        uid: 0,
        pid: 1,
        host_pid: 1,
        shadow: None,
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
        let torn = if sent.torn { " (torn)" } else { "" };
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

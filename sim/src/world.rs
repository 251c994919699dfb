//! A run: hosts, a network, a plan, and a seed that decides what happens when.

use std::time::Duration;

use meander_core::port::Port;
use meander_core::{Contact, Epoch, Limits, PortId, Time};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::checker::{Checker, Fault};
use crate::host::{Host, Request, port_id};
use crate::network::{Delivery, Network};

/// What a run should do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Ports.
    pub hosts: usize,
    /// Steps of traffic and faults, before everything is healed.
    pub steps: usize,
    /// Of a hundred steps, how many cut a link.
    pub cuts: u64,
    /// Of a hundred steps, how many suspend or attach a port.
    pub moves: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            hosts: 2,
            steps: 400,
            cuts: 3,
            moves: 4,
        }
    }
}

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Moves that were finished.
    pub moves: u64,
    /// Links that were cut.
    pub cuts: u64,
    /// Messages that were sent.
    pub messages: u64,
    /// Broken promises; empty if all is well.
    pub faults: Vec<Fault>,
}

/// Drives one run from its seed.
pub fn run(seed: u64, plan: &Plan) -> Report {
    let mut world = World::new(seed, plan);
    for _ in 0..plan.steps {
        world.step(plan);
    }
    world.heal();
    world.finish()
}

/// The state of a run.
pub struct World {
    now: Time,
    rng: ChaCha8Rng,
    hosts: Vec<Host>,
    network: Network,
    /// The directory: the newest contact of each port.
    directory: Vec<Contact>,
    checker: Checker,
    report: Report,
}

impl World {
    /// Hosts that know one another, attached.
    pub fn new(seed: u64, plan: &Plan) -> World {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let limits = Limits {
            eager_bytes: 256,
            window_bytes: 64 * 1024 + rng.next_u64() % 4096,
            ..Limits::default()
        };
        let hosts: Vec<Host> = (0..plan.hosts)
            .map(|index| Host::new(index, limits.clone()))
            .collect();
        let mut world = World {
            now: Time(0),
            rng,
            hosts,
            network: Network::default(),
            directory: Vec::new(),
            checker: Checker::default(),
            report: Report::default(),
        };
        for index in 0..plan.hosts {
            world.attach(index, Epoch(0));
        }
        let contacts: Vec<Contact> = world.hosts.iter().map(|host| host.port.contact()).collect();
        for host in &mut world.hosts {
            let own = host.port.id();
            for contact in contacts.iter().filter(|contact| contact.port != own) {
                host.learn(world.now, contact);
            }
        }
        world.directory = contacts;
        world
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    /// One thing happens, then time goes on a little.
    pub fn step(&mut self, plan: &Plan) {
        let host = self.below(self.hosts.len() as u64) as usize;
        let dice = self.below(100);
        if dice < plan.cuts {
            self.cut();
        } else if dice < plan.cuts + plan.moves {
            self.toggle(host);
        } else if dice < 80 {
            self.send(host);
        } else {
            self.hosts[host].pull_one(self.now, &mut self.checker);
        }
        let pause = Duration::from_micros(self.below(3000));
        self.run_until(self.now + pause);
    }

    fn send(&mut self, from: usize) {
        let others = self.hosts.len() as u64 - 1;
        let to = (from + 1 + self.below(others) as usize) % self.hosts.len();
        let stream = self.below(3) as u32;
        let len = match self.below(10) {
            0 => 0,
            1..=6 => self.below(256),
            7 | 8 => self.below(5000),
            _ => self.below(700_000),
        };
        let synchronous = self.below(8) == 0;
        self.report.messages += 1;
        let checker = &mut self.checker;
        self.hosts[from].send(self.now, to, stream, len as usize, synchronous, checker);
    }

    fn cut(&mut self) {
        let sides = self.network.sides();
        if sides.is_empty() {
            return;
        }
        let side = sides[self.below(sides.len() as u64) as usize];
        let kept = [self.below(4) as usize, self.below(4) as usize];
        self.network.cut(side, self.now, kept);
        self.report.cuts += 1;
    }

    /// Suspends the port, or attaches it again: moved, or rolled back to where it was.
    fn toggle(&mut self, index: usize) {
        if self.hosts[index].port.is_attached() {
            let seed = self.rng.next_u64();
            self.hosts[index].port.suspend();
            self.drive(index);
            self.hosts[index].become_value(seed);
        } else {
            let epoch = self.hosts[index].port.epoch();
            let rolled_back = self.below(4) == 0;
            self.report.moves += u64::from(!rolled_back);
            self.attach(index, if rolled_back { epoch } else { epoch.next() });
        }
    }

    fn attach(&mut self, index: usize, epoch: Epoch) {
        let host = &mut self.hosts[index];
        host.incarnation += 1;
        let location = host.location();
        host.port.attach(self.now, epoch, location);
        if let Some(entry) = self.directory.get_mut(index) {
            *entry = host.port.contact();
        }
    }

    /// Lets virtual time pass.
    pub fn run_until(&mut self, end: Time) {
        loop {
            for index in 0..self.hosts.len() {
                self.drive(index);
            }
            let timers = self
                .hosts
                .iter()
                .filter_map(|host| host.port.poll_timeout());
            let Some(next) = timers.chain(self.network.next_time()).min() else {
                break;
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            match self.network.poll(self.now) {
                Some((side, Delivery::Frame(sent))) => {
                    let host = &mut self.hosts[side.host];
                    if !host.receive(self.now, side.link, sent, &mut self.checker) {
                        self.network.close(side, self.now);
                        host.port.broken(self.now, side.link);
                    }
                }
                Some((side, Delivery::Broken)) => {
                    self.hosts[side.host].port.broken(self.now, side.link);
                }
                None => {
                    for host in &mut self.hosts {
                        host.port.handle_timeout(self.now);
                    }
                }
            }
        }
        self.now = self.now.max(end);
    }

    fn drive(&mut self, index: usize) {
        loop {
            let (now, rng) = (self.now, &mut self.rng);
            let delay = || now + Duration::from_micros(10 + rng.next_u64() % 400);
            let host = &mut self.hosts[index];
            let requests = host.drive(now, &mut self.network, &mut self.checker, delay);
            if requests.is_empty() {
                return;
            }
            for request in requests {
                match request {
                    Request::Dial { peer, cards } => self.dial(index, peer, &cards[0]),
                    Request::Ask(peer) => {
                        let known = self.directory.iter().find(|it| it.port == peer).cloned();
                        let contact = known.expect("every port is in the directory");
                        self.hosts[index].learn(self.now, &contact);
                    }
                }
            }
        }
    }

    fn dial(&mut self, from: usize, peer: PortId, card: &meander_core::Card) {
        let (to, incarnation) = Host::read_card(card);
        let there = port_id(to) == peer
            && self.hosts[to].incarnation == incarnation
            && self.hosts[to].port.is_attached();
        if !there {
            self.hosts[from].port.dial_failed(self.now, peer);
            return;
        }
        let (near, far) = self.network.connect(from, to);
        self.hosts[from].port.dialled(self.now, peer, near.link);
        self.hosts[from].port.connected(near.link);
        self.hosts[to].port.accepted(self.now, far.link);
    }

    /// Attaches every port, reads every envelope, and lets the links do their work.
    pub fn heal(&mut self) {
        for index in 0..self.hosts.len() {
            if !self.hosts[index].port.is_attached() {
                let epoch = self.hosts[index].port.epoch().next();
                self.report.moves += 1;
                self.attach(index, epoch);
            }
        }
        for _ in 0..10_000 {
            for host in &mut self.hosts {
                while host.has_announced() {
                    host.pull_one(self.now, &mut self.checker);
                }
            }
            self.run_until(self.now + Duration::from_millis(50));
            if self.hosts.iter().all(Host::is_idle) {
                return;
            }
        }
        for host in self.hosts.iter().filter(|host| !host.is_idle()) {
            let text = format!("host {} did not drain", host.index);
            self.checker.faults.push(Fault::Stuck(text));
        }
    }

    /// The verdict.
    pub fn finish(mut self) -> Report {
        self.checker.finish();
        self.report.faults = self.checker.faults;
        self.report
    }

    /// A port, for tests that look inside.
    pub fn port(&self, index: usize) -> &Port {
        &self.hosts[index].port
    }
}

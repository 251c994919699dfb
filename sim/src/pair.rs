//! Two ports under a script: every byte of it is something that an application, a network or a
//! move does. For fuzzers, which find scripts that no seed thinks of.

use std::time::Duration;

use meander_core::port::Port;
use meander_core::{Card, Limits, PortId, StreamKind, Time};

use crate::checkers::{Checker, Fault};
use crate::coverage::Coverage;
use crate::host::{Host, REFUSED_SERVICE, Request, port_id, rank_of};
use crate::network::{Cut, Delivery, Network, Side};

/// Operations of a script that are carried out; the rest of it is ignored.
const OPERATIONS: usize = 400;
/// Rounds of 20 ms in which everything must come to rest, once nothing fails any more.
const ROUNDS_TO_REST: usize = 600;
/// Time a frame takes, each after the one before.
const FRAME: Duration = Duration::from_micros(200);

/// Runs a script, heals what it broke, and gives the promises that were broken: none, if core is
/// right.
pub fn run_script(script: &[u8]) -> Vec<Fault> {
    let mut pair = Pair::new();
    let mut bytes = script.iter().copied();
    for _ in 0..OPERATIONS {
        let (Some(operation), more) = (bytes.next(), bytes.next().unwrap_or(0)) else {
            break;
        };
        pair.operate(operation, more);
        pair.settle();
        if !pair.checker.is_content() {
            return pair.checker.into_faults();
        }
    }
    pair.rest();
    pair.checker.finish();
    pair.checker.into_faults()
}

struct Pair {
    now: Time,
    /// Every process there has been; the last of each rank is the living one.
    hosts: Vec<Host>,
    /// Where each rank lives.
    slots: [usize; 2],
    network: Network,
    checker: Checker,
    coverage: Coverage,
}

impl Pair {
    fn new() -> Pair {
        let limits = Limits {
            eager_bytes: 4096,
            window_bytes: 64 * 1024,
            retained_bytes: 24 * 1024,
            // Nobody is declared dead: every cut is mended.
            peer_timeout: Duration::from_secs(100_000),
        };
        let mut hosts: Vec<Host> = (0..2)
            .map(|rank| Host::new(rank, rank, limits.clone()))
            .collect();
        for host in &mut hosts {
            host.attach(Time(1), host.port.epoch());
        }
        let contacts = [hosts[0].port.contact(), hosts[1].port.contact()];
        hosts[0].port.learn(Time(1), &contacts[1]);
        hosts[1].port.learn(Time(1), &contacts[0]);
        Pair {
            now: Time(1),
            hosts,
            slots: [0, 1],
            network: Network::default(),
            checker: Checker::default(),
            coverage: Coverage::default(),
        }
    }

    /// The lowest bit of an operation says whose it is, the rest what it is.
    fn operate(&mut self, operation: u8, more: u8) {
        let (rank, dice) = (usize::from(operation & 1), u64::from(more));
        let (now, to) = (self.now, 1 - rank);
        let slot = self.slots[rank];
        let (host, checker) = (&mut self.hosts[slot], &mut self.checker);
        let attached = host.port.is_attached();
        match operation >> 1 & 15 {
            0..=3 if attached => {
                // Now and then one of several data frames; they cost the most.
                let long = if dice < 80 { 600_000 } else { dice * 128 };
                let len = [dice, dice * 16, 4000 + dice, long][usize::from(operation >> 1) & 3];
                let synchronous = operation & 128 != 0;
                if let Some(at) = host.pick(to, dice) {
                    match operation >> 5 & 1 {
                        0 => host.send(now, at, len, synchronous, checker),
                        _ => drop(host.send_copy(now, at, len, synchronous, checker)),
                    }
                }
            }
            4 if attached => {
                let kind = [StreamKind::Bytes, StreamKind::Messages][more as usize & 1];
                host.open(now, to, u32::from(more >> 1) % (REFUSED_SERVICE + 1), kind);
            }
            5 if attached => drop(host.finish(now, dice)),
            6 | 7 if attached => host.pull_one(now, more & 7 == 7, checker),
            8 if attached => host.read(),
            9 if attached => host.port.solicit(),
            10 => self.cut(rank, more),
            11 if attached => {
                host.port.suspend();
            }
            12 if !attached => {
                // The move did not happen.
                let epoch = host.port.epoch();
                host.attach(now, epoch);
            }
            13 if !attached => self.move_on(rank),
            // More than a window at once.
            14 if attached => {
                let at = host.pick(to, dice);
                for _ in 0..20 {
                    at.inspect(|at| host.send(now, *at, 4000, false, checker));
                }
            }
            _ => self.pass(Duration::from_micros(1 << (more & 15))),
        }
    }

    fn cut(&mut self, rank: usize, more: u8) {
        let way = |bits: u8| Cut {
            kept: usize::from(bits & 3),
            torn: [None, Some(400)][usize::from(bits >> 2 & 1)],
            late: Duration::from_micros(if bits & 8 == 0 { 0 } else { 20_000 }),
        };
        let of_rank = |side: &Side| side.slot == self.slots[rank];
        if let Some(side) = self.network.sides().into_iter().find(of_rank) {
            self.network
                .cut(side, self.now, [way(more), way(more >> 4)]);
        }
    }

    /// The suspended process is frozen, copied, and goes on as another one.
    fn move_on(&mut self, rank: usize) {
        let (slot, old) = (self.hosts.len(), &self.hosts[self.slots[rank]]);
        let epoch = old.port.epoch().next();
        let mut copy = Host::restore(slot, rank, slot, &old.image(), slot as u64);
        copy.attach(self.now, epoch);
        self.checker.runs(rank, epoch, slot, 0);
        self.hosts.push(copy);
        self.slots[rank] = slot;
    }

    /// Carries out what the ports want, until they want nothing.
    fn settle(&mut self) {
        loop {
            let mut requests = Vec::new();
            for slot in self.slots {
                let mut at = self.now;
                let delay = || {
                    at = at + FRAME;
                    at
                };
                let (network, checker) = (&mut self.network, &mut self.checker);
                let wanted = self.hosts[slot].drive(self.now, network, checker, delay);
                requests.extend(wanted.into_iter().map(|it| (slot, it)));
            }
            if requests.is_empty() {
                return;
            }
            for (slot, request) in requests {
                match request {
                    Request::Dial { peer, cards } => self.dial(slot, peer, &cards[0]),
                    Request::Ask(peer) => self.answer(slot, peer),
                }
            }
        }
    }

    /// What the directory would say: where the rank is, whether it listens there or not.
    fn answer(&mut self, slot: usize, peer: PortId) {
        let contact = self.hosts[self.slots[rank_of(peer)]].port.contact();
        self.hosts[slot].port.learn(self.now, &contact);
    }

    fn dial(&mut self, from: usize, peer: PortId, card: &Card) {
        let (to, incarnation) = Host::read_card(card);
        let there = &self.hosts[to];
        let answers = port_id(there.rank) == peer
            && there.incarnation == incarnation
            && there.port.is_attached()
            && self.slots.contains(&to);
        if !answers {
            return self.hosts[from].port.dial_failed(self.now, peer);
        }
        let sides = [from, to].map(|slot| (slot, self.hosts[slot].port.epoch()));
        let (near, far) = self.network.connect(sides[0], sides[1]);
        self.hosts[from].port.dialled(self.now, peer, near.link);
        self.hosts[from].port.connected(near.link);
        self.hosts[to].port.accepted(self.now, far.link);
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.settle();
            let timers = self.slots.map(|slot| self.hosts[slot].port.poll_timeout());
            let next = timers.into_iter().flatten().chain(self.network.next_time());
            match next.min() {
                Some(next) if next <= end && self.checker.is_content() => {
                    self.now = self.now.max(next);
                }
                _ => break,
            }
            match self.network.poll(self.now) {
                Some((side, delivery)) => self.deliver(side, delivery),
                None => {
                    let living = self.slots.map(|slot| slot as u64);
                    for slot in living {
                        let port: &mut Port = &mut self.hosts[slot as usize].port;
                        port.handle_timeout(self.now);
                    }
                }
            }
        }
        self.now = self.now.max(end);
    }

    fn deliver(&mut self, side: Side, delivery: Delivery) {
        let host = &mut self.hosts[side.slot];
        let goes_on = match delivery {
            Delivery::Broken => false,
            Delivery::Frame(sent) => {
                let (checker, coverage) = (&mut self.checker, &mut self.coverage);
                host.receive(self.now, side.link, *sent, checker, coverage)
            }
        };
        if !goes_on {
            self.network.close(side, self.now);
            host.port.broken(self.now, side.link);
        }
    }

    /// Nothing fails any more: everything must arrive, and be answered.
    fn rest(&mut self) {
        for slot in self.slots {
            if !self.hosts[slot].port.is_attached() {
                let epoch = self.hosts[slot].port.epoch();
                self.hosts[slot].attach(self.now, epoch);
            }
        }
        for _ in 0..ROUNDS_TO_REST {
            for slot in self.slots {
                let host = &mut self.hosts[slot];
                host.read();
                while host.has_announced() {
                    host.pull_one(self.now, false, &mut self.checker);
                }
            }
            self.pass(Duration::from_millis(20));
            let idle = self.slots.iter().all(|slot| self.hosts[*slot].is_idle());
            if !self.checker.is_content() {
                return;
            }
            if idle && self.checker.has_all_arrived() {
                for slot in self.slots {
                    let host = &self.hosts[slot];
                    self.checker.given_back(host.rank, host.lent());
                }
                return;
            }
        }
        self.checker
            .fault(Fault::Stuck("the pair does not come to rest".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts without a thought.
    fn scripts() -> impl Iterator<Item = Vec<u8>> {
        let mut state = 1u32;
        let mut byte = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        std::iter::from_fn(move || Some((0..400).map(|_| byte()).collect()))
    }

    #[test]
    fn scripts_of_all_operations_break_nothing() {
        for script in scripts().take(60) {
            assert_eq!(run_script(&script), [], "{script:?}");
        }
    }

    /// The judge is awake: scripts find faults that are planted in what they drive.
    #[cfg(feature = "planted-faults")]
    #[test]
    fn scripts_find_planted_faults() {
        use meander_core::{PlantedFault, plant};
        for fault in [
            PlantedFault::SkipDuplicateCheck,
            PlantedFault::AcknowledgeBeforeDelivery,
            PlantedFault::LoseRetainedTail,
            PlantedFault::ResumePullAtWrongOffset,
            PlantedFault::ForgetPulls,
            PlantedFault::AnswerBeforeFencing,
            PlantedFault::CompleteTooEarly,
            PlantedFault::IgnoreWindow,
            PlantedFault::ForgetToCountCopies,
            PlantedFault::ForgetToUncountCopies,
        ] {
            plant(Some(fault));
            let found = scripts().take(2000).any(|script| {
                let run = std::panic::catch_unwind(|| run_script(&script));
                run.map_or(true, |faults| !faults.is_empty())
            });
            plant(None);
            assert!(found, "{fault:?} is not found");
        }
    }
}

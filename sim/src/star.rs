//! What a move costs whom: one port with many peers, ports that are none, and nothing that fails.
//!
//! Every frame, dial and question to the directory is counted at the port it belongs to, so that
//! "in proportion to the mover's peers" and "nothing at all" are numbers.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use meander_core::directory::{Commit, Directory, Reply, Request};
use meander_core::port::{Arrival, Config, Effect, Message, Port, StreamAt};
use meander_core::transport::Frame;
use meander_core::wire::{AppHeader, HEADER_BYTES};
use meander_core::{
    Card, Epoch, Key, Limits, LinkId, Location, MoveId, NodeName, Place, PortId, Time,
    TransportKind,
};

use crate::directory::entry;

/// How long a frame, or news of a link, takes.
const LATENCY: Duration = Duration::from_micros(20);
/// How long the directory takes to answer.
const ANSWER: Duration = Duration::from_micros(200);
/// How long the mover is off the fabric.
pub const DOWNTIME: Duration = Duration::from_millis(400);
/// Silence after which nothing more is expected.
const QUIET: Duration = Duration::from_secs(5);
/// The mover's place among the ports.
const MOVER: usize = 0;

/// What went in and out of one port, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames sent.
    pub sent: u64,
    /// Frames received.
    pub received: u64,
    /// Bytes of the frames sent, without what a transport adds.
    pub sent_bytes: u64,
    /// Connections that were tried.
    pub dials: u64,
    /// Times the directory was asked where another port is.
    pub look_ups: u64,
}

impl Traffic {
    fn add(&mut self, other: Traffic) {
        self.sent += other.sent;
        self.received += other.received;
        self.sent_bytes += other.sent_bytes;
        self.dials += other.dials;
        self.look_ups += other.look_ups;
    }
}

/// What one move cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The mover.
    pub mover: Traffic,
    /// All its peers together.
    pub peers: Traffic,
    /// All others together: ports of the same job that never talked to the mover.
    pub others: Traffic,
    /// Requests that the move itself puts to the directory.
    pub requests: u64,
}

/// Moves a port with so many peers once, and counts. Where `busy`, every peer has something to say
/// to the mover while it is away.
pub fn move_with(peers: usize, others: usize, busy: bool) -> Cost {
    let mut star = Star::new(peers, others);
    star.meet(peers);
    star.run();
    let met = |traffic: &Traffic| traffic.received > 0;
    assert!(
        star.traffic[..1 + peers + 2 * (others / 2)].iter().all(met),
        "somebody met nobody"
    );
    star.forget_counts();
    let requests = star.move_once(busy.then_some(peers));
    let sum = |ports: std::ops::Range<usize>| {
        let mut all = Traffic::default();
        star.traffic[ports].iter().for_each(|one| all.add(*one));
        all
    };
    for peer in 1..=peers {
        assert!(
            star.ports[peer].is_linked(port_id(MOVER)),
            "peer {peer} lost the mover"
        );
        assert!(star.ports[peer].is_drained());
    }
    Cost {
        mover: sum(0..1),
        peers: sum(1..peers + 1),
        others: sum(peers + 1..peers + 1 + others),
        requests,
    }
}

struct Star {
    ports: Vec<Port>,
    traffic: Vec<Traffic>,
    /// Where each port can be dialled: only with its latest number.
    incarnations: Vec<u64>,
    /// The other side of each side of a link.
    links: HashMap<(usize, LinkId), (usize, LinkId)>,
    next_link: u64,
    directory: Directory,
    events: BTreeMap<(Time, u64), Event>,
    next_event: u64,
    now: Time,
}

enum Event {
    Connected(usize, LinkId),
    Accepted(usize, LinkId),
    Broken(usize, LinkId),
    Arrived(usize, LinkId, Box<Frame>),
    DialFailed(usize, PortId),
    Found(usize, PortId),
}

impl Star {
    fn new(peers: usize, others: usize) -> Star {
        let count = 1 + peers + others;
        let mut star = Star {
            ports: (0..count).map(new_port).collect(),
            traffic: vec![Traffic::default(); count],
            incarnations: vec![0; count],
            links: HashMap::new(),
            next_link: 1,
            directory: Directory::default(),
            events: BTreeMap::new(),
            next_event: 0,
            now: Time(1),
        };
        for at in 0..count {
            let location = star.location(at, "n0");
            star.ports[at].attach(star.now, Epoch(0), location.clone());
            star.register(at, Epoch(0), location);
        }
        // Every rank knows from the wire-up where all are, whether they ever talk or not.
        let contacts: Vec<_> = star.ports.iter().map(Port::contact).collect();
        for (at, port) in star.ports.iter_mut().enumerate() {
            for (other, contact) in contacts.iter().enumerate() {
                if other != at && (at == MOVER || other == MOVER || other == next_other(at, count))
                {
                    port.learn(star.now, contact);
                }
            }
        }
        star
    }

    /// The peers talk to the mover, the others to each other.
    fn meet(&mut self, peers: usize) {
        let count = self.ports.len();
        for at in 1..count {
            let to = if at <= peers {
                MOVER
            } else {
                next_other(at, count)
            };
            // The last of the others may be left without one.
            if to != at && (at <= peers || to > peers) {
                self.say(at, to);
            }
        }
    }

    fn say(&mut self, from: usize, to: usize) {
        let peer = port_id(to);
        let stream = self.ports[from].open_fixed(peer, 0).expect("it is known");
        let message = Message {
            app: AppHeader::try_from(&b"hello"[..]).expect("it fits"),
            body: None,
            copied: false,
            synchronous: false,
        };
        let at = StreamAt { peer, stream };
        self.ports[from]
            .send(self.now, at, message)
            .expect("it lives");
    }

    /// Returns how many requests the move put to the directory.
    fn move_once(&mut self, busy: Option<usize>) -> u64 {
        self.ports[MOVER].suspend();
        self.drive(MOVER);
        self.incarnations[MOVER] += 1;
        let snapshot = self.ports[MOVER].snapshot();
        let away = Location {
            node: NodeName("n0".into()),
            cards: Vec::new(),
        };
        let port = port_id(MOVER);
        let ask = |star: &mut Star, request| {
            let reply = star.directory.handle(request).0;
            assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        };
        // As the owner of a move does: it is listed as moving, then committed.
        let epoch = self.ports[MOVER].epoch();
        ask(
            self,
            Request::Locate {
                port,
                epoch,
                location: away,
            },
        );
        let until = self.now + DOWNTIME;
        if let Some(peers) = busy {
            for peer in 1..=peers {
                self.say(peer, MOVER);
                self.drive(peer);
            }
        }
        self.run_until(until);
        let commit = Commit {
            move_id: MoveId(1),
            from: epoch,
            node: NodeName("n1".into()),
            host_pid: 1,
            shadow: None,
        };
        ask(self, Request::Commit { port, commit });
        let location = self.location(MOVER, "n1");
        self.ports[MOVER] = Port::from_snapshot(snapshot, [9; 32]);
        self.ports[MOVER].attach(self.now, epoch.next(), location.clone());
        // The rank introduces itself to the agent of its new node, which lists it.
        self.register(MOVER, epoch.next(), location);
        self.drive(MOVER);
        self.run();
        3
    }

    fn register(&mut self, at: usize, epoch: Epoch, location: Location) {
        let entry = entry(at, epoch, location);
        let port = port_id(at);
        let reply = self.directory.handle(Request::Register { port, entry }).0;
        assert_eq!(reply, Reply::Done);
    }

    fn location(&self, at: usize, node: &str) -> Location {
        let bytes = [at as u64, self.incarnations[at]];
        Location {
            node: NodeName(node.into()),
            cards: vec![Card {
                transport: TransportKind::Sim,
                bytes: bytes.map(u64::to_le_bytes).concat(),
            }],
        }
    }

    /// Until nothing happens any more.
    fn run(&mut self) {
        for at in 0..self.ports.len() {
            self.drive(at);
        }
        while self.step(self.now + QUIET) {}
    }

    fn run_until(&mut self, until: Time) {
        while self.step(until) {}
        self.now = until;
    }

    /// The next thing that happens, if it does so by then.
    fn step(&mut self, by: Time) -> bool {
        let timers = self
            .ports
            .iter()
            .enumerate()
            .filter(|(_, port)| port.is_attached());
        let timer = timers
            .filter_map(|(at, port)| Some((port.poll_timeout()?, at)))
            .min();
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        match (event, timer) {
            (Some(time), timer) if timer.is_none_or(|(due, _)| time <= due) => {
                if time > by {
                    return false;
                }
                self.now = self.now.max(time);
                let (_, event) = self.events.pop_first().expect("just seen");
                self.happen(event);
            }
            (_, Some((due, at))) if due <= by => {
                self.now = self.now.max(due);
                self.ports[at].handle_timeout(self.now);
                self.drive(at);
            }
            _ => return false,
        }
        true
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        let at = match event {
            Event::Connected(at, link) => {
                self.ports[at].connected(link);
                at
            }
            Event::Accepted(at, link) => {
                self.ports[at].accepted(now, link);
                at
            }
            Event::Broken(at, link) => {
                self.links.remove(&(at, link));
                self.ports[at].broken(now, link);
                at
            }
            Event::DialFailed(at, peer) => {
                self.ports[at].dial_failed(now, peer);
                at
            }
            Event::Found(at, peer) => {
                let reply = self.directory.handle(Request::Lookup { port: peer }).0;
                if let Reply::Found(Some(entry)) = reply {
                    self.ports[at].learn(now, &entry.contact(peer));
                }
                at
            }
            Event::Arrived(at, link, frame) => {
                self.receive(at, link, &frame);
                at
            }
        };
        self.drive(at);
    }

    fn receive(&mut self, at: usize, link: LinkId, frame: &Frame) {
        let port = &mut self.ports[at];
        if !self.links.contains_key(&(at, link)) {
            return;
        }
        self.traffic[at].received += 1;
        let body = match &frame.body {
            meander_core::transport::Body::Own(bytes) => bytes.as_slice(),
            _ => &[],
        };
        let taken = port.frame_begin(link, &frame.header).and_then(|place| {
            assert!(!matches!(place, Place::Into(_)), "nothing is pulled here");
            port.frame_complete(self.now, link, &frame.header, &frame.app, body)
        });
        match taken {
            Ok(Arrival::Message { at: from, .. }) => port.consumed(from, 0),
            Ok(_) => {}
            Err(violation) => panic!("port {at}: {violation}"),
        }
    }

    /// Carries out what a port wants.
    fn drive(&mut self, at: usize) {
        while let Some(effect) = self.ports[at].poll_effect() {
            match effect {
                Effect::Close(link) => {
                    if let Some((other, theirs)) = self.links.remove(&(at, link)) {
                        self.later(LATENCY, Event::Broken(other, theirs));
                    }
                }
                Effect::Dial { peer, cards } => self.dial(at, peer, &cards[0]),
                Effect::Ask(peer) => {
                    self.traffic[at].look_ups += 1;
                    self.later(ANSWER, Event::Found(at, peer));
                }
                Effect::Dead { peer, cause } => panic!("port {at} took {peer} for dead: {cause}"),
                Effect::Sent { .. } | Effect::Lost { .. } | Effect::Connected(_) => {}
            }
        }
        while let Some(link) = self.ports[at].poll_ready() {
            while let Some(frame) = self.ports[at].poll_transmit(link) {
                self.send(at, link, frame);
            }
        }
    }

    fn send(&mut self, at: usize, link: LinkId, frame: Frame) {
        let traffic = &mut self.traffic[at];
        traffic.sent += 1;
        traffic.sent_bytes += (HEADER_BYTES + frame.app.len()) as u64 + frame.body.len() as u64;
        if let Some((other, theirs)) = self.links.get(&(at, link)).copied() {
            self.later(LATENCY, Event::Arrived(other, theirs, Box::new(frame)));
        }
    }

    fn dial(&mut self, at: usize, peer: PortId, card: &Card) {
        self.traffic[at].dials += 1;
        let to = rank_of(peer);
        let there = self.location(to, "");
        let lives = self.ports[to].is_attached() && there.cards[0] == *card;
        if !lives {
            return self.later(LATENCY, Event::DialFailed(at, peer));
        }
        let (ours, theirs) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        self.links.insert((at, ours), (to, theirs));
        self.links.insert((to, theirs), (at, ours));
        self.ports[at].dialled(self.now, peer, ours);
        self.later(LATENCY, Event::Accepted(to, theirs));
        self.later(LATENCY, Event::Connected(at, ours));
    }

    fn later(&mut self, wait: Duration, event: Event) {
        self.next_event += 1;
        self.events
            .insert((self.now + wait, self.next_event), event);
    }

    fn forget_counts(&mut self) {
        self.traffic.fill(Traffic::default());
    }
}

/// With whom a port that is no peer talks: they go in pairs.
fn next_other(at: usize, count: usize) -> usize {
    let pair = count - 1 - at;
    let partner = if pair.is_multiple_of(2) {
        at.wrapping_sub(1)
    } else {
        at + 1
    };
    partner.clamp(1, count - 1)
}

fn new_port(at: usize) -> Port {
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&(at as u64).to_le_bytes());
    Port::new(Config {
        id: port_id(at),
        key: Key([7; 32]),
        limits: Limits::default(),
        seed,
    })
}

fn port_id(at: usize) -> PortId {
    PortId((at as u128 + 1) << 64)
}

fn rank_of(port: PortId) -> usize {
    (port.0 >> 64) as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_no_peer_of_the_mover_sends_and_receives_nothing() {
        for busy in [false, true] {
            for peers in [1, 10, 100] {
                let cost = move_with(peers, 20, busy);
                assert_eq!(
                    cost.others,
                    Traffic::default(),
                    "{peers} peers, busy: {busy}"
                );
            }
        }
    }

    #[test]
    fn a_move_costs_in_proportion_to_the_movers_peers() {
        for busy in [false, true] {
            let one = move_with(1, 4, busy);
            for peers in [10, 100, 300] {
                let cost = move_with(peers, 4, busy);
                let times = peers as u64;
                assert_eq!(cost.mover.sent, times * one.mover.sent);
                // Numbers in a frame may take a byte more.
                let bytes = cost.mover.sent_bytes as f64 / (times * one.mover.sent_bytes) as f64;
                assert!((0.98..1.02).contains(&bytes), "{bytes}");
                assert_eq!(cost.mover.received, times * one.mover.received);
                assert_eq!(cost.peers.sent, times * one.peers.sent);
                assert_eq!(cost.peers.look_ups, times * one.peers.look_ups);
                assert_eq!(cost.mover.look_ups, 0);
                assert_eq!(cost.requests, one.requests);
            }
            // A peer that has nothing to say asks nobody.
            assert_eq!(one.peers.look_ups > 0, busy);
        }
    }
}

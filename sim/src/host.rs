//! A process with a port: the driver the port needs, and an application that sends and reads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meander_core::limits::SMALL_BYTES;
use meander_core::port::{
    Arrival, Config, Copied, Effect, Message, Port, PortError, Snapshot, StreamAt,
};
use meander_core::transport::{Body, Frame};
use meander_core::wire::AppHeader;
use meander_core::wire::Violation::StaleEpoch;
use meander_core::{
    BufferId, Card, Epoch, Key, Limits, LinkId, Location, NodeName, Place, PortId, Seq, Slice,
    StreamKind, Time, TransportKind,
};

use crate::checkers::{Buffers, Checker, Copies, Fault, StreamName, payload};
use crate::coverage::Coverage;
use crate::network::{Network, Sent, Side, transmit};

/// A message that has been announced, to be pulled or declined.
#[derive(Clone, Debug)]
struct Announced {
    at: StreamAt,
    seq: Seq,
    number: u64,
    len: u64,
}

/// A message to be sent once the port takes a copy of it.
#[derive(Clone, Debug)]
struct Waiting {
    at: StreamAt,
    len: u64,
    synchronous: bool,
}

/// How many messages of a process wait for that, at most; further ones are lent.
const WAITING: usize = 8;

/// What of a process is in its image: everything but its links.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    port: Vec<u8>,
    memory: Memory,
}

/// The application's memory.
#[derive(Clone, Debug, Default)]
struct Memory {
    buffers: Buffers,
    announced: VecDeque<Announced>,
    /// Buffers being pulled into, with what they will hold.
    pulling: BTreeMap<BufferId, (StreamName, u64)>,
    /// Which of the buffers are copies.
    copies: Copies,
    /// Messages for whose copies the port had no room.
    waiting: VecDeque<Waiting>,
    /// Eager payload that has come and has not been read.
    unread: Vec<(StreamAt, u64)>,
    /// Streams this side opened and has not finished.
    opened: Vec<StreamAt>,
    /// Peers that are dead.
    dead: BTreeSet<PortId>,
}

#[derive(Debug)]
pub(crate) struct Host {
    /// Its place among all processes: links and cards name it.
    pub slot: usize,
    pub rank: usize,
    pub node: usize,
    pub port: Port,
    /// How often its port has been attached here: old cards lead nowhere.
    pub incarnation: u64,
    memory: Memory,
    /// It reads eager payload only now and then.
    pub slow: bool,
    /// A copy left behind that woke up. What it says must not be believed.
    pub zombie: bool,
    /// The directory has where it is now.
    pub listed: bool,
    /// Frames of messages that were sent at once, with their bodies, and the links they go on.
    at_once: Vec<(LinkId, Frame, Vec<u8>)>,
    /// What has happened that is to be counted.
    hits: Vec<&'static str>,
}

/// What a host wants of the world.
pub(crate) enum Request {
    Dial { peer: PortId, cards: Vec<Card> },
    Ask(PortId),
}

pub(crate) fn port_id(rank: usize) -> PortId {
    PortId((rank as u128 + 1) << 64)
}

pub(crate) fn rank_of(port: PortId) -> usize {
    (port.0 >> 64) as usize - 1
}

pub(crate) fn node_name(node: usize) -> NodeName {
    NodeName(format!("n{node}"))
}

impl Host {
    pub fn new(rank: usize, node: usize, limits: Limits) -> Host {
        let port = Port::new(Config {
            id: port_id(rank),
            key: Key([7; 32]),
            limits,
            seed: [rank as u8 + 1; 32],
        });
        Host::with(rank, rank, node, port, Memory::default())
    }

    /// A process made from an image, on another node.
    pub fn restore(slot: usize, rank: usize, node: usize, image: &Image, fresh: u64) -> Host {
        let snapshot: Snapshot = postcard::from_bytes(&image.port).expect("its own bytes");
        let mut seed = [slot as u8; 32];
        seed[..8].copy_from_slice(&fresh.to_le_bytes());
        let port = Port::from_snapshot(snapshot, seed);
        Host::with(slot, rank, node, port, image.memory.clone())
    }

    fn with(slot: usize, rank: usize, node: usize, port: Port, memory: Memory) -> Host {
        Host {
            slot,
            rank,
            node,
            port,
            incarnation: 0,
            memory,
            slow: rank.is_multiple_of(2),
            zombie: false,
            listed: false,
            at_once: Vec::new(),
            hits: Vec::new(),
        }
    }

    /// The process as it was frozen.
    pub fn image(&self) -> Image {
        let port = postcard::to_stdvec(&self.port.snapshot()).expect("plain data");
        Image {
            port,
            memory: self.memory.clone(),
        }
    }

    pub fn attach(&mut self, now: Time, epoch: Epoch) {
        self.incarnation += 1;
        self.listed = false;
        self.port.attach(now, epoch, self.location());
    }

    /// The place where the port can be dialled now.
    pub fn location(&self) -> Location {
        let bytes = [self.slot as u64, self.incarnation]
            .map(u64::to_le_bytes)
            .concat();
        let cards = vec![Card {
            transport: TransportKind::Sim,
            bytes,
        }];
        Location {
            node: node_name(self.node),
            cards,
        }
    }

    /// The slot and incarnation that a card names.
    pub fn read_card(card: &Card) -> (usize, u64) {
        let (slot, incarnation) = card.bytes.split_at(8);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        (number(slot) as usize, number(incarnation))
    }

    /// Opens a stream to another rank.
    pub fn open(&mut self, now: Time, to: usize, service: u32, kind: StreamKind) {
        if let Ok(stream) = self.port.open(now, port_id(to), service, kind) {
            self.memory.opened.push(StreamAt {
                peer: port_id(to),
                stream,
            });
        }
    }

    /// A stream to send on: a fixed one of this rank, or one that was opened.
    pub fn pick(&mut self, to: usize, dice: u64) -> Option<StreamAt> {
        let opened = &self.memory.opened;
        if dice.is_multiple_of(2) && !opened.is_empty() {
            return Some(opened[(dice / 2) as usize % opened.len()]);
        }
        let stream = self.port.open_fixed(port_id(to), (dice % 3) as u32).ok()?;
        Some(StreamAt {
            peer: port_id(to),
            stream,
        })
    }

    /// Sends the next message of a stream, from memory that is lent to the port.
    pub fn send(
        &mut self,
        now: Time,
        at: StreamAt,
        len: u64,
        synchronous: bool,
        checker: &mut Checker,
    ) {
        let _ = self.send_from(now, at, len, false, synchronous, checker);
    }

    /// Sends it from a copy that the port keeps. If it does not take one, the message waits until it does,
    /// or is lent: as programs do. Whether the port took it as it was.
    pub fn send_copy(
        &mut self,
        now: Time,
        at: StreamAt,
        len: u64,
        synchronous: bool,
        checker: &mut Checker,
    ) -> bool {
        match self.send_from(now, at, len, true, synchronous, checker) {
            Err(PortError::Full) => {
                // What never fits is never waited for.
                let fits = len <= self.port.limits().retained_bytes;
                if fits && self.memory.waiting.len() < WAITING {
                    self.memory.waiting.push_back(Waiting {
                        at,
                        len,
                        synchronous,
                    });
                } else {
                    self.send(now, at, len, synchronous, checker);
                }
                false
            }
            _ => true,
        }
    }

    /// Sends what waited for room, as far as there is some now.
    fn send_waiting(&mut self, now: Time, checker: &mut Checker) {
        while let Some(Waiting {
            at,
            len,
            synchronous,
        }) = self.memory.waiting.front().cloned()
        {
            let sent = self.send_from(now, at, len, true, synchronous, checker);
            if let Err(PortError::Full) = sent {
                return;
            }
            self.memory.waiting.pop_front();
        }
    }

    fn send_from(
        &mut self,
        now: Time,
        at: StreamAt,
        len: u64,
        copied: bool,
        synchronous: bool,
        checker: &mut Checker,
    ) -> Result<(), PortError> {
        let name = self.name_out(at);
        let number = if self.zombie {
            u64::MAX
        } else {
            checker.next_number(name)
        };
        let bytes = payload(name, number, len as usize);
        let app = AppHeader::try_from(&number.to_le_bytes()[..]).expect("8 bytes fit");
        let small =
            copied && !synchronous && bytes.len() <= SMALL_BYTES && number.is_multiple_of(2);
        if small && self.send_at_once(now, at, &app, Copied::Small(&bytes), checker) {
            if !self.zombie {
                checker.sent(name);
            }
            return Ok(());
        }
        let buffer = self.memory.buffers.lend(bytes);
        let body = Some(Slice {
            buffer,
            offset: 0,
            len,
        });
        let message = Message {
            app: app.clone(),
            body,
            copied,
            synchronous,
        };
        let body = body.map_or(Copied::Small(&[]), Copied::Slice);
        let at_once = copied && !synchronous && self.send_at_once(now, at, &app, body, checker);
        if !at_once && let Err(error) = self.port.send(now, at, message) {
            // Refused by the peer meanwhile, or dead; or there is no room.
            self.memory.buffers.take_back(buffer);
            return Err(error);
        }
        if copied {
            self.memory.copies.taken(buffer, len);
            let bound = self.port.limits().retained_bytes;
            checker.copied(self.rank, &self.memory.copies, bound);
        }
        if !self.zombie {
            checker.sent(name);
        }
        Ok(())
    }

    /// Sends a copy by the short way, where that is open. Now and then the link does not take it, as one
    /// that is full would not.
    fn send_at_once(
        &mut self,
        now: Time,
        at: StreamAt,
        app: &AppHeader,
        body: Copied<'_>,
        checker: &mut Checker,
    ) -> bool {
        let Some((link, header)) = self.port.send_at_once(at, app, body) else {
            return false;
        };
        if header.seq.get() % 4 == 3 {
            self.port.not_taken(now, at);
            self.hits.push("message sent at once, and not taken");
            return true;
        }
        let (bytes, body) = match body {
            Copied::Small(bytes) => {
                self.hits.push("small message sent at once");
                (bytes.to_vec(), Body::Own(bytes.to_vec()))
            }
            Copied::Slice(slice) => (self.memory.buffers.read(slice, checker), Body::Slice(slice)),
        };
        let app = app.clone();
        self.at_once
            .push((link, Frame { header, app, body }, bytes));
        self.hits.push("message sent at once");
        true
    }

    /// What has happened since this was last asked.
    pub fn take_hits(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.hits)
    }

    /// Ends one of the opened streams.
    pub fn finish(&mut self, now: Time, dice: u64) -> bool {
        if self.memory.opened.is_empty() {
            return false;
        }
        let place = dice as usize % self.memory.opened.len();
        let at = self.memory.opened.swap_remove(place);
        self.port.finish(now, at).is_ok()
    }

    /// Reads all eager payload that has come.
    pub fn read(&mut self) {
        for (at, bytes) in self.memory.unread.drain(..) {
            self.port.consumed(at, bytes);
        }
    }

    /// Answers the oldest announced message.
    pub fn pull_one(&mut self, now: Time, decline: bool, checker: &mut Checker) {
        let Some(next) = self.memory.announced.pop_front() else {
            return;
        };
        if decline {
            // The stream may be gone with its peer.
            let _ = self.port.decline(now, next.at, next.seq);
            return;
        }
        let name = self.name_in(next.at);
        let buffer = self.memory.buffers.lend(vec![0; next.len as usize]);
        self.memory.pulling.insert(buffer, (name, next.number));
        match self.port.pull(now, next.at, next.seq, buffer, u64::MAX) {
            Ok(0) => self.pulled(buffer, 0, checker),
            Ok(_) => {}
            Err(error) => checker.stuck(error.to_string()),
        }
    }

    /// An agent says that a peer is dead.
    pub fn told_dead(&mut self, peer: PortId) {
        self.port.declare_dead(peer);
    }

    /// Whether it knows that a peer is dead.
    pub fn knows_dead(&self, peer: PortId) -> bool {
        self.memory.dead.contains(&peer)
    }

    /// What the port has not given back, once it should have.
    pub fn lent(&self) -> usize {
        self.memory.buffers.len() + usize::from(self.port.retained_bytes() > 0)
    }

    pub fn has_announced(&self) -> bool {
        !self.memory.announced.is_empty()
    }

    pub fn is_idle(&self) -> bool {
        let memory = &self.memory;
        let done = memory.announced.is_empty() && memory.pulling.is_empty();
        done && memory.waiting.is_empty() && self.port.is_drained()
    }

    /// A frame has come. `false`: its link is to be broken.
    pub fn receive(
        &mut self,
        now: Time,
        link: LinkId,
        sent: Sent,
        checker: &mut Checker,
        coverage: &mut Coverage,
    ) -> bool {
        let Frame { header, app, .. } = &sent.frame;
        if let Ok(kind) = header.frame_kind() {
            coverage.frame(kind);
        }
        // As a transport that has it whole would, but for some.
        let whole = sent.torn.is_none() && header.seq.get() % 4 != 2;
        let at_once = whole
            .then(|| self.port.message_at_once(now, link, header))
            .flatten();
        if let Some(at) = at_once {
            coverage.hit("message taken at once");
            let seq = Seq(header.seq.get());
            self.arrived(now, Arrival::Message { at, seq }, &sent, checker, coverage);
            return true;
        }
        let result = self.port.frame_begin(link, header).and_then(|place| {
            let Place::Into(slice) = place else {
                if sent.torn.is_some() {
                    return Ok(Arrival::Nothing);
                }
                return self.port.frame_complete(now, link, header, app, &sent.body);
            };
            // Of a torn frame only a part came.
            let part = sent
                .torn
                .map_or(sent.body.len(), |share| sent.body.len() * share / 1000);
            self.memory
                .buffers
                .write(slice, &sent.body[..part], checker);
            if sent.torn.is_some() {
                return Ok(Arrival::Nothing);
            }
            self.port.frame_complete(now, link, header, app, &[])
        });
        match result {
            Ok(arrival) => {
                self.arrived(now, arrival, &sent, checker, coverage);
                sent.torn.is_none()
            }
            Err(violation) => {
                // Copies left behind are refused that way; honest peers never.
                let excused = self.zombie || matches!(violation, StaleEpoch(_));
                if !excused {
                    let kind = sent.frame.header.frame_kind();
                    let text = format!("{violation}: {kind:?} on {:?}", header.stream.get());
                    checker.fault(Fault::Violation(text));
                }
                false
            }
        }
    }

    fn arrived(
        &mut self,
        now: Time,
        arrival: Arrival,
        sent: &Sent,
        checker: &mut Checker,
        coverage: &mut Coverage,
    ) {
        if let Arrival::Message { at, .. }
        | Arrival::Envelope { at, .. }
        | Arrival::Pulled { at, .. } = &arrival
            && let Some(known) = self.port.contact_of(at.peer)
        {
            checker.accepted(self.rank, sent.epoch, known.epoch);
        }
        let number = || u64::from_le_bytes(sent.frame.app[..8].try_into().expect("8 bytes"));
        match arrival {
            Arrival::Opened { at, service, .. } => {
                let accept = service != REFUSED_SERVICE;
                coverage.hit(if accept {
                    "stream accepted"
                } else {
                    "stream refused"
                });
                if !accept {
                    checker.refused(self.name_in(at));
                }
                self.port
                    .answer(now, at, accept)
                    .expect("it was just offered");
                if accept && service.is_multiple_of(2) {
                    self.memory.opened.push(at);
                } else if accept {
                    self.port.finish(now, at).expect("it was just accepted");
                }
            }
            Arrival::Message { at, .. } => {
                let (name, number) = (self.name_in(at), number());
                checker.arrive(name, number);
                checker.check(name, number, &sent.body);
                self.memory.unread.push((at, sent.body.len() as u64));
                let unread = self.memory.unread.iter().filter(|(other, _)| *other == at);
                let bytes = unread.map(|(_, bytes)| bytes).sum();
                checker.unread(self.rank, bytes, self.port.limits().window_bytes);
                if !self.slow {
                    self.read();
                }
            }
            Arrival::Envelope { at, seq, len, .. } => {
                let number = number();
                checker.arrive(self.name_in(at), number);
                self.memory.announced.push_back(Announced {
                    at,
                    seq,
                    number,
                    len,
                });
            }
            Arrival::Pulled { buffer, len, .. } => self.pulled(buffer, len, checker),
            Arrival::Rejected(at) => self.memory.opened.retain(|other| *other != at),
            Arrival::Finished(at) => {
                coverage.hit("stream finished");
                checker.finished(self.name_in(at));
            }
            Arrival::Accepted(_) | Arrival::Nothing => {}
        }
    }

    fn pulled(&mut self, buffer: BufferId, len: u64, checker: &mut Checker) {
        let (name, number) = self
            .memory
            .pulling
            .remove(&buffer)
            .expect("it is being pulled");
        let body = self.memory.buffers.give_back(buffer, checker);
        checker.check(name, number, &body[..len as usize]);
    }

    /// Carries out effects and puts frames on the network; returns what the world must do.
    pub fn drive(
        &mut self,
        now: Time,
        network: &mut Network,
        checker: &mut Checker,
        mut delay: impl FnMut() -> Time,
    ) -> Vec<Request> {
        let mut requests = Vec::new();
        while let Some(effect) = self.port.poll_effect() {
            match effect {
                Effect::Close(link) => network.close(
                    Side {
                        slot: self.slot,
                        link,
                    },
                    now,
                ),
                Effect::Dial { peer, cards } => requests.push(Request::Dial { peer, cards }),
                Effect::Ask(peer) => requests.push(Request::Ask(peer)),
                Effect::Sent { buffer } | Effect::Lost { buffer } => {
                    self.memory.pulling.remove(&buffer);
                    self.memory.copies.given_back(buffer);
                    self.memory.buffers.give_back(buffer, checker);
                }
                Effect::Dead { peer, .. } => {
                    if !checker.is_buried(rank_of(peer)) {
                        checker.stuck(format!("{peer} was declared dead"));
                    }
                    self.forget(peer);
                }
                Effect::Connected(_) => {}
            }
        }
        if self.port.is_attached() {
            self.send_waiting(now, checker);
        }
        let (slot, buffers) = (self.slot, &self.memory.buffers);
        for (link, frame, body) in self.at_once.drain(..) {
            network.send(Side { slot, link }, delay(), frame, body);
        }
        transmit(&mut self.port, |link, frame| {
            let body = match &frame.body {
                Body::Empty | Body::Place(_) => Vec::new(),
                Body::Own(bytes) => bytes.clone(),
                Body::Slice(slice) => buffers.read(*slice, checker),
            };
            network.send(Side { slot, link }, delay(), frame, body);
        });
        requests
    }

    /// A peer is dead: nothing of its streams is left.
    fn forget(&mut self, peer: PortId) {
        let memory = &mut self.memory;
        memory.dead.insert(peer);
        memory.announced.retain(|it| it.at.peer != peer);
        memory.unread.retain(|(at, _)| at.peer != peer);
        memory.waiting.retain(|it| it.at.peer != peer);
        memory.opened.retain(|at| at.peer != peer);
    }

    /// How the checker calls an incoming direction.
    fn name_in(&self, at: StreamAt) -> StreamName {
        (rank_of(at.peer), self.rank, at.stream.0)
    }

    fn name_out(&self, at: StreamAt) -> StreamName {
        (self.rank, rank_of(at.peer), at.stream.0)
    }
}

/// The service that every host refuses.
pub(crate) const REFUSED_SERVICE: u32 = 7;

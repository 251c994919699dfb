//! A process of the small world: a port, and an application that owes its peer one message.

use std::hash::{Hash, Hasher};

use meander_core::port::{Arrival, Config, Effect, Message, Port, StreamAt};
use meander_core::transport::{Body, Frame};
use meander_core::wire::{AppHeader, FrameKind};
use meander_core::{
    BufferId, Card, Epoch, Key, Limits, LinkId, Location, Place, PortId, Slice, Time, TransportKind,
};

use crate::checkers::{Buffers, Checker, payload};
use crate::host::node_name;

/// Whether it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Life {
    Running,
    Held,
    /// A shadow, or discarded.
    Ended,
    Killed,
}

/// What it wants of the world.
pub(super) enum Wish {
    Dial(PortId, Card),
    Ask(PortId),
    Close(LinkId),
    Told(PortId),
}

/// A frame with its body, as it left the sender's memory.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub frame: Frame,
    pub body: Vec<u8>,
    /// The sender's, which a set-up frame tells.
    pub epoch: Epoch,
}

/// Messages up to this many bytes go with their payload; the other way it is pulled.
const EAGER_BYTES: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Process {
    pub name: usize,
    pub node: usize,
    pub life: Life,
    pub port: Port,
    /// Its own clock; only its deadlines move it.
    pub now: Time,
    /// The directory has where it is.
    pub listed: bool,
    pub app: App,
}

/// What moves with it.
#[derive(Clone, Debug)]
pub(super) struct App {
    buffers: Buffers,
    /// Messages of the peer that have come whole.
    pub received: u8,
    pulling: Option<BufferId>,
    pub knows_dead: bool,
}

impl Process {
    pub fn new(name: usize, node: usize) -> Process {
        let limits = Limits {
            eager_bytes: EAGER_BYTES,
            ..Limits::default()
        };
        let config = Config {
            id: PortId(name as u128 + 1),
            key: Key([7; 32]),
            limits,
            seed: [name as u8 + 1; 32],
        };
        Process {
            name,
            node,
            life: Life::Running,
            port: Port::new(config),
            now: Time(0),
            listed: false,
            app: App {
                buffers: Buffers::default(),
                received: 0,
                pulling: None,
                knows_dead: false,
            },
        }
    }

    /// Its copy on another node, held.
    pub fn copy(&self, name: usize, node: usize) -> Process {
        Process {
            name,
            node,
            life: Life::Held,
            port: Port::from_snapshot(self.port.snapshot(), [name as u8 + 1; 32]),
            now: Time(0),
            listed: false,
            app: self.app.clone(),
        }
    }

    pub fn is_on(&self) -> bool {
        self.life == Life::Running && self.port.is_attached()
    }

    pub fn attach(&mut self, epoch: Epoch) {
        self.listed = false;
        let card = Card {
            transport: TransportKind::Sim,
            bytes: vec![self.name as u8],
        };
        let location = Location {
            node: node_name(self.node),
            cards: vec![card],
        };
        self.port.attach(self.now, epoch, location);
    }

    /// Sends a message of nothing, so that there is a link.
    pub fn send_first(&mut self, peer: PortId) {
        self.post(peer, None);
    }

    /// Sends the one message: what the higher port sends is pulled.
    pub fn send(&mut self, peer: PortId) {
        let (from, to) = (self.port.id().0 as usize, peer.0 as usize);
        let len = if from < to {
            EAGER_BYTES
        } else {
            2 * EAGER_BYTES
        };
        let buffer = self.app.buffers.lend(payload((from, to, 0), 0, len));
        let body = Slice {
            buffer,
            offset: 0,
            len: len as u64,
        };
        self.post(peer, Some(body));
    }

    fn post(&mut self, peer: PortId, body: Option<Slice>) {
        let stream = self.port.open_fixed(peer, 0).expect("the peer is known");
        let message = Message {
            app: AppHeader::new(),
            body,
            copied: true,
            synchronous: false,
        };
        self.port
            .send(self.now, StreamAt { peer, stream }, message)
            .expect("the stream is open");
    }

    /// Whether it has had all, and its peer has all from it.
    pub fn is_done(&self) -> bool {
        self.app.received == 1 && self.port.is_drained() && self.has_all_back()
    }

    /// Whether every buffer that it lent was given back.
    pub fn has_all_back(&self) -> bool {
        self.app.buffers.len() == 0
    }

    /// A frame has come. `false`: its link is to be broken.
    pub fn receive(&mut self, link: LinkId, sent: &Sent, checker: &mut Checker) -> bool {
        let Frame { header, app, .. } = &sent.frame;
        let place = self.port.frame_begin(link, header);
        let result = place.and_then(|place| {
            let own: &[u8] = match place {
                Place::Whole => &sent.body,
                Place::Into(slice) => {
                    self.app.buffers.write(slice, &sent.body, checker);
                    &[]
                }
            };
            self.port.frame_complete(self.now, link, header, app, own)
        });
        match result {
            Ok(arrival) => {
                self.arrived(arrival, &sent.body, checker);
                true
            }
            Err(meander_core::wire::Violation::StaleEpoch(_)) => false,
            Err(violation) => {
                let kind = header.frame_kind();
                checker.fault(crate::Fault::Violation(format!("{violation}: {kind:?}")));
                false
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival, body: &[u8], checker: &mut Checker) {
        match arrival {
            Arrival::Message { at, .. } => {
                self.port.consumed(at, body.len() as u64);
                self.has_come(at, body, checker);
            }
            Arrival::Envelope { at, seq, len, .. } => {
                let buffer = self.app.buffers.lend(vec![0; len as usize]);
                let pulled = self.port.pull(self.now, at, seq, buffer, len);
                if pulled != Ok(len) || self.app.pulling.replace(buffer).is_some() {
                    checker.stuck(format!("{len} bytes are pulled twice: {pulled:?}"));
                }
            }
            Arrival::Pulled { at, buffer, .. } => {
                self.app.pulling = None;
                let body = self.app.buffers.give_back(buffer, checker);
                self.has_come(at, &body, checker);
            }
            _ => {}
        }
    }

    fn has_come(&mut self, at: StreamAt, body: &[u8], checker: &mut Checker) {
        let stream = (at.peer.0 as usize, self.port.id().0 as usize, 0);
        if self.app.received > 0 {
            checker.fault(crate::Fault::OutOfOrder {
                stream,
                expected: 1,
                got: 0,
            });
        }
        self.app.received += 1;
        checker.check(stream, 0, body);
    }

    /// Carries out what the port wants; returns what the world must do, and the frames.
    pub fn drive(&mut self, checker: &mut Checker) -> (Vec<Wish>, Vec<(LinkId, Sent)>) {
        let mut wishes = Vec::new();
        while let Some(effect) = self.port.poll_effect() {
            match effect {
                Effect::Close(link) => wishes.push(Wish::Close(link)),
                Effect::Dial { peer, mut cards } => wishes.push(Wish::Dial(peer, cards.remove(0))),
                Effect::Ask(peer) => wishes.push(Wish::Ask(peer)),
                Effect::Sent { buffer } | Effect::Lost { buffer } => {
                    self.app.pulling.take_if(|pulling| *pulling == buffer);
                    self.app.buffers.give_back(buffer, checker);
                }
                Effect::Dead { peer, .. } => {
                    self.app.knows_dead = true;
                    wishes.push(Wish::Told(peer));
                }
                Effect::Connected(_) => {}
            }
        }
        let mut frames = Vec::new();
        while let Some(link) = self.port.poll_ready() {
            while let Some(frame) = self.port.poll_transmit(link) {
                let body = match &frame.body {
                    Body::Empty | Body::Place(_) => Vec::new(),
                    Body::Own(bytes) => bytes.clone(),
                    Body::Slice(slice) => self.app.buffers.read(*slice, checker),
                };
                let epoch = self.port.epoch();
                frames.push((link, Sent { frame, body, epoch }));
            }
        }
        (wishes, frames)
    }

    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        let App {
            buffers,
            received,
            pulling,
            knows_dead,
        } = &self.app;
        self.life.hash(hasher);
        // Of one that will not run again nothing matters any more.
        if matches!(self.life, Life::Running | Life::Held) {
            (self.listed, received, pulling, knows_dead, buffers).hash(hasher);
            self.port.fingerprint(self.now, hasher);
        }
    }
}

impl Sent {
    /// What it means: the nonces and proofs of a set-up frame do not matter.
    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        (self.frame.header.to_bytes(), self.epoch).hash(hasher);
        self.frame.app.hash(hasher);
        let kind = self.frame.header.frame_kind();
        if matches!(self.frame.body, Body::Slice(_)) || kind == Ok(FrameKind::Refuse) {
            self.body.hash(hasher);
        }
    }
}

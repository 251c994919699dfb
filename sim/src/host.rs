//! A port with the driver it needs: buffers, links, and an application that sends and reads.

use std::collections::{BTreeMap, VecDeque};

use meander_core::port::{Arrival, Config, Effect, Message, Port, Snapshot, StreamAt};
use meander_core::transport::{Body, Frame};
use meander_core::{
    BufferId, Card, Contact, Key, Limits, LinkId, Location, Place, PortId, Seq, Slice, StreamId,
    Time, TransportKind,
};

use crate::checker::{Checker, Fault, payload};
use crate::network::{Network, Sent, Side, transmit};

/// A message that has been announced, to be pulled or declined.
#[derive(Debug)]
struct Announced {
    at: StreamAt,
    seq: Seq,
    number: u64,
    len: u64,
}

#[derive(Debug)]
pub(crate) struct Host {
    pub index: usize,
    pub port: Port,
    /// How often it has been attached: its card names this, so that old cards lead nowhere.
    pub incarnation: u64,
    buffers: BTreeMap<BufferId, Vec<u8>>,
    next_buffer: u64,
    announced: VecDeque<Announced>,
    /// Buffers being pulled into, with what they will hold.
    pulling: BTreeMap<BufferId, ((usize, usize, u32), u64)>,
}

/// What a host wants of the world.
pub(crate) enum Request {
    Dial { peer: PortId, cards: Vec<Card> },
    Ask(PortId),
}

pub(crate) fn port_id(index: usize) -> PortId {
    PortId((index as u128 + 1) << 64)
}

fn index_of(port: PortId) -> usize {
    (port.0 >> 64) as usize - 1
}

impl Host {
    pub fn new(index: usize, limits: Limits) -> Host {
        let seed = [index as u8 + 1; 32];
        let config = Config {
            id: port_id(index),
            key: Key([7; 32]),
            limits,
            seed,
        };
        Host {
            index,
            port: Port::new(config),
            incarnation: 0,
            buffers: BTreeMap::new(),
            next_buffer: 0,
            announced: VecDeque::new(),
            pulling: BTreeMap::new(),
        }
    }

    /// The place where the port can be dialled now.
    pub fn location(&self) -> Location {
        let bytes = [self.index as u64, self.incarnation]
            .map(u64::to_le_bytes)
            .concat();
        Location {
            cards: vec![Card {
                transport: TransportKind::Sim,
                bytes,
            }],
            ..Location::default()
        }
    }

    /// The host and incarnation that a card names.
    pub fn read_card(card: &Card) -> (usize, u64) {
        let (index, incarnation) = card.bytes.split_at(8);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        (number(index) as usize, number(incarnation))
    }

    pub fn learn(&mut self, now: Time, contact: &Contact) {
        self.port.learn(now, contact);
    }

    /// Takes the port through a value, as a move does; the buffers move as they are.
    pub fn become_value(&mut self, seed: u64) {
        self.port.suspend();
        let bytes = postcard::to_stdvec(&self.port.snapshot()).expect("plain data");
        let snapshot: Snapshot = postcard::from_bytes(&bytes).expect("its own bytes");
        let mut fresh = [self.index as u8; 32];
        fresh[..8].copy_from_slice(&seed.to_le_bytes());
        self.port = Port::from_snapshot(snapshot, fresh);
    }

    /// Sends the next message of a stream.
    pub fn send(
        &mut self,
        now: Time,
        to: usize,
        stream: u32,
        len: usize,
        synchronous: bool,
        checker: &mut Checker,
    ) {
        let Ok(id) = self.port.open_fixed(port_id(to), stream) else {
            return;
        };
        let name = (self.index, to, stream);
        let number = checker.send(name);
        let buffer = self.add_buffer(payload(name, number, len));
        let mut app = meander_core::wire::AppHeader::new();
        app.try_extend_from_slice(&number.to_le_bytes())
            .expect("8 bytes fit");
        let body = Some(Slice {
            buffer,
            offset: 0,
            len: len as u64,
        });
        let at = StreamAt {
            peer: port_id(to),
            stream: id,
        };
        self.port
            .send(
                now,
                at,
                Message {
                    app,
                    body,
                    synchronous,
                },
            )
            .expect("the peer is alive");
    }

    /// Pulls the oldest announced message.
    pub fn pull_one(&mut self, now: Time, checker: &mut Checker) {
        let Some(next) = self.announced.pop_front() else {
            return;
        };
        let name = self.name(next.at);
        let buffer = self.add_buffer(vec![0; next.len as usize]);
        self.pulling.insert(buffer, (name, next.number));
        let coming = self.port.pull(now, next.at, next.seq, buffer, u64::MAX);
        if coming.expect("it was announced") == 0 {
            self.pulled(buffer, 0, checker);
        }
    }

    pub fn has_announced(&self) -> bool {
        !self.announced.is_empty()
    }

    pub fn is_idle(&self) -> bool {
        self.port.is_drained() && self.announced.is_empty() && self.pulling.is_empty()
    }

    /// A frame has come.
    pub fn receive(&mut self, now: Time, link: LinkId, sent: Sent, checker: &mut Checker) -> bool {
        let Frame { header, app, .. } = &sent.frame;
        let result = self.port.frame_begin(link, header).and_then(|place| {
            let Place::Into(slice) = place else {
                return self.port.frame_complete(now, link, header, app, &sent.body);
            };
            match self.buffers.get_mut(&slice.buffer) {
                Some(memory) => {
                    let range = slice.offset as usize..(slice.offset + slice.len) as usize;
                    memory[range].copy_from_slice(&sent.body);
                }
                None => checker
                    .faults
                    .push(Fault::TouchedAfterCompletion(slice.buffer)),
            }
            self.port.frame_complete(now, link, header, app, &[])
        });
        match result {
            Ok(arrival) => {
                self.arrived(arrival, &sent, checker);
                true
            }
            Err(violation) => {
                checker.faults.push(Fault::Violation(violation.to_string()));
                false
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival, sent: &Sent, checker: &mut Checker) {
        let number = || u64::from_le_bytes(sent.frame.app[..8].try_into().expect("8 bytes"));
        match arrival {
            Arrival::Message { at, .. } => {
                let (name, number) = (self.name(at), number());
                checker.arrive(name, number);
                checker.check(name, number, &sent.body);
                self.port.consumed(at, sent.body.len() as u64);
            }
            Arrival::Envelope { at, seq, len, .. } => {
                let number = number();
                checker.arrive(self.name(at), number);
                self.announced.push_back(Announced {
                    at,
                    seq,
                    number,
                    len,
                });
            }
            Arrival::Pulled { buffer, len, .. } => self.pulled(buffer, len, checker),
            _ => {}
        }
    }

    fn pulled(&mut self, buffer: BufferId, len: u64, checker: &mut Checker) {
        let (name, number) = self.pulling.remove(&buffer).expect("it is being pulled");
        let body = self
            .buffers
            .remove(&buffer)
            .expect("it is held while it is pulled");
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
                Effect::Close(link) => network.close(self.side(link), now),
                Effect::Dial { peer, cards } => requests.push(Request::Dial { peer, cards }),
                Effect::Ask(peer) => requests.push(Request::Ask(peer)),
                Effect::Sent { buffer } => {
                    if self.buffers.remove(&buffer).is_none() {
                        checker.faults.push(Fault::TouchedAfterCompletion(buffer));
                    }
                }
                Effect::Lost { .. } | Effect::Connected(_) | Effect::Dead { .. } => {}
            }
        }
        let (host, buffers) = (self.index, &self.buffers);
        transmit(&mut self.port, |link, frame| {
            let body = match &frame.body {
                Body::Empty => Vec::new(),
                Body::Own(bytes) => bytes.clone(),
                Body::Slice(slice) => match buffers.get(&slice.buffer) {
                    Some(memory) => memory[slice.offset as usize..][..slice.len as usize].to_vec(),
                    None => {
                        checker
                            .faults
                            .push(Fault::TouchedAfterCompletion(slice.buffer));
                        Vec::new()
                    }
                },
            };
            network.send(Side { host, link }, delay(), frame, body);
        });
        requests
    }

    fn add_buffer(&mut self, bytes: Vec<u8>) -> BufferId {
        self.next_buffer += 1;
        let id = BufferId(self.next_buffer);
        self.buffers.insert(id, bytes);
        id
    }

    fn side(&self, link: LinkId) -> Side {
        Side {
            host: self.index,
            link,
        }
    }

    /// How the checker calls an incoming stream.
    fn name(&self, at: StreamAt) -> (usize, usize, u32) {
        (
            index_of(at.peer),
            self.index,
            at.stream.0 & !StreamId::fixed(0).0,
        )
    }
}

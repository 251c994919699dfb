//! A port's protocol as a state machine: calls and frames in, frames and effects out.
//!
//! The driver (the runtime, or the simulator) owns the transports, the clock, the buffers and
//! nothing else. Its loop: hand in what happened (`connected`, `accepted`, `broken`,
//! `frame_begin` and `frame_complete`, `handle_timeout`), then carry out [`Port::poll_effect`]
//! until empty, then for each [`Port::poll_ready`] link send [`Port::poll_transmit`]'s frames as
//! long as the link has room.

mod effect;
mod fingerprint;
mod links;
mod peer;
mod receive;
mod sending;
mod transmit;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use effect::{Arrival, DeathCause, Effect, PortError, StreamAt};
use links::Link;
use peer::Peer;
pub use sending::{Copied, Message};

use crate::ids::{BufferId, Epoch, LinkId, PortId, Seq, StreamId};
use crate::key::Key;
use crate::limits::{self, Limits};
use crate::location::{Contact, Location};
use crate::planted::{PlantedFault, is_planted};
use crate::stream::{Freed, Opening, Payload, Retained, Stream, StreamKind};
use crate::table::Table;
use crate::time::Time;
use crate::wire::{AppHeader, FrameKind, flags};

/// What a new port is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its address: 128 random bits.
    pub id: PortId,
    /// The key of its job.
    pub key: Key,
    /// Its bounds.
    pub limits: Limits,
    /// 256 random bits; nonces are made from them. A restored port gets fresh ones.
    pub seed: [u8; 32],
}

/// The protocol state of one port.
#[derive(Clone, Debug)]
pub struct Port {
    lasting: Lasting,
    nonces: Nonces,
    attached: bool,
    links: Table<LinkId, Link>,
    effects: VecDeque<Effect>,
    /// Links that may have frames to send.
    ready: VecDeque<LinkId>,
    /// Peers that may have a deadline.
    restless: BTreeSet<PortId>,
    /// Empty; kept for its memory, so that an acknowledgement allocates nothing.
    freed: Freed,
}

/// What moves with a port.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Lasting {
    id: PortId,
    key: Key,
    limits: Limits,
    epoch: Epoch,
    location: Location,
    peers: Table<PortId, Peer>,
    /// Bytes that were copied for sending and not given back.
    retained_bytes: u64,
}

/// A suspended port as a value. It holds the job's key: keep it as you would a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot(Lasting);

impl Snapshot {
    /// The port's address.
    pub fn id(&self) -> PortId {
        self.0.id
    }

    /// The epoch it had when it was suspended.
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }
}

impl Port {
    /// A new port, suspended: [`attach`](Port::attach) puts it on the fabric.
    pub fn new(config: Config) -> Port {
        let Config {
            id,
            key,
            limits,
            seed,
        } = config;
        let (epoch, location) = (Epoch(0), Location::default());
        Port::with(
            Lasting {
                id,
                key,
                limits,
                epoch,
                location,
                peers: Table::new(),
                retained_bytes: 0,
            },
            seed,
        )
    }

    /// The port that a value holds, suspended. `seed` must be fresh.
    pub fn from_snapshot(snapshot: Snapshot, seed: [u8; 32]) -> Port {
        Port::with(snapshot.0, seed)
    }

    fn with(lasting: Lasting, seed: [u8; 32]) -> Port {
        Port {
            lasting,
            nonces: Nonces {
                seed: Key(seed),
                drawn: 0,
            },
            attached: false,
            links: Table::new(),
            effects: VecDeque::new(),
            ready: VecDeque::new(),
            restless: BTreeSet::new(),
            freed: Freed::default(),
        }
    }

    /// The port's address.
    pub fn id(&self) -> PortId {
        self.lasting.id
    }

    /// A key for another purpose that every port of its job makes alike, and nobody else can.
    pub fn derive_key(&self, label: &str) -> Key {
        self.lasting.key.derive(label)
    }

    /// The epoch it is, or last was, attached with.
    pub fn epoch(&self) -> Epoch {
        self.lasting.epoch
    }

    /// Its bounds.
    pub fn limits(&self) -> &Limits {
        &self.lasting.limits
    }

    /// All that a stranger with the key needs.
    pub fn contact(&self) -> Contact {
        let Lasting {
            id,
            epoch,
            location,
            ..
        } = &self.lasting;
        Contact {
            port: *id,
            epoch: *epoch,
            location: location.clone(),
        }
    }

    /// Whether the port is on the fabric.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// The ports it has had a link with, in this epoch or an earlier one, and that are not dead.
    pub fn connected_peers(&self) -> Vec<PortId> {
        let living = self
            .lasting
            .peers
            .iter()
            .filter(|(_, peer)| peer.met && peer.dead.is_none());
        living.map(|(id, _)| *id).collect()
    }

    /// Puts the port on the fabric. With a higher epoch this is the end of a move, with the same
    /// one its roll-back (or the beginning). Every peer it has met is told, directly. `[R5]`
    pub fn attach(&mut self, now: Time, epoch: Epoch, location: Location) {
        debug_assert!(!self.attached && epoch >= self.lasting.epoch);
        self.lasting.epoch = epoch;
        self.lasting.location = location;
        self.attached = true;
        let ids: Vec<PortId> = self.lasting.peers.keys().copied().collect();
        for id in ids {
            let peer = self.peer_mut(id);
            peer.dialling = Default::default();
            peer.unreachable_since = None;
            peer.wanted = peer.met;
            self.settle(now, id);
        }
    }

    /// Tells the port what its node is called.
    pub fn set_node(&mut self, node: crate::ids::NodeName) {
        self.lasting.location.node = node;
    }

    /// Takes the port off the fabric: closes every link, keeps everything retained. `[R4]`
    pub fn suspend(&mut self) {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.effects.push_back(Effect::Close(link));
        }
        self.links.clear();
        self.ready.clear();
        self.restless.clear();
        for peer in self.lasting.peers.values_mut() {
            peer.drop_link();
            peer.dialling = Default::default();
        }
        self.lasting.location.cards.clear();
        self.attached = false;
    }

    /// The suspended port as a value.
    pub fn snapshot(&self) -> Snapshot {
        debug_assert!(!self.attached, "only a suspended port is a value");
        let mut lasting = self.lasting.clone();
        if is_planted(PlantedFault::LoseRetainedTail) {
            let peers = lasting.peers.values_mut();
            let streams = peers.flat_map(|peer| peer.streams.values_mut());
            streams.for_each(|stream| stream.outgoing.lose_tail());
        }
        Snapshot(lasting)
    }

    /// Teaches the port where a peer is: at wire-up, or as the directory's answer. Older news than
    /// what it knows already is ignored.
    pub fn learn(&mut self, now: Time, contact: &Contact) {
        let we_are_lower = self.lasting.id < contact.port;
        let peer = self
            .lasting
            .peers
            .get_or_insert_with(contact.port, || Peer::new(contact.clone(), we_are_lower));
        let newer = contact.epoch > peer.contact.epoch;
        let same = contact.epoch == peer.contact.epoch && !contact.location.cards.is_empty();
        if newer || (same && contact.location != peer.contact.location) {
            peer.contact = contact.clone();
            peer.dialling.not_before = Time(0);
            peer.dialling.pause = Duration::ZERO;
        }
        // A link to the copy that a move has left behind is of no use. `[R6]`
        if let Some(stale) = peer.link.as_ref().filter(|_| newer).map(|up| up.id) {
            self.effects.push_back(Effect::Close(stale));
            self.broken(now, stale);
        }
        self.settle(now, contact.port);
    }

    /// Where a peer was when it was last heard of.
    pub fn contact_of(&self, peer: PortId) -> Option<&Contact> {
        self.lasting.peers.get(&peer).map(|peer| &peer.contact)
    }

    /// Whether a link to the peer is up now: else it may be moving, or a cable may be cut.
    pub fn is_linked(&self, peer: PortId) -> bool {
        self.lasting
            .peers
            .get(&peer)
            .is_some_and(|peer| peer.link.is_some())
    }

    /// The link that the peer's streams ride on now.
    pub fn link_to(&self, peer: PortId) -> Option<LinkId> {
        let peer = self.lasting.peers.get(&peer)?;
        peer.link.as_ref().map(|up| up.id)
    }

    /// The peer that a link leads to: whom we dialled, or who has proved to be there.
    pub fn peer_of(&self, link: LinkId) -> Option<PortId> {
        self.links.get(&link).and_then(|link| link.peer)
    }

    /// The peer is dead for certain.
    pub fn declare_dead(&mut self, peer: PortId) {
        if self.lasting.peers.contains_key(&peer) {
            self.bury(peer, DeathCause::Reported);
        }
    }

    fn bury(&mut self, id: PortId, cause: DeathCause) {
        let peer = self.peer_mut(id);
        if peer.dead.is_some() {
            return;
        }
        peer.dead = Some(cause.clone());
        let streams = std::mem::take(&mut peer.streams);
        self.close_links_of(id, None);
        for mut stream in streams.into_values() {
            self.lose(stream.outgoing.take_payloads());
            let places = stream.incoming.take_buffers().into_iter();
            self.effects
                .extend(places.map(|buffer| Effect::Lost { buffer }));
        }
        self.effects.push_back(Effect::Dead { peer: id, cause });
    }

    /// Opens a stream to a service of the peer. Messages may be sent at once; they arrive after the
    /// peer has accepted, and never if it refuses.
    pub fn open(
        &mut self,
        now: Time,
        peer: PortId,
        service: u32,
        kind: StreamKind,
    ) -> Result<StreamId, PortError> {
        let relation = self.living_peer(peer)?;
        if relation.streams.len() >= limits::STREAMS_PER_PEER {
            return Err(PortError::TooManyStreams);
        }
        let id = StreamId(relation.next_stream);
        relation.next_stream += 2;
        let mut stream = Stream::new(kind, Opening::Asked);
        let bytes = if kind == StreamKind::Bytes {
            flags::BYTES
        } else {
            0
        };
        let arg = u64::from(service);
        stream.outgoing.push(Retained {
            flags: bytes,
            arg,
            ..bare(FrameKind::Open)
        });
        relation.streams.insert(id, stream);
        self.stir(now, StreamAt { peer, stream: id });
        Ok(id)
    }

    /// The fixed stream of this number with the peer: both ends name it, nobody opens it. `[R10]`
    pub fn open_fixed(&mut self, peer: PortId, number: u32) -> Result<StreamId, PortError> {
        let id = StreamId::fixed(number);
        let streams = &mut self.living_peer(peer)?.streams;
        if streams.len() >= limits::STREAMS_PER_PEER && !streams.contains_key(&id) {
            return Err(PortError::TooManyStreams);
        }
        streams.get_or_insert_with(id, || Stream::new(StreamKind::Messages, Opening::Open));
        Ok(id)
    }

    /// Takes or refuses a stream that the peer opened.
    pub fn answer(&mut self, now: Time, at: StreamAt, accept: bool) -> Result<(), PortError> {
        let stream = self.stream_mut(at)?;
        if stream.opening != Opening::Offered {
            return Err(PortError::UnknownStream(at));
        }
        let kind = if accept {
            FrameKind::Accept
        } else {
            FrameKind::Reject
        };
        stream.opening = if accept {
            Opening::Open
        } else {
            Opening::Refused
        };
        stream.outgoing.push(bare(kind));
        self.stir(now, at);
        Ok(())
    }

    /// Ends this direction: the peer reads what was sent, then the end.
    pub fn finish(&mut self, now: Time, at: StreamAt) -> Result<(), PortError> {
        self.sending_stream(at)?
            .outgoing
            .push(bare(FrameKind::Finish));
        self.stir(now, at);
        Ok(())
    }

    /// Fetches an envelope's payload, at most `max_len` bytes, into `buffer`. Returns how many will
    /// come; [`Arrival::Pulled`] follows unless that is zero.
    pub fn pull(
        &mut self,
        now: Time,
        at: StreamAt,
        seq: Seq,
        buffer: BufferId,
        max_len: u64,
    ) -> Result<u64, PortError> {
        let stream = self.stream_mut(at)?;
        if stream.opening == Opening::Offered {
            return Err(PortError::Unanswered);
        }
        let coming = stream
            .incoming
            .pull(seq, buffer, max_len)
            .ok_or(PortError::NotAnnounced(seq))?;
        if coming == 0 {
            stream.outgoing.push(done(seq));
        }
        self.stir(now, at);
        Ok(coming)
    }

    /// Answers an envelope without wanting its payload.
    pub fn decline(&mut self, now: Time, at: StreamAt, seq: Seq) -> Result<(), PortError> {
        let stream = self.stream_mut(at)?;
        if stream.opening == Opening::Offered {
            return Err(PortError::Unanswered);
        }
        if !stream.incoming.decline(seq) {
            return Err(PortError::NotAnnounced(seq));
        }
        stream.outgoing.push(done(seq));
        self.stir(now, at);
        Ok(())
    }

    /// The application has read this many bytes of eager payload. `[R13]`
    pub fn consumed(&mut self, at: StreamAt, bytes: u64) {
        let window = self.lasting.limits.window_bytes;
        let Some(peer) = self.lasting.peers.get_mut(&at.peer) else {
            return;
        };
        let Some(stream) = peer.streams.get_mut(&at.stream) else {
            return;
        };
        stream.incoming.consume(bytes);
        if stream.incoming.untold().1 >= window / 4 {
            peer.make_owing(at.stream);
            self.note_ready(at.peer);
        }
    }

    /// Whether the peers have everything that was sent.
    pub fn is_drained(&self) -> bool {
        let living = self
            .lasting
            .peers
            .values()
            .filter(|peer| peer.dead.is_none());
        living
            .flat_map(|peer| peer.streams.values())
            .all(|stream| stream.outgoing.is_drained())
    }

    /// Asks the peers to acknowledge at once what they have.
    pub fn solicit(&mut self) {
        let ids: Vec<PortId> = self.lasting.peers.keys().copied().collect();
        for id in ids {
            let peer = self.peer_mut(id);
            let mut asking = Vec::new();
            for (id, stream) in peer.streams.iter_mut() {
                if stream.outgoing.is_unacknowledged() {
                    stream.outgoing.solicit();
                    asking.push(*id);
                }
            }
            for stream in asking {
                peer.make_owing(stream);
            }
            self.note_ready(id);
        }
    }

    /// The next thing to do or to know.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn peer_mut(&mut self, id: PortId) -> &mut Peer {
        self.lasting
            .peers
            .get_mut(&id)
            .expect("a relation is never forgotten")
    }

    fn living_peer(&mut self, id: PortId) -> Result<&mut Peer, PortError> {
        let peer = self
            .lasting
            .peers
            .get_mut(&id)
            .ok_or(PortError::UnknownPeer(id))?;
        match &peer.dead {
            Some(cause) => Err(PortError::Dead {
                peer: id,
                cause: cause.clone(),
            }),
            None => Ok(peer),
        }
    }

    fn stream_mut(&mut self, at: StreamAt) -> Result<&mut Stream, PortError> {
        let streams = &mut self.living_peer(at.peer)?.streams;
        streams
            .get_mut(&at.stream)
            .ok_or(PortError::UnknownStream(at))
    }

    fn sending_stream(&mut self, at: StreamAt) -> Result<&mut Stream, PortError> {
        let stream = self.stream_mut(at)?;
        if matches!(stream.opening, Opening::Rejected | Opening::Refused) {
            return Err(PortError::Rejected);
        }
        if stream.opening == Opening::Offered {
            return Err(PortError::Unanswered);
        }
        if stream.outgoing.is_finished() {
            return Err(PortError::Finished);
        }
        Ok(stream)
    }

    /// A stream has something to send: mark it, and see to it that there is a link.
    fn stir(&mut self, now: Time, at: StreamAt) {
        let peer = self.peer_mut(at.peer);
        if peer.link.is_some() {
            peer.make_ready(at.stream);
            self.note_ready(at.peer);
        } else {
            self.settle(now, at.peer);
        }
    }
}

fn bare(kind: FrameKind) -> Retained {
    Retained {
        kind: kind as u8,
        flags: 0,
        app: AppHeader::new(),
        arg: 0,
        body: Payload::None,
    }
}

fn done(seq: Seq) -> Retained {
    Retained {
        arg: seq.0,
        ..bare(FrameKind::Done)
    }
}

/// Nonces from a seed: unique, and unguessable without it.
#[derive(Clone, Debug)]
struct Nonces {
    seed: Key,
    drawn: u64,
}

impl Nonces {
    fn draw(&mut self) -> [u8; 32] {
        self.drawn += 1;
        self.seed.proof("nonce", &[&self.drawn.to_le_bytes()])
    }
}

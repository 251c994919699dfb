//! The transports of one port as one: links of every kind, and which kind to dial a peer by.
//!
//! A link's number says which transport it is of, by two bits that every transport leaves zero.
//! Best comes first: [`TransportKind`]s are tried in the order of their preference, a transport
//! that has just failed with a peer comes last for a while ([`choice`]), and a peer that is linked by
//! less than the best is tried again by better ones (protocol rule R45).

mod choice;
mod member;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meander_core::transport::{
    Frame, FrameSink, LinkError, LinkEvent, Memory, Place, SendError, Slice, Transport,
};
use meander_core::wire::{AppHeader, FrameHeader};
use meander_core::{Card, LinkId, PortId, Time, TransportKind};
use meander_tcp::Psk;
use meander_verbs::{Counters as VerbsCounters, VerbsConfig, VerbsTransport};

use crate::{Error, TcpConfig};
use choice::{Choice, Lasts};
use member::{Member, on_member};

/// What transports to open, and how.
pub(crate) struct TransportConfig {
    /// These, and each must work; or every one that does.
    pub allowed: Option<Vec<TransportKind>>,
    pub tcp: TcpConfig,
    pub verbs: VerbsConfig,
}

impl TransportConfig {
    fn allows(&self, kind: TransportKind) -> bool {
        match &self.allowed {
            Some(kinds) => kinds.contains(&kind),
            // Whoever has TCP encrypted does not mean to go over the same network in the clear.
            None if kind == TransportKind::Verbs => !self.tcp.encryption,
            // Only by name, until it has run long enough under load.
            None => kind != TransportKind::Shm,
        }
    }
}

/// What verbs a port with this configuration would use here, for people; or why there are none. For
/// tools that look a node over.
pub fn verbs_here(config: &VerbsConfig) -> Result<String, Error> {
    let verbs = VerbsTransport::open(config).map_err(Error::Verbs)?;
    Ok(verbs.describe())
}

/// See the module.
pub(crate) struct Transports {
    /// By tag.
    members: [Option<Member>; TAGS],
    /// The tags there are, best first.
    best_first: Vec<usize>,
    choice: Choice,
    /// The one that had news last, which is looked at most often.
    busy: usize,
    /// When to look at the others too.
    all_at: Time,
    /// Kept for its memory.
    happened: Vec<LinkEvent>,
}

const TAGS: usize = 3;
const TAG_SHIFT: u32 = 30;
/// Time between two looks at all transports while one is busy.
const ALL_EVERY: Duration = Duration::from_micros(20);

impl Transports {
    /// Opens every transport that is allowed and that works here; one that was asked for by name
    /// must work, and so must TCP. `psk` is for TCP links, where they are to be encrypted.
    pub fn open(config: &TransportConfig, psk: &Psk) -> Result<Transports, Error> {
        let mut members = [const { None }; TAGS];
        for (at, kind) in KINDS.into_iter().enumerate() {
            if !config.allows(kind) {
                continue;
            }
            match Member::open(kind, config, psk) {
                Ok(member) => members[at] = Some(member),
                Err(error) if config.allowed.is_some() || kind == TransportKind::Tcp => {
                    return Err(error);
                }
                Err(error) => tracing::debug!("no {kind} here: {error}"),
            }
        }
        let mut best_first: Vec<usize> = (0..TAGS).filter(|&it| members[it].is_some()).collect();
        if best_first.is_empty() {
            return Err(Error::NoTransport);
        }
        let preference = |&at: &usize| {
            let member: &Member = members[at].as_ref().expect("just seen");
            std::cmp::Reverse(on_member!(member, it => it.capabilities().preference))
        };
        best_first.sort_by_key(preference);
        Ok(Transports {
            busy: best_first[0],
            members,
            best_first,
            choice: Choice::default(),
            all_at: Time(0),
            happened: Vec::new(),
        })
    }

    /// What peers need to reach the port, by every way.
    pub fn cards(&self) -> Vec<Card> {
        let members = self
            .best_first
            .iter()
            .filter_map(|&at| self.members[at].as_ref());
        members
            .map(|member| on_member!(member, it => it.card()))
            .collect()
    }

    /// Starts a link to a peer by the best of these cards; where there is one already, only by a
    /// better kind than that.
    pub fn dial(
        &mut self,
        now: Time,
        peer: PortId,
        cards: &[Card],
        present: Option<LinkId>,
    ) -> Result<LinkId, LinkError> {
        let ways = self.ways(cards, present);
        let mut failure = LinkError::BadCard;
        for (at, card) in self.choice.in_order(now, peer, &ways) {
            let member = self.members[at].as_mut().expect("a way has its transport");
            match on_member!(member, it => it.dial(card)) {
                Ok(link) => return Ok(tagged(at, link)),
                Err(error) => {
                    self.choice.failed(now, peer, card, lasts(&error));
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    /// Ways to a peer, best first: those better than the link there is.
    fn ways<'a>(&self, cards: &'a [Card], present: Option<LinkId>) -> Vec<(usize, &'a Card)> {
        let better = self.best_first.iter().copied();
        let better = better.take_while(|&at| present.is_none_or(|link| place(link).0 != at));
        let card_for = |at: usize| cards.iter().find(|card| tag(card.transport) == at);
        better
            .filter_map(|at| card_for(at).map(|card| (at, card)))
            .collect()
    }

    /// A link to the peer is up.
    pub fn connected(&mut self, now: Time, peer: PortId, cards: &[Card], link: LinkId) {
        if let Some(card) = card_of(cards, link) {
            self.choice.connected(now, peer, card);
        }
    }

    /// When a better link than this one may be tried, if there is a better way at all.
    pub fn better_at(&self, now: Time, peer: PortId, cards: &[Card], link: LinkId) -> Option<Time> {
        let ways = self.ways(cards, Some(link));
        self.choice.next_try(now, peer, &ways)
    }

    /// A link to the peer broke, or an attempt at one.
    pub fn failed(
        &mut self,
        now: Time,
        peer: PortId,
        cards: &[Card],
        (link, error): (LinkId, &LinkError),
    ) {
        if let Some(card) = card_of(cards, link) {
            self.choice.failed(now, peer, card, lasts(error));
        }
    }

    /// Forgets what is known of a peer that is gone.
    pub fn forget(&mut self, peer: PortId) {
        self.choice.forget(peer);
    }

    /// What verbs have done, where they are in use.
    pub fn verbs_counters(&self) -> Option<VerbsCounters> {
        match &self.members[tag(TransportKind::Verbs)] {
            Some(Member::Verbs(verbs)) => Some(verbs.counters()),
            _ => None,
        }
    }

    /// The kind of a link.
    pub fn kind_of(&self, link: LinkId) -> TransportKind {
        KINDS[place(link).0]
    }

    pub fn close(&mut self, link: LinkId) {
        let (at, link) = place(link);
        if let Some(member) = &mut self.members[at] {
            on_member!(member, it => it.close(link));
        }
    }

    /// Collects what has happened, without waiting: on the transport that had news last, and from
    /// time to time on all.
    pub fn poll(&mut self, now: Time, events: &mut Vec<LinkEvent>) {
        let all = now >= self.all_at;
        if all {
            self.all_at = now + ALL_EVERY;
        }
        for index in 0..self.best_first.len() {
            let at = self.best_first[index];
            if all || at == self.busy {
                self.poll_one(at, events);
            }
        }
    }

    fn poll_one(&mut self, at: usize, events: &mut Vec<LinkEvent>) {
        let member = self.members[at].as_mut().expect("its tag is listed");
        on_member!(member, it => it.poll(Duration::ZERO, &mut self.happened));
        if !self.happened.is_empty() {
            self.busy = at;
            events.extend(self.happened.drain(..).map(|event| retag(at, event)));
        }
    }

    pub fn has_room(&self, link: LinkId) -> bool {
        let (at, link) = place(link);
        let member = self.members[at].as_ref();
        member.is_some_and(|member| on_member!(member, it => it.has_room(link)))
    }

    pub fn send(
        &mut self,
        link: LinkId,
        frame: Frame,
        memory: &mut dyn Memory,
    ) -> Result<(), SendError> {
        let (at, link) = place(link);
        match &mut self.members[at] {
            Some(member) => on_member!(member, it => it.send(link, frame, memory)),
            None => Err(SendError::Broken),
        }
    }

    pub fn send_at_once(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        app: &[u8],
        body: &[u8],
    ) -> bool {
        let (at, link) = place(link);
        let member = self.members[at].as_mut();
        member.is_some_and(
            |member| on_member!(member, it => it.send_at_once(link, header, app, body)),
        )
    }

    pub fn flush(&mut self, link: LinkId, memory: &dyn Memory) {
        let (at, link) = place(link);
        if let Some(member) = &mut self.members[at] {
            on_member!(member, it => it.flush(link, memory));
        }
    }

    /// See [`Transport::receive_at_once`]: by the transport that had news last.
    pub fn receive_at_once<S: FrameSink>(
        &mut self,
        sink: &mut S,
    ) -> Option<(LinkId, Result<bool, LinkError>)> {
        let at = self.busy;
        let mut sink = Tagged { at, sink };
        let member = self.members[at].as_mut()?;
        let (link, received) = on_member!(member, it => it.receive_at_once(&mut sink))?;
        Some((tagged(at, link), received))
    }

    pub fn receive<S: FrameSink>(&mut self, link: LinkId, sink: &mut S) -> Result<bool, LinkError> {
        let (at, link) = place(link);
        let Some(member) = &mut self.members[at] else {
            return Ok(false);
        };
        let mut sink = Tagged { at, sink };
        on_member!(member, it => it.receive(link, &mut sink))
    }

    /// Descriptors that poll readable when there is news: to sleep on without holding the port.
    pub fn readiness(&self) -> Vec<Arc<OwnedFd>> {
        let members = self.members.iter().flatten();
        members
            .map(|member| on_member!(member, it => it.readiness()))
            .collect()
    }

    /// Whether nothing waits inside, so that sleeping on the readiness is safe.
    pub fn is_idle(&mut self) -> bool {
        let mut members = self.members.iter_mut().flatten();
        members.all(|member| on_member!(member, it => it.is_idle()))
    }

    /// When to poll at the latest.
    pub fn next_timeout(&self) -> Option<Instant> {
        let members = self.members.iter().flatten();
        members
            .filter_map(|member| on_member!(member, it => it.next_timeout()))
            .min()
    }

    /// Breaks every link, as a cut cable would: for tests of what follows.
    pub fn cut(&mut self) {
        for member in self.members.iter_mut().flatten() {
            on_member!(member, it => it.cut());
        }
    }
}

/// The sink of one transport's frames, whose links the port knows by other numbers.
struct Tagged<'a, S> {
    at: usize,
    sink: &'a mut S,
}

impl<S: FrameSink> Memory for Tagged<'_, S> {
    fn read(&self, slice: Slice) -> &[u8] {
        self.sink.read(slice)
    }
    fn write(&mut self, slice: Slice) -> &mut [u8] {
        self.sink.write(slice)
    }
}

impl<S: FrameSink> FrameSink for Tagged<'_, S> {
    fn at_once(&mut self, link: LinkId, header: &FrameHeader, app: &[u8], body: &[u8]) -> bool {
        let link = tagged(self.at, link);
        self.sink.at_once(link, header, app, body)
    }
    fn begin(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        app: &AppHeader,
    ) -> Result<Place, LinkError> {
        self.sink.begin(tagged(self.at, link), header, app)
    }
    fn complete(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        app: &AppHeader,
        body: &[u8],
    ) -> Result<(), LinkError> {
        let link = tagged(self.at, link);
        self.sink.complete(link, header, app, body)
    }
}

/// Whether an attempt that failed so need not be made again with the same card.
fn lasts(error: &LinkError) -> Lasts {
    match error {
        LinkError::NotHere => Lasts::AsLongAsTheCard,
        _ => Lasts::AWhile,
    }
}

/// Kinds by their tag.
const KINDS: [TransportKind; TAGS] = [TransportKind::Tcp, TransportKind::Shm, TransportKind::Verbs];

/// The tag of a kind; none of ours has the last one.
fn tag(kind: TransportKind) -> usize {
    let place = KINDS.iter().position(|it| *it == kind);
    place.unwrap_or(TAGS)
}

/// The card of the transport that a link is of.
fn card_of(cards: &[Card], link: LinkId) -> Option<&Card> {
    let at = place(link).0;
    cards.iter().find(|card| tag(card.transport) == at)
}

fn tagged(at: usize, link: LinkId) -> LinkId {
    debug_assert!(link.0 as u32 >> TAG_SHIFT == 0, "the tag's bits are free");
    LinkId(link.0 | (at as u64) << TAG_SHIFT)
}

/// A link's tag, and its number in its transport.
fn place(link: LinkId) -> (usize, LinkId) {
    let at = (link.0 as u32 >> TAG_SHIFT) as usize;
    (at, LinkId(link.0 & !(0b11 << TAG_SHIFT)))
}

fn retag(at: usize, event: LinkEvent) -> LinkEvent {
    match event {
        LinkEvent::Connected(link) => LinkEvent::Connected(tagged(at, link)),
        LinkEvent::Accepted(link) => LinkEvent::Accepted(tagged(at, link)),
        LinkEvent::Writable(link) => LinkEvent::Writable(tagged(at, link)),
        LinkEvent::Readable(link) => LinkEvent::Readable(tagged(at, link)),
        LinkEvent::Broken(link, error) => LinkEvent::Broken(tagged(at, link), error),
    }
}

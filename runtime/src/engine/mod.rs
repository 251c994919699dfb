//! The driver of the protocol: what happened goes in, what is to be done comes out and is done.
//!
//! An [`Engine`] is the port's state under its lock. It never blocks; [`crate::shared`] waits.

pub(crate) mod buffers;
pub(crate) mod ends;
mod fetch;
pub(crate) mod inbox;
mod receive;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use meander_core::port::{self, Copied, Effect, Message, PortError};
use meander_core::transport::{LinkError, LinkEvent, Memory, Slice};
use meander_core::wire::{AppHeader, Violation};
use meander_core::{BufferId, Card, Epoch, LinkId, Location, NodeName, PortId, Time};
use meander_tcp::Psk;

use crate::Error;
use crate::handler::{SendId, StreamKey};
use crate::transports::{TransportConfig, Transports};
use buffers::{Buffer, Buffers, Retained};
use ends::Ends;
use fetch::Fetcher;
use inbox::Inbox;
use receive::Receiver;

/// Everything of a port that its lock guards.
pub(crate) struct Engine {
    pub core: port::Port,
    pub buffers: Buffers,
    pub inbox: Box<Inbox>,
    /// The one that takes the place of the other while a thread hands that to a handler. There is none
    /// meanwhile.
    pub spare_inbox: Option<Box<Inbox>>,
    pub ends: Ends,
    /// Peers whose place the directory is to be asked for.
    pub lookups: BTreeSet<PortId>,
    /// There are new ones among them.
    pub asks: bool,
    /// Peers that are dead, and how that is known.
    pub dead: HashMap<PortId, String>,
    /// Peers that no link can be had to as they, or whoever answers in their place, are set up; and why.
    pub unproved: BTreeMap<PortId, &'static str>,
    pub node: NodeName,
    pub message_bytes_max: u64,
    config: TransportConfig,
    transports: Option<Transports>,
    /// Peers linked by less than the best there is, and when to try for better.
    improvable: BTreeMap<PortId, Time>,
    /// Whom we dialled with links that have not broken yet.
    dialled: HashMap<LinkId, PortId>,
    next_send: u64,
    clock: Clock,
    /// When to look at the protocol's deadlines again, at the latest.
    deadlines_at: Time,
    /// Kept for its memory.
    happened: Vec<LinkEvent>,
}

/// What the job's key is called where it encrypts TCP links. `[R54]`
const ENCRYPTION_LABEL: &str = "tcp-encryption";
/// Why there is no link to a peer that does not prove itself.
const KEYS_DIFFER: &str = "it does not have this port's key";
/// Time between two looks at the protocol's deadlines while the port is busy; they are all longer.
const DEADLINES_EVERY: Duration = Duration::from_millis(1);

/// The port's monotonic clock.
struct Clock(Instant);

impl Clock {
    fn now(&self) -> Time {
        Time(self.0.elapsed().as_nanos() as u64)
    }
}

/// What is not protocol in an engine: fixed by the configuration.
pub(crate) struct Settings {
    pub node: NodeName,
    pub transports: TransportConfig,
    pub message_bytes_max: u64,
}

impl Engine {
    /// An engine that is not on the fabric yet.
    pub fn new(core: port::Port, settings: Settings) -> Engine {
        Engine {
            core,
            buffers: Buffers::default(),
            inbox: Box::default(),
            spare_inbox: Some(Box::default()),
            ends: Ends::default(),
            lookups: BTreeSet::new(),
            asks: false,
            dead: HashMap::new(),
            unproved: BTreeMap::new(),
            node: settings.node,
            message_bytes_max: settings.message_bytes_max,
            config: settings.transports,
            transports: None,
            improvable: BTreeMap::new(),
            dialled: HashMap::new(),
            next_send: 0,
            clock: Clock(Instant::now()),
            deadlines_at: Time(0),
            happened: Vec::new(),
        }
    }

    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Listens, and puts the port on the fabric.
    pub fn attach(&mut self, epoch: Epoch) -> Result<(), Error> {
        let psk = Psk(self.core.derive_key(ENCRYPTION_LABEL).0);
        let transports = Transports::open(&self.config, &psk)?;
        let location = Location {
            node: self.node.clone(),
            cards: transports.cards(),
        };
        self.transports = Some(transports);
        self.core.attach(self.clock.now(), epoch, location);
        self.drive();
        Ok(())
    }

    /// Takes the port off the fabric: afterwards no socket, device or mapping of it is open.
    pub fn suspend(&mut self) {
        self.core.suspend();
        self.carry_out();
        self.transports = None;
        self.improvable.clear();
        self.dialled.clear();
        self.happened.clear();
    }

    /// Whether a thread is handing an inbox to a handler.
    pub fn is_delivering(&self) -> bool {
        self.spare_inbox.is_none()
    }

    pub fn transports(&self) -> Option<&Transports> {
        self.transports.as_ref()
    }

    /// Breaks every link, as a cut cable would.
    pub fn cut_links(&mut self) {
        if let Some(transports) = &mut self.transports {
            transports.cut();
        }
    }

    /// Does all that can be done now. Returns whether anything happened that a thread may be
    /// waiting for.
    pub fn drive(&mut self) -> bool {
        let now = self.clock.now();
        if now < self.deadlines_at
            && let Some(news) = self.drive_at_once(now)
        {
            return news;
        }
        let Some(transports) = &mut self.transports else {
            return false;
        };
        let mut happened = std::mem::take(&mut self.happened);
        transports.poll(now, &mut happened);
        let mut news = false;
        for event in happened.drain(..) {
            news |= self.handle(now, event);
        }
        self.happened = happened;
        if now >= self.deadlines_at {
            if self.core.poll_timeout().is_some_and(|due| due <= now) {
                self.core.handle_timeout(now);
            }
            self.improve(now);
            self.deadlines_at = now + DEADLINES_EVERY;
        }
        self.settle() || news
    }

    /// What `drive` does when all there is to do is to read one link. Everything else has its turn with
    /// the deadlines.
    fn drive_at_once(&mut self, now: Time) -> Option<bool> {
        let (transports, mut receiver) = self.receiver(now)?;
        let (link, received) = transports.receive_at_once(&mut receiver)?;
        let news = receiver.news;
        let news = self.received(now, link, received) || news;
        Some(self.settle() || news)
    }

    /// Carries out what the protocol wants, after a call on it. Returns as `drive`.
    pub fn settle(&mut self) -> bool {
        let news = self.carry_out();
        while let Some(link) = self.core.poll_ready() {
            self.transmit(link);
        }
        news
    }

    /// How long a thread may sleep on the transport's readiness; `None` if it may not sleep.
    pub fn may_sleep(&mut self) -> Option<Duration> {
        let transports = self.transports.as_mut()?;
        if !transports.is_idle() {
            return None;
        }
        let now = self.clock.now();
        let dialling = transports
            .next_timeout()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let protocol = self.core.poll_timeout().map(|due| due.since(now));
        let better = self.improvable.values().map(|due| due.since(now)).min();
        let until = dialling
            .into_iter()
            .chain(protocol)
            .chain(better)
            .min()
            .unwrap_or(LONGEST_SLEEP);
        // The next look at the deadlines must not be put off when we come back for one.
        self.deadlines_at = now;
        (!until.is_zero()).then_some(until)
    }

    /// For a thread that drives the port while others sleep on its transports: those will be woken
    /// for whatever comes from now on. If not, something has come already.
    pub fn stays_watched(&mut self) -> bool {
        let transports = self.transports.as_mut();
        transports.is_none_or(|transports| transports.is_idle())
    }

    fn handle(&mut self, now: Time, event: LinkEvent) -> bool {
        match event {
            LinkEvent::Connected(link) => self.core.connected(link),
            LinkEvent::Accepted(link) => self.core.accepted(now, link),
            LinkEvent::Writable(link) => self.transmit(link),
            LinkEvent::Readable(link) => return self.receive(now, link),
            LinkEvent::Broken(link, error) => self.broken(now, link, &error),
        }
        false
    }

    fn receive(&mut self, now: Time, link: LinkId) -> bool {
        let Some((transports, mut receiver)) = self.receiver(now) else {
            return false;
        };
        let received = transports.receive(link, &mut receiver);
        let news = receiver.news;
        self.received(now, link, received) || news
    }

    /// The transports, and what takes their frames.
    fn receiver(&mut self, now: Time) -> Option<(&mut Transports, Receiver<'_>)> {
        let receiver = Receiver {
            core: &mut self.core,
            buffers: &mut self.buffers,
            inbox: &mut self.inbox,
            ends: &mut self.ends,
            now,
            message_bytes_max: self.message_bytes_max,
            news: false,
        };
        Some((self.transports.as_mut()?, receiver))
    }

    /// A link has been read.
    fn received(&mut self, now: Time, link: LinkId, received: Result<bool, LinkError>) -> bool {
        if let Err(error) = received {
            if let Some(transports) = &mut self.transports {
                transports.close(link);
            }
            self.broken(now, link, &error);
        }
        // Before any other link is read: fences come first.
        self.carry_out()
    }

    fn broken(&mut self, now: Time, link: LinkId, error: &LinkError) {
        tracing::debug!(?link, "link broken: {error}");
        if let Some(peer) = self.dialled.remove(&link)
            && matches!(error, LinkError::Protocol(Violation::Proof))
        {
            tracing::warn!(%peer, "the peer, or whoever answers in its place, has another key");
            self.unproved.insert(peer, KEYS_DIFFER);
        }
        if let (Some(peer), Some(transports)) = (self.core.peer_of(link), &mut self.transports) {
            transports.failed(now, peer, cards_of(&self.core, peer), (link, error));
            self.core.broken(now, link);
            self.plan_better(now, peer);
        } else {
            self.core.broken(now, link);
        }
    }

    fn transmit(&mut self, link: LinkId) {
        let Some(transports) = &mut self.transports else {
            return;
        };
        loop {
            let mut more = false;
            while transports.has_room(link) {
                let Some(frame) = self.core.poll_transmit(link) else {
                    more = false;
                    break;
                };
                more = true;
                // A link that breaks here says so at the next poll, and the frame is replayed.
                let _ = transports.send(link, frame, &mut self.buffers);
            }
            transports.flush(link, &self.buffers);
            // Without room, `Writable` brings us back.
            if !more || !transports.has_room(link) {
                return;
            }
        }
    }

    fn carry_out(&mut self) -> bool {
        let mut news = false;
        while let Some(effect) = self.core.poll_effect() {
            news |= self.carry_out_one(effect);
        }
        news
    }

    fn carry_out_one(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Dial { peer, cards } => self.dial(peer, &cards),
            Effect::Close(link) => {
                self.dialled.remove(&link);
                if let Some(transports) = &mut self.transports {
                    transports.close(link);
                }
            }
            Effect::Ask(peer) => {
                self.lookups.insert(peer);
                self.asks = true;
            }
            Effect::Sent { buffer } => return self.sent(buffer),
            Effect::Lost { buffer } => {
                self.buffers.remove(buffer);
                return true;
            }
            Effect::Connected(peer) => {
                self.lookups.remove(&peer);
                self.unproved.remove(&peer);
                self.connected(peer);
                return true;
            }
            Effect::Dead { peer, cause } => {
                self.bury(peer, cause.to_string());
                return true;
            }
        }
        false
    }

    fn dial(&mut self, peer: PortId, cards: &[Card]) {
        let now = self.clock.now();
        let Some(transports) = &mut self.transports else {
            return;
        };
        let present = self.core.link_to(peer);
        match transports.dial(now, peer, cards, present) {
            Ok(link) => {
                self.dialled.insert(link, peer);
                self.core.dialled(now, peer, link);
            }
            Err(error) => {
                tracing::debug!(%peer, "can't dial: {error}");
                if let LinkError::Differs(why) = error
                    && self.unproved.insert(peer, why).is_none()
                {
                    tracing::warn!(%peer, "no link to this peer: {why}");
                }
                self.core.dial_failed(now, peer);
                self.plan_better(now, peer);
            }
        }
    }

    fn connected(&mut self, peer: PortId) {
        let (Some(transports), Some(link)) = (&mut self.transports, self.core.link_to(peer)) else {
            return;
        };
        tracing::info!(%peer, by = %transports.kind_of(link), "linked");
        let now = self.clock.now();
        transports.connected(now, peer, cards_of(&self.core, peer), link);
        self.plan_better(now, peer);
    }

    /// If there is a better way to a peer than its link, it is this side's, the lower address's, to
    /// try it from time to time. `[R45]`
    fn plan_better(&mut self, now: Time, peer: PortId) {
        self.improvable.remove(&peer);
        if self.core.id() > peer {
            return;
        }
        let (Some(transports), Some(link)) = (&self.transports, self.core.link_to(peer)) else {
            return;
        };
        if let Some(due) = transports.better_at(now, peer, cards_of(&self.core, peer), link) {
            self.improvable.insert(peer, due);
        }
    }

    /// Tries for better links where it is time to.
    fn improve(&mut self, now: Time) {
        if self.improvable.is_empty() {
            return;
        }
        let due = self.improvable.iter().filter(|(_, due)| **due <= now);
        let due: Vec<PortId> = due.map(|(peer, _)| *peer).collect();
        for peer in due {
            self.improvable.remove(&peer);
            // What comes of it, or the next link that comes up, decides how it goes on.
            self.core.improve(peer);
        }
    }

    /// A buffer's memory is free again. Returns whether somebody waits for that.
    fn sent(&mut self, buffer: BufferId) -> bool {
        match self.buffers.remove(buffer) {
            Some(Buffer::Retained(Retained { bytes, at, notify })) => {
                // A fixed stream has no end here: its messages go to the handler.
                let end = match at.stream.is_fixed() {
                    true => None,
                    false => self.ends.ends.get_mut(&at),
                };
                let waited = end.is_some() || notify.is_some() || self.core.retained_bytes() == 0;
                if let Some(end) = end {
                    end.unacknowledged -= bytes.len() as u64;
                }
                if let Some(id) = notify {
                    self.inbox.sent(id, None);
                }
                self.buffers.recycle(bytes);
                waited
            }
            Some(Buffer::Lent { source, id }) => {
                self.inbox.sent(id, Some(source));
                true
            }
            _ => false,
        }
    }

    fn bury(&mut self, peer: PortId, why: String) {
        self.improvable.remove(&peer);
        if let Some(transports) = &mut self.transports {
            transports.forget(peer);
        }
        let of_peer = self
            .ends
            .ends
            .iter_mut()
            .filter(|(key, _)| key.peer == peer);
        of_peer.for_each(|(_, end)| end.truncate());
        self.dead.insert(peer, why.clone());
        self.inbox.dead(peer, why);
    }

    /// Hands a message to the protocol; its body is in `buffer`. Of a copy that the port has no room for,
    /// nothing is taken.
    pub fn send(
        &mut self,
        to: StreamKey,
        app: AppHeader,
        body: Option<(BufferId, u64)>,
        copied: bool,
        synchronous: bool,
    ) -> Result<(), PortError> {
        let body = body.map(|(buffer, len)| Slice {
            buffer,
            offset: 0,
            len,
        });
        let at_once = !synchronous && (copied || body.is_none());
        if at_once && self.send_at_once(to, &app, body.map_or(Copied::Small(&[]), Copied::Slice)) {
            return Ok(());
        }
        let message = Message {
            app,
            body,
            copied,
            synchronous,
        };
        let now = self.clock.now();
        match self.core.send(now, to, message.clone()) {
            Err(PortError::UnknownStream(_)) if to.stream.is_fixed() => {
                self.open_fixed(to)?;
                self.core.send(now, to, message).map(|_| ())
            }
            sent => sent.map(|_| ()),
        }
    }

    /// Sends by the short way, where that is open.
    pub fn send_at_once(&mut self, to: StreamKey, app: &[u8], body: Copied<'_>) -> bool {
        let Some(transports) = &mut self.transports else {
            return false;
        };
        let Some((link, header)) = self.core.send_at_once(to, app, body) else {
            return false;
        };
        let bytes = match body {
            Copied::Small(bytes) => bytes,
            Copied::Slice(slice) => self.buffers.read(slice),
        };
        if !transports.send_at_once(link, &header, app, bytes) {
            self.core.not_taken(self.clock.now(), to);
        }
        true
    }

    pub fn open_fixed(&mut self, at: StreamKey) -> Result<(), PortError> {
        self.core
            .open_fixed(at.peer, fixed_number(at.stream))
            .map(|_| ())
    }

    pub fn next_send_id(&mut self) -> SendId {
        self.next_send += 1;
        SendId(self.next_send)
    }

    /// Fetches what the end's reader needs (`wanted`), or may soon.
    pub fn fetch(&mut self, at: StreamKey, wanted: bool) {
        let mut fetcher = Fetcher {
            core: &mut self.core,
            buffers: &mut self.buffers,
            now: self.clock.now(),
            message_bytes_max: self.message_bytes_max,
        };
        if let Some(end) = self.ends.ends.get_mut(&at) {
            fetcher.fetch(at, end, wanted);
        }
    }

    /// The next send id, for a value; and taking it over from one.
    pub fn next_send(&mut self) -> &mut u64 {
        &mut self.next_send
    }
}

/// Longest sleep where no deadline says otherwise.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The cards by which a peer was last known to be reached.
fn cards_of(core: &port::Port, peer: PortId) -> &[Card] {
    let contact = core.contact_of(peer);
    contact.map_or(&[], |contact| &contact.location.cards)
}

fn fixed_number(stream: meander_core::StreamId) -> u32 {
    stream.0 & !meander_core::StreamId::fixed(0).0
}

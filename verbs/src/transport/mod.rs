//! The transport of one port: a device, its queues, and the links over them.

mod completions;
mod events;
mod frames;
mod links;
mod registered;
mod setting_up;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meander_core::transport::{
    Body, Capabilities, Frame, FrameSink, LinkError, LinkEvent, Memory, SendError, Transport,
};
use meander_core::wire::FrameHeader;
use meander_core::{Card, LinkId, TransportKind};
use rustc_hash::FxHashMap;
use rustix::event::{Timespec, epoll};
use slotmap::{Key, KeyData, SlotMap, new_key_type};
use socket2::Socket;

use self::registered::Registered;
use crate::card::{Contents, VERSION};
use crate::device::{Chosen, ETHERNET, choose};
use crate::link::Link;
use crate::objects::{AsyncEvent, Chain, CompletionQueue, Domain, ReceivePool, SendPool};
use crate::{Counters, OpenError, VerbsConfig, limits, socket};

new_key_type! {
    struct LinkKey;
}

/// Verbs for one port of a process. Dropping it destroys everything it made of the device, and closes that.
pub struct VerbsTransport {
    links: SlotMap<LinkKey, Link>,
    /// Links by the number of their queue pair.
    pairs: FxHashMap<u32, LinkKey>,
    registered: Registered,
    receives: ReceivePool,
    slots: SendPool,
    chain: Chain,
    completions: Arc<CompletionQueue>,
    domain: Arc<Domain>,
    device: Chosen,
    config: VerbsConfig,

    epoll: Arc<OwnedFd>,
    listeners: Vec<Listener>,
    card: Card,
    /// Links that are being set up.
    setting_up: usize,
    /// Links with something to read.
    readable: Vec<LinkKey>,
    /// Links that wait for a slot to send from.
    starved: Vec<LinkKey>,
    /// What happened inside another call than `poll`.
    happened: VecDeque<LinkEvent>,
    /// Events of the device that came while a link was being closed.
    events: Vec<AsyncEvent>,
    /// The port or the device is down: no link can be.
    down: Option<&'static str>,
    /// The next completion makes an event.
    armed: bool,
    /// Somebody may have slept since the last look at descriptors.
    slept: bool,
    polls: u32,
    counters: Counters,
}

struct Listener {
    socket: Socket,
    /// Connections may be waiting for the next poll.
    more: bool,
    /// Connections may be waiting that could not be accepted, for want of descriptors, say. They are tried
    /// again whenever there is a look at listeners, and keep nobody awake.
    behind: bool,
}

/// Readiness taken from the system at once.
const READY_EVENTS: usize = 64;
/// What the readiness of the completion channel and of the device's events is known by; listeners
/// have lower numbers, links higher ones.
const CHANNEL: u64 = 100;
const EVENTS: u64 = 101;

impl VerbsTransport {
    /// Opens a device and listens for peers.
    pub fn open(config: &VerbsConfig) -> Result<VerbsTransport, OpenError> {
        let device = choose(config)?;
        let domain = Arc::new(Domain::new(&device.context)?);
        let first = limits::FIRST_COMPLETIONS.min(device.limits.completions);
        let completions = Arc::new(CompletionQueue::new(&device.context, first)?);
        let slots = limits::RECEIVE_SLOTS.min(device.limits.receives);
        let mut receives = ReceivePool::new(&domain, slots)?;
        receives.prepare().map_err(OpenError::from_registration)?;
        let bound = socket::listen(&config.addresses, &device.gid)?;
        let card = Contents {
            version: VERSION,
            link_layer: device.state.link_layer,
            gid: device.gid,
            addresses: bound.iter().map(|(_, address)| *address).collect(),
        };
        let failed = |operation| {
            move |errno: rustix::io::Errno| OpenError::Io {
                operation,
                source: errno.into(),
            }
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        let watch = epoll::EventFlags::IN;
        let data = epoll::EventData::new_u64;
        epoll::add(&epoll, &*completions, data(CHANNEL), watch).map_err(failed("epoll_ctl"))?;
        epoll::add(&epoll, &*device.context, data(EVENTS), watch).map_err(failed("epoll_ctl"))?;
        for (number, (listener, _)) in bound.iter().enumerate() {
            let watch = watch | epoll::EventFlags::ET;
            epoll::add(&epoll, listener, data(number as u64), watch)
                .map_err(failed("epoll_ctl"))?;
        }
        let listeners = bound.into_iter().map(|(socket, _)| Listener {
            socket,
            more: false,
            behind: false,
        });
        Ok(VerbsTransport {
            links: SlotMap::with_key(),
            pairs: FxHashMap::default(),
            registered: Registered::new(&domain),
            receives,
            slots: SendPool::new(&domain),
            chain: Chain::default(),
            completions,
            domain,
            config: config.clone(),
            epoll: Arc::new(epoll),
            listeners: listeners.collect(),
            card: card.encode(),
            device,
            setting_up: 0,
            readable: Vec::new(),
            starved: Vec::new(),
            happened: VecDeque::new(),
            events: Vec::new(),
            down: None,
            armed: false,
            slept: false,
            polls: 0,
            counters: Counters::default(),
        })
    }

    /// A descriptor that polls readable when [`Transport::poll`] has news: to sleep on without
    /// holding the transport. Before sleeping, poll with no wait until nothing comes and
    /// [`VerbsTransport::is_idle`] says so, and mind [`VerbsTransport::next_timeout`].
    pub fn readiness(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.epoll)
    }

    /// When to poll at the latest, for links that are being set up.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.setting_up == 0 {
            return None;
        }
        let links = self.links.values().filter(|link| link.is_setting_up());
        links.map(Link::next_at).min()
    }

    /// Whether nothing is waiting inside the transport, so that sleeping on its readiness is safe. From
    /// then on the next completion makes it readable.
    pub fn is_idle(&mut self) -> bool {
        if self.has_news() || !self.arm() {
            return false;
        }
        // What came before the queue was armed made no event.
        if self.take_completions() > 0 {
            return false;
        }
        self.registered.tidy();
        self.slept = true;
        true
    }

    /// Breaks every link, as a cut cable would: for tests of what follows.
    pub fn cut(&mut self) {
        for link in self.links.values() {
            let _ = link.socket.shutdown(std::net::Shutdown::Both);
            if let Some(pair) = &link.pair {
                let _ = pair.fail();
            }
        }
    }

    /// What has been done so far.
    pub fn counters(&self) -> Counters {
        Counters {
            receive_doorbells: self.receives.batches,
            ..self.counters
        }
    }

    /// What the registration cache has done so far.
    pub fn registrations(&self) -> crate::registration::Counters {
        self.registered.counters()
    }

    /// The device in use.
    pub fn device(&self) -> &str {
        self.device.context.device()
    }

    /// What is in use, for people: device, port, link layer, address, path MTU.
    pub fn describe(&self) -> String {
        let Chosen {
            port,
            state,
            gid_index,
            gid,
            mtu,
            ..
        } = &self.device;
        let layer = match state.link_layer {
            ETHERNET => "RoCE",
            _ => "InfiniBand",
        };
        let (device, address) = (self.device(), Ipv6Addr::from(*gid));
        let mtu_bytes = 128 << mtu;
        format!("{device} port {port}, {layer}, GID {gid_index} {address}, path MTU {mtu_bytes}")
    }

    fn has_news(&self) -> bool {
        let more = self.listeners.iter().any(|listener| listener.more);
        let readable = |key: &LinkKey| self.links.get(*key).is_some_and(|link| link.readable);
        more || !self.happened.is_empty()
            || !self.events.is_empty()
            || self.readable.iter().any(readable)
    }

    /// Asks for an event with the next completion. Returns whether there will be one.
    fn arm(&mut self) -> bool {
        if !self.armed {
            match self.completions.arm() {
                Ok(()) => self.armed = true,
                Err(error) => self.fail_all(&error),
            }
            self.counters.arms += 1;
        }
        self.armed
    }

    /// Looks at everything but the completion queue.
    fn collect_ready(&mut self, wait: Duration) {
        self.slept = false;
        let timeout = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: wait.subsec_nanos().into(),
        };
        let mut ready = [const { MaybeUninit::uninit() }; READY_EVENTS];
        // An interrupted wait is one that found nothing; nothing else can fail here.
        let ready = match epoll::wait(&*self.epoll, &mut ready[..], Some(&timeout)) {
            Ok((ready, _)) => &*ready,
            Err(_) => &[],
        };
        for event in ready {
            match event.data.u64() {
                CHANNEL => {
                    self.completions.take_event();
                    self.armed = false;
                }
                EVENTS => self.take_events(),
                // The upper half of a link's key, its version, is never zero: no two are alike.
                number if number >> 32 == 0 => self.listeners[number as usize].more = true,
                key => self.note_ready(KeyData::from_ffi(key).into(), event.flags),
            }
        }
        // What came together with the end of a connection is read before the end is told.
        self.take_completions();
    }
}

impl Transport for VerbsTransport {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: TransportKind::Verbs,
            preference: 2,
            max_body_bytes: meander_core::limits::DATA_FRAME_BYTES,
        }
    }

    fn card(&self) -> Card {
        self.card.clone()
    }

    fn dial(&mut self, card: &Card) -> Result<LinkId, LinkError> {
        self.start(card)
    }

    fn close(&mut self, link: LinkId) {
        if let Some(link) = self.links.remove(key(link)) {
            self.retire(link);
        }
    }

    fn poll(&mut self, wait: Duration, events: &mut Vec<LinkEvent>) {
        self.polls = self.polls.wrapping_add(1);
        let mut wait = wait;
        if self.take_completions() > 0 || self.has_news() {
            wait = Duration::ZERO;
        }
        if !wait.is_zero() && (!self.arm() || self.take_completions() > 0) {
            wait = Duration::ZERO;
        }
        // The completion queue is looked at every time; what takes a call of the system only where
        // something may have happened there.
        let accepting = self.listeners.iter().any(|listener| listener.more);
        let due = self.polls.is_multiple_of(limits::BUSY_POLLS);
        if !wait.is_zero() || due || self.slept || accepting || self.setting_up > 0 {
            self.collect_ready(wait);
            self.accept_waiting();
            self.set_ups_overdue();
        }
        if !self.events.is_empty() {
            self.carry_out_events();
        }
        self.feed_starved();
        events.extend(self.happened.drain(..));
        let links = &mut self.links;
        self.readable.retain(|&key| {
            links.get_mut(key).is_some_and(|link| {
                link.listed = link.readable;
                link.readable
            })
        });
        let readable = self.readable.iter();
        events.extend(readable.map(|&key| LinkEvent::Readable(id(key))));
    }

    fn has_room(&self, link: LinkId) -> bool {
        let link = self.links.get(key(link));
        link.is_some_and(|link| link.is_open() && link.outgoing.has_room())
    }

    fn send(
        &mut self,
        link: LinkId,
        frame: Frame,
        memory: &mut dyn Memory,
    ) -> Result<(), SendError> {
        let link = self.links.get_mut(key(link)).filter(|link| link.is_open());
        let link = link.ok_or(SendError::Broken)?;
        if !link.outgoing.has_room() {
            return Err(SendError::Full);
        }
        let place = match frame.body {
            Body::Place(slice) => self.registered.place(slice, memory),
            _ => None,
        };
        let remote = place.map(|place| {
            let remote = place.remote();
            link.places.tell(&frame.header, place);
            remote
        });
        link.outgoing.push(frame, remote)
    }

    fn send_at_once(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        app: &[u8],
        body: &[u8],
    ) -> bool {
        self.write_at_once(key(link), header, app, body)
    }

    fn flush(&mut self, link: LinkId, memory: &dyn Memory) {
        self.write(key(link), memory);
    }

    fn receive_at_once<S: FrameSink>(
        &mut self,
        sink: &mut S,
    ) -> Option<(LinkId, Result<bool, LinkError>)> {
        self.take_completions();
        let elsewhere =
            !(self.happened.is_empty() && self.events.is_empty() && self.starved.is_empty());
        match self.readable[..] {
            [key] if !elsewhere && self.links.get(key)?.readable => {
                Some((id(key), self.read(key, sink)))
            }
            _ => None,
        }
    }

    fn receive<S: FrameSink>(&mut self, link: LinkId, sink: &mut S) -> Result<bool, LinkError> {
        self.read(key(link), sink)
    }
}

impl Drop for VerbsTransport {
    fn drop(&mut self) {
        if self.device.context.is_forked() {
            return;
        }
        // Peers are to see it also where a forked child still has the descriptors.
        let links = self.links.values().map(|link| &link.socket);
        let listeners = self.listeners.iter().map(|listener| &listener.socket);
        for socket in links.chain(listeners) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// A port's transports go from thread to thread, under its lock.
const _: fn() = || {
    fn goes<T: Send>() {}
    goes::<VerbsTransport>();
};

fn id(key: LinkKey) -> LinkId {
    LinkId(key.data().as_ffi())
}

fn key(link: LinkId) -> LinkKey {
    KeyData::from_ffi(link.0).into()
}

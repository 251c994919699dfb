//! The transport of one port: listeners, links, readiness.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meander_core::transport::{
    Capabilities, Frame, FrameSink, LinkError, LinkEvent, Memory, SendError, Transport,
};
use meander_core::{Card, LinkId, TransportKind};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use slotmap::{Key, KeyData, SlotMap, new_key_type};

use crate::address::{self, BindError, Listening};
use crate::link::{self, Link, State};
use crate::sealed::{self, Psk, Sealed};
use crate::wire::{Read, Wire};
use crate::{limits, socket};

new_key_type! {
    struct LinkKey;
}

/// TCP for one port. Dropping it closes its listeners and links.
pub struct TcpTransport {
    epoll: Arc<OwnedFd>,
    listeners: Vec<Listener>,
    card: Card,
    /// All links are encrypted, with this.
    psk: Option<Psk>,
    links: SlotMap<LinkKey, Link>,
    /// Links whose sockets may have bytes to read.
    readable: Vec<LinkKey>,
    dialling: usize,
    /// What happened inside another call than `poll`.
    happened: VecDeque<LinkEvent>,
    /// The link that last had something to read.
    busy: Option<LinkKey>,
    /// So had it the time before: it is tried without asking the system first.
    steady: bool,
    polls: u32,
}

struct Listener {
    socket: OwnedFd,
    /// Connections may be waiting that could not be accepted, for want of descriptors, say.
    behind: bool,
    /// Connections may be waiting for the next poll, which can accept them.
    more: bool,
}

/// Readiness taken from the system at once.
const READY_EVENTS: usize = 64;

impl TcpTransport {
    /// Listens on `bind`; where it is empty, on every address of the node but loopback, and on
    /// loopback where there is no other.
    pub fn open(bind: &[IpAddr]) -> Result<TcpTransport, BindError> {
        TcpTransport::open_with(bind, None)
    }

    /// The same, with links that are encrypted, every one. `[R54]`
    pub fn open_encrypted(bind: &[IpAddr], psk: Psk) -> Result<TcpTransport, BindError> {
        TcpTransport::open_with(bind, Some(psk))
    }

    fn open_with(bind: &[IpAddr], psk: Option<Psk>) -> Result<TcpTransport, BindError> {
        let failed = |operation| {
            move |errno: Errno| BindError::Io {
                operation,
                source: errno.into(),
            }
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        let bound = address::listen(bind)?.into_iter();
        let (listeners, addresses): (Vec<_>, Vec<_>) = bound
            .map(|(socket, address)| {
                (
                    Listener {
                        socket,
                        behind: false,
                        more: false,
                    },
                    address,
                )
            })
            .unzip();
        for (number, listener) in listeners.iter().enumerate() {
            // The upper half of a link's key, its version, is never zero: no two are alike.
            let data = epoll::EventData::new_u64(number as u64);
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&epoll, &listener.socket, data, flags).map_err(failed("epoll_ctl"))?;
        }
        Ok(TcpTransport {
            epoll: Arc::new(epoll),
            listeners,
            card: address::card(&Listening {
                addresses,
                encrypted: psk.is_some(),
            }),
            psk,
            links: SlotMap::with_key(),
            readable: Vec::new(),
            dialling: 0,
            happened: VecDeque::new(),
            busy: None,
            steady: false,
            polls: 0,
        })
    }

    /// A descriptor that polls readable when [`Transport::poll`] has news: to sleep on without
    /// holding the transport. Before sleeping, poll with no wait until nothing comes, and mind
    /// [`TcpTransport::next_timeout`].
    pub fn readiness(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.epoll)
    }

    /// When to poll at the latest, for dialling that goes unanswered.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.dialling == 0 {
            return None;
        }
        let deadlines = self.links.values().filter_map(|link| match link.state {
            State::Dialling { deadline, .. } => Some(deadline),
            _ => None,
        });
        deadlines.min()
    }

    /// Whether nothing is waiting inside the transport, so that sleeping on its readiness is safe.
    pub fn is_idle(&self) -> bool {
        let readable = |key: &LinkKey| self.links.get(*key).is_some_and(|link| link.readable);
        let accepting = self.listeners.iter().any(|listener| listener.more);
        self.happened.is_empty() && !accepting && !self.readable.iter().any(readable)
    }

    /// Breaks every link, as a cut cable would: for tests of what follows.
    pub fn cut(&mut self) {
        self.links.values().for_each(Link::cut);
    }

    /// Watches a new socket; edge-triggered, so that busy links need no further calls.
    fn insert(&mut self, socket: OwnedFd, state: State) -> Result<LinkId, LinkError> {
        let dialling = matches!(state, State::Dialling { .. });
        let wire = match &self.psk {
            None => Wire::Plain,
            Some(psk) if dialling => Wire::Sealed(Box::new(Sealed::dialler(psk))),
            Some(psk) => Wire::Sealed(Box::new(Sealed::acceptor(psk))),
        };
        let key = self.links.insert(Link::new(socket, state, wire));
        if let Err(errno) = watch(&self.epoll, &self.links[key].socket, key) {
            self.links.remove(key);
            return Err(LinkError::Io {
                operation: "epoll_ctl",
                source: errno.into(),
            });
        }
        self.dialling += usize::from(dialling);
        Ok(id(key))
    }

    fn mark_readable(&mut self, key: LinkKey) {
        if let Some(link) = self.links.get_mut(key)
            && link.is_open()
        {
            link.readable = true;
            if !std::mem::replace(&mut link.listed, true) {
                self.readable.push(key);
            }
        }
    }

    /// The link is of no use any more: closes it now and says so at the next poll.
    fn break_link(&mut self, key: LinkKey, error: LinkError) {
        if let Some(link) = self.links.remove(key) {
            self.dialling -= usize::from(link.is_dialling());
            self.happened.push_back(LinkEvent::Broken(id(key), error));
        }
    }

    /// All that a link had to read has been read.
    fn heard(&mut self, key: LinkKey) {
        self.steady = self.busy.replace(key) == Some(key);
    }

    fn collect_ready(&mut self, wait: Duration) {
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
            let data = event.data.u64();
            if data >> 32 == 0 {
                self.accept_some(data as usize);
            } else {
                self.note_ready(KeyData::from_ffi(data).into(), event.flags);
            }
        }
    }

    /// Accepts what is waiting, a bounded number. What can't be accepted now is tried again at a later
    /// poll: a listener that stayed ready would keep whoever sleeps on the transport awake. `[R41]`
    fn accept_some(&mut self, number: usize) {
        self.listeners[number].behind = true;
        self.listeners[number].more = false;
        for _ in 0..limits::ACCEPT_BURST {
            if self.links.len() >= MAX_LINKS {
                return;
            }
            match socket::accept(&self.listeners[number].socket) {
                Ok(Some(socket)) => {
                    if let Ok(link) = self.insert(socket, State::Open) {
                        self.happened.push_back(LinkEvent::Accepted(link));
                    }
                }
                Ok(None) => {
                    self.listeners[number].behind = false;
                    return;
                }
                Err(errno) => {
                    tracing::warn!("accept failed: {errno}");
                    return;
                }
            }
        }
        self.listeners[number].more = true;
    }

    fn note_ready(&mut self, key: LinkKey, flags: epoll::EventFlags) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let ended = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if link.is_dialling() {
            if flags.intersects(epoll::EventFlags::OUT | ended) {
                self.dialled(key);
            }
            return;
        }
        link.writable |= flags.contains(epoll::EventFlags::OUT);
        link.hung_up |= flags.intersects(ended);
        if link.writable && !link.is_quiet() {
            // The port flushes when it is told; it alone knows the memory.
            self.happened.push_back(LinkEvent::Writable(id(key)));
        }
        if flags.intersects(epoll::EventFlags::IN | ended) {
            self.mark_readable(key);
        }
    }

    /// A socket that was connecting has done so, or not.
    fn dialled(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        match socket::connected(&link.socket) {
            Ok(()) => {
                link.state = State::Open;
                // The first message of an encrypted link; that it fails is told by the socket.
                let _ = link.wire.flush(link.socket.as_fd());
                self.dialling -= 1;
                self.happened.push_back(LinkEvent::Connected(id(key)));
                // Bytes may have come together with the connection; the edge has passed.
                self.mark_readable(key);
            }
            Err(errno) => self.dial_next(key, errno),
        }
    }

    /// One address did not answer; tries the next.
    fn dial_next(&mut self, key: LinkKey, mut errno: Errno) {
        loop {
            let Some(link) = self.links.get_mut(key) else {
                return;
            };
            let State::Dialling { rest, deadline } = &mut link.state else {
                return;
            };
            let Some(address) = rest.pop_front() else {
                let error = LinkError::Io {
                    operation: "connect",
                    source: errno.into(),
                };
                return self.break_link(key, error);
            };
            *deadline = Instant::now() + limits::DIAL_TIMEOUT;
            let next = socket::connect(address)
                .and_then(|socket| watch(&self.epoll, &socket, key).map(|()| socket));
            match next {
                Ok(socket) => {
                    // Closing the old socket takes it out of the epoll set.
                    link.socket = socket;
                    return;
                }
                Err(next) => errno = next,
            }
        }
    }

    fn dial_overdue(&mut self) {
        if self.dialling == 0 {
            return;
        }
        let now = Instant::now();
        let overdue =
            |link: &Link| matches!(link.state, State::Dialling { deadline, .. } if deadline <= now);
        let overdue: Vec<LinkKey> = self
            .links
            .iter()
            .filter(|(_, link)| overdue(link))
            .map(|(key, _)| key)
            .collect();
        for key in overdue {
            self.dial_next(key, Errno::TIMEDOUT);
        }
    }

    /// Writes what the link has taken; tells of room and of failure at the next poll.
    fn write(&mut self, key: LinkKey, memory: &dyn Memory) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if !link.is_open() || !link.writable {
            return;
        }
        let Link {
            outgoing,
            wire,
            socket,
            ..
        } = link;
        match outgoing.write(wire, socket.as_fd(), memory) {
            Ok(all) => {
                link.writable = all;
                if link.outgoing.has_room_again() {
                    self.happened.push_back(LinkEvent::Writable(id(key)));
                }
            }
            Err(Errno::PIPE | Errno::CONNRESET) => self.break_link(key, LinkError::Closed),
            Err(errno) => {
                let error = LinkError::Io {
                    operation: "sendmsg",
                    source: errno.into(),
                };
                self.break_link(key, error);
            }
        }
    }
}

/// Links at once; further connections wait in the backlog.
const MAX_LINKS: usize = 65_536;

impl Transport for TcpTransport {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: TransportKind::Tcp,
            preference: 1,
            max_body_bytes: meander_core::limits::DATA_FRAME_BYTES,
        }
    }

    fn card(&self) -> Card {
        self.card.clone()
    }

    fn dial(&mut self, card: &Card) -> Result<LinkId, LinkError> {
        let there = address::parse_card(card).ok_or(LinkError::BadCard)?;
        if there.encrypted != self.psk.is_some() {
            return Err(LinkError::Differs(match there.encrypted {
                true => sealed::UNLIKE_OURS,
                false => sealed::UNLIKE_THEIRS,
            }));
        }
        let mut rest = VecDeque::from(there.addresses);
        let mut failure = Errno::ADDRNOTAVAIL;
        while let Some(address) = rest.pop_front() {
            match socket::connect(address) {
                Ok(socket) => {
                    let deadline = Instant::now() + limits::DIAL_TIMEOUT;
                    return self.insert(socket, State::Dialling { rest, deadline });
                }
                Err(errno) => failure = errno,
            }
        }
        Err(LinkError::Io {
            operation: "connect",
            source: failure.into(),
        })
    }

    fn close(&mut self, link: LinkId) {
        if let Some(link) = self.links.remove(key(link)) {
            self.dialling -= usize::from(link.is_dialling());
            link.discard_arrived();
        }
    }

    fn poll(&mut self, wait: Duration, events: &mut Vec<LinkEvent>) {
        self.polls = self.polls.wrapping_add(1);
        if let Some(busy) = self.busy
            && self.steady
            && wait.is_zero()
            && !self.polls.is_multiple_of(limits::BUSY_POLLS)
        {
            self.mark_readable(busy);
        } else {
            let more = self.listeners.iter().any(|listener| listener.more);
            let news = more || !self.happened.is_empty() || !self.readable.is_empty();
            self.collect_ready(if news { Duration::ZERO } else { wait });
            self.dial_overdue();
            for number in 0..self.listeners.len() {
                if self.listeners[number].behind {
                    self.accept_some(number);
                }
            }
        }
        events.extend(self.happened.drain(..));
        let links = &mut self.links;
        self.readable.retain(|&key| {
            links.get_mut(key).is_some_and(|link| {
                link.listed = link.readable;
                link.readable
            })
        });
        events.extend(
            self.readable
                .iter()
                .map(|&key| LinkEvent::Readable(id(key))),
        );
    }

    fn has_room(&self, link: LinkId) -> bool {
        let link = self.links.get(key(link));
        link.is_some_and(|link| link.is_open() && link.outgoing.has_room())
    }

    fn send(&mut self, link: LinkId, frame: Frame, _: &mut dyn Memory) -> Result<(), SendError> {
        match self.links.get_mut(key(link)) {
            Some(link) if link.is_open() => link.outgoing.push(frame),
            _ => Err(SendError::Broken),
        }
    }

    fn flush(&mut self, link: LinkId, memory: &dyn Memory) {
        self.write(key(link), memory);
    }

    fn receive<S: FrameSink>(&mut self, link: LinkId, sink: &mut S) -> Result<bool, LinkError> {
        let key = key(link);
        let Some(link) = self.links.get_mut(key).filter(|link| link.is_open()) else {
            return Ok(false);
        };
        let mut received = 0;
        while received < limits::RECEIVE_BURST_BYTES {
            let Link {
                incoming,
                wire,
                socket,
                ..
            } = link;
            let read = incoming.receive(id(key), wire, socket.as_fd(), sink)?;
            if wire.has_opened() {
                // What was taken before could not be written.
                link.writable = true;
                self.happened.push_back(LinkEvent::Writable(id(key)));
            }
            match read {
                Read::Last(_) if !link.hung_up => {
                    link.readable = false;
                    self.heard(key);
                    return Ok(false);
                }
                Read::Some(count) | Read::Last(count) => received += count,
                Read::None => {
                    link.readable = false;
                    if received > 0 {
                        self.heard(key);
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        for listener in &self.listeners {
            link::end(&listener.socket);
        }
    }
}

impl AsFd for TcpTransport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn watch(epoll: &OwnedFd, socket: &OwnedFd, key: LinkKey) -> Result<(), Errno> {
    let flags = epoll::EventFlags::IN
        | epoll::EventFlags::OUT
        | epoll::EventFlags::RDHUP
        | epoll::EventFlags::ET;
    epoll::add(
        epoll,
        socket,
        epoll::EventData::new_u64(key.data().as_ffi()),
        flags,
    )
}

fn id(key: LinkKey) -> LinkId {
    LinkId(key.data().as_ffi())
}

fn key(link: LinkId) -> LinkKey {
    KeyData::from_ffi(link.0).into()
}

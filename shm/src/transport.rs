//! The transport of one port: its listener, its links, readiness.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meander_core::transport::{
    Capabilities, Frame, FrameSink, LinkError, LinkEvent, Memory, SendError, Transport,
};
use meander_core::wire::FrameHeader;
use meander_core::{Card, LinkId, TransportKind};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use slotmap::{Key, KeyData, SlotMap, new_key_type};
use zerocopy::IntoBytes;

use crate::card::Name;
use crate::link::{Awaiting, Greeted, Link, Open, State, failed};
use crate::outgoing::Trouble;
use crate::pull::Nonce;
use crate::segment::Segment;
use crate::setup::{RECORD_BYTES, Record};
use crate::{limits, socket};

new_key_type! {
    struct LinkKey;
}

/// What an [`ShmTransport`] is opened with: nothing so far.
#[derive(Clone, Debug, Default)]
pub struct ShmConfig {}

/// Why the transport could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something that every Linux system has does not work here.
    #[error("{operation} failed: {source}")]
    Io {
        /// The call.
        operation: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

/// Shared memory for one port. Dropping it closes its listener and links: no mapping, no descriptor
/// is left of it.
pub struct ShmTransport {
    epoll: Arc<OwnedFd>,
    listener: OwnedFd,
    name: Name,
    /// What peers find this process's memory by.
    nonce: Arc<Nonce>,
    links: SlotMap<LinkKey, Link>,
    /// Links that carry frames, which every poll looks at.
    open: Vec<LinkKey>,
    /// Links that are being set up, oldest first.
    rising: Vec<LinkKey>,
    /// What happened inside another call than `poll`.
    happened: VecDeque<LinkEvent>,
    /// Connections may be waiting that the next poll can accept.
    more: bool,
    /// Peers have been told that this side sleeps.
    armed: bool,
    polls: u32,
    /// When the system was last asked for news of the sockets.
    asked: Instant,
}

/// Readiness taken from the system at once.
const READY_EVENTS: usize = 64;
/// What the listener's readiness is known by; the upper half of a link's key is never zero.
const LISTENER: u64 = 0;
/// Marks the readiness of the peer's process, beside that of the socket: a bit of the key's index,
/// which stays far below.
const PROCESS: u64 = 1 << 31;
/// Wake-ups taken at once.
const WAKE_BYTES: usize = 64;

impl ShmTransport {
    /// Listens under a name that nobody can guess.
    pub fn open(_: ShmConfig) -> Result<ShmTransport, OpenError> {
        let failed = |operation| {
            move |errno: Errno| OpenError::Io {
                operation,
                source: errno.into(),
            }
        };
        let random = |error: getrandom::Error| OpenError::Io {
            operation: "getrandom",
            source: std::io::Error::other(error.to_string()),
        };
        let name = Name::random().map_err(random)?;
        let nonce = Nonce::random().map_err(random)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        let listener = socket::listen(name).map_err(failed("listen"))?;
        let data = epoll::EventData::new_u64(LISTENER);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &listener, data, flags).map_err(failed("epoll_ctl"))?;
        Ok(ShmTransport {
            epoll: Arc::new(epoll),
            listener,
            name,
            nonce: Arc::new(nonce),
            links: SlotMap::with_key(),
            open: Vec::new(),
            rising: Vec::new(),
            happened: VecDeque::new(),
            more: false,
            armed: false,
            polls: 0,
            asked: Instant::now(),
        })
    }

    /// A descriptor that polls readable when [`Transport::poll`] has news, provided that
    /// [`ShmTransport::is_idle`] has said yes since the last poll. Mind
    /// [`ShmTransport::next_timeout`].
    pub fn readiness(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.epoll)
    }

    /// When to poll at the latest, for links that are being set up.
    pub fn next_timeout(&self) -> Option<Instant> {
        let due = self.rising.iter().filter_map(|&key| self.links[key].due());
        due.min()
    }

    /// Whether nothing is waiting inside the transport. After yes, whatever comes makes
    /// [`ShmTransport::readiness`] readable, until the next poll. `[R73]`
    pub fn is_idle(&mut self) -> bool {
        self.armed = true;
        let opens = || self.open.iter().filter_map(|&key| self.links[key].open());
        for open in opens() {
            open.incoming.arm();
            open.outgoing.arm();
        }
        self.happened.is_empty() && !self.more && !self.has_news()
    }

    /// Whether any link has something to read, to say or to report.
    fn has_news(&mut self) -> bool {
        for &key in &self.open {
            let link = &mut self.links[key];
            let hung_up = link.hung_up;
            let Some(open) = link.open_mut() else {
                continue;
            };
            // What can't be is found out at the next poll.
            if hung_up || open.incoming.has_news() || open.outgoing.could_go_on() != Ok(false) {
                return true;
            }
        }
        false
    }

    /// Breaks every link, as a cut cable would: what this side has not read is lost.
    pub fn cut(&mut self) {
        for key in self.open.clone() {
            self.break_link(key, LinkError::Closed);
        }
    }

    /// Peers need not wake this side any more: it looks for itself.
    fn disarm(&mut self) {
        if std::mem::take(&mut self.armed) {
            for open in self.open.iter().filter_map(|&key| self.links[key].open()) {
                open.incoming.disarm();
                open.outgoing.disarm();
            }
        }
    }

    /// Takes a link out; dropping it closes it.
    fn remove(&mut self, key: LinkKey) -> Option<Link> {
        let link = self.links.remove(key)?;
        let list = match link.state {
            State::Open(_) => &mut self.open,
            _ => &mut self.rising,
        };
        list.retain(|&other| other != key);
        Some(link)
    }

    /// The link is of no use any more: closes it now and says so at the next poll.
    fn break_link(&mut self, key: LinkKey, error: LinkError) {
        let Some(link) = self.remove(key) else {
            return;
        };
        if link.is_told() {
            self.happened.push_back(LinkEvent::Broken(id(key), error));
        }
    }

    /// Connects to a listener, and passes it a segment.
    fn call(&mut self, name: Name) -> Result<(OwnedFd, Box<Awaiting>), LinkError> {
        let connection = match socket::connect(name) {
            Ok(connection) => connection,
            Err(Errno::CONNREFUSED) => return Err(LinkError::NotHere),
            Err(errno) => return Err(failed("connect", errno)),
        };
        let peer = socket::peer(&connection).map_err(|errno| failed("SO_PEERCRED", errno))?;
        if !peer.is_us {
            return Err(LinkError::NotHere);
        }
        let (segment, file) = Segment::create().map_err(|errno| failed("memfd_create", errno))?;
        let record = Record::new(&self.nonce);
        socket::send_record(&connection, record.as_bytes(), Some(&file))
            .map_err(|errno| failed("sendmsg", errno))?;
        let awaiting = Awaiting {
            segment: Some(segment),
            dialled: true,
            ..self.awaiting(peer.pid)
        };
        Ok((connection, Box::new(awaiting)))
    }

    fn awaiting(&self, pid: i32) -> Awaiting {
        Awaiting {
            segment: None,
            dialled: false,
            nonce: Arc::clone(&self.nonce),
            pid,
            arrived: [0; RECORD_BYTES],
            len: 0,
            file: None,
            deadline: Instant::now() + limits::SETUP_TIMEOUT,
        }
    }

    fn insert(&mut self, socket: Option<OwnedFd>, state: State) -> Result<LinkId, LinkError> {
        let key = self.links.insert(Link::new(socket, state));
        self.rising.push(key);
        if let Err(errno) = self.watch(key) {
            self.remove(key);
            return Err(failed("epoll_ctl", errno));
        }
        Ok(id(key))
    }

    /// Level-triggered: what is not taken now is told again.
    fn watch(&self, key: LinkKey) -> Result<(), Errno> {
        let Some(socket) = &self.links[key].socket else {
            return Ok(());
        };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        let data = epoll::EventData::new_u64(key.data().as_ffi());
        epoll::add(&self.epoll, socket, data, flags)
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
            if data == LISTENER {
                self.more = true;
            } else {
                let key = KeyData::from_ffi(data & !PROCESS).into();
                self.note_ready(key, data & PROCESS != 0, event.flags);
            }
        }
    }

    fn note_ready(&mut self, key: LinkKey, process: bool, flags: epoll::EventFlags) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let Some(open) = link.open() else {
            return self.greet(key);
        };
        let ended = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if process || flags.intersects(ended) {
            // Neither has more to say: what it wrote before is in the ring.
            let of_process = open.process.as_ref().map(|it| it.as_fd());
            let of_socket = link.socket.as_ref().map(|it| it.as_fd());
            for fd in of_socket.into_iter().chain(of_process) {
                let _ = epoll::delete(&self.epoll, fd);
            }
            link.hung_up = true;
        } else if let Some(socket) = &link.socket {
            // The ring is looked at anyway.
            let _ = rustix::io::read(socket, &mut [0; WAKE_BYTES]);
        }
    }

    /// The other side of a link that is being set up has said something.
    fn greet(&mut self, key: LinkKey) {
        let link = &mut self.links[key];
        match link.greet() {
            Ok(Greeted::NotYet) => {}
            Ok(Greeted::Complete(open)) => {
                let accepted = !link.is_told();
                if let Some(process) = &open.process {
                    let data = epoll::EventData::new_u64(key.data().as_ffi() | PROCESS);
                    // Without it the end of its socket must do.
                    let _ = epoll::add(&self.epoll, process, data, epoll::EventFlags::IN);
                }
                link.state = State::Open(open);
                self.rising.retain(|&other| other != key);
                self.open.push(key);
                self.happened.push_back(if accepted {
                    LinkEvent::Accepted(id(key))
                } else {
                    LinkEvent::Connected(id(key))
                });
            }
            Err(error) => self.break_link(key, error),
        }
    }

    /// Accepts what is waiting, a bounded number; who is another user is gone at once. `[R70]`
    fn accept_some(&mut self) {
        self.more = false;
        for _ in 0..limits::ACCEPT_BURST {
            if self.links.len() >= limits::LINKS {
                return;
            }
            let connection = match socket::accept(&self.listener) {
                Ok(Some(connection)) => connection,
                Ok(None) => return,
                Err(errno) => {
                    tracing::warn!("accept failed: {errno}");
                    return;
                }
            };
            match socket::peer(&connection) {
                Ok(peer) if peer.is_us => self.welcome(connection, peer.pid),
                _ => tracing::warn!("a process of another user has dialled; refused"),
            }
        }
        self.more = true;
    }

    fn welcome(&mut self, connection: OwnedFd, pid: i32) {
        let strangers = || self.rising.iter().filter(|&&it| !self.links[it].is_told());
        if strangers().count() >= limits::STRANGERS
            && let Some(&oldest) = strangers().next()
        {
            self.remove(oldest);
        }
        let awaiting = Box::new(self.awaiting(pid));
        // If it can't be watched it is closed, and its dialler sees that.
        if let Ok(link) = self.insert(Some(connection), State::Awaiting(awaiting)) {
            // Its record came with the connection, as a rule.
            self.greet(key(link));
        }
    }

    /// Goes on with links whose peer's backlog was full, and gives up those that took too long.
    fn go_on_rising(&mut self) {
        if self.rising.is_empty() {
            return;
        }
        let now = Instant::now();
        let due = |key: &LinkKey| self.links[*key].due().is_some_and(|due| due <= now);
        let due: Vec<LinkKey> = self.rising.iter().copied().filter(due).collect();
        for key in due {
            match &self.links[key].state {
                State::Calling { name, deadline, .. } if *deadline > now => {
                    let (name, deadline) = (*name, *deadline);
                    self.call_again(key, name, deadline);
                }
                _ => self.break_link(key, failed("connect", Errno::TIMEDOUT)),
            }
        }
    }

    fn call_again(&mut self, key: LinkKey, name: Name, deadline: Instant) {
        match self.call(name) {
            Ok((connection, awaiting)) => {
                let link = &mut self.links[key];
                link.socket = Some(connection);
                link.state = State::Awaiting(awaiting);
                if let Err(errno) = self.watch(key) {
                    self.break_link(key, failed("epoll_ctl", errno));
                }
            }
            Err(error) if is_busy(&error) => {
                let again = Instant::now() + limits::REDIAL;
                self.links[key].state = State::Calling {
                    name,
                    deadline,
                    again,
                };
            }
            Err(error) => self.break_link(key, error),
        }
    }

    /// Looks at the rings of every link that carries frames.
    fn look(&mut self, events: &mut Vec<LinkEvent>) {
        let mut broken: Option<(LinkKey, LinkError)> = None;
        for &key in &self.open {
            let link = &mut self.links[key];
            let hung_up = link.hung_up;
            let Some(open) = link.open_mut() else {
                continue;
            };
            if open.incoming.has_news() {
                events.push(LinkEvent::Readable(id(key)));
            } else if hung_up {
                broken = Some((key, LinkError::Closed));
                continue;
            }
            match open.outgoing.has_room_again() {
                Ok(true) => events.push(LinkEvent::Writable(id(key))),
                Ok(false) => {}
                Err(nonsense) => broken = Some((key, nonsense.into())),
            }
        }
        // One a poll: the next finds the next.
        if let Some((key, error)) = broken
            && let Some(link) = self.remove(key)
        {
            drop(link);
            events.push(LinkEvent::Broken(id(key), error));
        }
    }

    /// Whether it is time to ask the system for news of the sockets, on a busy port.
    fn is_time_to_ask(&mut self) -> bool {
        if self.armed || !self.rising.is_empty() || self.open.is_empty() {
            return true;
        }
        self.polls = self.polls.wrapping_add(1);
        self.polls.is_multiple_of(limits::BUSY_POLLS)
            && self.asked.elapsed() >= limits::SOCKETS_EVERY
    }

    /// What could not be sent as it should.
    fn sent(&mut self, key: LinkKey, sent: Result<(), Trouble>) -> Result<(), SendError> {
        let Err(trouble) = sent else {
            return Ok(());
        };
        match trouble {
            Trouble::Full => {}
            Trouble::NoBody => self.break_link(key, failed("the body of a frame", Errno::FAULT)),
            Trouble::Nonsense => self.break_link(key, crate::ring::Nonsense.into()),
        }
        Err(trouble.into())
    }

    fn opened(&self, link: LinkId) -> Option<&Open> {
        self.links.get(key(link)).and_then(Link::open)
    }
}

impl Link {
    /// Whether the port knows of it: it has dialled, or has been told that it was accepted.
    fn is_told(&self) -> bool {
        match &self.state {
            State::Calling { .. } | State::Open(_) => true,
            State::Awaiting(awaiting) => awaiting.dialled,
        }
    }
}

impl Transport for ShmTransport {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: TransportKind::Shm,
            preference: 3,
            max_body_bytes: meander_core::limits::DATA_FRAME_BYTES,
        }
    }

    fn card(&self) -> Card {
        self.name.card()
    }

    fn dial(&mut self, card: &Card) -> Result<LinkId, LinkError> {
        let name = Name::of(card).ok_or(LinkError::BadCard)?;
        match self.call(name) {
            Ok((connection, awaiting)) => self.insert(Some(connection), State::Awaiting(awaiting)),
            Err(error) if is_busy(&error) => {
                let now = Instant::now();
                let state = State::Calling {
                    name,
                    deadline: now + limits::SETUP_TIMEOUT,
                    again: now + limits::REDIAL,
                };
                self.insert(None, state)
            }
            Err(error) => Err(error),
        }
    }

    fn close(&mut self, link: LinkId) {
        self.remove(key(link));
    }

    fn poll(&mut self, wait: Duration, events: &mut Vec<LinkEvent>) {
        let wait = match wait.is_zero() || !self.is_idle() {
            true => Duration::ZERO,
            false => self.next_timeout().map_or(wait, |due| {
                wait.min(due.saturating_duration_since(Instant::now()))
            }),
        };
        if self.is_time_to_ask() {
            self.collect_ready(wait);
            self.go_on_rising();
            self.asked = Instant::now();
        }
        if self.more {
            self.accept_some();
        }
        self.disarm();
        events.extend(self.happened.drain(..));
        self.look(events);
    }

    fn has_room(&self, link: LinkId) -> bool {
        self.opened(link)
            .is_some_and(|open| open.outgoing.has_room())
    }

    fn send(
        &mut self,
        link: LinkId,
        frame: Frame,
        memory: &mut dyn Memory,
    ) -> Result<(), SendError> {
        let key = key(link);
        let Some(open) = self.links.get_mut(key).and_then(Link::open_mut) else {
            return Err(SendError::Broken);
        };
        let sent = open.push(frame, memory);
        self.sent(key, sent)
    }

    fn send_at_once(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        app: &[u8],
        body: &[u8],
    ) -> bool {
        let key = key(link);
        let Some(link) = self.links.get_mut(key) else {
            return false;
        };
        let Some(open) = link.open_mut() else {
            return false;
        };
        match open.outgoing.push_small(header, app, body) {
            Ok(taken) => {
                if taken && open.outgoing.must_wake() {
                    link.wake();
                }
                taken
            }
            Err(nonsense) => {
                self.break_link(key, nonsense.into());
                false
            }
        }
    }

    fn flush(&mut self, link: LinkId, memory: &dyn Memory) {
        let key = key(link);
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let Some(open) = link.open_mut() else {
            return;
        };
        let sent = open.outgoing.go_on(memory);
        if open.outgoing.must_wake() {
            link.wake();
        }
        let _ = self.sent(key, sent);
    }

    fn receive_at_once<S: FrameSink>(
        &mut self,
        sink: &mut S,
    ) -> Option<(LinkId, Result<bool, LinkError>)> {
        if self.more || !self.happened.is_empty() {
            return None;
        }
        self.disarm();
        let links = &self.links;
        let has_news =
            |key: &&LinkKey| links[**key].open().is_some_and(|it| it.incoming.has_news());
        let mut news = self.open.iter().filter(has_news);
        match (news.next(), news.next()) {
            (Some(&key), None) => Some((id(key), self.receive(id(key), sink))),
            _ => None,
        }
    }

    fn receive<S: FrameSink>(&mut self, link: LinkId, sink: &mut S) -> Result<bool, LinkError> {
        let key = key(link);
        let Some(link) = self.links.get_mut(key) else {
            return Ok(false);
        };
        let Some(open) = link.open_mut() else {
            return Ok(false);
        };
        let (more, wake) = open.receive(id(key), sink)?;
        if wake {
            link.wake();
        }
        Ok(more)
    }
}

impl Drop for ShmTransport {
    fn drop(&mut self) {
        socket::end(&self.listener);
    }
}

impl AsFd for ShmTransport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// The listener's backlog is full, for now.
fn is_busy(error: &LinkError) -> bool {
    matches!(error, LinkError::Io { operation: "connect", source }
        if source.kind() == std::io::ErrorKind::WouldBlock)
}

fn id(key: LinkKey) -> LinkId {
    LinkId(key.data().as_ffi())
}

fn key(link: LinkId) -> LinkKey {
    KeyData::from_ffi(link.0).into()
}

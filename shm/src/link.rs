//! One link, or the attempt at one.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use meander_core::LinkId;
use meander_core::transport::{FrameSink, LinkError, Memory};
use meander_core::wire::Violation;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::card::Name;
use crate::incoming::{self, Incoming};
use crate::outgoing::{Outgoing, Trouble};
use crate::pull::{Nonce, Process};
use crate::segment::{Direction, Segment, Side};
use crate::setup::{RECORD_BYTES, Record};
use crate::socket;

/// One link, or the attempt at one. Dropping it closes it: nothing of it can touch memory then. `[R20]`
pub(crate) struct Link {
    /// None only while a dialled peer's backlog is full.
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) state: State,
    /// A forked child has a copy of the socket and none of the segment: it keeps its hands off.
    process: u32,
    /// The peer has ended, or cut the link: what it has written before is still taken.
    pub(crate) hung_up: bool,
}

pub(crate) enum State {
    /// Its backlog was full: it is dialled again.
    Calling {
        name: Name,
        deadline: Instant,
        again: Instant,
    },
    /// Its record is awaited: of the acceptor that was dialled, or of whoever has connected.
    Awaiting(Box<Awaiting>),
    Open(Box<Open>),
}

/// A link whose other side has not said all yet.
pub(crate) struct Awaiting {
    /// The segment, for the side that has made it.
    pub(crate) segment: Option<Arc<Segment>>,
    pub(crate) nonce: Arc<Nonce>,
    /// Whether this side has dialled.
    pub(crate) dialled: bool,
    /// Who is at the other end; 0 where that can't be seen.
    pub(crate) pid: i32,
    pub(crate) arrived: [u8; RECORD_BYTES],
    pub(crate) len: usize,
    pub(crate) file: Option<OwnedFd>,
    pub(crate) deadline: Instant,
}

/// A link that carries frames.
pub(crate) struct Open {
    side: Side,
    segment: Arc<Segment>,
    pub(crate) incoming: Incoming<Direction>,
    pub(crate) outgoing: Outgoing<Direction>,
    /// The peer, if its memory can be read.
    pub(crate) process: Option<Process>,
    /// The peer may still want to read this.
    _nonce: Arc<Nonce>,
}

/// A record has come.
pub(crate) enum Greeted {
    /// Not all of it.
    NotYet,
    Complete(Box<Open>),
}

impl Link {
    pub(crate) fn new(socket: Option<OwnedFd>, state: State) -> Link {
        Link {
            socket,
            state,
            process: std::process::id(),
            hung_up: false,
        }
    }

    pub(crate) fn open(&self) -> Option<&Open> {
        match &self.state {
            State::Open(open) => Some(open),
            _ => None,
        }
    }

    pub(crate) fn open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.state {
            State::Open(open) => Some(open),
            _ => None,
        }
    }

    /// When setting it up must go on, or has taken too long.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Calling {
                deadline, again, ..
            } => Some(*deadline.min(again)),
            State::Awaiting(awaiting) => Some(awaiting.deadline),
            State::Open(_) => None,
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(socket) = &self.socket {
            socket::wake(socket);
        }
    }

    /// Reads what has come for a link that is being set up.
    pub(crate) fn greet(&mut self) -> Result<Greeted, LinkError> {
        match (&self.socket, &mut self.state) {
            (Some(socket), State::Awaiting(awaiting)) => awaiting.greet(socket),
            _ => Ok(Greeted::NotYet),
        }
    }
}

impl Awaiting {
    fn greet(&mut self, socket: &OwnedFd) -> Result<Greeted, LinkError> {
        let (count, passed) = match socket::receive(socket, &mut self.arrived[self.len..]) {
            Ok((0, _)) => return Err(LinkError::Closed),
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Greeted::NotYet),
            Err(Errno::CONNRESET) => return Err(LinkError::Closed),
            Err(errno) => return Err(failed("recvmsg", errno)),
        };
        self.len += count;
        self.file = passed.or(self.file.take());
        if self.len < RECORD_BYTES {
            return Ok(Greeted::NotYet);
        }
        let said = Record::parse(&self.arrived).ok_or(Violation::Malformed)?;
        let process = said.probe(self.pid);
        let (side, segment) = match self.segment.take() {
            Some(segment) => (Side::Dialler, segment),
            None => {
                let file = self.file.take().ok_or(Violation::Malformed)?;
                let segment = Segment::of_peer(file).map_err(|errno| failed("mmap", errno))?;
                let answer = Record::new(&self.nonce);
                socket::send_record(socket, answer.as_bytes(), None)
                    .map_err(|errno| failed("sendmsg", errno))?;
                (Side::Acceptor, segment)
            }
        };
        if process.is_some() {
            segment.set_can_pull(side);
        }
        let direction = |from| Direction::new(Arc::clone(&segment), from);
        let open = Open {
            side,
            incoming: Incoming::new(direction(side.other())),
            outgoing: Outgoing::new(direction(side)),
            process,
            _nonce: Arc::clone(&self.nonce),
            segment,
        };
        Ok(Greeted::Complete(Box::new(open)))
    }
}

impl Open {
    /// Takes what has arrived, a bounded amount. Returns whether there may be more, and whether the
    /// peer must be woken, who waits for room.
    pub(crate) fn receive<S: FrameSink>(
        &mut self,
        id: LinkId,
        sink: &mut S,
    ) -> Result<(bool, bool), LinkError> {
        let (mut slots, mut bytes, mut wake) = (0, 0, false);
        let (segment, them) = (&self.segment, self.side.other());
        let is_closed = || segment.is_closed_by(them);
        let pull: (_, &dyn Fn() -> bool) = (self.process.as_ref(), &is_closed);
        while !incoming::is_enough(slots, bytes) {
            let Some(count) = self.incoming.take(id, &pull, sink)? else {
                return Ok((false, wake));
            };
            slots += 1;
            bytes += count;
            wake |= self.incoming.give_back();
        }
        Ok((true, wake))
    }

    /// Takes a frame to send.
    pub(crate) fn push(
        &mut self,
        frame: meander_core::transport::Frame,
        memory: &dyn Memory,
    ) -> Result<(), Trouble> {
        let pulls = self.segment.can_pull(self.side.other());
        self.outgoing.push(frame, memory, pulls)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        if let State::Open(open) = &self.state {
            open.segment.close(open.side);
        }
        if let Some(socket) = &self.socket {
            socket::end(socket);
        }
    }
}

/// An operation of this side failed.
pub(crate) fn failed(operation: &'static str, errno: Errno) -> LinkError {
    LinkError::Io {
        operation,
        source: errno.into(),
    }
}

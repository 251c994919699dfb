//! One connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

use crate::incoming::Incoming;
use crate::limits;
use crate::outgoing::Outgoing;
use crate::wire::Wire;

/// One connection, or the attempt at one.
pub(crate) struct Link {
    pub(crate) socket: OwnedFd,
    pub(crate) state: State,
    pub(crate) wire: Wire,
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
    /// The socket may have bytes to read.
    pub(crate) readable: bool,
    /// It is in the transport's list of links to read.
    pub(crate) listed: bool,
    /// The peer has closed its side, or the connection failed: read until the socket says so.
    pub(crate) hung_up: bool,
    /// The socket takes bytes, as far as is known.
    pub(crate) writable: bool,
}

pub(crate) enum State {
    /// Connecting to one address; the others come next.
    Dialling {
        rest: VecDeque<SocketAddr>,
        deadline: Instant,
    },
    Open,
}

impl Link {
    pub(crate) fn new(socket: OwnedFd, state: State, wire: Wire) -> Link {
        Link {
            socket,
            state,
            wire,
            incoming: Incoming::new(),
            outgoing: Outgoing::default(),
            readable: false,
            listed: false,
            hung_up: false,
            writable: true,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_quiet(&self) -> bool {
        self.outgoing.is_empty() && self.wire.is_empty()
    }

    pub(crate) fn is_dialling(&self) -> bool {
        matches!(self.state, State::Dialling { .. })
    }

    /// Makes both ends see the link break, as a cut cable would.
    pub(crate) fn cut(&self) {
        end(&self.socket);
    }

    /// Before the socket is closed: what was read by nobody would turn the close into a reset,
    /// and a reset can overtake the last frames (a refusal, say) on their way to the peer.
    pub(crate) fn discard_arrived(&self) {
        let mut waste = [0; limits::READ_AHEAD_BYTES];
        for _ in 0..limits::READ_BYTES / limits::READ_AHEAD_BYTES {
            match recv(&self.socket, &mut waste, RecvFlags::DONTWAIT) {
                Ok((count, _)) if count > 0 => {}
                _ => break,
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        end(&self.socket);
    }
}

/// Ends a connection, or listening, even while a forked child still holds the descriptor.
pub(crate) fn end(socket: &OwnedFd) {
    let _ = shutdown(socket, Shutdown::Both);
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

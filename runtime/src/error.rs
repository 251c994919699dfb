//! Why a call failed.

use std::io;

use meander_core::PortId;
use meander_core::port::PortError;

/// Why a call on a port or stream failed.
///
/// A broken connection and a peer that is moving are no errors: the port mends them by itself and
/// the call waits, up to its time-out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer is dead: an agent said so, or it was out of reach for `Limits::peer_timeout`.
    #[error("the peer {peer} is dead: {why}")]
    PeerDead {
        /// The peer.
        peer: PortId,
        /// Who said so, for people.
        why: String,
    },
    /// The peer can't be reached now (it is moving, or a cable is cut) and time ran out. The
    /// stream is whole; the call may be repeated.
    #[error("{operation}: the peer {peer} is out of reach (moving?) and time ran out")]
    Moving {
        /// The peer.
        peer: PortId,
        /// The call.
        operation: &'static str,
    },
    /// Nobody has said where this port is: [`crate::Port::add_peer`] does.
    #[error("no contact of port {0} is known")]
    UnknownPeer(PortId),
    /// The port could not listen.
    #[error(transparent)]
    Listen(meander_tcp::BindError),
    /// Too many streams are open between two ports.
    #[error("no more streams with this peer can be opened")]
    TooManyStreams,
    /// Time ran out while the peer was in reach.
    #[error("{operation}: time ran out")]
    TimedOut {
        /// The call.
        operation: &'static str,
    },
    /// Back-pressure: as much unacknowledged payload is retained as `Limits::retained_bytes`
    /// allows. Progress the port and try again, or lend the memory as [`crate::Outgoing::Source`].
    #[error("the port retains as much as its limit allows; wait for acknowledgements")]
    Full,
    /// The peer is there and did not take the stream.
    #[error("the peer {peer} refused: {why}")]
    Refused {
        /// The peer.
        peer: PortId,
        /// Its reason, or that the keys differ.
        why: String,
    },
    /// This side has finished the stream, or the stream is gone.
    #[error("the stream is finished on this side")]
    Finished,
    /// The peer's message is longer than `Config::message_bytes_max`; it was declined.
    #[error("a message of {len} bytes is longer than the limit of {max}")]
    TooLong {
        /// Its bytes.
        len: u64,
        /// The limit, in bytes.
        max: u64,
    },
    /// The application header of a message is too long.
    #[error("an application header of {len} bytes; 64 is the most")]
    LongHeader {
        /// Its bytes.
        len: usize,
    },
    /// A message call on a byte stream, or the reverse.
    #[error("{operation} is not for this kind of stream")]
    WrongKind {
        /// The call.
        operation: &'static str,
    },
    /// The port was suspended as a value; its streams are where that value is attached.
    #[error("the port is suspended: its streams continue where its value is attached")]
    Suspended,
    /// [`crate::Port::attach_in_place`] or [`crate::Port::resume_in_place`] of a port that is on the
    /// fabric.
    #[error("the port is not suspended")]
    NotSuspended,
    /// The epoch of [`crate::Port::attach_in_place`] is not higher than the port's own.
    #[error("a port can't be attached with the old epoch {0}")]
    StaleEpoch(meander_core::Epoch),
    /// The process is a fork of the one that opened the port.
    #[error("the port belongs to the parent process; open one in the child")]
    Forked,
    /// The bytes given to [`crate::Port::attach`] are not a suspended port of this version.
    #[error("not a suspended port, or one of another version")]
    BadValue,
    /// Verbs were asked for by name, and there are none here.
    #[error("verbs: {0}")]
    Verbs(meander_verbs::OpenError),
    /// Shared memory was asked for by name, and does not work here.
    #[error("shared memory: {0}")]
    SharedMemory(#[source] meander_shm::OpenError),
    /// `Config::transports` allows none that works here.
    #[error("no transport is allowed that this build has; leave MEANDER_TRANSPORT unset for all")]
    NoTransport,
    /// A word of `MEANDER_TRANSPORT` is not the name of a transport.
    #[error("MEANDER_TRANSPORT: there is no transport `{0}`; there are: shm, tcp, verbs")]
    BadTransport(String),
    /// A variable `MEANDER_VERBS_...` is not what it should be.
    #[error("{variable}: `{value}` is not {wanted}")]
    BadVariable {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What it should say.
        wanted: &'static str,
    },
    /// A word of `MEANDER_TCP_ADDR` is not an IP address.
    #[error("MEANDER_TCP_ADDR: `{0}` is not an IP address")]
    BadAddress(String),
    /// `MEANDER_TCP_ENCRYPTION` is neither `on` nor `off`.
    #[error("MEANDER_TCP_ENCRYPTION: `{0}` is neither `on` nor `off`")]
    BadEncryption(String),
    /// An operation of the local system failed.
    #[error("{operation} failed: {source}")]
    Io {
        /// The call.
        operation: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl From<PortError> for Error {
    fn from(error: PortError) -> Error {
        match error {
            PortError::UnknownPeer(peer) => Error::UnknownPeer(peer),
            PortError::Dead { peer, cause } => Error::PeerDead {
                peer,
                why: cause.to_string(),
            },
            PortError::TooManyStreams => Error::TooManyStreams,
            PortError::Full => Error::Full,
            PortError::UnknownStream(_)
            | PortError::Rejected
            | PortError::Unanswered
            | PortError::Finished
            | PortError::NotAnnounced(_) => Error::Finished,
        }
    }
}

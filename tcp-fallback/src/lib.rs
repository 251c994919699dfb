//! Meander's transport over TCP: where there is nothing better, and the way back to anything
//! better after a move.
//!
//! One [`TcpTransport`] serves one port. It listens on one port number of every chosen address;
//! its card is the list of them, which a peer tries in order. A link is one connection, and
//! carries frames as `docs/protocol.md` defines them, back to back. Sending gathers frames into
//! vectored writes; receiving hands small frames over from a buffer of the link and reads large
//! bodies straight into their place.
//!
//! Links may be encrypted, all of a port or none ([`TcpTransport::open_encrypted`]).
//!
//! Everything is non-blocking. A thread that wants to sleep until something happens polls
//! [`TcpTransport::readiness`], without holding whatever lock guards the transport.
#![forbid(unsafe_code)]

mod address;
#[cfg(fuzzing)]
pub mod feed;
mod incoming;
mod link;
mod outgoing;
mod sealed;
mod socket;
mod transport;
mod wire;

pub use address::BindError;
pub use sealed::Psk;
pub use transport::TcpTransport;

/// The bounds of this transport.
pub mod limits {
    use std::time::Duration;

    /// Bytes of a link's receive buffer; holds the largest body that is handed over whole.
    pub const RECEIVE_BYTES: usize = meander_core::limits::DATA_FRAME_BYTES;
    /// Bytes of the receive buffer of a link that has not been busy yet.
    pub const QUIET_RECEIVE_BYTES: usize = 16 * 1024;
    /// Bytes asked of the socket at once while frames are small.
    pub const READ_BYTES: usize = 64 * 1024;
    /// Missing bytes of a body from which on they are read straight into their place; fewer are
    /// copied, so that many small bodies come with one read.
    pub const DIRECT_BYTES: u64 = 16 * 1024;
    /// Bytes read past the end of a body that goes straight into its place: enough for the next
    /// header, little enough that the next body is not copied.
    pub const READ_AHEAD_BYTES: usize = 4 * 1024;
    /// Bytes after which one call of `receive` returns.
    pub const RECEIVE_BURST_BYTES: usize = 1 << 20;
    /// Frames a link takes before it says that it is full.
    pub const SEND_QUEUE_FRAMES: usize = 256;
    /// Bytes a link takes before it says that it is full.
    pub const SEND_QUEUE_BYTES: usize = 1 << 20;
    /// Bytes in one record of an encrypted link.
    pub const RECORD_BYTES: usize = 32 * 1024;
    /// Bytes in the first one: the peer has yet to show by it that it knows the key.
    pub const FIRST_RECORD_BYTES: usize = 16 * 1024;
    /// Bytes sealed at once, give or take a record, before they go to the socket.
    pub const SEALED_AT_ONCE_BYTES: usize = 2 * RECORD_BYTES;
    /// Bytes of a busy encrypted link's buffer of what is still sealed: four records.
    pub const SEALED_RECEIVE_BYTES: usize = 4 * (RECORD_BYTES + 18);
    /// Bytes from which on a piece is sealed straight from where it is; smaller ones are gathered.
    pub const STRAIGHT_BYTES: usize = 4 * 1024;
    /// Bytes up to which what is written at once is copied together.
    pub const COPY_BYTES: usize = 512;
    /// Parts of one vectored write.
    pub const WRITE_PARTS: usize = 64;
    /// Connections accepted by one poll, each address: in a flood, those that are there get their turn.
    pub const ACCEPT_BURST: usize = 16;
    /// Connections waiting to be accepted, each address.
    pub const BACKLOG: i32 = 1024;
    /// Addresses in a card; a node's further addresses are left out.
    pub const ADDRESSES: usize = 16;
    /// How long one address of a card may take to answer before the next one is tried.
    pub const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
    /// How long sent bytes may go unacknowledged before the link counts as broken.
    pub const USER_TIMEOUT: Duration = Duration::from_secs(15);
    /// Quiet time before the first keep-alive probe, and between probes.
    pub const KEEPALIVE: Duration = Duration::from_secs(5);
    /// Polls between two looks at every link, while one link is busy.
    pub const BUSY_POLLS: u32 = 8;
}

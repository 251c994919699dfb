//! Meander's transport within a node: rings in shared memory, and single copies of what is large.
//!
//! One [`ShmTransport`] serves one port. It listens on an abstract Unix socket of a random name,
//! which is its card: who can open it is on the same node (in the same network namespace), and whose
//! user is another is refused. The dialler passes a sealed segment of memory through the
//! socket; each direction has a ring of slots in it and, beside, a ring of bytes for bodies that do not
//! fit a slot (`ring`). A frame of a few bytes with its headers is one cache line, written and
//! read without a system call. The payload of a large message is copied once, by its receiver, out
//! of the sender's memory, where the receiver may read that (`pull`); else it goes through the
//! ring of bytes in pieces.
//!
//! The socket stays open: its end is the peer's end, and a byte on it wakes a side that sleeps.
//! Everything is non-blocking. What a peer writes into the segment is believed only as far as it was
//! checked; nonsense breaks the link.

mod card;
mod header;
mod incoming;
mod link;
mod outgoing;
mod pull;
mod ring;
mod segment;
mod setup;
mod socket;
mod transport;

pub use transport::{OpenError, ShmConfig, ShmTransport};

/// The bounds of this transport.
pub mod limits {
    use std::time::Duration;

    /// Slots of a direction's ring; a power of two.
    pub const SLOTS: usize = 128;
    /// Bytes of a slot: two cache lines, which the processor fetches together.
    pub const SLOT_BYTES: usize = 128;
    /// Bytes of a direction's ring for bodies; a power of two.
    pub const BODY_BYTES: usize = 256 * 1024;
    /// Bytes of one body's piece in that ring: the receiver copies one while the next is written.
    pub const PIECE_BYTES: usize = 32 * 1024;
    /// Payloads of so many bytes are copied once, straight out of the sender's memory.
    pub const SINGLE_COPY_BYTES: usize = 16 * 1024;
    /// Part of a ring that may have been read before its writer is told that it is free again.
    pub const RETURNED_LATE: u64 = 8;
    /// Part of the slots that must be free before a link that was full says that it takes more.
    pub const FREE_AGAIN: u64 = 4;
    /// Frames, and bytes, after which one call of `receive` returns.
    pub const RECEIVE_BURST_SLOTS: usize = 256;
    /// See [`RECEIVE_BURST_SLOTS`].
    pub const RECEIVE_BURST_BYTES: usize = 1 << 20;
    /// Connections accepted by one poll.
    pub const ACCEPT_BURST: usize = 16;
    /// Connections that wait to be accepted.
    pub const BACKLOG: i32 = 1024;
    /// Accepted connections that have not said what they are; for each further one the oldest goes.
    pub const STRANGERS: usize = 64;
    /// How long setting a link up may take.
    pub const SETUP_TIMEOUT: Duration = Duration::from_secs(5);
    /// Pause before a peer is dialled again whose backlog is full.
    pub const REDIAL: Duration = Duration::from_millis(1);
    /// Links at once; further connections wait in the backlog.
    pub const LINKS: usize = 16_384;
    /// Polls between two looks at the clock, while a port is busy; and the time after which it
    /// then asks the system for news of its sockets.
    pub const BUSY_POLLS: u32 = 16;
    /// See [`BUSY_POLLS`].
    pub const SOCKETS_EVERY: Duration = Duration::from_micros(100);
}

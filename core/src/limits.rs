//! Every bound of the protocol, named, in one place.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of an application header (an MPI envelope, say) that a message can carry.
pub const APP_HEADER_BYTES: usize = 64;
/// Bytes of the body of a hello or a challenge.
pub const SETUP_BODY_BYTES: usize = 8192;
/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;
/// Bytes of the body of a refusal.
pub const REFUSAL_BYTES: usize = 16;
/// Bytes of one card.
pub const CARD_BYTES: usize = 512;
/// Cards of one location.
pub const CARDS: usize = 8;
/// Largest eager payload any port may choose; bounds what a frame's body can be.
pub const EAGER_BYTES_MAX: usize = 64 * 1024;
/// Largest payload that a port itself keeps a copy of.
pub const SMALL_BYTES: usize = 64;
/// Bytes of rendezvous payload in one data frame.
pub const DATA_FRAME_BYTES: usize = 256 * 1024;
/// Accepted links that have proved nothing yet; for each further one the oldest is closed.
pub const UNPROVED_LINKS: usize = 256;
/// How long a link may take to prove itself.
pub const SETUP_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause between two attempts to dial a peer.
pub const REDIAL_FIRST: Duration = Duration::from_millis(5);
/// See [`REDIAL_FIRST`].
pub const REDIAL_MAX: Duration = Duration::from_millis(500);
/// Received items after which an acknowledgement is sent on its own.
pub const ACK_ITEMS: u64 = 64;
/// How long a received item may wait for an acknowledgement to ride on.
pub const ACK_DELAY: Duration = Duration::from_millis(5);
/// Window that every port grants at least: what may be sent before the peer has named its own.
pub const FIRST_WINDOW_BYTES: u64 = 64 * 1024;
/// Failed attempts to dial after which the directory is asked where the peer is now.
pub const DIALS_BEFORE_ASKING: u32 = 2;
/// Streams of one pair of ports.
pub const STREAMS_PER_PEER: usize = 65_536;
/// Bytes of a job's, a program's or a node's name.
pub const NAME_BYTES: usize = 256;
/// Ports that a directory holds.
pub const DIRECTORY_PORTS: usize = 1 << 20;
/// Ports in one page of the directory's list.
pub const DIRECTORY_PAGE: usize = 256;
/// Ports whose process has ended that the directory remembers; the first are forgotten first.
pub const DIRECTORY_ENDED: usize = 1 << 16;
/// Committed and called-off moves of one port that the directory remembers, each.
pub const DIRECTORY_MOVES: usize = 64;

/// The bounds that a port may choose.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Payloads up to this many bytes travel with their message; larger ones by rendezvous.
    pub eager_bytes: usize,
    /// Eager payload a stream may have in flight or unread at its peer; beyond it a message
    /// degrades to an envelope and its payload waits at the sender.
    pub window_bytes: u64,
    /// Payload copied into the port that is not yet acknowledged or pulled, in bytes. Past it a send's
    /// memory stays the caller's until the peer has it. `[R56]`
    pub retained_bytes: u64,
    /// How long a peer may be unreachable before it is reported dead.
    pub peer_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            eager_bytes: 16 * 1024,
            window_bytes: 4 << 20,
            retained_bytes: 2 << 30,
            peer_timeout: Duration::from_secs(600),
        }
    }
}

//! The bounds of this transport.

use std::time::Duration;

/// Bytes of one packet, and of one slot to receive it in.
pub const SLOT_BYTES: usize = 8 * 1024;
/// Slots that are registered at once.
pub const CHUNK_SLOTS: usize = 64;
/// Slots to receive in, of one transport: 64 MiB.
pub const RECEIVE_SLOTS: usize = 8 * 1024;
/// Slots to send from, of one transport: 8 MiB.
pub const SEND_SLOTS: usize = 1024;
/// Credits that a new link gives its peer.
pub const FIRST_CREDITS: u32 = 8;
/// Credits that a busy link gives its peer.
pub const BUSY_CREDITS: u32 = 64;
/// Work requests a queue pair has outstanding.
pub const SEND_QUEUE_REQUESTS: usize = 64;
/// Every so many work requests one asks for a completion, at least.
pub const SIGNAL_EVERY: usize = 16;
/// Bytes that are inline in their work request, where the device does that.
pub const INLINE_BYTES: u32 = 256;
/// Completions taken from the queue at once.
pub const COMPLETIONS: usize = 32;
/// Completions taken by one poll.
pub const COMPLETIONS_PER_POLL: usize = 1024;
/// Completions that a new queue has room for; it grows with the links.
pub const FIRST_COMPLETIONS: usize = 4096;
/// Frames a link takes before it says that it is full.
pub const SEND_QUEUE_FRAMES: usize = 256;
/// Bytes a link takes before it says that it is full.
pub const SEND_QUEUE_BYTES: usize = 1 << 20;
/// Payload from which on it is written straight into its place; less is sent.
pub const PLACE_BYTES_MIN: u64 = 2 * 1024;
/// Places that a peer may have named and not yet got all for; further ones are not written to.
pub const PLACES: usize = 4096;
/// Bytes after which one call of `receive` returns.
pub const RECEIVE_BURST_BYTES: usize = 1 << 20;
/// Polls between two looks at what is not the completion queue, while that is busy.
pub const BUSY_POLLS: u32 = 32;
/// Connections accepted by one poll, each address.
pub const ACCEPT_BURST: usize = 16;
/// Connections waiting to be accepted, each address.
pub const BACKLOG: i32 = 1024;
/// Addresses in a card; a node's further addresses are left out.
pub const ADDRESSES: usize = 8;
/// Links that are being set up at once; whoever comes then is turned away.
pub const SETUPS: usize = 1024;
/// How long setting a link up may take.
pub const SETUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one address of a card may take to answer before the next one is tried.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a queue pair that was put into error may take to give back what it had begun.
pub const DRAIN_TIMEOUT: Duration = Duration::from_millis(50);
/// How long sent bytes may go unacknowledged before a link's connection counts as broken.
pub const USER_TIMEOUT: Duration = Duration::from_secs(15);
/// Quiet time before the first keep-alive probe of that connection, and between probes.
pub const KEEPALIVE: Duration = Duration::from_secs(5);

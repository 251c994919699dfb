//! What libibverbs makes, as values that hold each other: whoever has one may use it, and nothing is
//! destroyed while something that needs it is there.
//!
//! ```text
//! Context ◀── Domain ◀── Region ◀── Chunk (memory of our own)
//!    ▲           ▲◀───── ReceiveQueue ──▶ every chunk that was ever posted to it
//!    └─ CompletionQueue     ▲
//!              ▲◀───────── QueuePair ──▶ what its outstanding work requests read from
//! ```
//!
//! Memory that a device reads or writes is never reached by a reference meanwhile: a slot is a token, which
//! is given away when it is posted and comes back with its completion.
//!
//! A forked child has copies of these values, and drops them without a word to the device: the objects are
//! its parent's.
//!
//! libibverbs is thread-safe (`man 7 rdma_core`'s providers lock each object), so these values may go
//! from thread to thread and be shared.

mod completion;
mod context;
mod doorbell;
mod memory;
mod pair;
mod receive;
mod request;

pub(crate) use completion::{Completion, CompletionQueue, Outcome, Room};
pub(crate) use context::{AsyncEvent, Context, DeviceLimits, Domain, PortState};
pub(crate) use memory::{Region, SendPool, UserMemory};
pub(crate) use pair::{Path, QueuePair};
pub(crate) use receive::{Arrived, ReceivePool};
pub(crate) use request::{Chain, Posted, SendRequest};

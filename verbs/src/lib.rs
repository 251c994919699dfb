//! Meander's transport over InfiniBand and RoCE: reliable-connected queue pairs.
//!
//! One [`VerbsTransport`] serves one port of a process. It opens one device, with a completion queue and a
//! shared receive queue that serve all its links; a link is one queue pair. Its card names a TCP
//! listener, where peers exchange what their queue pairs need to know of each other; that
//! connection stays open as long as the link, as its sign of life.
//!
//! Frames travel as `docs/protocol.md`, section "Verbs", says: cut into packets, one SEND each, for
//! which the receiver has granted credits, so that it is never not ready. Small packets are inline in
//! their work request, others are copied into registered memory of the transport. The payload of a
//! rendezvous is not copied at all: a pull tells the peer where its payload belongs, and the
//! peer puts it there by RDMA WRITE, straight out of the memory that it is sent from.
//!
//! libibverbs is loaded when the first transport is opened. Where it is missing, or finds no device,
//! [`VerbsTransport::open`] says so; nothing else of a process depends on it.
//!
//! `unsafe` is in `ffi` (the foreign functions) and `objects` (what they make: context, protection domain,
//! memory region, completion queue, receive queue, queue pair); all else is safe code on top.

mod card;
mod counters;
mod credits;
mod device;
mod error;
mod ffi;
mod incoming;
pub mod limits;
mod link;
mod objects;
mod outgoing;
mod packet;
pub mod registration;
mod setup;
mod socket;
mod transport;

pub use counters::Counters;
pub use device::VerbsConfig;
pub use error::{OpenError, VerbsError};
pub use transport::VerbsTransport;

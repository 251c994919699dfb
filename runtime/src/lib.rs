//! Streams whose two ends may move.
//!
//! A [`Port`] is a process's attachment to the fabric. [`Stream`]s connect it to other ports:
//! reliable, ordered, carrying messages or bytes. A port can be taken off the fabric and put on
//! again elsewhere while its peers keep talking to it:
//!
//! - as a *value*: [`Port::suspend`] gives bytes that another process passes to [`Port::attach`];
//! - *in place*, for a process that is checkpointed whole: [`Port::suspend_in_place`], then, in
//!   the copy, [`Port::attach_in_place`], or, where the move did not happen,
//!   [`Port::resume_in_place`].
//!
//! Nothing is lost or doubled by it, and a broken connection heals in the same way, by itself.
//!
//! Two interfaces stand side by side on one port. Programs use [`Stream`]: blocking calls, owned
//! bytes. Libraries that bring their own progress (MPI) use [`Port::fixed_stream`],
//! [`Port::post`], [`Port::progress`] and [`Port::wait`] with an [`EventHandler`], and lend their
//! memory as [`Source`]s and [`Sink`]s.
#![deny(unsafe_code)]

mod background;
mod config;
pub mod control;
mod driver;
mod engine;
mod error;
mod fork;
mod handler;
mod moving;
mod port;
mod shared;
mod stream;
mod transports;

pub use config::{Config, TcpConfig};
pub use error::Error;
pub use handler::{
    Credit, EventHandler, MessageKey, Outgoing, Payload, Posted, SendId, SendMode, Sink, Source,
    StreamKey,
};
pub use meander_core::{
    Contact, Epoch, JobId, Key, Limits, Location, NodeName, PortId, Seq, StreamId, StreamKind,
    TransportKind,
};
pub use meander_verbs::registration::check as registrations_kept_here;
pub use meander_verbs::{Counters as VerbsCounters, VerbsConfig};
pub use port::Port;
pub use stream::Stream;
pub use transports::verbs_here;

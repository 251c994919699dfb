//! Meander's protocol, without I/O.
//!
//! Everything that decides is here: streams that retain, replay and drop duplicates; links that
//! prove a key before they carry anything; ports that suspend, become a value and attach again;
//! the move of a process; the directory. Everything that *does* is elsewhere: this crate opens no
//! socket, starts no thread, reads no clock, draws no random number and never touches a user's
//! memory. Time and randomness are passed in, memory is named by descriptors ([`Slice`]).
//!
//! The rules are numbered in `docs/protocol.md`; code and tests cite them as `[R12]`.
#![forbid(unsafe_code)]

pub mod directory;
mod handshake;
mod ids;
mod key;
pub mod limits;
mod location;
pub mod moves;
#[cfg_attr(not(feature = "planted-faults"), allow(dead_code))]
mod planted;
pub mod port;
mod stream;
mod table;
mod time;
pub mod transport;
pub mod wire;

pub use directory::Identity;
pub use ids::{BufferId, Epoch, JobId, LinkId, MoveId, NodeName, PortId, Seq, StreamId};
pub use key::Key;
pub use limits::Limits;
pub use location::{Card, Contact, Location, TransportKind};
#[cfg(feature = "planted-faults")]
pub use planted::{PlantedFault, plant};
pub use stream::StreamKind;
pub use time::Time;
pub use transport::{Place, Slice};

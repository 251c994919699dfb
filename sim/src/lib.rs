//! Ports on virtual time: core's own state machines, a network that breaks when a seed says so,
//! and checkers that know what must never happen.
//!
//! One 64-bit seed decides everything. [`run`] drives a [`World`] through traffic, broken links and
//! moves, then heals it and demands that everything arrives.

mod agents;
mod asking;
mod checkers;
pub mod conformance;
mod coverage;
mod crash;
mod directory;
pub mod exhaustive;
mod faults;
mod healing;
mod host;
mod moves;
mod network;
mod pair;
pub mod star;
mod trace;
mod transport;
mod world;

pub use checkers::{Fault, StreamName};
pub use coverage::{Coverage, REQUIRED};
pub use pair::run_script;
pub use transport::{Ether, SimTransport};
pub use world::{Plan, Report, World, run};

//! Ports on virtual time: core's own state machines, a network that breaks when a seed says so,
//! and checkers that know what must never happen.
//!
//! One 64-bit seed decides everything. [`run`] drives a [`World`] through traffic, broken links and
//! moves, then heals it and demands that everything arrives.

mod checker;
mod host;
mod network;
mod world;

pub use checker::Fault;
pub use world::{Plan, Report, World, run};

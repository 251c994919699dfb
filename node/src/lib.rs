//! The `meander` command's parts: agents, moves, and what checkpoints, restores and holds processes.

pub mod agent;
pub mod checkpoint;
pub mod cluster;
pub mod commands;
pub mod directory;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod guardian;
pub mod hidden;
pub mod keyfile;
pub mod logs;
pub mod moves;
pub mod net;
pub mod process;
pub mod shadow;
pub mod user;

pub use error::Error;

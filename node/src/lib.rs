//! The `meander` command's parts: agents, moves, and what checkpoints, restores and holds processes.

pub mod checkpoint;
pub mod cluster;
pub mod directory;
mod error;
pub mod guardian;
pub mod hidden;
pub mod keyfile;
pub mod net;
pub mod shadow;

pub use error::Error;

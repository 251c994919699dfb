//! The `meander` command's parts: agents, moves, and what checkpoints, restores and holds processes.

pub mod checkpoint;
pub mod guardian;
pub mod hidden;
pub mod shadow;

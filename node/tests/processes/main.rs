//! Processes are held, dumped, restored and moved: a plain program, no MPI, no agents.
//!
//! They want root, and a CRIU (`cargo xtask setup` makes one).

mod guarded;
mod held;
mod launcher;
mod obstacles;

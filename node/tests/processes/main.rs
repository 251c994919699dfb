//! Processes are held, dumped, restored and moved: a plain program, no MPI, no agents.
//!
//! As root, with a CRIU (`ci/criu-tree.sh`); elsewhere these tests say that they are skipped.

mod guarded;
mod held;
mod launcher;
mod obstacles;

//! Ourselves beside others, in one run: an MPI program under the shim beside native libraries ([`mpi`]),
//! and streams over verbs beside the tools that measure verbs ([`rxe`]).
//!
//! For each thing that is measured all take turns, round after round, each in fresh processes; what
//! counts is the median of the rounds.

pub mod mpi;
mod pair;
mod rows;
pub mod rxe;
mod turns;
mod ucx;

/// 2^20 in 10^6: what tools call a megabyte, and what we do.
const MIB: f64 = 1.048_576;

/// The words of a command.
fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

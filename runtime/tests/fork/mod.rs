//! The one place where a test of the runtime forks.

use nix::unistd::{ForkResult, fork};

/// Forks this process, whatever its other threads do.
pub fn this_process() -> ForkResult {
    // SAFETY: the child may not take a lock that another thread of the parent held. Its callers
    // only use ports, which is what they test, and then exit.
    unsafe { fork() }.expect("another process fits")
}

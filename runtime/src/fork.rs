//! A forked child has a copy of the port and shares its sockets: it must not use them.
//!
//! The C library is asked to tell of forks, so that no call need ask the system which process this is: that
//! took as long as all else of a small message. A child made past it, by a bare `clone(2)`, is not told
//! from its parent.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the forks between the process that opened the first port and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A process, as far as a port must tell it from its children.
pub(crate) struct Process {
    /// Its id, where forks are not counted.
    pid: Option<u32>,
    generation: u32,
}

impl Process {
    pub fn this() -> Process {
        Process {
            pid: (!forks_are_counted()).then(std::process::id),
            generation: GENERATION.load(Ordering::Relaxed),
        }
    }

    /// Whether this is no longer that process, but a child of it.
    pub fn is_forked(&self) -> bool {
        GENERATION.load(Ordering::Relaxed) != self.generation
            || self.pid.is_some_and(|pid| pid != std::process::id())
    }
}

/// Whether they are from now on: there may be no memory for that.
fn forks_are_counted() -> bool {
    static COUNTED: OnceLock<bool> = OnceLock::new();
    // SAFETY: the handler is a function of this object; should that be unloaded, the C library forgets
    // what it has registered. It is safe to call in a forked child, for it only counts.
    *COUNTED.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(in_child)) } == 0)
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

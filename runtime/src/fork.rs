//! A forked child has a copy of the port and shares its sockets: it must not use them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Counts the forks between the first process and this one, where they are announced.
static GENERATION: AtomicU32 = AtomicU32::new(0);
static ANNOUNCED: AtomicBool = AtomicBool::new(false);

/// For a library that can register a handler with `pthread_atfork(3)`: the function that it must
/// have called in every forked child. From now on ports rely on that, and no longer ask the system
/// at every call which process this is.
pub fn announce_forks() -> fn() {
    ANNOUNCED.store(true, Ordering::Relaxed);
    || {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
}

/// A process, as far as a port must tell it from its children.
pub(crate) struct Process {
    pid: u32,
    generation: u32,
}

impl Process {
    pub fn this() -> Process {
        Process {
            pid: std::process::id(),
            generation: GENERATION.load(Ordering::Relaxed),
        }
    }

    /// Whether this is no longer that process, but a child of it.
    pub fn is_forked(&self) -> bool {
        if GENERATION.load(Ordering::Relaxed) != self.generation {
            return true;
        }
        !ANNOUNCED.load(Ordering::Relaxed) && std::process::id() != self.pid
    }
}

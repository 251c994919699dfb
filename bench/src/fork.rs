//! Announces forks to the runtime, as the MPI shim does.

use std::sync::OnceLock;

static FORKED: OnceLock<fn()> = OnceLock::new();

/// From now on ports need not ask the system which process this is.
pub fn announce() {
    // SAFETY: the handler is a function of this program, which is never unloaded; it is safe to
    // call in a forked child, for it only reads one static and counts in another.
    let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    if failed == 0 {
        FORKED.get_or_init(meander::announce_forks);
    }
}

extern "C" fn in_child() {
    if let Some(forked) = FORKED.get() {
        forked();
    }
}

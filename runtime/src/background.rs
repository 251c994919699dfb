//! The thread that makes progress while the program does something else: handshakes,
//! acknowledgements, pulls, mending of links.
//!
//! It keeps out of the way. While the program calls the port it dozes; while a thread of the
//! program sleeps in the port, which then does this work itself, it waits for that one to leave;
//! while the port is suspended it waits for the end of that. Only else does it sleep on the
//! transport.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Error;
use crate::shared::Shared;

/// How long the program must have left the port alone.
const QUIET: Duration = Duration::from_millis(20);

/// Starts the thread. It ends when the port is gone.
pub(crate) fn start(shared: Arc<Shared>) -> Result<(), Error> {
    spawn("meander-port", move || run(&shared))
}

/// A thread of ours: it takes none of the program's signals, and none of its binding to a core.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let failed = |operation| move |source: std::io::Error| Error::Io { operation, source };
    // The mask is inherited: blocked here first, so that no signal finds the thread unprepared.
    let before = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .map_err(|errno| failed("pthread_sigmask")(errno.into()))?;
    let spawned = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            unbind();
            body();
        });
    let _ = before.thread_set_mask();
    spawned.map(|_| ()).map_err(failed("clone"))
}

/// Every processor that the system lets this process have.
fn unbind() {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|processor| all.set(processor));
    // Where that is refused, the thread runs where the program does.
    let _ = sched_setaffinity(None, &all);
}

fn run(shared: &Shared) {
    let mut seen = 0;
    let Ok(mut state) = shared.look() else { return };
    while shared.wait_attached(&mut state) {
        if state.waiting > 0 {
            state.dozing = true;
            shared.doze.wait(&mut state);
            state.dozing = false;
            continue;
        }
        let activity = shared.activity();
        if activity != seen {
            seen = activity;
            shared.doze.wait_for(&mut state, QUIET);
            continue;
        }
        shared.drive(&mut state);
        shared.watching.store(true, Ordering::Relaxed);
        state = shared.sleep(state, None);
        shared.watching.store(false, Ordering::Relaxed);
    }
}

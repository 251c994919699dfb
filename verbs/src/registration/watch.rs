//! Memory of this process that is watched for changes by a userfaultfd, with its monitor.

use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::monitor::{self, Shared};
use super::sys::{self, ClosedByChildren};

/// How often `settle` gives way to the monitor, then sleeps, before it gives up.
const YIELDS: usize = 100;
const SLEEPS: usize = 40;
const SLEEP: Duration = Duration::from_micros(50);

/// The watched memory of a cache. Dropping it ends the watch and the thread, and closes every
/// descriptor. In a forked child it must be forgotten instead: its thread is not there, and its
/// descriptors are closed already.
pub struct Watch {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    fd: Option<Arc<OwnedFd>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    closed_by_children: Option<ClosedByChildren>,
}

impl Watch {
    /// Nothing is watched yet.
    pub fn start() -> std::io::Result<Watch> {
        let fd = Arc::new(sys::userfaultfd()?);
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let closed = ClosedByChildren::list(fd.as_raw_fd());
        let closed_by_children = Some(closed.ok_or(Errno::USERS)?);
        let shared = Arc::new(Shared::new());
        let (theirs, events, stopped) = (Arc::clone(&shared), Arc::clone(&fd), Arc::clone(&stop));
        let thread = sys::with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("meander-watch".to_owned())
                .spawn(move || monitor::run(&theirs, events, &stopped))
        })?;
        Ok(Watch {
            shared,
            fd: Some(fd),
            stop,
            thread: Some(thread),
            closed_by_children,
        })
    }

    /// Watches whole pages, until they are unmapped or this value is dropped; if they are not wanted
    /// any longer, who changes them loses a little time. Fails where another userfaultfd watches a
    /// part of them.
    pub fn add(&self, pages: &Range<usize>) -> Result<(), Errno> {
        sys::watch(self.fd(), pages.start, pages.len())
    }

    /// Waits until [`Watch::take`] has every change that was made, by whichever thread, before any
    /// memory could be mapped where this thread sees it now. That is:
    ///
    /// 1. the kernel has no change in flight (it counts one before the memory goes, under the lock
    ///    that mmap(2) takes to give the addresses to another; the count falls when the event has
    ///    been read, which need not be when munmap(2) returns: two threads may unmap at a time);
    /// 2. then, the monitor has written what it has read.
    ///
    /// `false`: it took too long (the monitor got no processor), and nothing can be said.
    pub fn settle(&self) -> bool {
        for attempt in 0..YIELDS + SLEEPS {
            if !sys::changing(self.fd()) && self.shared.is_written() {
                return true;
            }
            if attempt < YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(SLEEP);
            }
        }
        false
    }

    /// The addresses of the oldest change that has not been taken.
    pub fn take(&self) -> Option<Range<usize>> {
        self.shared.take()
    }

    /// Whether changes were lost since this was last asked.
    pub fn take_overflowed(&self) -> bool {
        self.shared.take_overflowed()
    }

    /// Whether changes are no longer told.
    pub fn is_broken(&self) -> bool {
        self.shared.is_broken()
    }

    fn fd(&self) -> &OwnedFd {
        self.fd.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // First: the number may be given to another file as soon as the monitor has closed it.
        drop(self.closed_by_children.take());
        let fd = self.fd.take();
        if self.is_broken() {
            std::mem::forget(fd); // Somebody has closed it.
        } else {
            // The monitor has the last one. It closes it before it ends, that is before it frees
            // anything: a thread that holds malloc's lock may be waiting for it.
            drop(fd);
        }
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

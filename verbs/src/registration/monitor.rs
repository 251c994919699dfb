//! The thread that reads a userfaultfd's events, and how `get` hears of them.
//!
//! Whoever unmaps watched memory waits in the kernel until this thread has READ the event. He may
//! hold any lock meanwhile, the port's or malloc's (which gives memory back while it holds an
//! arena's), and the cache's user may be he himself. So the thread takes no lock, allocates nothing
//! and frees nothing as long as there may be somebody who waits: it reads into its stack and writes
//! numbers into a ring that was there before.
//!
//! But he waits for the reading only, and could map other memory there and call `get` before the
//! event is in the ring. So the thread counts [`Shared::turn`] up before it reads and again after
//! it has written: an odd number says "wait a moment". Nothing else reads the descriptor.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Events that may wait for the next `get`; when there are more, everything counts as changed.
const EVENTS_WAITING: usize = 1024;
/// Events that are read at a time.
const EVENTS_READ: usize = 16;
/// `struct uffd_msg` of linux/userfaultfd.h: an event's number, then three words at 8, 16 and 24.
const EVENT_BYTES: usize = 32;
const EVENT_REMAP: u8 = 0x14;
const EVENT_REMOVE: u8 = 0x15;
const EVENT_UNMAP: u8 = 0x16;

/// Between the monitor, which only writes, and one cache, which only reads.
pub struct Shared {
    /// Odd while the monitor may have read an event that is not in the ring yet.
    turn: AtomicUsize,
    /// Events ever written, and ever taken out.
    written: AtomicUsize,
    taken: AtomicUsize,
    /// Where what was mapped is no longer what is (unmapped, moved away, discarded): start and end.
    ring: [(AtomicUsize, AtomicUsize); EVENTS_WAITING],
    /// Events were lost, since the ring was full.
    overflowed: AtomicBool,
    /// The descriptor can no longer be read: somebody has closed it.
    broken: AtomicBool,
}

impl Shared {
    /// Nothing has happened yet.
    pub fn new() -> Shared {
        Shared {
            turn: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            ring: [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; EVENTS_WAITING],
            overflowed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }
    }

    /// Whether every event that was read is in the ring.
    pub fn is_written(&self) -> bool {
        self.turn.load(Ordering::SeqCst).is_multiple_of(2)
    }

    /// The oldest event that has not been taken.
    pub fn take(&self) -> Option<Range<usize>> {
        let taken = self.taken.load(Ordering::Relaxed);
        if taken == self.written.load(Ordering::Acquire) {
            return None;
        }
        let (start, end) = &self.ring[taken % EVENTS_WAITING];
        let range = start.load(Ordering::Relaxed)..end.load(Ordering::Relaxed);
        // The place may be written again from now on.
        self.taken.store(taken.wrapping_add(1), Ordering::Release);
        Some(range)
    }

    /// Whether events were lost since this was last asked.
    pub fn take_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Acquire) && self.overflowed.swap(false, Ordering::AcqRel)
    }

    /// Whether no more events will come, though memory changes.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn write(&self, changed: Range<usize>) {
        let written = self.written.load(Ordering::Relaxed);
        if written.wrapping_sub(self.taken.load(Ordering::Acquire)) == EVENTS_WAITING {
            self.overflowed.store(true, Ordering::Release);
            return;
        }
        let place = &self.ring[written % EVENTS_WAITING];
        place.0.store(changed.start, Ordering::Relaxed);
        place.1.store(changed.end, Ordering::Relaxed);
        self.written
            .store(written.wrapping_add(1), Ordering::Release);
    }

    fn write_message(&self, message: &[u8; EVENT_BYTES]) {
        let word = |at: usize| {
            let bytes = message[at..at + 8].try_into().expect("eight bytes");
            u64::from_ne_bytes(bytes) as usize
        };
        match message[0] {
            EVENT_UNMAP | EVENT_REMOVE => self.write(word(8)..word(16)),
            // From, to, length. Where it has gone to, an unmapping was told if there was anything.
            EVENT_REMAP => self.write(word(8)..word(8) + word(24)),
            _ => {}
        }
    }
}

/// The thread: reads until `stop` can be read, then closes the descriptor, so that whoever waits
/// for an event to be read goes on. Only what it does after that may allocate or free.
pub fn run(shared: &Shared, fd: Arc<OwnedFd>, stop: &OwnedFd) {
    let mut messages = [[0_u8; EVENT_BYTES]; EVENTS_READ];
    loop {
        let mut waited = [
            PollFd::new(&*fd, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut waited, None) {
            Ok(_) => {}
            Err(Errno::INTR | Errno::AGAIN | Errno::NOMEM) => continue,
            Err(_) => break,
        }
        if !waited[1].revents().is_empty() {
            return;
        }
        shared.turn.fetch_add(1, Ordering::SeqCst);
        let read = rustix::io::read(fd.as_fd(), messages.as_flattened_mut());
        if let Ok(bytes) = read {
            let whole = &messages[..bytes / EVENT_BYTES];
            whole
                .iter()
                .for_each(|message| shared.write_message(message));
        }
        shared.turn.fetch_add(1, Ordering::SeqCst);
        match read {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => break,
        }
    }
    shared.broken.store(true, Ordering::Release);
    // The number is no longer that of our descriptor: to close it would close another's.
    std::mem::forget(fd);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: usize) -> Range<usize> {
        number * 4096..(number + 1) * 4096
    }

    #[test]
    fn events_come_in_their_order() {
        let shared = Shared::new();
        for round in 0..EVENTS_WAITING * 3 {
            shared.write(page(round));
            shared.write(page(round + 7));
            assert_eq!(shared.take(), Some(page(round)));
            assert_eq!(shared.take(), Some(page(round + 7)));
            assert_eq!(shared.take(), None);
        }
        assert!(!shared.take_overflowed());
    }

    #[test]
    fn a_full_ring_says_so_once() {
        let shared = Shared::new();
        (0..=EVENTS_WAITING).for_each(|number| shared.write(page(number)));
        assert!(shared.take_overflowed());
        assert!(!shared.take_overflowed());
        let taken: Vec<_> = std::iter::from_fn(|| shared.take()).collect();
        assert_eq!(taken.len(), EVENTS_WAITING);
        assert_eq!(taken.last(), Some(&page(EVENTS_WAITING - 1)));
    }
}

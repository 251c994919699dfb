//! Shared memory without a stream: what two processes of a machine can do at best.
//!
//! [`Ring`] is a ring of cache lines each way, each with its own number, so that a small message and the word
//! that it is there are one line. [`Copied`] copies a message once, from where its sender has it.

use std::cell::UnsafeCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use serde::{Deserialize, Serialize};

use crate::line::{Idle, Line, Pipe};

/// Lines of a ring.
const SLOTS: usize = 1024;
/// Bytes of a message in a line, beside its number.
const SLOT_BYTES: usize = 56;
/// The sender hears that lines are free when so many are.
const FREED_AT_ONCE: u64 = SLOTS as u64 / 4;
/// Messages that [`Copied`] may announce before one is copied.
const ANNOUNCED_MAX: u64 = 8;
const PAGE_BYTES: usize = 4096;

/// One line of a ring: its number, from 1, is written last.
#[repr(C, align(64))]
struct Slot {
    number: AtomicU64,
    bytes: UnsafeCell<[u8; SLOT_BYTES]>,
}

/// A number with a cache line of its own.
#[repr(C, align(64))]
struct Count(AtomicU64);

/// What goes in one direction. All zeros is its beginning.
#[repr(C)]
struct Way {
    slots: [Slot; SLOTS],
    freed: Count,
    announced: Count,
    copied: Count,
}

/// Memory that both processes have: two ways, and an area of messages for each.
pub struct Segment {
    base: NonNull<u8>,
    len: usize,
    message_bytes_max: usize,
    file: File,
}

/// How the other process finds it.
#[derive(Serialize, Deserialize)]
pub struct SegmentName {
    path: PathBuf,
    message_bytes_max: usize,
}

// SAFETY: it is only memory; what of it is written after its making is atomic, or belongs to one side of a
// way until an atomic number says otherwise.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// With room for messages of this many bytes. What is never used takes no memory.
    pub fn make(message_bytes_max: usize) -> Result<Segment> {
        let file = File::from(memfd_create("meander-bench", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, Segment::len_for(message_bytes_max) as u64)?;
        Segment::map(file, message_bytes_max)
    }

    pub fn name(&self) -> SegmentName {
        let (process, file) = (std::process::id(), self.file.as_raw_fd());
        SegmentName {
            path: format!("/proc/{process}/fd/{file}").into(),
            message_bytes_max: self.message_bytes_max,
        }
    }

    /// The segment of the process that named it, and that still has it.
    pub fn open(name: &SegmentName) -> Result<Segment> {
        let file = OpenOptions::new().read(true).write(true).open(&name.path);
        let file = file.with_context(|| format!("opening {}", name.path.display()))?;
        let there = file.metadata()?.len();
        ensure!(
            there == Segment::len_for(name.message_bytes_max) as u64,
            "the other process has another kind of shared memory"
        );
        Segment::map(file, name.message_bytes_max)
    }

    fn map(file: File, message_bytes_max: usize) -> Result<Segment> {
        let len = Segment::len_for(message_bytes_max);
        // SAFETY: a new mapping at an address of the kernel's choice; it lasts until the segment is dropped.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )?
        };
        Ok(Segment {
            base: NonNull::new(base.cast()).context("mapped at address 0")?,
            len,
            message_bytes_max,
            file,
        })
    }

    fn len_for(message_bytes_max: usize) -> usize {
        2 * (size_of::<Way>().next_multiple_of(PAGE_BYTES)
            + message_bytes_max.next_multiple_of(PAGE_BYTES))
    }

    fn way(&self, number: usize) -> &Way {
        let offset = number * size_of::<Way>().next_multiple_of(PAGE_BYTES);
        // SAFETY: the mapping has two ways at its beginning, aligned to pages, as long as the segment is
        // there; any bytes are a `Way`, and both processes change them through atomics and cells only.
        unsafe { self.base.add(offset).cast::<Way>().as_ref() }
    }

    /// Where the messages of a way are.
    fn area(&self, number: usize) -> NonNull<u8> {
        let ways = 2 * size_of::<Way>().next_multiple_of(PAGE_BYTES);
        let offset = ways + number * self.message_bytes_max.next_multiple_of(PAGE_BYTES);
        // SAFETY: within the mapping, by `len_for`.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`; whoever uses it holds the segment.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Which of the two processes this is: the way that it sends on.
#[derive(Clone, Copy)]
pub enum Side {
    Measuring,
    Answering,
}

impl Side {
    fn ways(self) -> (usize, usize) {
        match self {
            Side::Measuring => (0, 1),
            Side::Answering => (1, 0),
        }
    }
}

/// A ring each way.
pub struct Ring {
    segment: Arc<Segment>,
    side: Side,
    sent: u64,
    received: u64,
    /// What was last seen of the other's `freed`.
    free_from: u64,
}

impl Ring {
    pub fn new(segment: Arc<Segment>, side: Side) -> Ring {
        Ring {
            segment,
            side,
            sent: 0,
            received: 0,
            free_from: 0,
        }
    }
}

impl Pipe for Ring {
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let way = self.segment.way(self.side.ways().0);
        let mut written = 0;
        for chunk in bytes.chunks(SLOT_BYTES) {
            if self.sent - self.free_from == SLOTS as u64 {
                self.free_from = way.freed.0.load(Ordering::Acquire);
                if self.sent - self.free_from == SLOTS as u64 {
                    break;
                }
            }
            let slot = &way.slots[self.sent as usize % SLOTS];
            // SAFETY: the receiver has freed this line, and looks at its bytes only once the number is there.
            unsafe {
                ptr::copy_nonoverlapping(chunk.as_ptr(), slot.bytes.get().cast(), chunk.len())
            };
            self.sent += 1;
            slot.number.store(self.sent, Ordering::Release);
            written += chunk.len();
        }
        Ok(written)
    }

    fn read_some(&mut self, place: &mut [u8]) -> io::Result<usize> {
        let way = self.segment.way(self.side.ways().1);
        let mut read = 0;
        for chunk in place.chunks_mut(SLOT_BYTES) {
            let slot = &way.slots[self.received as usize % SLOTS];
            if slot.number.load(Ordering::Acquire) != self.received + 1 {
                break;
            }
            // SAFETY: the number says that the sender has written this line, and it is not freed yet.
            unsafe {
                ptr::copy_nonoverlapping(slot.bytes.get().cast(), chunk.as_mut_ptr(), chunk.len())
            };
            self.received += 1;
            read += chunk.len();
            if self.received.is_multiple_of(FREED_AT_ONCE) {
                way.freed.0.store(self.received, Ordering::Release);
            }
        }
        Ok(read)
    }
}

/// Messages that are copied once, by their receiver. They stay where they are, and are never written again:
/// as with a program that sends the same memory again and again.
pub struct Copied {
    segment: Arc<Segment>,
    side: Side,
    sent: u64,
    received: u64,
    place: Vec<u8>,
}

impl Copied {
    pub fn new(segment: Arc<Segment>, side: Side) -> Copied {
        Copied {
            segment,
            side,
            sent: 0,
            received: 0,
            place: Vec::new(),
        }
    }
}

impl Line for Copied {
    fn send(&mut self, _: &Arc<Vec<u8>>) -> Result<()> {
        let way = self.segment.way(self.side.ways().0);
        let mut idle = Idle::default();
        while self.sent - way.copied.0.load(Ordering::Acquire) == ANNOUNCED_MAX {
            idle.again();
        }
        self.sent += 1;
        way.announced.0.store(self.sent, Ordering::Release);
        Ok(())
    }

    fn receive(&mut self, len: usize) -> Result<()> {
        ensure!(
            len <= self.segment.message_bytes_max,
            "{len} bytes are not there"
        );
        let number = self.side.ways().1;
        let way = self.segment.way(number);
        let mut idle = Idle::default();
        while way.announced.0.load(Ordering::Acquire) == self.received {
            idle.again();
        }
        self.place.resize(len, 0);
        // SAFETY: the area has that many bytes, and nobody writes them.
        unsafe {
            ptr::copy_nonoverlapping(
                self.segment.area(number).as_ptr(),
                self.place.as_mut_ptr(),
                len,
            );
        }
        std::hint::black_box(&self.place);
        self.received += 1;
        way.copied.0.store(self.received, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::Raw;

    fn ends() -> (Arc<Segment>, Arc<Segment>) {
        let near = Segment::make(10_000).unwrap();
        let far = Segment::open(&near.name()).unwrap();
        (Arc::new(near), Arc::new(far))
    }

    #[test]
    fn what_goes_into_a_ring_comes_out() {
        let (near, far) = ends();
        let mut near = Ring::new(near, Side::Measuring);
        let mut far = Ring::new(far, Side::Answering);
        for round in 0..50u32 {
            let message: Vec<u8> = (0..9_999u32).map(|at| (at * 7 + round) as u8).collect();
            assert_eq!(near.write_some(&message).unwrap(), message.len());
            let mut place = vec![0; message.len()];
            assert_eq!(far.read_some(&mut place).unwrap(), place.len());
            assert_eq!(place, message);
        }
        assert_eq!(far.read_some(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_full_ring_takes_no_more_until_lines_are_freed() {
        let (near, far) = ends();
        let mut near = Ring::new(near, Side::Measuring);
        let mut far = Ring::new(far, Side::Answering);
        let room = SLOTS * SLOT_BYTES;
        assert_eq!(near.write_some(&vec![1; 2 * room]).unwrap(), room);
        assert_eq!(near.write_some(&[1]).unwrap(), 0);
        let mut place = vec![0; room / 2];
        assert_eq!(far.read_some(&mut place).unwrap(), room / 2);
        assert_eq!(near.write_some(&vec![1; room]).unwrap(), room / 2);
    }

    #[test]
    fn both_ends_exchange_more_than_the_ring_holds() {
        let (near, far) = ends();
        let message = Arc::new(vec![3; 200_000]);
        let there = Arc::clone(&message);
        let other = std::thread::spawn(move || {
            Raw::new(Ring::new(far, Side::Answering))
                .exchange(&there, 5)
                .unwrap();
        });
        Raw::new(Ring::new(near, Side::Measuring))
            .exchange(&message, 5)
            .unwrap();
        other.join().unwrap();
    }

    #[test]
    fn copied_messages_wait_for_their_receiver() {
        let (near, far) = ends();
        let message = Arc::new(vec![0; 10_000]);
        let other = std::thread::spawn(move || {
            let mut far = Copied::new(far, Side::Answering);
            (0..100).for_each(|_| far.receive(10_000).unwrap());
            assert!(far.receive(10_001).is_err());
        });
        let mut near = Copied::new(near, Side::Measuring);
        (0..100).for_each(|_| near.send(&message).unwrap());
        other.join().unwrap();
    }
}

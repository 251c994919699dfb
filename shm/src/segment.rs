//! The memory that two ports share: how it is made, passed, mapped and laid out.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4096 | words of both sides, those with one writer together, others apart |
//! | then | the slots of the dialler's ring, then the acceptor's |
//! | then | their rings of bytes |
//!
//! The system gives zeros, which is the state that rings begin in. Only pages that were touched
//! take memory.
//!
//! About `unsafe`: a [`Segment`] owns its mapping until it is dropped, and whatever points into it holds
//! an [`Arc`] of it. The memory can't be taken away by the peer: the file is sealed against shrinking
//! before it is mapped. The peer may write anything anywhere in it at any time. Therefore words are
//! atomics, and all else is copied by raw pointers between the mapping and this process's own memory, never
//! lent as a reference; what a peer that breaks the protocol writes meanwhile makes the copy's bytes
//! wrong, and they are checked after it, not before.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use crate::header::{ITEM_BYTES, LINE_BYTES};
use crate::limits::{BODY_BYTES, SLOT_BYTES, SLOTS};
use crate::ring::{Area, Word};

/// A mapping of the memory that two ports share.
pub(crate) struct Segment {
    base: NonNull<u8>,
    /// The process that mapped it; a forked child does not have the mapping.
    process: u32,
}

// SAFETY: the mapping is not bound to a thread, and the methods only use its words as atomics.
unsafe impl Send for Segment {}
// SAFETY: as above; everything else goes through `Direction`, of which each side has one.
unsafe impl Sync for Segment {}

/// One of the two sides of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Dialler,
    Acceptor,
}

/// One direction's part of a segment.
pub(crate) struct Direction {
    segment: Arc<Segment>,
    /// Who writes the ring.
    from: Side,
}

const WORDS_BYTES: usize = 4096;
const RING_BYTES: usize = SLOTS * SLOT_BYTES;
/// Bytes of a segment.
pub(crate) const SEGMENT_BYTES: usize = WORDS_BYTES + 2 * RING_BYTES + 2 * BODY_BYTES;

/// Words that one side writes for the other, by their place in its part of the first page.
const PART_BYTES: usize = 2048;
const CLOSED: usize = 0;
const CAN_PULL: usize = 8;
const SLOTS_READ: usize = 256;
const BYTES_READ: usize = 264;
const READER_SLEEPS: usize = 512;
const WRITER_SLEEPS: usize = 768;

const _: () = assert!(SLOTS.is_power_of_two() && BODY_BYTES.is_power_of_two());
const _: () = assert!(SLOT_BYTES == LINE_BYTES + 8 + 64 && SLOT_BYTES == ITEM_BYTES + 8);

impl Segment {
    /// A new one, and the file to pass to the other side.
    pub(crate) fn create() -> Result<(Arc<Segment>, OwnedFd), Errno> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("meander-shm", flags)?;
        ftruncate(&file, SEGMENT_BYTES as u64)?;
        fcntl_add_seals(&file, SEALS | SealFlags::SEAL)?;
        Ok((Segment::map(&file)?, file))
    }

    /// One that the other side has made; it must have the right size, for good. `[R71]`
    pub(crate) fn of_peer(file: impl AsFd) -> Result<Arc<Segment>, Errno> {
        let seals = fcntl_get_seals(&file)?;
        if !seals.contains(SEALS) || fstat(&file)?.st_size != SEGMENT_BYTES as i64 {
            return Err(Errno::INVAL);
        }
        Segment::map(file)
    }

    fn map(file: impl AsFd) -> Result<Arc<Segment>, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the system's choice aliases nothing. The file has
        // `SEGMENT_BYTES` bytes and is sealed against shrinking, so every page of it is there
        // until `drop` unmaps it.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                SEGMENT_BYTES,
                access,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        let segment = Segment {
            base: NonNull::new(base.cast()).ok_or(Errno::NOMEM)?,
            process: std::process::id(),
        };
        // SAFETY: it is the mapping that was just made, all of it. A child that is forked later
        // has nothing at these addresses; `drop` does not touch them there.
        unsafe { madvise(base, SEGMENT_BYTES, Advice::LinuxDontFork)? };
        Ok(Arc::new(segment))
    }

    /// From now on nothing of this side's memory may be believed that is read after this was seen.
    pub(crate) fn close(&self, side: Side) {
        self.word(side.part() + CLOSED).store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Whether the other side has closed. Called after its memory has been read.
    pub(crate) fn is_closed_by(&self, side: Side) -> bool {
        fence(Ordering::SeqCst);
        self.word(side.part() + CLOSED).load(Ordering::SeqCst) != 0
    }

    /// This side can read the other's memory.
    pub(crate) fn set_can_pull(&self, side: Side) {
        self.word(side.part() + CAN_PULL)
            .store(1, Ordering::Relaxed);
    }

    /// Whether a side says that it can read the other's memory.
    pub(crate) fn can_pull(&self, side: Side) -> bool {
        self.word(side.part() + CAN_PULL).load(Ordering::Relaxed) != 0
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= SEGMENT_BYTES);
        // SAFETY: inside the mapping, which lives as long as `self`; aligned, as the base is to a page. Both
        // processes use these eight bytes as an atomic only; one that does not breaks no more
        // than the value.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// Where a copy of `len` bytes at `at` begins.
    fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at <= SEGMENT_BYTES && len <= SEGMENT_BYTES - at);
        // SAFETY: inside the mapping, as was just checked.
        unsafe { self.base.as_ptr().add(at) }
    }
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

impl Drop for Segment {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        // SAFETY: this value made the mapping and is the last to know of it: whatever points into it holds
        // an `Arc` of this value.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), SEGMENT_BYTES) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

impl Side {
    pub(crate) fn other(self) -> Side {
        match self {
            Side::Dialler => Side::Acceptor,
            Side::Acceptor => Side::Dialler,
        }
    }

    fn part(self) -> usize {
        PART_BYTES * self as usize
    }
}

impl Direction {
    pub(crate) fn new(segment: Arc<Segment>, from: Side) -> Direction {
        Direction { segment, from }
    }

    #[inline]
    fn slot(&self, slot: usize) -> usize {
        WORDS_BYTES + RING_BYTES * self.from as usize + slot * SLOT_BYTES
    }

    fn body(&self, at: usize) -> usize {
        WORDS_BYTES + 2 * RING_BYTES + BODY_BYTES * self.from as usize + at
    }
}

impl Area for Direction {
    type Word = AtomicU64;

    fn slots(&self) -> u64 {
        SLOTS as u64
    }

    fn body_bytes(&self) -> u64 {
        BODY_BYTES as u64
    }

    #[inline]
    fn ready(&self, slot: usize) -> &AtomicU64 {
        self.segment.word(self.slot(slot))
    }

    fn slots_read(&self) -> &AtomicU64 {
        self.segment.word(self.from.other().part() + SLOTS_READ)
    }

    fn bytes_read(&self) -> &AtomicU64 {
        self.segment.word(self.from.other().part() + BYTES_READ)
    }

    fn reader_sleeps(&self) -> &AtomicU64 {
        self.segment.word(self.from.other().part() + READER_SLEEPS)
    }

    fn writer_sleeps(&self) -> &AtomicU64 {
        self.segment.word(self.from.part() + WRITER_SLEEPS)
    }

    #[inline]
    fn fence(&self, order: Ordering) {
        fence(order);
    }

    #[inline]
    fn write_slot(&self, slot: usize, bytes: &[u8; ITEM_BYTES], len: usize) {
        let to = self.segment.at(self.slot(slot) + 8, ITEM_BYTES);
        // SAFETY: both ends are as long as is copied, and apart, one being in the mapping. The reader does not
        // read the slot before its ready word says so.
        unsafe {
            if len <= LINE_BYTES {
                to.copy_from_nonoverlapping(bytes.as_ptr(), LINE_BYTES);
            } else {
                to.copy_from_nonoverlapping(bytes.as_ptr(), ITEM_BYTES);
            }
        }
    }

    #[inline]
    fn read_slot(&self, slot: usize, bytes: &mut [u8; ITEM_BYTES], long: bool) {
        let from = self.segment.at(self.slot(slot) + 8, ITEM_BYTES);
        // SAFETY: both ends are as long as is copied, and apart, one being in the mapping. The writer does not
        // write the slot before it has been told that it was read; if it does, the bytes are wrong.
        unsafe {
            if long {
                from.copy_to_nonoverlapping(bytes.as_mut_ptr(), ITEM_BYTES);
            } else {
                from.copy_to_nonoverlapping(bytes.as_mut_ptr(), LINE_BYTES);
            }
        }
    }

    fn write_body(&self, at: usize, bytes: &[u8]) {
        assert!(at <= BODY_BYTES && bytes.len() <= BODY_BYTES - at);
        let to = self.segment.at(self.body(at), bytes.len());
        // SAFETY: as for a slot.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn read_body(&self, at: usize, bytes: &mut [u8]) {
        assert!(at <= BODY_BYTES && bytes.len() <= BODY_BYTES - at);
        let from = self.segment.at(self.body(at), bytes.len());
        // SAFETY: as for a slot.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
    }
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    #[inline]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        AtomicU64::swap(self, value, order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[R71]`
    #[test]
    fn a_file_that_could_shrink_or_has_another_size_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("test", flags).unwrap();
        ftruncate(&file, SEGMENT_BYTES as u64).unwrap();
        assert!(Segment::of_peer(&file).is_err());
        fcntl_add_seals(&file, SealFlags::GROW).unwrap();
        assert!(Segment::of_peer(&file).is_err());
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        assert!(Segment::of_peer(&file).is_ok());
        let file = rustix::fs::memfd_create("test", flags).unwrap();
        ftruncate(&file, SEGMENT_BYTES as u64 - 1).unwrap();
        fcntl_add_seals(&file, SEALS).unwrap();
        assert!(Segment::of_peer(&file).is_err());
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(Segment::of_peer(&null).is_err());
    }

    #[test]
    fn what_one_maps_the_other_sees() {
        let (one, file) = Segment::create().unwrap();
        let other = Segment::of_peer(&file).unwrap();
        assert!(!other.is_closed_by(Side::Dialler) && !other.can_pull(Side::Dialler));
        one.close(Side::Dialler);
        one.set_can_pull(Side::Acceptor);
        assert!(other.is_closed_by(Side::Dialler) && !other.is_closed_by(Side::Acceptor));
        assert!(other.can_pull(Side::Acceptor) && !other.can_pull(Side::Dialler));
        for from in [Side::Dialler, Side::Acceptor] {
            let there = Direction::new(Arc::clone(&one), from);
            let here = Direction::new(Arc::clone(&other), from);
            let mut bytes = [0; 100];
            there.write_body(BODY_BYTES - 100, &[from as u8 + 1; 100]);
            here.read_body(BODY_BYTES - 100, &mut bytes);
            assert_eq!(bytes, [from as u8 + 1; 100]);
            let mut item = [0; ITEM_BYTES];
            there.write_slot(SLOTS - 1, &[from as u8 + 7; ITEM_BYTES], ITEM_BYTES);
            here.read_slot(SLOTS - 1, &mut item, true);
            assert_eq!(item, [from as u8 + 7; ITEM_BYTES]);
        }
    }
}

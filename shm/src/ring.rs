//! One direction of a link: a ring of slots, and beside it a ring of bytes for what they can't hold.
//!
//! One side writes, one reads. A slot's ready word carries the number of the item in it, so that
//! nothing is ever cleared and the two sides share no counter while there is room: the writer
//! writes the slot and then its word, the reader looks at the word of the slot that comes next. How far it
//! has read the reader tells late, in a line of its own. Bodies lie in the ring of bytes in one
//! piece each, in the order of the slots that name them.
//!
//! A side that goes to sleep says so in a word, and looks again; the other side, after it has done something
//! that the sleeper may wait for, looks at that word, clears it and wakes it. A fence between the two steps
//! of each makes sure that at least one of them sees the other's first.
//!
//! The algorithm is written over [`Area`], so that loom can run it; the real area is in [`crate::segment`].

use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};

use crate::header::{ITEM_BYTES, Item};
use crate::limits;

/// A word that both sides see.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn swap(&self, value: u64, order: Ordering) -> u64;
}

/// The memory of one direction. Places outside are a fault of the caller, and a panic.
pub(crate) trait Area {
    type Word: Word;

    /// Slots; a power of two.
    fn slots(&self) -> u64;
    /// Bytes of the ring of bytes; a power of two.
    fn body_bytes(&self) -> u64;
    /// The ready word of a slot.
    fn ready(&self, slot: usize) -> &Self::Word;
    /// Slots that the reader is done with, from the start.
    fn slots_read(&self) -> &Self::Word;
    /// Bytes of bodies that it is done with.
    fn bytes_read(&self) -> &Self::Word;
    /// The reader sleeps until an item comes.
    fn reader_sleeps(&self) -> &Self::Word;
    /// The writer sleeps until there is room.
    fn writer_sleeps(&self) -> &Self::Word;
    fn fence(&self, order: Ordering);

    fn write_slot(&self, slot: usize, bytes: &[u8; ITEM_BYTES], len: usize);
    fn read_slot(&self, slot: usize, bytes: &mut [u8; ITEM_BYTES], long: bool);
    fn write_body(&self, at: usize, bytes: &[u8]);
    fn read_body(&self, at: usize, bytes: &mut [u8]);
}

/// The other side's words can't be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Nonsense;

/// What a slot holds beside its item: see [`crate::outgoing`] for the use of it.
pub(crate) type Note = u32;

/// The writing side.
pub(crate) struct Writer<A> {
    area: A,
    /// Items written, and how many of them are known to have been read.
    written: u64,
    read: u64,
    /// The same of the ring of bytes.
    bytes_written: u64,
    bytes_read: u64,
}

/// The reading side.
pub(crate) struct Reader<A> {
    area: A,
    read: u64,
    bytes_read: u64,
    /// What the writer has been told.
    told: u64,
    bytes_told: u64,
}

/// Bodies begin at multiples of this, a cache line.
const ALIGN: u64 = 64;

impl<A: Area> Writer<A> {
    pub(crate) fn new(area: A) -> Writer<A> {
        Writer {
            area,
            written: 0,
            read: 0,
            bytes_written: 0,
            bytes_read: 0,
        }
    }

    /// Whether an item can be written.
    pub(crate) fn has_slot(&mut self) -> Result<bool, Nonsense> {
        if self.written - self.read < self.area.slots() {
            return Ok(true);
        }
        self.look()?;
        Ok(self.written - self.read < self.area.slots())
    }

    /// As [`Writer::has_slot`], which comes next and finds out whether the reader's word can be.
    pub(crate) fn seems_to_have_slot(&self) -> bool {
        self.written - self.read < self.area.slots()
            || self
                .written
                .wrapping_sub(self.area.slots_read().load(Acquire))
                != self.area.slots()
    }

    /// Free slots, as of now.
    pub(crate) fn free_slots(&mut self) -> Result<u64, Nonsense> {
        self.look()?;
        Ok(self.area.slots() - (self.written - self.read))
    }

    /// Takes over how far the reader says it is.
    fn look(&mut self) -> Result<(), Nonsense> {
        let read = self.area.slots_read().load(Acquire);
        let bytes_read = self.area.bytes_read().load(Acquire);
        let sane = (self.read..=self.written).contains(&read)
            && (self.bytes_read..=self.bytes_written).contains(&bytes_read);
        if !sane {
            return Err(Nonsense);
        }
        (self.read, self.bytes_read) = (read, bytes_read);
        Ok(())
    }

    /// Where a body of so many bytes can be written now, if anywhere.
    pub(crate) fn place(&mut self, len: usize) -> Result<Option<usize>, Nonsense> {
        if let Some((at, _)) = self.fit(len) {
            return Ok(Some(at));
        }
        self.look()?;
        Ok(self.fit(len).map(|(at, _)| at))
    }

    /// Where a body fits, and how many bytes have been used after it.
    fn fit(&self, len: usize) -> Option<(usize, u64)> {
        let all = self.area.body_bytes();
        let at = self.bytes_written % all;
        let len = (len as u64).next_multiple_of(ALIGN);
        let skip = if at + len > all { all - at } else { 0 };
        let used = self.bytes_written + skip + len;
        (used - self.bytes_read <= all).then(|| (((at + skip) % all) as usize, used))
    }

    /// Writes a body where [`Writer::place`] has just said.
    pub(crate) fn write_body(&mut self, bytes: &[u8]) {
        let (at, used) = self.fit(bytes.len()).expect("a place was found");
        self.area.write_body(at, bytes);
        self.bytes_written = used;
    }

    /// Writes an item; [`Writer::has_slot`] has said that there is one.
    pub(crate) fn write(&mut self, item: &Item, note: Note) {
        debug_assert!(self.written - self.read < self.area.slots());
        let slot = (self.written % self.area.slots()) as usize;
        self.area.write_slot(slot, item.bytes(), item.len());
        self.written += 1;
        let word = u64::from(note) << 32 | u64::from(self.written as u32);
        self.area.ready(slot).store(word, Release);
    }

    /// After items were written: whether the reader must be woken.
    pub(crate) fn must_wake(&self) -> bool {
        self.area.fence(SeqCst);
        let sleeps = self.area.reader_sleeps();
        sleeps.load(Relaxed) != 0 && sleeps.swap(0, Relaxed) != 0
    }

    /// Says that this side sleeps until there is room; look for it once more then.
    pub(crate) fn arm(&self) {
        self.area.writer_sleeps().store(1, Relaxed);
        self.area.fence(SeqCst);
    }

    /// Takes that back.
    pub(crate) fn disarm(&self) {
        disarm(self.area.writer_sleeps());
    }
}

impl<A: Area> Reader<A> {
    pub(crate) fn new(area: A) -> Reader<A> {
        Reader {
            area,
            read: 0,
            bytes_read: 0,
            told: 0,
            bytes_told: 0,
        }
    }

    /// The note of the next item, if it is there.
    #[inline]
    pub(crate) fn peek(&self) -> Option<Note> {
        let word = self.area.ready(self.slot()).load(Acquire);
        (word as u32 == (self.read + 1) as u32).then_some((word >> 32) as Note)
    }

    /// Reads the item that [`Reader::peek`] has seen; only its first line if it is not `long`.
    pub(crate) fn read(&self, item: &mut Item, long: bool) {
        self.area.read_slot(self.slot(), item.bytes_mut(), long);
    }

    /// Copies a body, which must be the next in the ring of bytes, and is done with it.
    pub(crate) fn read_body(&mut self, at: usize, bytes: &mut [u8]) -> Result<(), Nonsense> {
        let all = self.area.body_bytes();
        let expected = self.bytes_read % all;
        let skip = match at as u64 {
            at if at == expected => 0,
            0 => all - expected,
            _ => return Err(Nonsense),
        };
        let len = (bytes.len() as u64).next_multiple_of(ALIGN);
        if at as u64 + len > all {
            return Err(Nonsense);
        }
        self.area.read_body(at, bytes);
        self.bytes_read += skip + len;
        Ok(())
    }

    /// Is done with the item.
    pub(crate) fn advance(&mut self) {
        self.read += 1;
    }

    /// Tells the writer what has been read, if that is enough to be worth it; returns whether it must be woken.
    pub(crate) fn give_back(&mut self) -> bool {
        let worth = (self.read - self.told) * limits::RETURNED_LATE >= self.area.slots()
            || (self.bytes_read - self.bytes_told) * limits::RETURNED_LATE
                >= self.area.body_bytes();
        if !worth {
            return false;
        }
        (self.told, self.bytes_told) = (self.read, self.bytes_read);
        self.area.bytes_read().store(self.bytes_read, Release);
        self.area.slots_read().store(self.read, Release);
        self.area.fence(SeqCst);
        let sleeps = self.area.writer_sleeps();
        sleeps.load(Relaxed) != 0 && sleeps.swap(0, Relaxed) != 0
    }

    /// Says that this side sleeps until an item comes; look for it once more then.
    pub(crate) fn arm(&self) {
        self.area.reader_sleeps().store(1, Relaxed);
        self.area.fence(SeqCst);
    }

    /// Takes that back.
    pub(crate) fn disarm(&self) {
        disarm(self.area.reader_sleeps());
    }

    fn slot(&self) -> usize {
        (self.read % self.area.slots()) as usize
    }
}

/// Written only where it says something else: its line is the other side's to read.
fn disarm(sleeps: &impl Word) {
    if sleeps.load(Relaxed) != 0 {
        sleeps.store(0, Relaxed);
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;

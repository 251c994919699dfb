//! The ring under loom: every interleaving, and every value that a load may see, of small rings.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use super::*;

const SLOTS: usize = 2;
const LINES: usize = 4;

/// A small area of loom's words. What is copied is one cell for each slot and for each line of a body, so that
/// loom sees every access that nothing orders.
struct Modelled {
    ready: [AtomicU64; SLOTS],
    slots_read: AtomicU64,
    bytes_read: AtomicU64,
    reader_sleeps: AtomicU64,
    writer_sleeps: AtomicU64,
    slots: [UnsafeCell<u8>; SLOTS],
    lines: [UnsafeCell<u8>; LINES],
}

// SAFETY: the cells are loom's, which fails the model where two threads get at one at once.
unsafe impl Sync for Modelled {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Modelled {}

impl Modelled {
    fn new() -> Arc<Modelled> {
        Arc::new(Modelled {
            ready: std::array::from_fn(|_| AtomicU64::new(0)),
            slots_read: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            reader_sleeps: AtomicU64::new(0),
            writer_sleeps: AtomicU64::new(0),
            slots: std::array::from_fn(|_| UnsafeCell::new(0)),
            lines: std::array::from_fn(|_| UnsafeCell::new(0)),
        })
    }
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        AtomicU64::swap(self, value, order)
    }
}

impl Area for Arc<Modelled> {
    type Word = AtomicU64;

    fn slots(&self) -> u64 {
        SLOTS as u64
    }
    fn body_bytes(&self) -> u64 {
        LINES as u64 * ALIGN
    }
    fn ready(&self, slot: usize) -> &AtomicU64 {
        &self.ready[slot]
    }
    fn slots_read(&self) -> &AtomicU64 {
        &self.slots_read
    }
    fn bytes_read(&self) -> &AtomicU64 {
        &self.bytes_read
    }
    fn reader_sleeps(&self) -> &AtomicU64 {
        &self.reader_sleeps
    }
    fn writer_sleeps(&self) -> &AtomicU64 {
        &self.writer_sleeps
    }
    fn fence(&self, order: Ordering) {
        loom::sync::atomic::fence(order);
    }
    fn write_slot(&self, slot: usize, bytes: &[u8; ITEM_BYTES], _: usize) {
        // SAFETY: loom checks that nobody else is at it.
        self.slots[slot].with_mut(|cell| unsafe { *cell = bytes[0] });
    }
    fn read_slot(&self, slot: usize, bytes: &mut [u8; ITEM_BYTES], _: bool) {
        // SAFETY: as above.
        bytes[0] = self.slots[slot].with(|cell| unsafe { *cell });
    }
    fn write_body(&self, at: usize, bytes: &[u8]) {
        for (line, bytes) in self.lines[at / 64..].iter().zip(bytes.chunks(64)) {
            // SAFETY: as above.
            line.with_mut(|cell| unsafe { *cell = bytes[0] });
        }
    }
    fn read_body(&self, at: usize, bytes: &mut [u8]) {
        for (line, bytes) in self.lines[at / 64..].iter().zip(bytes.chunks_mut(64)) {
            // SAFETY: as above.
            bytes.fill(line.with(|cell| unsafe { *cell }));
        }
    }
}

fn item(first: u8) -> Item {
    let mut item = Item::new();
    item.extend(&[first]);
    item
}

/// Takes an item if there is one.
fn take(reader: &mut Reader<Arc<Modelled>>) -> Option<(Note, u8)> {
    let note = reader.peek()?;
    let mut item = Item::new();
    reader.read(&mut item, false);
    reader.advance();
    Some((note, item.bytes()[0]))
}

#[test]
fn items_come_whole_and_in_order_around_the_ring() {
    loom::model(|| {
        let area = Modelled::new();
        let (mut writer, mut reader) = (Writer::new(Arc::clone(&area)), Reader::new(area));
        let sender = thread::spawn(move || {
            for number in 1..=3u8 {
                while !writer.has_slot().unwrap() {
                    thread::yield_now();
                }
                writer.write(&item(number), Note::from(number));
            }
        });
        for number in 1..=3u8 {
            let got = loop {
                match take(&mut reader) {
                    Some(got) => break got,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(got, (Note::from(number), number));
            reader.give_back();
        }
        sender.join().unwrap();
        assert_eq!(reader.peek(), None);
    });
}

#[test]
fn bodies_come_whole_and_in_order_around_their_ring() {
    // The second needs all that the first takes, and begins anew before the end.
    const LEN: usize = 129;
    loom::model(|| {
        let area = Modelled::new();
        let (mut writer, mut reader) = (Writer::new(Arc::clone(&area)), Reader::new(area));
        let sender = thread::spawn(move || {
            for number in 1..=2u8 {
                let at = loop {
                    let place = writer.place(LEN).unwrap();
                    match place.filter(|_| writer.has_slot().unwrap()) {
                        Some(at) => break at,
                        None => thread::yield_now(),
                    }
                };
                writer.write_body(&[number; LEN]);
                writer.write(&item(at as u8), Note::from(number));
            }
        });
        for number in 1..=2u8 {
            let (note, at) = loop {
                match take(&mut reader) {
                    Some(got) => break got,
                    None => thread::yield_now(),
                }
            };
            let mut body = [0; LEN];
            reader.read_body(at.into(), &mut body).unwrap();
            assert_eq!((note, body), (number.into(), [number; LEN]));
            reader.give_back();
        }
        sender.join().unwrap();
    });
}

/// Who goes to sleep sees the item, or is woken. `[R73]`
#[test]
fn no_wake_up_is_lost_by_a_reader() {
    loom::model(|| {
        let area = Modelled::new();
        let (mut writer, mut reader) = (Writer::new(Arc::clone(&area)), Reader::new(area));
        let sender = thread::spawn(move || {
            writer.write(&item(1), 1);
            writer.must_wake()
        });
        reader.arm();
        let seen = take(&mut reader).is_some();
        let woken = sender.join().unwrap();
        assert!(seen || woken, "it sleeps for ever");
    });
}

/// The same of a writer that waits for room.
#[test]
fn no_wake_up_is_lost_by_a_writer() {
    loom::model(|| {
        let area = Modelled::new();
        let (mut writer, mut reader) = (Writer::new(Arc::clone(&area)), Reader::new(area));
        for number in 0..SLOTS as u8 {
            writer.write(&item(number), 1);
        }
        let receiver = thread::spawn(move || {
            take(&mut reader).unwrap();
            reader.give_back()
        });
        writer.arm();
        let seen = writer.free_slots().unwrap() > 0;
        let woken = receiver.join().unwrap();
        assert!(seen || woken, "it sleeps for ever");
    });
}

#[test]
fn words_that_cannot_be_are_nonsense() {
    loom::model(|| {
        let area = Modelled::new();
        let mut writer = Writer::new(Arc::clone(&area));
        writer.write(&item(1), 1);
        area.slots_read.store(2, Relaxed);
        assert_eq!(writer.free_slots(), Err(Nonsense));
        area.slots_read.store(1, Relaxed);
        assert_eq!(writer.free_slots(), Ok(SLOTS as u64));
        // Back again.
        area.slots_read.store(0, Relaxed);
        assert_eq!(writer.free_slots(), Err(Nonsense));
        area.slots_read.store(1, Relaxed);
        area.bytes_read.store(64, Relaxed);
        assert_eq!(writer.free_slots(), Err(Nonsense));
        let mut reader = Reader::new(Arc::clone(&area));
        for at in [1, 63, 64, usize::MAX] {
            assert_eq!(reader.read_body(at, &mut [0; 8]), Err(Nonsense));
        }
        let mut too_long = vec![0; LINES * 64 + 1];
        assert_eq!(reader.read_body(0, &mut too_long), Err(Nonsense));
        assert_eq!(reader.read_body(0, &mut [0; 8]), Ok(()));
    });
}

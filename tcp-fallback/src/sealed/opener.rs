//! Records as they arrive, opened into the places of what is in them. `[R55]`

use std::io::IoSliceMut;

use meander_core::wire::Violation;
use snow::TransportState;

use super::{HANDSHAKE_BYTES, LENGTH_BYTES, SEAL_BYTES};
use crate::limits::{FIRST_RECORD_BYTES, RECORD_BYTES, SEALED_RECEIVE_BYTES};

/// The receiving half.
pub(super) struct Opener {
    /// Bytes that have arrived and were not opened: `buffer[start..end]`.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// A read has filled the buffer: a larger one pays.
    filled: bool,
    next: Next,
    /// What was in a record that its place had no room for: from `opened_at` on nobody has it yet.
    opened: Vec<u8>,
    opened_at: usize,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The peer's message of the pattern.
    Greeting,
    /// Its first record, a short one: it has yet to show that it knows the key.
    First,
    /// A record.
    Record,
}

impl Opener {
    pub(super) fn new() -> Opener {
        Opener {
            buffer: vec![0; LENGTH_BYTES + HANDSHAKE_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            filled: false,
            next: Next::Greeting,
            opened: Vec::new(),
            opened_at: 0,
        }
    }

    /// Where to put what arrives: there is room while no whole message or record is here.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let arrived = self.end - self.start;
        let whole = LENGTH_BYTES + self.length().unwrap_or(self.next.longest());
        let trusted = self.next == Next::Record;
        let small = self.filled || whole > self.buffer.len();
        if trusted && small && self.buffer.len() < SEALED_RECEIVE_BYTES {
            self.replace_buffer(SEALED_RECEIVE_BYTES);
        } else if arrived == 0 || self.start + whole > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, arrived);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes have been put there.
    pub(super) fn arrived(&mut self, count: usize) {
        self.end += count;
        self.filled |= self.end == self.buffer.len();
    }

    /// Whether there is something to hand out without reading.
    pub(super) fn has_more(&self) -> Result<bool, Violation> {
        Ok(self.opened_at < self.opened.len() || self.whole()?.is_some())
    }

    /// Whether what has arrived begins so.
    pub(super) fn begins_with(&self, bytes: [u8; 2]) -> bool {
        self.buffer[self.start..self.end].starts_with(&bytes)
    }

    /// The peer's message of the pattern. Afterwards records are taken.
    pub(super) fn greeting(&mut self) -> Result<Option<[u8; HANDSHAKE_BYTES]>, Violation> {
        let Some(len) = self.whole()? else {
            return Ok(None);
        };
        let at = self.start + LENGTH_BYTES;
        let message = self.buffer[at..at + len].try_into();
        self.start = at + len;
        (self.next, self.filled) = (Next::First, false);
        self.replace_buffer(LENGTH_BYTES + self.next.longest());
        // No other length is let through.
        message.map(Some).map_err(|_| Violation::Proof)
    }

    /// Opens records into these parts, as many as there is room for.
    pub(super) fn open(
        &mut self,
        noise: &mut TransportState,
        parts: &mut [IoSliceMut<'_>],
    ) -> Result<usize, Violation> {
        let mut count = 0;
        for part in parts {
            let mut rest = &mut part[..];
            while !rest.is_empty() {
                let some = self.open_some(noise, rest)?;
                if some == 0 {
                    return Ok(count);
                }
                count += some;
                rest = &mut rest[some..];
            }
        }
        Ok(count)
    }

    /// Bytes of one record: straight into their place if that has room for all of them.
    fn open_some(
        &mut self,
        noise: &mut TransportState,
        place: &mut [u8],
    ) -> Result<usize, Violation> {
        if self.opened_at == self.opened.len() {
            let Some(sealed) = self.whole()? else {
                return Ok(0);
            };
            let at = self.start + LENGTH_BYTES;
            let record = &self.buffer[at..at + sealed];
            let len = sealed - SEAL_BYTES;
            let straight = place.get_mut(..len);
            let fits = straight.is_some();
            (self.opened_at, self.start) = (0, at + sealed);
            self.opened.resize(if fits { 0 } else { len }, 0);
            let into = straight.unwrap_or(&mut self.opened);
            if noise.read_message(record, into).is_err() {
                self.opened.clear();
                return Err(Violation::Seal);
            }
            self.next = Next::Record;
            if fits {
                return Ok(len);
            }
        }
        let waiting = &self.opened[self.opened_at..];
        let count = waiting.len().min(place.len());
        place[..count].copy_from_slice(&waiting[..count]);
        self.opened_at += count;
        Ok(count)
    }

    /// Bytes of the next message or record, if all of it is here.
    fn whole(&self) -> Result<Option<usize>, Violation> {
        let Some(length) = self.length() else {
            return Ok(None);
        };
        self.next.check(length)?;
        let here = self.end - self.start >= LENGTH_BYTES + length;
        Ok(here.then_some(length))
    }

    /// What the next message or record says of its length.
    fn length(&self) -> Option<usize> {
        let arrived = &self.buffer[self.start..self.end];
        let length = arrived.first_chunk::<LENGTH_BYTES>()?;
        Some(usize::from(u16::from_le_bytes(*length)))
    }

    fn replace_buffer(&mut self, bytes: usize) {
        let arrived = &self.buffer[self.start..self.end];
        let mut buffer = vec![0; bytes.max(arrived.len())].into_boxed_slice();
        buffer[..arrived.len()].copy_from_slice(arrived);
        (self.start, self.end) = (0, arrived.len());
        self.buffer = buffer;
    }
}

impl Next {
    /// The most bytes it may have.
    fn longest(self) -> usize {
        match self {
            Next::Greeting => HANDSHAKE_BYTES,
            Next::First => FIRST_RECORD_BYTES + SEAL_BYTES,
            Next::Record => RECORD_BYTES + SEAL_BYTES,
        }
    }

    fn check(self, length: usize) -> Result<(), Violation> {
        match self {
            // What an acceptor says that can't open the dialler's.
            Next::Greeting if length == 0 => Err(Violation::Proof),
            Next::Greeting if length == HANDSHAKE_BYTES => Ok(()),
            // An empty record would be no progress.
            Next::First | Next::Record if (SEAL_BYTES + 1..=self.longest()).contains(&length) => {
                Ok(())
            }
            _ => Err(Violation::Length(length as u64)),
        }
    }
}

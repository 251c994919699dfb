//! Bytes of frames, sealed into records that wait for the socket. `[R55]`

use std::io::IoSlice;

use snow::TransportState;

use super::{LENGTH_BYTES, SEAL_BYTES};
use crate::limits::{FIRST_RECORD_BYTES, RECORD_BYTES, SEALED_AT_ONCE_BYTES, STRAIGHT_BYTES};

/// The sending half.
#[derive(Default)]
pub(super) struct Sealer {
    /// Messages and records, each behind its length; `buffer[start..end]` waits for the socket.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Small pieces, gathered into one record. Empty between two calls.
    gathered: Vec<u8>,
    /// A record was sealed: the peer takes longer ones.
    begun: bool,
}

impl Sealer {
    /// What waits for the socket.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// So much of it is on the socket.
    pub(super) fn advance(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Takes a message of the pattern.
    pub(super) fn say(&mut self, message: &[u8]) {
        self.room(message.len()).copy_from_slice(message);
    }

    /// Seals these bytes, or as many as may be under way at once: large pieces straight from where they
    /// are, small ones together. Returns how many.
    pub(super) fn seal(&mut self, noise: &mut TransportState, parts: &[IoSlice<'_>]) -> usize {
        let mut count = 0;
        for part in parts {
            let mut rest = &part[..];
            while !rest.is_empty() && count < SEALED_AT_ONCE_BYTES {
                let straight = rest.len() >= STRAIGHT_BYTES;
                let room = match straight {
                    true => self.longest(),
                    false => self.longest() - self.gathered.len(),
                };
                if straight || room == 0 {
                    self.seal_gathered(noise);
                }
                if room > 0 {
                    let (piece, after) = rest.split_at(rest.len().min(room));
                    match straight {
                        true => self.seal_piece(noise, piece),
                        false => self.gathered.extend_from_slice(piece),
                    }
                    count += piece.len();
                    rest = after;
                }
            }
        }
        self.seal_gathered(noise);
        count
    }

    fn longest(&self) -> usize {
        match self.begun {
            true => RECORD_BYTES,
            false => FIRST_RECORD_BYTES,
        }
    }

    fn seal_gathered(&mut self, noise: &mut TransportState) {
        if !self.gathered.is_empty() {
            let mut gathered = std::mem::take(&mut self.gathered);
            self.seal_piece(noise, &gathered);
            gathered.clear();
            self.gathered = gathered;
        }
    }

    fn seal_piece(&mut self, noise: &mut TransportState, piece: &[u8]) {
        let record = self.room(piece.len() + SEAL_BYTES);
        let sealed = noise.write_message(piece, record);
        // It fits; and nobody seals 2^64 records.
        assert_eq!(sealed.ok(), Some(piece.len() + SEAL_BYTES));
        self.begun = true;
    }

    /// Room for a message or record of this length, behind the length itself.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let at = self.end + LENGTH_BYTES;
        self.end = at + len;
        if self.buffer.len() < self.end {
            self.buffer.resize(self.end, 0);
        }
        let length = (len as u16).to_le_bytes();
        self.buffer[at - LENGTH_BYTES..at].copy_from_slice(&length);
        &mut self.buffer[at..self.end]
    }
}

//! What must never happen, and what must have happened in the end.

use std::collections::{BTreeMap, BTreeSet};

use meander_core::{BufferId, Epoch};

/// One direction of a stream: sending rank, receiving rank, number.
pub type StreamName = (usize, usize, u32);

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A message arrived that is not the next one of its stream.
    OutOfOrder {
        /// The stream.
        stream: StreamName,
        /// The number that should have come.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// A payload is not what was sent.
    Corrupt {
        /// The stream.
        stream: StreamName,
        /// The message.
        number: u64,
    },
    /// A buffer was read or written after it had been given back.
    TouchedAfterCompletion(BufferId),
    /// A stream ended before all of it had come.
    EndedEarly(StreamName),
    /// Two processes of one rank ran at once.
    TwoOwners {
        /// The rank.
        rank: usize,
        /// The epoch of the second one.
        epoch: Epoch,
    },
    /// A rank came back with an epoch it had had before, elsewhere.
    EpochReused {
        /// The rank.
        rank: usize,
        /// The epoch.
        epoch: Epoch,
    },
    /// A port found fault with a frame of an honest peer.
    Violation(String),
    /// Everything was healed, and still something did not come about.
    Stuck(String),
    /// A rank's buffers hold more than they may.
    TooMuchRetained {
        /// The rank.
        rank: usize,
        /// Bytes.
        bytes: usize,
    },
}

/// Payload a rank may hold at any time in these runs, received and retained together.
const RETAINED_BOUND: usize = 256 << 20;

/// Follows every stream and every rank.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    sent: BTreeMap<StreamName, u64>,
    arrived: BTreeMap<StreamName, u64>,
    finished: BTreeSet<StreamName>,
    refused: BTreeSet<StreamName>,
    /// Where each epoch of each rank has run.
    owners: BTreeMap<(usize, Epoch), usize>,
    faults: Vec<Fault>,
}

/// The payload of message `number`: any other message's differs.
pub(crate) fn payload(stream: StreamName, number: u64, len: usize) -> Vec<u8> {
    let mut state = number ^ ((stream.0 as u64) << 48) ^ ((stream.1 as u64) << 40);
    state ^= u64::from(stream.2) << 32;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Faults that are kept: the first ones tell the story.
const FAULTS_KEPT: usize = 8;

impl Checker {
    /// Notes a broken promise.
    pub fn fault(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(fault);
        }
    }

    /// Whether there is none.
    pub fn is_content(&self) -> bool {
        self.faults.is_empty()
    }

    pub fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    /// Number of the next message of this stream.
    pub fn next_number(&self, stream: StreamName) -> u64 {
        self.sent.get(&stream).copied().unwrap_or(0)
    }

    /// It was taken for sending.
    pub fn sent(&mut self, stream: StreamName) {
        *self.sent.entry(stream).or_default() += 1;
    }

    /// A message (or its envelope) has come.
    pub fn arrive(&mut self, stream: StreamName, number: u64) {
        let expected = self.arrived.entry(stream).or_default();
        if number != *expected {
            let expected = *expected;
            self.fault(Fault::OutOfOrder {
                stream,
                expected,
                got: number,
            });
        }
        *self.arrived.entry(stream).or_default() = number.wrapping_add(1);
    }

    /// A payload is complete.
    pub fn check(&mut self, stream: StreamName, number: u64, body: &[u8]) {
        if payload(stream, number, body.len()) != body {
            self.fault(Fault::Corrupt { stream, number });
        }
    }

    /// The end of the stream has come.
    pub fn finished(&mut self, stream: StreamName) {
        let all = self.arrived.get(&stream) == self.sent.get(&stream);
        if !all || !self.finished.insert(stream) {
            self.fault(Fault::EndedEarly(stream));
        }
    }

    /// The receiver refused the stream: nothing of it arrives.
    pub fn refused(&mut self, stream: StreamName) {
        self.refused.insert(stream);
    }

    /// A process of this rank begins to run, or goes on. `others` of the rank run already.
    pub fn runs(&mut self, rank: usize, epoch: Epoch, slot: usize, others: usize) {
        if others > 0 {
            self.fault(Fault::TwoOwners { rank, epoch });
        }
        if *self.owners.entry((rank, epoch)).or_insert(slot) != slot {
            self.fault(Fault::EpochReused { rank, epoch });
        }
    }

    pub fn retained(&mut self, rank: usize, bytes: usize) {
        if bytes > RETAINED_BOUND {
            self.fault(Fault::TooMuchRetained { rank, bytes });
        }
    }

    /// Whether every message has come, or at least its envelope.
    pub fn has_all_arrived(&self) -> bool {
        let arrived = |stream| self.arrived.get(stream).copied().unwrap_or(0);
        let mut streams = self.sent.iter();
        streams.all(|(stream, sent)| arrived(stream) == *sent || self.refused.contains(stream))
    }

    /// In the end every message must have arrived.
    pub fn finish(&mut self) {
        for (stream, sent) in self.sent.clone() {
            let arrived = self.arrived.get(&stream).copied().unwrap_or(0);
            if arrived != sent && !self.refused.contains(&stream) {
                let text = format!("stream {stream:?}: {arrived} of {sent} messages arrived");
                self.fault(Fault::Stuck(text));
            }
        }
    }
}

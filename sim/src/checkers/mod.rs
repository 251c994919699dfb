//! What must never happen, and what must have happened in the end: a promise a file.

mod buffers;
mod deaths;
mod epochs;
mod liveness;
mod order;
mod owners;
mod retention;

use meander_core::{BufferId, Epoch};

pub(crate) use buffers::Buffers;
pub(crate) use order::payload;
pub(crate) use retention::Copies;

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
    /// Everything was healed and drained, and buffers were not given back.
    NotGivenBack {
        /// The rank that lent them.
        rank: usize,
        /// How many.
        buffers: usize,
    },
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
    /// A port took data of an epoch although it knew of a later one.
    StaleEpoch {
        /// The rank that took it.
        rank: usize,
        /// The epoch of whoever sent it.
        sent: Epoch,
        /// The epoch that was known.
        known: Epoch,
    },
    /// A rank was reported dead that runs, or ran afterwards.
    BuriedAlive(usize),
    /// A rank that was reported dead is listed as if it were not.
    Unburied(usize),
    /// A rank died although nothing had killed it.
    Lost(usize),
    /// A port found fault with a frame of an honest peer.
    Violation(String),
    /// Everything was healed, and still something did not come about.
    Stuck(String),
    /// More is unread or retained than may be.
    TooMuchRetained {
        /// The rank that holds it.
        rank: usize,
        /// Bytes.
        bytes: u64,
        /// The bound.
        bound: u64,
    },
}

/// Faults that are kept: the first ones tell the story.
const FAULTS_KEPT: usize = 8;

/// Follows every stream and every rank.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    order: order::Order,
    owners: owners::Owners,
    deaths: deaths::Deaths,
    faults: Vec<Fault>,
}

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
}

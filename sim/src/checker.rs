//! What must never happen, and what must happen in the end.

use std::collections::BTreeMap;

use meander_core::BufferId;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A message arrived that is not the next one of its stream.
    OutOfOrder {
        /// Sending and receiving host, and the stream.
        stream: (usize, usize, u32),
        /// The number that should have come.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// A payload is not what was sent.
    Corrupt {
        /// Sending and receiving host, and the stream.
        stream: (usize, usize, u32),
        /// The message.
        number: u64,
    },
    /// A buffer was read or written after it had been given back.
    TouchedAfterCompletion(BufferId),
    /// A port found fault with a frame of an honest peer.
    Violation(String),
    /// Everything was healed, and still something did not arrive.
    Stuck(String),
}

/// Follows every stream: what was sent, what arrived.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    sent: BTreeMap<(usize, usize, u32), u64>,
    arrived: BTreeMap<(usize, usize, u32), u64>,
    pub faults: Vec<Fault>,
}

/// The payload of message `number`: any other message's differs.
pub(crate) fn payload(stream: (usize, usize, u32), number: u64, len: usize) -> Vec<u8> {
    let mut state = number ^ ((stream.0 as u64) << 48) ^ ((stream.1 as u64) << 40);
    state ^= u64::from(stream.2) << 32;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl Checker {
    /// Number of the next message of this stream.
    pub fn send(&mut self, stream: (usize, usize, u32)) -> u64 {
        let count = self.sent.entry(stream).or_default();
        *count += 1;
        *count - 1
    }

    /// A message (or its envelope) has come.
    pub fn arrive(&mut self, stream: (usize, usize, u32), number: u64) {
        let expected = self.arrived.entry(stream).or_default();
        if number != *expected {
            let expected = *expected;
            self.faults.push(Fault::OutOfOrder {
                stream,
                expected,
                got: number,
            });
        }
        *expected = number + 1;
    }

    /// A payload is complete.
    pub fn check(&mut self, stream: (usize, usize, u32), number: u64, body: &[u8]) {
        if payload(stream, number, body.len()) != body {
            self.faults.push(Fault::Corrupt { stream, number });
        }
    }

    /// In the end every message must have arrived.
    pub fn finish(&mut self) {
        for (stream, sent) in &self.sent {
            let arrived = self.arrived.get(stream).copied().unwrap_or(0);
            if arrived != *sent {
                let text = format!("stream {stream:?}: {arrived} of {sent} messages arrived");
                self.faults.push(Fault::Stuck(text));
            }
        }
    }
}

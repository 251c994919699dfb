//! Exactly once and in order, on every stream.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, Fault, StreamName};

#[derive(Debug, Default)]
pub(super) struct Order {
    sent: BTreeMap<StreamName, u64>,
    arrived: BTreeMap<StreamName, u64>,
    finished: BTreeSet<StreamName>,
    refused: BTreeSet<StreamName>,
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

impl Checker {
    /// Number of the next message of this stream.
    pub fn next_number(&self, stream: StreamName) -> u64 {
        self.order.sent.get(&stream).copied().unwrap_or(0)
    }

    /// It was taken for sending.
    pub fn sent(&mut self, stream: StreamName) {
        *self.order.sent.entry(stream).or_default() += 1;
    }

    /// A message (or its envelope) has come.
    pub fn arrive(&mut self, stream: StreamName, number: u64) {
        let next = self.order.arrived.entry(stream).or_default();
        let expected = std::mem::replace(next, number.wrapping_add(1));
        if number != expected {
            self.fault(Fault::OutOfOrder {
                stream,
                expected,
                got: number,
            });
        }
    }

    /// A payload is complete.
    pub fn check(&mut self, stream: StreamName, number: u64, body: &[u8]) {
        if payload(stream, number, body.len()) != body {
            self.fault(Fault::Corrupt { stream, number });
        }
    }

    /// The end of the stream has come.
    pub fn finished(&mut self, stream: StreamName) {
        let all = self.order.arrived.get(&stream) == self.order.sent.get(&stream);
        if !all || !self.order.finished.insert(stream) {
            self.fault(Fault::EndedEarly(stream));
        }
    }

    /// The receiver refused the stream: nothing of it arrives.
    pub fn refused(&mut self, stream: StreamName) {
        self.order.refused.insert(stream);
    }

    /// Streams between living ranks of which not every message has come, or its envelope; with how
    /// many came and how many were sent.
    pub(super) fn incomplete(&self) -> impl Iterator<Item = (StreamName, u64, u64)> {
        let Order {
            sent,
            arrived,
            refused,
            ..
        } = &self.order;
        let owed = sent.iter().filter(|(stream, _)| {
            let (from, to, _) = **stream;
            !refused.contains(stream) && !self.is_buried(from) && !self.is_buried(to)
        });
        owed.map(|(stream, sent)| (*stream, arrived.get(stream).copied().unwrap_or(0), *sent))
            .filter(|(_, arrived, sent)| arrived != sent)
    }
}

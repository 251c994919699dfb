//! This port's ends of the streams that programs opened: what has arrived and was not yet read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meander_core::{Seq, StreamKind};
use serde::{Deserialize, Serialize};

use crate::handler::StreamKey;

/// The ends of streams that programs opened.
#[derive(Default)]
pub(crate) struct Ends {
    pub ends: BTreeMap<StreamKey, End>,
    /// Opened by peers, not yet taken by `accept`.
    pub offered: VecDeque<StreamKey>,
    pub services: BTreeSet<u32>,
}

/// Streams that may wait for `accept`; further ones are refused.
pub(crate) const OFFERED_STREAMS: usize = 1024;
/// Payload, in bytes, that is fetched before the program asks for it, each stream.
pub(crate) const READ_AHEAD_BYTES: u64 = 4 << 20;

/// One end.
#[derive(Serialize, Deserialize)]
pub(crate) struct End {
    pub service: u32,
    pub kind: StreamKind,
    pub state: State,
    arrived: VecDeque<Item>,
    /// The first of `arrived` that is announced; all before it are there or under way.
    announced_from: usize,
    /// Payload of the items before that.
    ahead_bytes: u64,
    /// Bytes of the first item that were read (byte streams only).
    read: usize,
    /// Nothing more comes.
    pub ended: bool,
    /// Nothing more goes.
    pub finished: bool,
    /// Bytes sent and not yet acknowledged.
    pub unacknowledged: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    Asked,
    Open,
    Refused,
}

#[derive(Serialize, Deserialize)]
enum Item {
    /// Came with its message; counts against the window until it is read.
    Eager(Vec<u8>),
    /// Waits at the peer.
    Announced { seq: Seq, len: u64 },
    /// Is under way.
    Pulling(Seq),
    /// Was fetched.
    Pulled(Vec<u8>),
    /// Was longer than this port takes; the peer has been told.
    TooLong(u64),
}

/// What the front of a stream holds.
pub(crate) enum Front {
    /// A message of which this many bytes count against the window.
    Message { bytes: Vec<u8>, window_bytes: u64 },
    /// One that was declined, of this many bytes.
    TooLong(u64),
    /// Nothing yet.
    Nothing,
    /// The end.
    End,
}

/// A payload to fetch or to decline.
pub(crate) enum Answer {
    Pull { seq: Seq, len: u64 },
    Decline { seq: Seq },
}

impl End {
    pub fn new(service: u32, kind: StreamKind, state: State) -> End {
        End {
            service,
            kind,
            state,
            arrived: VecDeque::new(),
            announced_from: 0,
            ahead_bytes: 0,
            read: 0,
            ended: false,
            finished: false,
            unacknowledged: 0,
        }
    }

    pub fn eager(&mut self, bytes: Vec<u8>) {
        if self.announced_from == self.arrived.len() {
            self.announced_from += 1;
            self.ahead_bytes += bytes.len() as u64;
        }
        self.arrived.push_back(Item::Eager(bytes));
    }

    pub fn announced(&mut self, seq: Seq, len: u64) {
        self.arrived.push_back(Item::Announced { seq, len });
    }

    pub fn pulled(&mut self, seq: Seq, bytes: Vec<u8>) {
        let place = self
            .arrived
            .iter_mut()
            .find(|it| matches!(it, Item::Pulling(at) if *at == seq));
        if let Some(place) = place {
            *place = Item::Pulled(bytes);
        }
    }

    /// The next payload to fetch: what the reader needs now, or what fits the read-ahead.
    pub fn next_answer(&mut self, wanted: bool, max_len: u64) -> Option<Answer> {
        while let Some(item) = self.arrived.get_mut(self.announced_from) {
            match item {
                &mut Item::Announced { seq, len } if len > max_len => {
                    *item = Item::TooLong(len);
                    self.announced_from += 1;
                    return Some(Answer::Decline { seq });
                }
                &mut Item::Announced { seq, len } => {
                    let needed = wanted && self.announced_from == 0;
                    if !needed && self.ahead_bytes + len > READ_AHEAD_BYTES {
                        return None;
                    }
                    *item = Item::Pulling(seq);
                    self.ahead_bytes += len;
                    self.announced_from += 1;
                    return Some(Answer::Pull { seq, len });
                }
                Item::Eager(bytes) => {
                    self.ahead_bytes += bytes.len() as u64;
                    self.announced_from += 1;
                }
                _ => self.announced_from += 1,
            }
        }
        None
    }

    /// Takes the next whole message.
    pub fn take(&mut self) -> Front {
        match self.arrived.front() {
            None if self.ended => return Front::End,
            None | Some(Item::Announced { .. } | Item::Pulling(_)) => return Front::Nothing,
            Some(_) => {}
        }
        // `next_answer` may not have passed over it yet.
        let counted = self.announced_from > 0;
        self.announced_from = self.announced_from.saturating_sub(1);
        let (bytes, eager) = match self.arrived.pop_front() {
            Some(Item::Eager(bytes)) => (bytes, true),
            Some(Item::Pulled(bytes)) => (bytes, false),
            Some(Item::TooLong(len)) => return Front::TooLong(len),
            _ => return Front::Nothing,
        };
        let len = bytes.len() as u64;
        self.ahead_bytes -= if counted { len } else { 0 };
        Front::Message {
            bytes,
            window_bytes: if eager { len } else { 0 },
        }
    }

    /// Copies what there is of a byte stream. Returns the bytes copied, and how many bytes of the
    /// window are free again; `None` where there is nothing yet.
    pub fn read(&mut self, into: &mut [u8]) -> Option<(usize, u64)> {
        let (mut copied, mut freed) = (0, 0);
        while copied < into.len() {
            let (Some(Item::Eager(bytes)) | Some(Item::Pulled(bytes))) = self.arrived.front()
            else {
                break;
            };
            let rest = &bytes[self.read..];
            let count = rest.len().min(into.len() - copied);
            into[copied..copied + count].copy_from_slice(&rest[..count]);
            copied += count;
            self.read += count;
            if self.read == bytes.len() {
                self.read = 0;
                if let Front::Message { window_bytes, .. } = self.take() {
                    freed += window_bytes;
                }
            }
        }
        let ended = self.ended && self.arrived.is_empty();
        (copied > 0 || ended || into.is_empty()).then_some((copied, freed))
    }

    /// The length of the first item, if it was too long to be taken.
    pub fn too_long(&self) -> Option<u64> {
        match self.arrived.front() {
            Some(Item::TooLong(len)) => Some(*len),
            _ => None,
        }
    }

    /// The peer is dead: what it has not sent can't be had any more, nor what came after it.
    pub fn truncate(&mut self) {
        let lost = |item: &Item| matches!(item, Item::Announced { .. } | Item::Pulling(_));
        let whole = self
            .arrived
            .iter()
            .position(lost)
            .unwrap_or(self.arrived.len());
        self.arrived.truncate(whole);
        self.announced_from = self.announced_from.min(whole);
    }

    /// Nobody will read it: the eager bytes that were waiting, and the messages to decline.
    pub fn discard(self) -> (u64, Vec<Seq>) {
        let (mut eager_bytes, mut unanswered) = (0, Vec::new());
        for item in self.arrived {
            match item {
                Item::Eager(bytes) => eager_bytes += bytes.len() as u64,
                Item::Announced { seq, .. } => unanswered.push(seq),
                Item::Pulling(_) | Item::Pulled(_) | Item::TooLong(_) => {}
            }
        }
        (eager_bytes, unanswered)
    }
}

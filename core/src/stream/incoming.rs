//! The receiving direction: what is next, what is a duplicate, which payloads are being pulled.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use crate::ids::{BufferId, Seq};
use crate::planted::{PlantedFault, is_planted};
use crate::time::Time;
use crate::transport::Slice;
use crate::wire::Violation;

/// What an item with a sequence number turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// The expected one.
    New,
    /// One that has been delivered before.
    Duplicate,
}

/// A payload on its way into a buffer.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct Pull {
    buffer: BufferId,
    received: u64,
    end: u64,
    /// Whether the present link has carried the request.
    #[serde(skip)]
    asked: bool,
}

/// A pull request to put on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub seq: Seq,
    pub buffer: BufferId,
    pub offset: u64,
    pub end: u64,
}

#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(crate) struct Incoming {
    next: Seq,
    /// Eager bytes accepted, and how many of them the application has read.
    eager_bytes: u64,
    credit: u64,
    /// Envelopes announced and not answered: payload bytes by message.
    announced: BTreeMap<Seq, u64>,
    pulls: BTreeMap<Seq, Pull>,
    finished: bool,
    /// Pulls that the present link has yet to ask for.
    #[serde(skip)]
    unasked: VecDeque<Seq>,
    /// What the peer last heard from us on any frame.
    #[serde(skip)]
    told: (Seq, u64),
    /// When the first item came that the peer has not heard of.
    #[serde(skip)]
    owing_since: Since,
}

/// A time that says how a stream goes on only by being there.
#[derive(Clone, Copy, Debug, Default)]
struct Since(Option<Time>);

impl Hash for Since {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.is_some().hash(hasher);
    }
}

impl Incoming {
    pub fn next(&self) -> Seq {
        self.next
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether nothing the peer announced is still to be answered or fetched.
    pub fn is_idle(&self) -> bool {
        self.announced.is_empty() && self.pulls.is_empty()
    }

    /// Places an item; a gap is the peer's fault, for links keep order. `[R11]`
    pub fn classify(&self, seq: Seq) -> Result<Item, Violation> {
        match seq.cmp(&self.next) {
            std::cmp::Ordering::Less if is_planted(PlantedFault::SkipDuplicateCheck) => {
                Ok(Item::New)
            }
            std::cmp::Ordering::Less => Ok(Item::Duplicate),
            std::cmp::Ordering::Equal => Ok(Item::New),
            std::cmp::Ordering::Greater => Err(Violation::Sequence(seq.0)),
        }
    }

    /// Counts the expected item as delivered.
    pub fn advance(&mut self) {
        self.next = self.next.next();
    }

    /// Checks eager payload against the window we granted, and counts it. `[R13]`
    pub fn take_eager(&mut self, len: u64, window: u64) -> Result<(), Violation> {
        if self.eager_bytes - self.credit + len > window {
            return Err(Violation::Window);
        }
        self.eager_bytes += len;
        Ok(())
    }

    pub fn announce(&mut self, seq: Seq, len: u64) {
        self.announced.insert(seq, len);
    }

    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The application has read this many eager bytes.
    pub fn consume(&mut self, bytes: u64) {
        self.credit = (self.credit + bytes).min(self.eager_bytes);
    }

    /// Begins to pull an announced payload, at most `max_len` bytes of it. Returns how many come;
    /// with none to come the pull is complete at once.
    pub fn pull(&mut self, seq: Seq, buffer: BufferId, max_len: u64) -> Option<u64> {
        let end = self.announced.remove(&seq)?.min(max_len);
        if end > 0 {
            self.pulls.insert(
                seq,
                Pull {
                    buffer,
                    received: 0,
                    end,
                    asked: false,
                },
            );
            self.unasked.push_back(seq);
        }
        Some(end)
    }

    /// Answers an envelope without wanting its payload.
    pub fn decline(&mut self, seq: Seq) -> bool {
        self.announced.remove(&seq).is_some()
    }

    /// Where payload of message `seq` at `offset` belongs. `[R14]`
    pub fn place(&self, seq: Seq, offset: u64, len: u64) -> Result<Slice, Violation> {
        let pull = self.pulls.get(&seq).ok_or(Violation::Sequence(seq.0))?;
        if !pull.asked || offset != pull.received || len == 0 || len > pull.end - offset {
            return Err(Violation::Length(offset));
        }
        Ok(Slice {
            buffer: pull.buffer,
            offset,
            len,
        })
    }

    /// Payload has been written into its place. Returns the buffer and length once all is there.
    pub fn placed(&mut self, seq: Seq, len: u64) -> Result<Option<(BufferId, u64)>, Violation> {
        let pull = self.pulls.get_mut(&seq).ok_or(Violation::Sequence(seq.0))?;
        pull.received += len;
        if pull.received < pull.end {
            return Ok(None);
        }
        let pull = self.pulls.remove(&seq).expect("just seen");
        Ok(Some((pull.buffer, pull.end)))
    }

    /// A new link is up: every pull must be asked for again, from where it stopped. `[R16]`
    pub fn resume(&mut self) {
        if is_planted(PlantedFault::ForgetPulls) {
            return;
        }
        for pull in self.pulls.values_mut() {
            pull.asked = false;
            let wrong = is_planted(PlantedFault::ResumePullAtWrongOffset);
            if wrong && pull.received > 0 && pull.received + 1 < pull.end {
                pull.received += 1;
            }
        }
        self.unasked = self.pulls.keys().copied().collect();
        // The resume frame carries both.
        self.told = (self.next, self.credit);
        self.owing_since = Since(None);
    }

    /// Every buffer this direction writes into; it is not usable afterwards.
    pub fn take_buffers(&mut self) -> Vec<BufferId> {
        self.unasked.clear();
        std::mem::take(&mut self.pulls)
            .into_values()
            .map(|pull| pull.buffer)
            .collect()
    }

    /// Whether there is anything to fetch.
    pub fn is_pulling(&self) -> bool {
        !self.pulls.is_empty()
    }

    /// The next pull that the present link has not asked for.
    pub fn poll_request(&mut self) -> Option<Request> {
        let seq = self.unasked.pop_front()?;
        let pull = self
            .pulls
            .get_mut(&seq)
            .expect("a pull ends only after it was asked for");
        pull.asked = true;
        Some(Request {
            seq,
            buffer: pull.buffer,
            offset: pull.received,
            end: pull.end,
        })
    }

    /// An item was taken that the peer has not heard of.
    pub fn owe(&mut self, now: Time) {
        self.owing_since.0.get_or_insert(now);
    }

    /// When the first item came that the peer has not heard of.
    pub fn owing_since(&self) -> Option<Time> {
        self.owing_since.0
    }

    /// Items and credit that the peer has not heard of yet.
    pub fn untold(&self) -> (u64, u64) {
        (self.next.0 - self.told.0.0, self.credit - self.told.1)
    }

    /// What a frame to the peer says of this direction; it counts as told.
    pub fn tell(&mut self) -> (Seq, u64) {
        self.told = (self.next, self.credit);
        self.owing_since = Since(None);
        if is_planted(PlantedFault::AcknowledgeBeforeDelivery) {
            return (self.next.next(), self.credit);
        }
        self.told
    }
}

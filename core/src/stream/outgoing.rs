//! The sending direction: items in sequence, retained until acknowledged, replayed from wherever
//! the peer says; payloads of envelopes, sent when and as far as the peer pulls them.

use std::collections::{BTreeMap, VecDeque};

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use crate::ids::{BufferId, Seq};
use crate::limits::{DATA_FRAME_BYTES, FIRST_WINDOW_BYTES, SMALL_BYTES};
use crate::planted::{PlantedFault, is_planted};
use crate::transport::{Body, Frame, Slice};
use crate::wire::{AppHeader, FrameHeader, FrameKind, Violation, flags, le32, le64};

/// The memory of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Where it is.
    pub slice: Slice,
    /// It was copied for the port, which bounds what is.
    pub copied: bool,
}

/// The payload of an eager message, which its item keeps until it is acknowledged.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(crate) enum Payload {
    None,
    /// In a buffer.
    Held(Held),
    /// The bytes themselves, copied for the port.
    Small(ArrayVec<u8, SMALL_BYTES>),
}

impl Payload {
    pub fn len(&self) -> u64 {
        match self {
            Payload::None => 0,
            Payload::Held(held) => held.slice.len,
            Payload::Small(bytes) => bytes.len() as u64,
        }
    }
}

/// Payloads that nobody needs any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Freed {
    pub held: Vec<Held>,
    /// Bytes of those that were in no buffer.
    pub small_bytes: u64,
}

impl Freed {
    fn add(&mut self, payload: Payload) {
        match payload {
            Payload::None => {}
            Payload::Held(held) => self.held.push(held),
            Payload::Small(bytes) => self.small_bytes += bytes.len() as u64,
        }
    }
}

/// An item that waits for its acknowledgement.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(crate) struct Retained {
    pub kind: u8,
    pub flags: u8,
    pub app: AppHeader,
    pub arg: u64,
    pub body: Payload,
}

/// A payload that waits at the sender until the peer has pulled it.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
struct Waiting {
    body: Held,
    /// The present link is serving a pull of it.
    #[serde(skip)]
    served: bool,
}

/// A pull being served on the present link.
#[derive(Clone, Debug, Hash)]
struct Transfer {
    seq: Seq,
    offset: u64,
    end: u64,
}

#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub(crate) struct Outgoing {
    /// What the peer has not acknowledged; the first is number `acked`.
    retained: VecDeque<Retained>,
    acked: Seq,
    /// Payloads of envelopes that the peer has not reported done.
    waiting: BTreeMap<Seq, Waiting>,
    /// Eager bytes ever put into items, and how many of them the peer's application has read.
    eager_bytes: u64,
    credit: u64,
    finished: bool,
    /// Next item for the present link; meaningless without one.
    #[serde(skip)]
    cursor: Seq,
    #[serde(skip)]
    transfers: VecDeque<Transfer>,
    #[serde(skip)]
    solicited: bool,
}

impl Outgoing {
    /// The number the next item will get.
    pub fn next(&self) -> Seq {
        Seq(self.acked.0 + self.retained.len() as u64)
    }

    /// Whether `len` more eager bytes fit a window of `window` bytes. `[R13]`
    pub fn window_takes(&self, len: u64, window: u64) -> bool {
        let fits = self.eager_bytes - self.credit + len <= window;
        fits || is_planted(PlantedFault::IgnoreWindow)
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the peer has all that was sent.
    pub fn is_drained(&self) -> bool {
        self.retained.is_empty() && self.waiting.is_empty()
    }

    /// Whether there is anything the peer has yet to confirm.
    pub fn is_unacknowledged(&self) -> bool {
        !self.retained.is_empty()
    }

    /// Queues an item.
    pub fn push(&mut self, item: Retained) -> Seq {
        let seq = self.next();
        if item.kind == FrameKind::Eager as u8 {
            self.eager_bytes += item.body.len();
        }
        if item.kind == FrameKind::Finish as u8 {
            self.finished = true;
        }
        self.retained.push_back(item);
        seq
    }

    /// Queues an envelope whose payload stays in `body`.
    pub fn push_envelope(&mut self, app: AppHeader, body: Held, synchronous: bool) -> Seq {
        let flags = if synchronous { flags::SYNCHRONOUS } else { 0 };
        let kind = FrameKind::Envelope as u8;
        let seq = self.push(Retained {
            kind,
            flags,
            app,
            arg: body.slice.len,
            body: Payload::None,
        });
        let served = false;
        self.waiting.insert(seq, Waiting { body, served });
        seq
    }

    /// Takes the peer's word that it has everything before `next` and its application has read
    /// `credit` bytes. Payloads that are free now are added to `free`. `[R12]`
    pub fn acknowledge(
        &mut self,
        next: Seq,
        credit: u64,
        free: &mut Freed,
    ) -> Result<bool, Violation> {
        if !self.may_acknowledge(next, credit) {
            return Err(match next > self.cursor {
                true => Violation::Sequence(next.0),
                false => Violation::Window,
            });
        }
        let opened = credit > self.credit;
        self.credit = self.credit.max(credit);
        self.drop_before(next, free);
        Ok(opened)
    }

    /// Whether the peer can have received and read so much. Beyond the cursor lies what this link has not
    /// carried.
    pub fn may_acknowledge(&self, next: Seq, credit: u64) -> bool {
        next <= self.cursor && credit <= self.eager_bytes
    }

    /// A new link is up and the peer expects `next`: go back, or on, to there. `[R15]`
    pub fn resume(&mut self, next: Seq, credit: u64, free: &mut Freed) -> Result<(), Violation> {
        if next < self.acked || next > self.next() {
            return Err(Violation::Sequence(next.0));
        }
        if is_planted(PlantedFault::SkipDuplicateCheck) && next > self.acked {
            // The duplicates that an honest replay does not make.
            self.cursor = Seq(next.0 - 1);
            return self.acknowledge(self.cursor, credit, free).map(|_| ());
        }
        self.cursor = next;
        for transfer in self.transfers.drain(..) {
            if let Some(waiting) = self.waiting.get_mut(&transfer.seq) {
                waiting.served = false;
            }
        }
        self.acknowledge(next, credit, free).map(|_| ())
    }

    /// The peer has forgotten the stream because it has had all of it. `[R17]`
    pub fn complete(&mut self, free: &mut Freed) {
        self.cursor = self.next();
        self.drop_before(self.cursor, free);
        let waiting = std::mem::take(&mut self.waiting);
        free.held.extend(waiting.into_values().map(|it| it.body));
        self.transfers.clear();
    }

    fn drop_before(&mut self, next: Seq, free: &mut Freed) {
        while self.acked < next {
            let item = self.retained.pop_front().expect("bounded by next()");
            free.add(item.body);
            self.acked = self.acked.next();
        }
    }

    /// The peer has the payload of message `seq`, or does not want it. `[R14]`
    pub fn done(&mut self, seq: Seq) -> Result<Held, Violation> {
        // A payload still being written to the link could be touched after its completion.
        let waiting = self.waiting.get(&seq).filter(|it| !it.served);
        let body = waiting.ok_or(Violation::Sequence(seq.0))?.body;
        self.waiting.remove(&seq);
        Ok(body)
    }

    /// The buffer of an envelope's payload.
    pub fn buffer_of(&self, seq: Seq) -> Option<BufferId> {
        let waiting = self.waiting.get(&seq)?;
        Some(waiting.body.slice.buffer)
    }

    /// Drops the last item, if it is a plain message.
    pub fn lose_tail(&mut self) {
        let eager = FrameKind::Eager as u8;
        if self.retained.back().is_some_and(|item| item.kind == eager) {
            self.retained.pop_back();
        }
    }

    /// The peer asks for message `seq` from `offset` up to `end`.
    pub fn pull(&mut self, seq: Seq, offset: u64, end: u64) -> Result<(), Violation> {
        let waiting = self.waiting.get_mut(&seq);
        let waiting = waiting.ok_or(Violation::Sequence(seq.0))?;
        if offset > end || end > waiting.body.slice.len {
            return Err(Violation::Length(end));
        }
        if waiting.served {
            return Err(Violation::Sequence(seq.0));
        }
        if offset < end {
            waiting.served = true;
            self.transfers.push_back(Transfer { seq, offset, end });
        }
        Ok(())
    }

    /// The stream was rejected: what no link has carried yet is not sent any more.
    pub fn drop_unsent(&mut self) -> Freed {
        let sent = (self.cursor.0 - self.acked.0) as usize;
        let dropped = self.retained.split_off(sent.min(self.retained.len()));
        let mut free = Freed::default();
        for (place, item) in dropped.into_iter().enumerate() {
            let seq = Seq(self.cursor.0 + place as u64);
            free.add(item.body);
            free.held
                .extend(self.waiting.remove(&seq).map(|it| it.body));
        }
        free
    }

    /// Every payload this direction holds; it is not usable afterwards.
    pub fn take_payloads(&mut self) -> Freed {
        let mut free = Freed::default();
        for item in std::mem::take(&mut self.retained) {
            free.add(item.body);
        }
        let payloads = std::mem::take(&mut self.waiting).into_values();
        free.held.extend(payloads.map(|it| it.body));
        free
    }

    /// The next acknowledgement frame asks for the peer's own.
    pub fn solicit(&mut self) {
        self.solicited = true;
    }

    pub fn take_solicited(&mut self) -> bool {
        std::mem::take(&mut self.solicited)
    }

    /// The next frame for the present link: items first, then payload, which can't overtake them.
    pub fn poll(&mut self) -> Option<Frame> {
        self.poll_item().or_else(|| self.poll_data())
    }

    fn poll_item(&mut self) -> Option<Frame> {
        let unread = self.eager_bytes - self.credit;
        if is_planted(PlantedFault::BlockWhenWindowIsFull) && unread > FIRST_WINDOW_BYTES / 2 {
            return None;
        }
        let header = self.begin_item()?;
        let item = self
            .retained
            .get((header.seq.get() - self.acked.0) as usize)?;
        let body = match &item.body {
            Payload::None => Body::Empty,
            Payload::Held(held) => Body::Slice(held.slice),
            Payload::Small(bytes) => Body::Own(bytes.to_vec()),
        };
        Some(Frame {
            header,
            app: item.app.clone(),
            body,
        })
    }

    /// What the frame of the next item says, which counts as sent from here on.
    pub fn begin_item(&mut self) -> Option<FrameHeader> {
        let item = self.retained.get((self.cursor.0 - self.acked.0) as usize)?;
        let mut header = FrameHeader {
            kind: item.kind,
            flags: item.flags,
            ..header_of(&item.app)
        };
        header.seq = le64(self.cursor.0);
        header.arg = le64(item.arg);
        header.body_len = le32(item.body.len() as u32);
        self.cursor = self.cursor.next();
        Some(header)
    }

    /// The frame of the last item was not sent after all.
    pub fn take_back(&mut self) {
        self.cursor = Seq(self.cursor.0.saturating_sub(1)).max(self.acked);
    }

    /// Whether the present link has carried every item.
    pub fn has_sent_all(&self) -> bool {
        self.cursor == self.next()
    }

    fn poll_data(&mut self) -> Option<Frame> {
        let mut transfer = self.transfers.pop_front()?;
        let waiting = self.waiting.get_mut(&transfer.seq);
        let waiting = waiting.expect("it stays until it is done, and is not while served");
        let source = waiting.body.slice;
        let len = (transfer.end - transfer.offset).min(DATA_FRAME_BYTES as u64);
        let mut header = FrameHeader::new(FrameKind::Data);
        header.seq = le64(transfer.seq.0);
        header.arg = le64(transfer.offset);
        header.body_len = le32(len as u32);
        let body = Slice {
            buffer: source.buffer,
            offset: source.offset + transfer.offset,
            len,
        };
        transfer.offset += len;
        if transfer.offset < transfer.end {
            self.transfers.push_back(transfer);
        } else {
            waiting.served = false;
        }
        Some(Frame {
            header,
            app: AppHeader::new(),
            body: Body::Slice(body),
        })
    }
}

fn header_of(app: &AppHeader) -> FrameHeader {
    FrameHeader {
        version: crate::wire::VERSION,
        app_len: app.len() as u8,
        ..FrameHeader::default()
    }
}

//! One stream: a direction out, which retains and replays, and a direction in, which drops
//! duplicates and pulls large payloads. Neither knows links; they see frames go and come.

mod incoming;
mod outgoing;

use serde::{Deserialize, Serialize};

pub(crate) use incoming::{Incoming, Item};
pub(crate) use outgoing::{Freed, Held, Outgoing, Payload, Retained};

use crate::ids::StreamId;
use crate::wire::{FrameHeader, le32, le64};

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StreamKind {
    /// Messages: boundaries are kept.
    Messages,
    /// Bytes: boundaries mean nothing.
    Bytes,
}

/// How far a stream has come in being set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Opening {
    /// We opened it and wait for the peer's word.
    Asked,
    /// The peer opened it and waits for ours.
    Offered,
    /// Both ends use it.
    Open,
    /// The peer refused it: nothing more goes out.
    Rejected,
    /// We refused it: what still comes is nobody's.
    Refused,
}

/// Fixed streams need no opening: both ends name them by number. `[R10]`
const FIXED: u32 = 1 << 31;

impl StreamId {
    /// The fixed stream of this number (below 2^31).
    pub fn fixed(number: u32) -> StreamId {
        StreamId(number | FIXED)
    }

    /// Whether the stream exists without having been opened.
    pub fn is_fixed(self) -> bool {
        self.0 & FIXED != 0
    }
}

/// Both directions of a stream.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub(crate) struct Stream {
    pub kind: StreamKind,
    pub opening: Opening,
    pub outgoing: Outgoing,
    pub incoming: Incoming,
}

impl Stream {
    pub fn new(kind: StreamKind, opening: Opening) -> Stream {
        Stream {
            kind,
            opening,
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
        }
    }

    /// Puts the stream's name on a frame, and what this side has of the other direction.
    pub fn tell(&mut self, id: StreamId, header: &mut FrameHeader) {
        let (ack, credit) = self.incoming.tell();
        header.stream = le32(id.0);
        header.ack = le64(ack.0);
        header.credit = le64(credit);
    }

    /// Nothing will come or go any more and the peer has had all of it: it may be forgotten. `[R17]`
    pub fn is_complete(&self) -> bool {
        let ended = matches!(self.opening, Opening::Rejected | Opening::Refused)
            || (self.outgoing.is_finished() && self.incoming.is_finished());
        let told = self.incoming.untold() == (0, 0);
        ended && told && self.outgoing.is_drained() && self.incoming.is_idle()
    }
}

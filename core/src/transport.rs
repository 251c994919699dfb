//! What a transport is: the few operations that links need, set-up apart from data.
//!
//! A transport moves *frames*: a fixed [`FrameHeader`], up to
//! [`APP_HEADER_BYTES`](crate::limits::APP_HEADER_BYTES) of application header, and a body. Within
//! one link frames arrive whole and in order; a link that can't keep that promise breaks. Nothing
//! is promised across links: replay is the port's business. `[R1]`

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{BufferId, LinkId};
use crate::location::{Card, TransportKind};
use crate::wire::{AppHeader, FrameHeader};

/// A part of a buffer that the runtime holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slice {
    /// The buffer.
    pub buffer: BufferId,
    /// First byte, from the buffer's start.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Where the body of an arriving frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Hand it over whole, as a slice of the transport's own memory.
    Whole,
    /// Write it straight into this buffer.
    Into(Slice),
}

/// What a transport can do; data, not methods.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Its kind.
    pub kind: TransportKind,
    /// Order of preference where several would do; higher is better.
    pub preference: u8,
    /// Largest body of one frame, in bytes.
    pub max_body_bytes: usize,
}

/// Why a link broke. Never the death of the peer: only an agent or a named timeout says that.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer closed the link, or its node went away.
    #[error("the peer closed the link")]
    Closed,
    /// An operation of the local transport failed.
    #[error("{operation} failed: {source}")]
    Io {
        /// The call.
        operation: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The peer sent what the protocol forbids.
    #[error("protocol violation by the peer: {0}")]
    Protocol(#[from] crate::wire::Violation),
    /// The peer is set up in another way than this side, so that they can't talk: a fault of whoever set
    /// them up, told from the peer's card or its first bytes.
    #[error("the peer and this port are set up differently: {0}")]
    Differs(&'static str),
    /// The card is not one that this transport can dial.
    #[error("the card is malformed")]
    BadCard,
    /// The card leads nowhere from this node, or for this user, and will not as long as it is the
    /// same.
    #[error("the peer can't be reached from here")]
    NotHere,
}

/// Why a frame was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No room now: back-pressure, not a fault. Retry after the link was reported writable.
    #[error("the link is full for now")]
    Full,
    /// The link is broken; a [`LinkEvent::Broken`] says why.
    #[error("the link is broken")]
    Broken,
}

/// What happened on a transport since it was last asked.
#[derive(Debug)]
pub enum LinkEvent {
    /// A dialled link is connected and can carry frames.
    Connected(LinkId),
    /// A peer has dialled us; the transport has numbered the link.
    Accepted(LinkId),
    /// The link takes frames again after [`SendError::Full`].
    Writable(LinkId),
    /// The link has bytes to read: call [`Transport::receive`].
    Readable(LinkId),
    /// The link is gone. The transport has forgotten it.
    Broken(LinkId, LinkError),
}

/// The runtime's buffers, as a transport sees them.
pub trait Memory {
    /// The bytes to send. The slice was named by a frame that was handed to the transport.
    fn read(&self, slice: Slice) -> &[u8];
    /// The place to receive into. The slice was named by a [`Place::Into`] or a [`Body::Place`].
    fn write(&mut self, slice: Slice) -> &mut [u8];
}

/// Takes frames as they arrive. Its memory can be written between the two calls for one frame.
pub trait FrameSink: Memory {
    /// A frame whose header was checked and that is here with all its body may be offered before anything
    /// else is asked. Whether it was taken: if not, it goes by the two calls below, as if nothing had
    /// been said.
    fn at_once(&mut self, _link: LinkId, _header: &FrameHeader, _app: &[u8], _body: &[u8]) -> bool {
        false
    }
    /// The header of a frame is here; says where its body belongs.
    fn begin(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        app: &AppHeader,
    ) -> Result<Place, LinkError>;
    /// The frame is complete. `body` is empty when it was written into its place.
    fn complete(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        app: &AppHeader,
        body: &[u8],
    ) -> Result<(), LinkError>;
}

/// One frame to send. The body must stay readable until the link has sent it or is closed.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The fixed part; its length fields agree with `app` and `body`.
    pub header: FrameHeader,
    /// The application's part.
    pub app: AppHeader,
    /// The body.
    pub body: Body,
}

/// The body of a frame to send.
#[derive(Clone, Debug)]
pub enum Body {
    /// None.
    Empty,
    /// Bytes made by the port itself (set-up and resume frames).
    Own(Vec<u8>),
    /// A part of a buffer of the runtime, sent without a copy where the transport can.
    Slice(Slice),
    /// Of a pull: no bytes, but the place that the payload it asks for belongs to. A transport whose
    /// peer can write into this side's memory tells it where that is; others ignore it.
    Place(Slice),
}

impl Body {
    /// Bytes in the body.
    pub fn len(&self) -> usize {
        match self {
            Body::Empty | Body::Place(_) => 0,
            Body::Own(bytes) => bytes.len(),
            Body::Slice(slice) => slice.len as usize,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A transport of one port: its listener and its links.
pub trait Transport {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;
    /// What a peer needs to dial this port.
    fn card(&self) -> Card;
    /// Starts a link; [`LinkEvent::Connected`] or [`LinkEvent::Broken`] follows.
    fn dial(&mut self, card: &Card) -> Result<LinkId, LinkError>;
    /// Closes a link. When this returns nothing of it can touch memory any more: the fence of
    /// `[R20]`. Frames not yet sent are dropped; closing twice is harmless.
    fn close(&mut self, link: LinkId);

    /// Collects what happened, waiting at most `wait` (zero: not at all).
    fn poll(&mut self, wait: Duration, events: &mut Vec<LinkEvent>);
    /// Whether the link takes a frame now. After `true`, one [`Transport::send`] is taken.
    fn has_room(&self, link: LinkId) -> bool;
    /// Takes a frame for sending, or says [`SendError::Full`]. It may be held back until
    /// [`Transport::flush`] so that several go out in one call.
    fn send(
        &mut self,
        link: LinkId,
        frame: Frame,
        memory: &mut dyn Memory,
    ) -> Result<(), SendError>;
    /// Puts a small frame on the wire at once, a copy of its body with it, if nothing of the link waits
    /// before it. Whether it did: if not, the frame was not taken, and goes as any other. A link that
    /// breaks meanwhile says so as ever.
    fn send_at_once(
        &mut self,
        _link: LinkId,
        _header: &FrameHeader,
        _app: &[u8],
        _body: &[u8],
    ) -> bool {
        false
    }
    /// Puts all that was taken on the wire, as far as it takes it now.
    fn flush(&mut self, link: LinkId, memory: &dyn Memory);
    /// What [`Transport::poll`] and [`Transport::receive`] do, in one step, where all that has happened is
    /// that one link can be read: that link, and what came of reading it. `None`, and nothing lost, for
    /// everything else, which the next `poll` tells. It need not look at more than what costs nothing, so
    /// whoever calls it polls too from time to time.
    fn receive_at_once<S: FrameSink>(
        &mut self,
        _sink: &mut S,
    ) -> Option<(LinkId, Result<bool, LinkError>)> {
        None
    }
    /// Reads what has arrived and hands its frames to `sink`, a bounded amount a call. Returns
    /// whether more may be waiting. An error breaks the link: the caller closes it.
    fn receive<S: FrameSink>(&mut self, link: LinkId, sink: &mut S) -> Result<bool, LinkError>;
}

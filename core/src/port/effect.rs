//! What a port wants done, and what it has to tell.

use serde::{Deserialize, Serialize};

use crate::ids::{BufferId, LinkId, PortId, Seq, StreamId};
use crate::location::Card;
use crate::stream::StreamKind;

/// Something for the driver to do or to know, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Dial one of these cards, the one its transports prefer, and call
    /// [`Port::dialled`](super::Port::dialled) or [`Port::dial_failed`](super::Port::dial_failed).
    Dial {
        /// The peer.
        peer: PortId,
        /// Ways to reach it.
        cards: Vec<Card>,
    },
    /// Close the link. The driver does this before it hands in any later frame (fence first).
    Close(LinkId),
    /// Ask the directory where the peer is, and [`learn`](super::Port::learn) the answer.
    Ask(PortId),
    /// A message's memory is the sender's again: no link can touch it, the peer has it.
    Sent {
        /// The buffer that was given to [`send`](super::Port::send).
        buffer: BufferId,
    },
    /// A buffer given to [`send`](super::Port::send) or [`pull`](super::Port::pull) is the caller's
    /// again because its stream is gone: nothing is known of its message.
    Lost {
        /// The buffer.
        buffer: BufferId,
    },
    /// A link to the peer is up and its streams run.
    Connected(PortId),
    /// The peer is dead; its streams are gone. Said once.
    Dead {
        /// The peer.
        peer: PortId,
        /// How that is known.
        cause: DeathCause,
    },
}

/// How a peer is known to be dead.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum DeathCause {
    /// An agent saw its process end.
    #[error("its process ended")]
    Reported,
    /// It could not be reached for [`Limits::peer_timeout`](crate::Limits::peer_timeout).
    #[error("it could not be reached for {0} s")]
    Timeout(u64),
}

/// What a complete frame brought, for the driver to act on before the next frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing that concerns the driver.
    Nothing,
    /// The peer opened a stream: accept or reject it.
    Opened {
        /// Which.
        at: StreamAt,
        /// The service asked for.
        service: u32,
        /// What it carries.
        kind: StreamKind,
    },
    /// The peer accepted a stream that was opened here.
    Accepted(StreamAt),
    /// The peer refused it.
    Rejected(StreamAt),
    /// A message; its payload is the frame's body. Say [`consumed`](super::Port::consumed) when the
    /// application has read it.
    Message {
        /// Where.
        at: StreamAt,
        /// Its number.
        seq: Seq,
    },
    /// A message whose payload waits at the peer: pull or decline it.
    Envelope {
        /// Where.
        at: StreamAt,
        /// Its number.
        seq: Seq,
        /// Bytes of payload.
        len: u64,
        /// Whether the sender waits for it to be matched, rather than for room.
        synchronous: bool,
    },
    /// A pulled payload is complete in its buffer.
    Pulled {
        /// Where.
        at: StreamAt,
        /// The message.
        seq: Seq,
        /// The buffer given to [`pull`](super::Port::pull).
        buffer: BufferId,
        /// Bytes written, from the buffer's start.
        len: u64,
    },
    /// Nothing more comes in this direction.
    Finished(StreamAt),
}

/// A stream, as seen from one of its two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamAt {
    /// The port at the other end.
    pub peer: PortId,
    /// The stream's number between the two.
    pub stream: StreamId,
}

/// Why a call on a port could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Nobody has said where this peer is: `learn` its contact first.
    #[error("no contact is known for port {0}")]
    UnknownPeer(PortId),
    /// The peer is dead.
    #[error("port {peer} is dead: {cause}")]
    Dead {
        /// The peer.
        peer: PortId,
        /// How that is known.
        cause: DeathCause,
    },
    /// No such stream, or it is complete and forgotten.
    #[error("no stream {stream:?} with port {peer}", stream = .0.stream, peer = .0.peer)]
    UnknownStream(StreamAt),
    /// The stream was refused by the peer.
    #[error("the peer refused the stream")]
    Rejected,
    /// The peer opened the stream, and has not been answered.
    #[error("the stream has been neither accepted nor refused")]
    Unanswered,
    /// This direction has been finished.
    #[error("the stream's outgoing direction is finished")]
    Finished,
    /// The message is not an envelope that waits to be answered.
    #[error("message {0:?} does not wait to be pulled")]
    NotAnnounced(Seq),
    /// Back-pressure: the port retains as many copied bytes as it may. Not with memory that is lent.
    #[error("the port retains as many bytes as it may for now")]
    Full,
    /// The pair of ports has too many streams.
    #[error(
        "no more than {} streams between two ports",
        crate::limits::STREAMS_PER_PEER
    )]
    TooManyStreams,
}

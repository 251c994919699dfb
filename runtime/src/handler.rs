//! The words of the driver interface: keys, memory lent and borrowed, events.

use std::ops::Deref;

/// Names a stream of a port.
pub use meander_core::port::StreamAt as StreamKey;
use meander_core::{PortId, Seq, StreamId};

/// Names a message of which only the envelope has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageKey {
    /// The port that sent it.
    pub peer: PortId,
    /// The stream it came on.
    pub stream: StreamId,
    /// Its place in the stream.
    pub seq: Seq,
}

/// Names a send that was not complete when [`crate::Port::post`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendId(pub u64);

/// What became of a [`crate::Port::post`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// The port has copied the bytes and owes the caller nothing more.
    Complete,
    /// [`EventHandler::sent`] with this id follows.
    Pending(SendId),
}

/// Memory that is sent from. It must not change until the port hands it back.
pub trait Source: Send {
    /// The bytes; the same ones at every call.
    fn bytes(&self) -> &[u8];
}

/// Memory that is received into. Nobody else may touch it until the port hands it back.
pub trait Sink: Send {
    /// The place; the same one at every call.
    fn bytes_mut(&mut self) -> &mut [u8];
}

impl Source for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Sink for Vec<u8> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// The body of a message to send.
pub enum Outgoing<'a> {
    /// Copied by the port, which retains the copy until the peer has it.
    Bytes(&'a [u8]),
    /// Lent to the port until [`EventHandler::sent`]; the peer gets an envelope, and the bytes
    /// when it pulls.
    Source(Box<dyn Source>),
}

/// When a send is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendMode {
    /// When its memory is free again.
    Standard,
    /// When the peer has also matched it, that is pulled or declined it.
    Synchronous,
}

/// The bytes of a message, borrowed from the port for the length of the call.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a>(pub(crate) &'a [u8]);

impl Deref for Payload<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0
    }
}

/// When the sender of a message gets the credit for its payload back. Without credit its messages
/// come as envelopes, and their payloads wait with it until they are pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// Now: the message is read.
    Return,
    /// When [`crate::Port::return_credit`] is called.
    Hold,
}

/// Takes what happened on the streams of [`crate::Port::fixed_stream`].
///
/// The port is not locked while it is called: every method of [`crate::Port`] may be used inside,
/// though a nested [`crate::Port::progress`] delivers nothing. Messages and envelopes of one stream
/// come in the order they were sent.
pub trait EventHandler {
    /// A message, with its payload. What is returned says when the sender may send as much again.
    fn message(&mut self, from: StreamKey, app: &[u8], payload: Payload<'_>) -> Credit;
    /// A message whose payload of `len` bytes waits at the sender, for
    /// [`crate::Port::pull`] or [`crate::Port::decline`].
    fn envelope(&mut self, from: StreamKey, app: &[u8], message: MessageKey, len: u64);
    /// A send is complete; its memory comes back, where it was lent.
    fn sent(&mut self, id: SendId, source: Option<Box<dyn Source>>);
    /// A pull is complete: the first `len` bytes of the sink are written.
    fn pulled(&mut self, message: MessageKey, sink: Box<dyn Sink>, len: u64);
    /// A peer is dead. What was pending with it never completes; lent memory has been dropped by
    /// the time of this call, and no link can touch it any more.
    fn peer_dead(&mut self, peer: PortId, why: String);
}

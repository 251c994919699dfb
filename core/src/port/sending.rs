//! Messages are taken for sending, and their memory is given back. What of it was copied for the port is
//! bounded. `[R56]`

use super::{Effect, Port, PortError, StreamAt, bare};
use crate::ids::{BufferId, LinkId, Seq};
use crate::limits;
use crate::planted::{PlantedFault, is_planted};
use crate::stream::{Freed, Held, Opening, Payload, Retained};
use crate::time::Time;
use crate::transport::Slice;
use crate::wire::{AppHeader, FrameHeader, FrameKind};

/// A message to send.
#[derive(Clone, Debug)]
pub struct Message {
    /// The application's header.
    pub app: AppHeader,
    /// The payload; `None` for one of no bytes that nobody waits for.
    pub body: Option<Slice>,
    /// The payload was copied for the port, which takes so much and no more
    /// ([`retained_bytes`](limits::Limits::retained_bytes)); else its memory is the caller's own, lent
    /// until [`Effect::Sent`].
    pub copied: bool,
    /// Complete only when the peer has pulled or declined it.
    pub synchronous: bool,
}

/// A payload that goes at once.
#[derive(Clone, Copy, Debug)]
pub enum Copied<'a> {
    /// Of at most [`SMALL_BYTES`](limits::SMALL_BYTES): the port makes and keeps the copy itself, and no
    /// [`Effect::Sent`] tells when the peer has it.
    Small(&'a [u8]),
    /// One that was copied into a buffer.
    Slice(Slice),
}

impl Copied<'_> {
    fn payload(self) -> Option<Payload> {
        match self {
            Copied::Small([]) => Some(Payload::None),
            Copied::Small(bytes) => bytes.try_into().ok().map(Payload::Small),
            Copied::Slice(slice) => Some(Payload::Held(Held {
                slice,
                copied: true,
            })),
        }
    }
}

impl Port {
    /// Sends a message: with its payload where that is small and the window has room, else as an
    /// envelope whose payload waits in its buffer. `[R13]` [`Effect::Sent`] gives the buffer back. A copy
    /// beyond the port's bound is not taken. `[R56]`
    pub fn send(&mut self, now: Time, at: StreamAt, message: Message) -> Result<Seq, PortError> {
        let free_bytes = self.free_bytes();
        let eager_bytes = self.lasting.limits.eager_bytes.min(limits::EAGER_BYTES_MAX) as u64;
        let window = self.living_peer(at.peer)?.window;
        let stream = self.sending_stream(at)?;
        let len = message.body.map_or(0, |body| body.len);
        if message.copied && len > free_bytes {
            return Err(PortError::Full);
        }
        let eager =
            !message.synchronous && len <= eager_bytes && stream.outgoing.window_takes(len, window);
        let copied = message.copied;
        let held = message.body.map(|slice| Held { slice, copied });
        let seq = match held {
            Some(body) if !eager => {
                stream
                    .outgoing
                    .push_envelope(message.app, body, message.synchronous)
            }
            body => {
                let app = message.app;
                let body = body.map_or(Payload::None, Payload::Held);
                stream.outgoing.push(Retained {
                    app,
                    body,
                    ..bare(FrameKind::Eager)
                })
            }
        };
        if copied {
            self.hold(len);
        }
        self.stir(now, at);
        Ok(seq)
    }

    /// Sends a message whose payload was, or is, copied for the port, where nothing is in its way: the
    /// link is up, all before it on its stream has gone, and the window and the port's bound take it.
    /// What its frame says and the link it goes on are returned, and the frame is to be put on that
    /// link before anything else is asked of the port; a link that does not take it is told of by
    /// [`Port::not_taken`]. `None` where the message is to be sent as any other.
    pub fn send_at_once(
        &mut self,
        at: StreamAt,
        app: &[u8],
        body: Copied<'_>,
    ) -> Option<(LinkId, FrameHeader)> {
        let limits = &self.lasting.limits;
        let eager_bytes = limits.eager_bytes.min(limits::EAGER_BYTES_MAX) as u64;
        let app = AppHeader::try_from(app).ok()?;
        let body = body.payload()?;
        let len = body.len();
        if len > eager_bytes || !self.takes_copy(len) {
            return None;
        }
        let peer = self.lasting.peers.get_mut(&at.peer)?;
        let up = peer.link.as_ref().filter(|up| up.carries_items())?;
        let (link, window) = (up.id, peer.window);
        let stream = peer.streams.get_mut(&at.stream)?;
        let open = stream.opening == Opening::Open && !stream.outgoing.is_finished();
        if !open || !stream.outgoing.has_sent_all() || !stream.outgoing.window_takes(len, window) {
            return None;
        }
        stream.outgoing.push(Retained {
            app,
            body,
            ..bare(FrameKind::Eager)
        });
        let mut header = stream.outgoing.begin_item()?;
        stream.tell(at.stream, &mut header);
        self.hold(len);
        Some((link, header))
    }

    /// The link did not take the frame of [`Port::send_at_once`]: it goes when there is room.
    pub fn not_taken(&mut self, now: Time, at: StreamAt) {
        if let Some(stream) = self.peer_mut(at.peer).streams.get_mut(&at.stream) {
            stream.outgoing.take_back();
        }
        self.stir(now, at);
    }

    /// Bytes of payload that were copied for this port and that no peer has confirmed.
    pub fn retained_bytes(&self) -> u64 {
        self.lasting.retained_bytes
    }

    /// Whether a copy of so many bytes would be taken now. If not, wait for [`Effect::Sent`], or lend the
    /// memory itself.
    pub fn takes_copy(&self, bytes: u64) -> bool {
        bytes <= self.free_bytes()
    }

    fn free_bytes(&self) -> u64 {
        let bound = self.lasting.limits.retained_bytes;
        bound.saturating_sub(self.lasting.retained_bytes)
    }

    /// A copy was taken for sending.
    fn hold(&mut self, bytes: u64) {
        if !is_planted(PlantedFault::ForgetToCountCopies) {
            self.lasting.retained_bytes += bytes;
        }
    }

    /// The peers have these payloads, or want nothing of them: their memory is free.
    pub(super) fn release(&mut self, mut free: Freed) {
        self.let_go(std::mem::take(&mut free.small_bytes));
        for held in free.held.drain(..) {
            let buffer = self.buffer_of(&held);
            self.effects.push_back(Effect::Sent { buffer });
        }
        self.freed = free;
    }

    /// The streams of these payloads are gone, and nothing is known of them.
    pub(super) fn lose(&mut self, payloads: Freed) {
        self.let_go(payloads.small_bytes);
        for held in payloads.held {
            let buffer = self.buffer_of(&held);
            self.effects.push_back(Effect::Lost { buffer });
        }
    }

    fn buffer_of(&mut self, held: &Held) -> BufferId {
        if held.copied {
            self.let_go(held.slice.len);
        }
        held.slice.buffer
    }

    fn let_go(&mut self, bytes: u64) {
        if !is_planted(PlantedFault::ForgetToUncountCopies) {
            // What was never counted is not counted down; that is only so with a fault planted.
            let left = self.lasting.retained_bytes.checked_sub(bytes);
            debug_assert!(left.is_some() || is_planted(PlantedFault::ForgetToCountCopies));
            self.lasting.retained_bytes = left.unwrap_or(0);
        }
    }
}

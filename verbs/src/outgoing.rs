//! The frames a link has taken and not yet put on the wire.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use meander_core::limits::APP_HEADER_BYTES;
use meander_core::transport::{Body, Frame, Memory, SendError};
use meander_core::wire::{FrameKind, HEADER_BYTES};
use rustix::io::Errno;

use crate::incoming::message;
use crate::limits;
use crate::packet::{Message, PLACE_BYTES, PREFIX_BYTES, Record, RemotePlace};

/// The frames a link has taken and not yet put on the wire, in order.
#[derive(Default)]
pub(crate) struct Outgoing {
    frames: VecDeque<Queued>,
    /// Bytes of all frames.
    bytes: usize,
    /// Bytes of the first frame's body that are on the wire; its head is where `begun`.
    sent: usize,
    begun: bool,
    /// It was full, and nobody has been told yet that there is room again.
    was_full: bool,
}

struct Queued {
    /// The record up to its body.
    head: ArrayVec<u8, { 1 + PLACE_BYTES + HEADER_BYTES + APP_HEADER_BYTES }>,
    body: Body,
    /// Of a data frame, what its payload is of and from which offset on.
    payload: Option<(Message, u64)>,
}

/// Payload that could be written straight into its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    pub message: Message,
    pub offset: u64,
    /// Where it is now.
    pub address: usize,
    pub bytes: usize,
}

/// How a packet came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Bytes of the packet, its prefix included.
    pub bytes: usize,
    /// Bytes of bodies among them.
    pub copied: usize,
}

/// What became of payload that could be written.
pub(crate) enum Written {
    /// It will be, before the packet is sent.
    Yes,
    /// It can't be: send it.
    No,
    /// Not now: end the packet before it.
    Later,
}

impl Outgoing {
    /// Takes a frame, unless too much is waiting. A pull may come with the place for its payload.
    pub fn push(&mut self, frame: Frame, place: Option<RemotePlace>) -> Result<(), SendError> {
        if !self.has_room() {
            return Err(SendError::Full);
        }
        let header = frame.header;
        let record = if place.is_some() {
            Record::Pull
        } else {
            Record::Frame
        };
        let place = place.as_ref().map(RemotePlace::encode);
        let mut head = ArrayVec::new();
        for part in [
            &[record as u8][..],
            place.as_ref().map_or(&[][..], |place| &place[..]),
            &header.to_bytes(),
            &frame.app,
        ] {
            head.try_extend_from_slice(part)
                .expect("it is as long as all can be");
        }
        let is_data = header.kind == FrameKind::Data as u8 && matches!(frame.body, Body::Slice(_));
        self.bytes += head.len() + frame.body.len();
        self.frames.push_back(Queued {
            head,
            body: frame.body,
            payload: is_data.then(|| (message(&header), header.arg.get())),
        });
        self.was_full |= !self.has_room();
        Ok(())
    }

    pub fn has_room(&self) -> bool {
        self.frames.len() < limits::SEND_QUEUE_FRAMES && self.bytes < limits::SEND_QUEUE_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether to report now that a link which was full has room again.
    pub fn has_room_again(&mut self) -> bool {
        let room = self.frames.len() <= limits::SEND_QUEUE_FRAMES / 2
            && self.bytes <= limits::SEND_QUEUE_BYTES / 2;
        room && std::mem::take(&mut self.was_full)
    }

    /// Fills a packet with what comes next, leaving its prefix to the caller. `write` is asked of
    /// each payload whether it is written into its place instead.
    pub fn fill(
        &mut self,
        packet: &mut [u8],
        memory: &dyn Memory,
        mut write: impl FnMut(Payload) -> Written,
    ) -> Result<Filled, Errno> {
        let mut filled = Filled {
            bytes: PREFIX_BYTES,
            copied: 0,
        };
        while let Some(first) = self.frames.front_mut() {
            let room = packet.len() - filled.bytes;
            let body = match &first.body {
                Body::Empty | Body::Place(_) => &[],
                Body::Own(bytes) => &bytes[..],
                Body::Slice(slice) => memory.read(*slice),
            };
            // The header has promised so many bytes. A buffer that was released under the frame
            // must break the link rather than shift everything that follows.
            if body.len() != first.body.len() {
                return Err(Errno::FAULT);
            }
            let mut written = false;
            if !self.begun {
                // All but a body is in one packet. [R61]
                if room < first.head.len() {
                    break;
                }
                let large = body.len() as u64 >= limits::PLACE_BYTES_MIN;
                if let Some((message, offset)) = first.payload.filter(|_| large) {
                    let (address, bytes) = (body.as_ptr() as usize, body.len());
                    match write(Payload {
                        message,
                        offset,
                        address,
                        bytes,
                    }) {
                        Written::Yes => written = true,
                        Written::No => {}
                        Written::Later => break,
                    }
                }
                if written {
                    first.head[0] = Record::Written as u8;
                }
                packet[filled.bytes..][..first.head.len()].copy_from_slice(&first.head);
                filled.bytes += first.head.len();
                self.begun = true;
            }
            let rest = if written { &[] } else { &body[self.sent..] };
            let some = rest.len().min(packet.len() - filled.bytes);
            packet[filled.bytes..][..some].copy_from_slice(&rest[..some]);
            filled.bytes += some;
            filled.copied += some;
            self.sent += some;
            if some < rest.len() {
                break;
            }
            self.bytes -= first.head.len() + first.body.len();
            (self.sent, self.begun) = (0, false);
            self.frames.pop_front();
        }
        Ok(filled)
    }
}

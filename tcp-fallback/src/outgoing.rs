//! The frames a link has taken and not yet put on the wire.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use meander_core::limits::APP_HEADER_BYTES;
use meander_core::transport::{Body, Frame, Memory, SendError};
use meander_core::wire::HEADER_BYTES;
use rustix::io::Errno;

use crate::limits;
use crate::wire::Wire;

/// The frames a link has taken and not yet put on the wire, in order.
#[derive(Default)]
pub(crate) struct Outgoing {
    frames: VecDeque<Queued>,
    /// Bytes of all frames, less what has been sent of the first.
    bytes: usize,
    /// Bytes of the first frame that have been sent.
    sent: usize,
    /// It was full, and nobody has been told yet that there is room again.
    was_full: bool,
}

struct Queued {
    prefix: ArrayVec<u8, { HEADER_BYTES + APP_HEADER_BYTES }>,
    body: Body,
}

impl Outgoing {
    /// Takes a frame, unless too much is waiting.
    pub(crate) fn push(&mut self, frame: Frame) -> Result<(), SendError> {
        if !self.has_room() {
            return Err(SendError::Full);
        }
        let mut prefix = ArrayVec::new();
        for part in [&frame.header.to_bytes()[..], &frame.app] {
            prefix
                .try_extend_from_slice(part)
                .expect("it is as long as both can be");
        }
        self.bytes += prefix.len() + frame.body.len();
        self.frames.push_back(Queued {
            prefix,
            body: frame.body,
        });
        self.was_full |= !self.has_room();
        Ok(())
    }

    pub(crate) fn has_room(&self) -> bool {
        self.frames.len() < limits::SEND_QUEUE_FRAMES && self.bytes < limits::SEND_QUEUE_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether to report now that a link which was full has room again.
    pub(crate) fn has_room_again(&mut self) -> bool {
        let room = self.frames.len() <= limits::SEND_QUEUE_FRAMES / 2
            && self.bytes <= limits::SEND_QUEUE_BYTES / 2;
        room && std::mem::take(&mut self.was_full)
    }

    /// Writes until all is sent or the socket takes no more. Returns whether all is sent.
    pub(crate) fn write(
        &mut self,
        wire: &mut Wire,
        socket: BorrowedFd<'_>,
        memory: &dyn Memory,
    ) -> Result<bool, Errno> {
        while !self.frames.is_empty() {
            let taken = self
                .parts(memory)
                .and_then(|parts| wire.write(socket, &parts));
            match taken {
                Ok(count) => self.advance(count),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        wire.flush(socket)
    }

    /// What comes next, as the parts of one vectored write.
    fn parts<'a>(
        &'a self,
        memory: &'a dyn Memory,
    ) -> Result<ArrayVec<IoSlice<'a>, { limits::WRITE_PARTS }>, Errno> {
        let mut parts = ArrayVec::new();
        let mut skip = self.sent;
        for frame in &self.frames {
            if parts.remaining_capacity() < 2 {
                break;
            }
            let body = match &frame.body {
                Body::Empty | Body::Place(_) => &[],
                Body::Own(bytes) => &bytes[..],
                Body::Slice(slice) => memory.read(*slice),
            };
            // The header has promised so many bytes. A buffer that was released under the frame
            // must break the link rather than shift everything that follows.
            if body.len() != frame.body.len() {
                return Err(Errno::FAULT);
            }
            for part in [&frame.prefix[..], body] {
                let skipped = skip.min(part.len());
                skip -= skipped;
                if skipped < part.len() {
                    parts.push(IoSlice::new(&part[skipped..]));
                }
            }
        }
        Ok(parts)
    }

    fn advance(&mut self, count: usize) {
        self.bytes -= count;
        self.sent += count;
        while let Some(first) = self.frames.front() {
            let len = first.prefix.len() + first.body.len();
            if self.sent < len {
                break;
            }
            self.sent -= len;
            self.frames.pop_front();
        }
    }
}

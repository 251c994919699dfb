//! Frames arrive: to the protocol, and what they bring to whom it is for.

use meander_core::port::{self, Arrival};
use meander_core::transport::{FrameSink, LinkError, Memory, Place, Slice};
use meander_core::wire::{AppHeader, FrameHeader};
use meander_core::{BufferId, LinkId, Seq, StreamKind, Time};

use super::buffers::{Buffer, Buffers};
use super::ends::{End, Ends, OFFERED_STREAMS, State};
use super::fetch::Fetcher;
use super::inbox::Inbox;
use crate::handler::StreamKey;

/// The engine's parts that frames go to, while the transport is being read.
pub(super) struct Receiver<'a> {
    pub core: &'a mut port::Port,
    pub buffers: &'a mut Buffers,
    pub inbox: &'a mut Inbox,
    pub ends: &'a mut Ends,
    pub now: Time,
    pub message_bytes_max: u64,
    /// Something came that a thread may be waiting for.
    pub news: bool,
}

impl Memory for Receiver<'_> {
    fn read(&self, slice: Slice) -> &[u8] {
        self.buffers.read(slice)
    }
    fn write(&mut self, slice: Slice) -> &mut [u8] {
        self.buffers.write(slice)
    }
}

impl FrameSink for Receiver<'_> {
    fn at_once(&mut self, link: LinkId, header: &FrameHeader, app: &[u8], body: &[u8]) -> bool {
        let Some(at) = self.core.message_at_once(self.now, link, header) else {
            return false;
        };
        self.message(at, app, body);
        self.news = true;
        true
    }

    fn begin(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        _: &AppHeader,
    ) -> Result<Place, LinkError> {
        Ok(self.core.frame_begin(link, header)?)
    }

    fn complete(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        app: &AppHeader,
        body: &[u8],
    ) -> Result<(), LinkError> {
        let retained = self.core.retained_bytes() > 0;
        match self
            .core
            .frame_complete(self.now, link, header, app, body)?
        {
            Arrival::Nothing => {
                // Who closes the port waits until the peers have everything.
                self.news |= retained && self.core.retained_bytes() == 0;
                return Ok(());
            }
            Arrival::Message { at, seq: _ } => self.message(at, app, body),
            Arrival::Envelope { at, seq, len, .. } => self.envelope(at, seq, app, len),
            Arrival::Pulled {
                at,
                seq,
                buffer,
                len,
            } => self.pulled(at, seq, buffer, len),
            Arrival::Opened { at, service, kind } => self.opened(at, service, kind),
            Arrival::Accepted(at) => self.answered(at, State::Open),
            Arrival::Rejected(at) => self.answered(at, State::Refused),
            Arrival::Finished(at) => {
                if let Some(end) = self.ends.ends.get_mut(&at) {
                    end.ended = true;
                }
            }
        }
        self.news = true;
        Ok(())
    }
}

impl Receiver<'_> {
    fn message(&mut self, at: StreamKey, app: &[u8], body: &[u8]) {
        if at.stream.is_fixed() {
            self.inbox.message(at, app, body);
        } else if let Some(end) = self.ends.ends.get_mut(&at) {
            end.eager(body.to_vec());
        } else {
            self.core.consumed(at, body.len() as u64);
        }
    }

    fn envelope(&mut self, at: StreamKey, seq: Seq, app: &AppHeader, len: u64) {
        if at.stream.is_fixed() {
            self.inbox.envelope(at, seq, app, len);
        } else if let Some(end) = self.ends.ends.get_mut(&at) {
            end.announced(seq, len);
            let (core, buffers) = (&mut *self.core, &mut *self.buffers);
            let (now, message_bytes_max) = (self.now, self.message_bytes_max);
            Fetcher {
                core,
                buffers,
                now,
                message_bytes_max,
            }
            .fetch(at, end, false);
        } else {
            // Its reader is gone. It was just announced, so declining it can't fail.
            let _ = self.core.decline(self.now, at, seq);
        }
    }

    fn pulled(&mut self, at: StreamKey, seq: Seq, buffer: BufferId, len: u64) {
        match self.buffers.remove(buffer) {
            Some(Buffer::Sink { sink, message }) => self.inbox.pulled(message, sink, len),
            Some(Buffer::Filling { bytes, .. }) => {
                if let Some(end) = self.ends.ends.get_mut(&at) {
                    end.pulled(seq, bytes);
                }
            }
            _ => {}
        }
    }

    fn opened(&mut self, at: StreamKey, service: u32, kind: StreamKind) {
        let wanted = self.ends.services.contains(&service);
        let accept = wanted && self.ends.offered.len() < OFFERED_STREAMS;
        if self.core.answer(self.now, at, accept).is_ok() && accept {
            self.ends
                .ends
                .insert(at, End::new(service, kind, State::Open));
            self.ends.offered.push_back(at);
        }
    }

    fn answered(&mut self, at: StreamKey, state: State) {
        match self.ends.ends.get_mut(&at) {
            Some(end) => end.state = state,
            // Whoever opened it has given up.
            None if state == State::Open => {
                let _ = self.core.finish(self.now, at);
            }
            None => {}
        }
    }
}

//! Frames go out; deadlines pass.

use super::Port;
use super::links::State;
use super::peer::Up;
use crate::ids::{LinkId, PortId, StreamId};
use crate::stream::Stream;
use crate::table::Table;
use crate::time::Time;
use crate::transport::{Body, Frame, Slice};
use crate::wire::{AppHeader, FrameHeader, FrameKind, flags, le32, le64};

impl Port {
    /// A link that may have frames; each is told once for every change.
    pub fn poll_ready(&mut self) -> Option<LinkId> {
        self.ready.pop_front()
    }

    /// The next frame for a link that has room. After `None` the link is told by
    /// [`Port::poll_ready`] when it has more.
    pub fn poll_transmit(&mut self, id: LinkId) -> Option<Frame> {
        let link = self.links.get_mut(&id)?;
        if let Some(frame) = link.outbox.take() {
            return Some(frame);
        }
        let State::Up = link.state else { return None };
        let peer = self.lasting.peers.get_mut(&link.peer?)?;
        let up = peer.link.as_mut().filter(|up| up.id == id)?;
        if up.to_resume.is_some() {
            return Some(resume_frame(up, &mut peer.streams));
        }
        if !up.carries_items() {
            return None;
        }
        // Pulls and items carry acknowledgements; those still owed afterwards go on their own.
        while let Some(id) = peer.ready.front().copied() {
            let frame = peer
                .streams
                .get_mut(&id)
                .and_then(|stream| stream_frame(id, stream));
            peer.ready.pop_front();
            if let Some(frame) = frame {
                // Streams take turns.
                peer.ready.push_back(id);
                return Some(frame);
            }
        }
        while let Some(id) = peer.owing.pop_front() {
            let Some(stream) = peer.streams.get_mut(&id) else {
                continue;
            };
            let frame = ack_frame(id, stream);
            if stream.is_complete() {
                peer.streams.remove(&id);
            }
            return Some(frame);
        }
        None
    }

    /// When [`Port::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Time> {
        let peers = self.restless.iter().filter_map(|id| {
            let peer = &self.lasting.peers[id];
            let redial = (peer.link.is_none()).then_some(peer.dialling.not_before);
            peer.ack_at.into_iter().chain(redial).min()
        });
        peers.chain(self.next_link_deadline()).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.expire_links(now);
        for id in std::mem::take(&mut self.restless) {
            self.acknowledge_late(now, id);
            self.settle(now, id);
        }
    }

    /// Sends the acknowledgements that found nothing to ride on. `[R12]`
    fn acknowledge_late(&mut self, now: Time, id: PortId) {
        let peer = self.peer_mut(id);
        let Some(due) = peer.ack_at else { return };
        if due <= now {
            peer.ack_at = None;
            for stream in peer.late_streams(now) {
                peer.make_owing(stream);
            }
        }
        if peer.ack_at.is_some() {
            self.restless.insert(id);
        }
        self.note_ready(id);
    }

    pub(super) fn note_link(&mut self, id: LinkId) {
        if !self.ready.contains(&id) {
            self.ready.push_back(id);
        }
    }

    /// The peer's link may have frames to carry.
    pub(super) fn note_ready(&mut self, id: PortId) {
        let peer = &self.lasting.peers[&id];
        if peer.has_frames() {
            let link = peer.link.as_ref().expect("has frames for it").id;
            self.note_link(link);
        }
    }
}

type Streams = Table<StreamId, Stream>;

/// What this side expects next of each stream, then that it has said so. `[R15]`
fn resume_frame(up: &mut Up, streams: &mut Streams) -> Frame {
    let queue = up.to_resume.as_mut().expect("checked by the caller");
    while let Some(id) = queue.pop_front() {
        let Some(stream) = streams.get_mut(&id) else {
            continue;
        };
        let (next, credit) = stream.incoming.tell();
        let mut header = FrameHeader::new(FrameKind::Resume);
        header.stream = le32(id.0);
        header.seq = le64(next.0);
        header.credit = le64(credit);
        return plain(header);
    }
    up.to_resume = None;
    plain(FrameHeader::new(FrameKind::Resumed))
}

fn stream_frame(id: StreamId, stream: &mut Stream) -> Option<Frame> {
    let mut frame = match stream.incoming.poll_request() {
        Some(request) => {
            let mut header = FrameHeader::new(FrameKind::Pull);
            header.seq = le64(request.seq.0);
            header.arg = le64(request.offset);
            header.app_len = 8;
            let app = AppHeader::try_from(&request.end.to_le_bytes()[..]).expect("8 bytes fit");
            let body = Body::Place(Slice {
                buffer: request.buffer,
                offset: request.offset,
                len: request.end - request.offset,
            });
            Frame { header, app, body }
        }
        None => stream.outgoing.poll()?,
    };
    stream.tell(id, &mut frame.header);
    Some(frame)
}

fn ack_frame(id: StreamId, stream: &mut Stream) -> Frame {
    let mut header = FrameHeader::new(FrameKind::Ack);
    stream.tell(id, &mut header);
    if stream.outgoing.take_solicited() {
        header.flags |= flags::SOLICIT;
    }
    plain(header)
}

fn plain(header: FrameHeader) -> Frame {
    Frame {
        header,
        app: AppHeader::new(),
        body: Body::Empty,
    }
}

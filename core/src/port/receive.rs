//! Frames come in.

use super::effect::{Arrival, StreamAt};
use super::links::State;
use super::{Effect, Port};
use crate::ids::{LinkId, PortId, Seq, StreamId};
use crate::limits;
use crate::planted::{PlantedFault, is_planted};
use crate::stream::{Freed, Item, Opening, Stream, StreamKind};
use crate::time::Time;
use crate::transport::Place;
use crate::wire::{AppHeader, FrameHeader, FrameKind, Violation, flags};

impl Port {
    /// The header of a frame has come: where does its body belong?
    pub fn frame_begin(&self, link: LinkId, header: &FrameHeader) -> Result<Place, Violation> {
        let kind = header.frame_kind()?;
        let up = self
            .links
            .get(&link)
            .filter(|it| matches!(it.state, State::Up));
        // What a stranger says is not even stored, however long he claims that it is. `[R41]`
        if up.is_none() && !kind.is_setup() {
            return Err(Violation::Kind(header.kind));
        }
        if kind != FrameKind::Data {
            return Ok(Place::Whole);
        }
        let peer = up
            .and_then(|it| it.peer)
            .and_then(|id| self.lasting.peers.get(&id));
        let stream = peer.and_then(|peer| peer.streams.get(&StreamId(header.stream.get())));
        let stream = stream.ok_or(Violation::Stream(header.stream.get()))?;
        let (seq, len) = (Seq(header.seq.get()), header.body_bytes() as u64);
        stream
            .incoming
            .place(seq, header.arg.get(), len)
            .map(Place::Into)
    }

    /// A frame is complete: `body` holds it unless it was written into its place. On an error the
    /// driver closes the link and says so with [`Port::broken`].
    pub fn frame_complete(
        &mut self,
        now: Time,
        link: LinkId,
        header: &FrameHeader,
        app: &AppHeader,
        body: &[u8],
    ) -> Result<Arrival, Violation> {
        let kind = header.frame_kind()?;
        let state = self.links.get(&link).ok_or(Violation::Kind(header.kind))?;
        let peer = match (&state.state, state.peer) {
            (State::Up, Some(peer)) => peer,
            _ => {
                return self
                    .setup_frame(now, link, kind, body)
                    .map(|()| Arrival::Nothing);
            }
        };
        let at = StreamAt {
            peer,
            stream: StreamId(header.stream.get()),
        };
        match kind {
            FrameKind::Resume => self.resume(at, header),
            FrameKind::Resumed => self.resumed(peer),
            _ if !self.is_resumed(peer) => Err(Violation::Kind(header.kind)),
            FrameKind::Ack => self.acknowledgement(at, header),
            FrameKind::Pull => self.pulled_by_peer(now, at, header, app),
            FrameKind::Data => self.data(now, at, header),
            kind if kind.is_item() => self.item(now, at, kind, header),
            _ => Err(Violation::Kind(header.kind)),
        }
    }

    /// A message has come with its payload, all of it here, and nothing about it is out of the ordinary: the
    /// next item of an open stream. What [`Port::frame_begin`] and [`Port::frame_complete`] would do, in
    /// one step; it is an [`Arrival::Message`] of the stream that is returned. `None`, and nothing done, for
    /// every other frame: that goes by these.
    pub fn message_at_once(
        &mut self,
        now: Time,
        link: LinkId,
        header: &FrameHeader,
    ) -> Option<StreamAt> {
        if header.kind != FrameKind::Eager as u8 {
            return None;
        }
        let window = self.window_bytes();
        let state = self.links.get(&link)?;
        let id = state.peer.filter(|_| matches!(state.state, State::Up))?;
        let peer = self.lasting.peers.get_mut(&id)?;
        peer.link.as_ref().filter(|up| up.resumed)?;
        let at = StreamAt {
            peer: id,
            stream: StreamId(header.stream.get()),
        };
        let stream = peer.streams.get_mut(&at.stream)?;
        let (incoming, outgoing) = (&mut stream.incoming, &mut stream.outgoing);
        let (ack, credit) = (Seq(header.ack.get()), header.credit.get());
        let usual = stream.opening == Opening::Open
            && !incoming.is_finished()
            && incoming.next() == Seq(header.seq.get())
            && outgoing.may_acknowledge(ack, credit);
        if !usual {
            return None;
        }
        let len = header.body_bytes() as u64;
        incoming.take_eager(len, window).ok()?;
        incoming.advance();
        let mut free = std::mem::take(&mut self.freed);
        // It was looked at above; and a stream that goes on is not complete.
        let _ = outgoing.acknowledge(ack, credit, &mut free);
        incoming.owe(now);
        if incoming.untold().0 >= limits::ACK_ITEMS || peer.ack_at.is_none() {
            self.owe(now, at);
        }
        self.release(free);
        Some(at)
    }

    fn is_resumed(&self, peer: PortId) -> bool {
        self.lasting.peers[&peer]
            .link
            .as_ref()
            .is_some_and(|up| up.resumed)
    }

    /// The peer says what it expects next of one stream. `[R15]`
    fn resume(&mut self, at: StreamAt, header: &FrameHeader) -> Result<Arrival, Violation> {
        let peer = self.peer_mut(at.peer);
        let up = peer.link.as_mut().filter(|up| !up.resumed);
        let up = up.ok_or(Violation::Kind(header.kind))?;
        if up.named.len() >= limits::STREAMS_PER_PEER || !up.named.insert(at.stream) {
            return Err(Violation::Stream(at.stream.0));
        }
        // One that we have forgotten is complete; of one that we don't know yet, items will come.
        let Some(stream) = peer.streams.get_mut(&at.stream) else {
            return Ok(Arrival::Nothing);
        };
        let mut free = Freed::default();
        stream
            .outgoing
            .resume(Seq(header.seq.get()), header.credit.get(), &mut free)?;
        let unsent = match stream.opening {
            // Of a stream that the peer refused, what it has not received is not sent again. `[R22]`
            Opening::Rejected => stream.outgoing.drop_unsent(),
            _ => Freed::default(),
        };
        self.lose(unsent);
        self.release(free);
        Ok(Arrival::Nothing)
    }

    /// The peer has named all its streams: those it did not name it never knew, or has forgotten
    /// because it has had all of them. `[R17]`
    fn resumed(&mut self, id: PortId) -> Result<Arrival, Violation> {
        let peer = self.peer_mut(id);
        let up = peer.link.as_mut().expect("the frame came on it");
        if up.resumed {
            return Err(Violation::Kind(FrameKind::Resumed as u8));
        }
        up.resumed = true;
        let named = std::mem::take(&mut up.named);
        let mut free = Freed::default();
        let mut resumed = Ok(());
        for (stream_id, stream) in peer.streams.iter_mut() {
            if named.contains(stream_id) {
                continue;
            }
            if stream.incoming.next() == Seq(0) {
                resumed = resumed.and(stream.outgoing.resume(Seq(0), 0, &mut free));
            } else {
                stream.outgoing.complete(&mut free);
            }
        }
        peer.streams.retain(|_, stream| !stream.is_complete());
        peer.ready = peer.streams.keys().copied().collect();
        self.release(free);
        resumed?;
        self.effects.push_back(Effect::Connected(id));
        self.note_ready(id);
        Ok(Arrival::Nothing)
    }

    fn acknowledgement(
        &mut self,
        at: StreamAt,
        header: &FrameHeader,
    ) -> Result<Arrival, Violation> {
        self.acknowledged(at, header)?;
        if header.flags & flags::SOLICIT != 0 {
            let peer = self.peer_mut(at.peer);
            if peer.streams.contains_key(&at.stream) {
                peer.make_owing(at.stream);
                self.note_ready(at.peer);
            }
        }
        Ok(Arrival::Nothing)
    }

    /// Every frame of a stream says what its sender has received. `[R12]`
    fn acknowledged(&mut self, at: StreamAt, header: &FrameHeader) -> Result<(), Violation> {
        let mut free = std::mem::take(&mut self.freed);
        let peer = self.peer_mut(at.peer);
        let Some(stream) = peer.streams.get_mut(&at.stream) else {
            return Ok(());
        };
        let (next, credit) = (Seq(header.ack.get()), header.credit.get());
        stream.outgoing.acknowledge(next, credit, &mut free)?;
        if stream.is_complete() {
            peer.streams.remove(&at.stream);
        }
        self.release(free);
        Ok(())
    }

    /// The peer asks for a payload.
    fn pulled_by_peer(
        &mut self,
        now: Time,
        at: StreamAt,
        header: &FrameHeader,
        app: &AppHeader,
    ) -> Result<Arrival, Violation> {
        self.acknowledged(at, header)?;
        let end: [u8; 8] = app
            .as_slice()
            .try_into()
            .map_err(|_| Violation::Malformed)?;
        let stream = self.known_stream(at)?;
        let (seq, offset) = (Seq(header.seq.get()), header.arg.get());
        stream.outgoing.pull(seq, offset, u64::from_le_bytes(end))?;
        let early = stream.outgoing.buffer_of(seq);
        if let Some(buffer) = early.filter(|_| is_planted(PlantedFault::CompleteTooEarly)) {
            self.effects.push_back(Effect::Sent { buffer });
        }
        self.stir(now, at);
        Ok(Arrival::Nothing)
    }

    /// Payload has been written into its place. `[R14]`
    fn data(
        &mut self,
        now: Time,
        at: StreamAt,
        header: &FrameHeader,
    ) -> Result<Arrival, Violation> {
        self.acknowledged(at, header)?;
        let stream = self.known_stream(at)?;
        let seq = Seq(header.seq.get());
        let Some((buffer, len)) = stream.incoming.placed(seq, header.body_bytes() as u64)? else {
            return Ok(Arrival::Nothing);
        };
        stream.outgoing.push(super::done(seq));
        self.stir(now, at);
        Ok(Arrival::Pulled {
            at,
            seq,
            buffer,
            len,
        })
    }

    fn item(
        &mut self,
        now: Time,
        at: StreamAt,
        kind: FrameKind,
        header: &FrameHeader,
    ) -> Result<Arrival, Violation> {
        let window = self.window_bytes();
        let we_are_lower = self.lasting.id < at.peer;
        let peer = self.peer_mut(at.peer);
        if !peer.streams.contains_key(&at.stream) {
            let kind = admit_stream(at.stream, kind, header, we_are_lower, peer.streams.len())?;
            peer.streams.insert(at.stream, kind);
        }
        let stream = peer.streams.get_mut(&at.stream).expect("just seen");
        let seq = Seq(header.seq.get());
        if stream.incoming.classify(seq)? == Item::Duplicate {
            self.owe(now, at);
            self.acknowledged(at, header)?;
            return Ok(Arrival::Nothing);
        }
        // What came the other way is still answered; nothing else follows the end. `[R21]`
        if stream.incoming.is_finished() && kind != FrameKind::Done {
            return Err(Violation::Sequence(seq.0));
        }
        let arg = header.arg.get();
        let arrival = match kind {
            // Nothing but the first item of a stream that the peer has just made. `[R10]`
            FrameKind::Open if stream.opening != Opening::Offered || seq != Seq(0) => {
                return Err(Violation::Kind(header.kind));
            }
            FrameKind::Open => {
                let kind = stream.kind;
                Arrival::Opened {
                    at,
                    service: arg as u32,
                    kind,
                }
            }
            FrameKind::Accept | FrameKind::Reject if stream.opening != Opening::Asked => {
                return Err(Violation::Kind(header.kind));
            }
            // The answer comes first. `[R10]`
            FrameKind::Eager | FrameKind::Envelope | FrameKind::Done | FrameKind::Finish
                if stream.opening == Opening::Asked =>
            {
                return Err(Violation::Kind(header.kind));
            }
            FrameKind::Accept => {
                stream.opening = Opening::Open;
                Arrival::Accepted(at)
            }
            FrameKind::Reject => {
                stream.opening = Opening::Rejected;
                let unsent = stream.outgoing.drop_unsent();
                self.lose(unsent);
                Arrival::Rejected(at)
            }
            // What was on its way when we refused the stream is nobody's.
            FrameKind::Eager | FrameKind::Finish if stream.opening == Opening::Refused => {
                Arrival::Nothing
            }
            FrameKind::Envelope if stream.opening == Opening::Refused => {
                stream.outgoing.push(super::done(seq));
                self.stir(now, at);
                Arrival::Nothing
            }
            FrameKind::Eager => {
                stream
                    .incoming
                    .take_eager(header.body_bytes() as u64, window)?;
                Arrival::Message { at, seq }
            }
            FrameKind::Envelope => {
                stream.incoming.announce(seq, arg);
                let synchronous = header.flags & flags::SYNCHRONOUS != 0;
                Arrival::Envelope {
                    at,
                    seq,
                    len: arg,
                    synchronous,
                }
            }
            FrameKind::Done => {
                let payload = stream.outgoing.done(Seq(arg))?;
                let mut free = std::mem::take(&mut self.freed);
                free.held.push(payload);
                self.release(free);
                Arrival::Nothing
            }
            FrameKind::Finish => {
                stream.incoming.finish();
                Arrival::Finished(at)
            }
            _ => return Err(Violation::Kind(header.kind)),
        };
        self.known_stream(at)?.incoming.advance();
        self.owe(now, at);
        self.acknowledged(at, header)?;
        Ok(arrival)
    }

    /// An item was received: its acknowledgement may wait a little, but not for ever. `[R12]`
    fn owe(&mut self, now: Time, at: StreamAt) {
        let peer = self.peer_mut(at.peer);
        let Some(stream) = peer.streams.get_mut(&at.stream) else {
            return;
        };
        stream.incoming.owe(now);
        if stream.incoming.untold().0 >= limits::ACK_ITEMS {
            peer.make_owing(at.stream);
            self.note_ready(at.peer);
        } else if peer.ack_at.is_none() {
            peer.ack_at = Some(now + limits::ACK_DELAY);
            self.restless.insert(at.peer);
        }
    }

    /// Eager bytes that the peer may have on the way of one stream.
    fn window_bytes(&self) -> u64 {
        let window = self.lasting.limits.window_bytes;
        window.max(limits::FIRST_WINDOW_BYTES)
    }

    fn known_stream(&mut self, at: StreamAt) -> Result<&mut Stream, Violation> {
        let streams = &mut self.peer_mut(at.peer).streams;
        streams
            .get_mut(&at.stream)
            .ok_or(Violation::Stream(at.stream.0))
    }
}

/// A stream that this port does not know: may its first item make it? `[R10]`
fn admit_stream(
    id: StreamId,
    kind: FrameKind,
    header: &FrameHeader,
    we_are_lower: bool,
    streams: usize,
) -> Result<Stream, Violation> {
    let unknown = Violation::Stream(id.0);
    if streams >= limits::STREAMS_PER_PEER || header.seq.get() != 0 {
        return Err(unknown);
    }
    if id.is_fixed() {
        return Ok(Stream::new(StreamKind::Messages, Opening::Open));
    }
    // The lower port opens even numbers, the higher odd ones.
    let peers_to_open = id.0 % 2 == u32::from(we_are_lower);
    if kind != FrameKind::Open || !peers_to_open {
        return Err(unknown);
    }
    let bytes = header.flags & flags::BYTES != 0;
    let kind = if bytes {
        StreamKind::Bytes
    } else {
        StreamKind::Messages
    };
    Ok(Stream::new(kind, Opening::Offered))
}

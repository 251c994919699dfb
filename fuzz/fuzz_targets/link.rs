//! A whole link, byte by byte: one port talks to a peer that knows the key and says anything.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use meander_core::port::{Arrival, Config, Effect, Message, Port, StreamAt};
use meander_core::transport::{Body, Frame, FrameSink, LinkError, Memory};
use meander_core::wire::{AppHeader, FrameHeader};
use meander_core::{
    BufferId, Card, Epoch, Key, Limits, LinkId, Location, Place, PortId, Seq, Slice, StreamKind,
    Time, TransportKind,
};
use meander_tcp::feed::Feed;

const NEAR: LinkId = LinkId(1);
const FAR: LinkId = LinkId(2);
const AGAIN: LinkId = LinkId(3);
const WINDOW_BYTES: u64 = 64 * 1024;
/// Payload of envelopes that is pulled, at most.
const PULL_BYTES: u64 = 1 << 20;

// The first byte says how far the link has come, its upper bits whether the link is encrypted and whether
// even the bytes below the encryption are the fuzzer's; the second says how the bytes are cut; then bytes.
fuzz_target!(|input: &[u8]| {
    let [stage, cut, bytes @ ..] = input else {
        return;
    };
    let mut near = End::new(1);
    let mut far = End::new(2);
    near.port.learn(Time(0), &far.port.contact());
    near.traffic(far.port.id());
    far.port.learn(Time(0), &near.port.contact());
    far.traffic(near.port.id());
    near.drain();
    let to = near.port.id();
    far.port.dialled(Time(0), to, FAR);
    far.port.connected(FAR);
    near.port.accepted(Time(0), NEAR);
    // An honest peer, until the fuzzer takes its place.
    let mut feed = match stage & 0x80 {
        0 => Feed::default(),
        _ => Feed::encrypted(),
    };
    for _ in 0..usize::from(stage % 12) {
        match far.port.poll_transmit(FAR) {
            Some(frame) => {
                let bytes = far.bytes_of(&frame);
                near.feed(&mut feed, &bytes).expect("an honest peer");
            }
            None => {
                while let Some(frame) = near.port.poll_transmit(NEAR) {
                    near.check(&frame);
                    far.take(&frame);
                }
            }
        }
    }
    if stage & 0x40 != 0 {
        feed.feed_raw();
    }
    let piece = match cut % 4 {
        0 => bytes.len(),
        more => usize::from(more) * 16 + 1,
    };
    for piece in bytes.chunks(piece.max(1)) {
        let taken = near.feed(&mut feed, piece);
        near.drain();
        if taken.is_err() {
            break;
        }
        while let Some(frame) = near.port.poll_transmit(NEAR) {
            near.check(&frame);
        }
    }
    near.port.broken(Time(1), NEAR);
    near.drain();
    again(&mut near);
});

/// It never harms more than the link: another one with the same peer, made anew, is set up.
fn again(near: &mut End) {
    let mut far = End::new(2);
    far.port.learn(Time(1), &near.port.contact());
    far.traffic(near.port.id());
    far.drain();
    let to = near.port.id();
    far.port.dialled(Time(1), to, FAR);
    far.port.connected(FAR);
    near.port.accepted(Time(1), AGAIN);
    let mut feed = Feed::default();
    for _ in 0..8 {
        while let Some(frame) = far.port.poll_transmit(FAR) {
            let bytes = far.bytes_of(&frame);
            let mut sink = Sink {
                end: near,
                link: AGAIN,
            };
            // A peer without a memory breaks the rules of streams, and so the link.
            if feed.feed(AGAIN, &bytes, &mut sink).is_err() {
                near.port.broken(Time(1), AGAIN);
                near.drain();
                return;
            }
        }
        near.drain();
        while let Some(frame) = near.port.poll_transmit(AGAIN) {
            near.check(&frame);
            far.take(&frame);
        }
    }
    assert!(near.port.is_linked(PortId(2)), "the set-up failed");
}

/// A port with its memory, and an application that takes everything.
struct End {
    port: Port,
    buffers: BTreeMap<BufferId, Vec<u8>>,
    next_buffer: u64,
    /// Eager payload that has come and has not been read, by stream.
    unread: BTreeMap<StreamAt, u64>,
    offered: Vec<StreamAt>,
    announced: Vec<(StreamAt, Seq, u64)>,
}

impl End {
    fn new(id: u8) -> End {
        let mut port = Port::new(Config {
            id: PortId(id.into()),
            key: Key([7; 32]),
            limits: Limits {
                eager_bytes: 256,
                window_bytes: WINDOW_BYTES,
                ..Limits::default()
            },
            seed: [id; 32],
        });
        let card = Card {
            transport: TransportKind::Sim,
            bytes: vec![id],
        };
        let location = Location {
            cards: vec![card],
            ..Location::default()
        };
        port.attach(Time(0), Epoch(0), location);
        End {
            port,
            buffers: BTreeMap::new(),
            next_buffer: 0,
            unread: BTreeMap::new(),
            offered: Vec::new(),
            announced: Vec::new(),
        }
    }

    /// Something of every kind, so that the peer has something to answer.
    fn traffic(&mut self, peer: PortId) {
        let fixed = self.port.open_fixed(peer, 0).expect("it is known");
        let opened = self.port.open(Time(0), peer, 5, StreamKind::Messages);
        for stream in [fixed, opened.expect("it is known")] {
            let at = StreamAt { peer, stream };
            for (len, synchronous) in [(0, false), (100, false), (100, true), (5000, false)] {
                let body = Some(Slice {
                    buffer: self.buffer(len as usize),
                    offset: 0,
                    len,
                });
                let message = Message {
                    app: AppHeader::new(),
                    body,
                    copied: !synchronous,
                    synchronous,
                };
                self.port.send(Time(0), at, message).expect("it is open");
            }
        }
    }

    fn buffer(&mut self, len: usize) -> BufferId {
        self.next_buffer += 1;
        let id = BufferId(self.next_buffer);
        self.buffers.insert(id, vec![0; len]);
        id
    }

    fn feed(&mut self, feed: &mut Feed, bytes: &[u8]) -> Result<(), LinkError> {
        let link = if self.port.id() == PortId(1) {
            NEAR
        } else {
            FAR
        };
        let fed = feed.feed(link, bytes, &mut Sink { end: self, link });
        self.answer();
        fed
    }

    /// A frame that this end's peer, an honest port, gets.
    fn take(&mut self, frame: &Frame) {
        let own = match &frame.body {
            Body::Own(bytes) => bytes.clone(),
            body => vec![0; body.len()],
        };
        let Ok(place) = self.port.frame_begin(FAR, &frame.header) else {
            return;
        };
        let own = if place == Place::Whole {
            own
        } else {
            Vec::new()
        };
        let _ = self
            .port
            .frame_complete(Time(1), FAR, &frame.header, &frame.app, &own);
    }

    /// A frame may name memory only while it is there.
    fn check(&self, frame: &Frame) {
        if let Body::Slice(slice) = &frame.body {
            assert_eq!(self.read(*slice).len() as u64, slice.len);
        }
    }

    fn bytes_of(&self, frame: &Frame) -> Vec<u8> {
        let body = match &frame.body {
            Body::Empty | Body::Place(_) => &[],
            Body::Own(bytes) => &bytes[..],
            Body::Slice(slice) => self.read(*slice),
        };
        [&frame.header.to_bytes()[..], &frame.app, body].concat()
    }

    /// Every buffer is given back once.
    fn drain(&mut self) {
        while let Some(effect) = self.port.poll_effect() {
            if let Effect::Sent { buffer } | Effect::Lost { buffer } = effect {
                assert!(self.buffers.remove(&buffer).is_some(), "given back twice");
            }
        }
    }

    /// The application: accepts some streams, pulls some payloads, reads some messages.
    fn answer(&mut self) {
        for at in std::mem::take(&mut self.offered) {
            let accept = at.stream.0 & 4 == 0;
            self.port
                .answer(Time(1), at, accept)
                .expect("it was just offered");
        }
        for (at, seq, len) in std::mem::take(&mut self.announced) {
            if seq.0 & 3 == 3 {
                self.port
                    .decline(Time(1), at, seq)
                    .expect("it was just announced");
                continue;
            }
            let buffer = self.buffer(len.min(PULL_BYTES) as usize);
            let coming = self.port.pull(Time(1), at, seq, buffer, PULL_BYTES);
            if coming.expect("it was just announced") == 0 {
                self.buffers.remove(&buffer);
            }
        }
        for (at, unread) in &mut self.unread {
            assert!(*unread <= WINDOW_BYTES, "the window was overrun [R13]");
            if at.stream.0 & 1 == 0 {
                self.port.consumed(*at, std::mem::take(unread));
            }
        }
    }
}

impl Memory for End {
    fn read(&self, slice: Slice) -> &[u8] {
        let buffer = self
            .buffers
            .get(&slice.buffer)
            .expect("memory that is there");
        &buffer[slice.offset as usize..][..slice.len as usize]
    }

    fn write(&mut self, slice: Slice) -> &mut [u8] {
        let buffer = self.buffers.get_mut(&slice.buffer);
        &mut buffer.expect("memory that is there")[slice.offset as usize..][..slice.len as usize]
    }
}

struct Sink<'a> {
    end: &'a mut End,
    link: LinkId,
}

impl Memory for Sink<'_> {
    fn read(&self, slice: Slice) -> &[u8] {
        self.end.read(slice)
    }

    fn write(&mut self, slice: Slice) -> &mut [u8] {
        self.end.write(slice)
    }
}

impl FrameSink for Sink<'_> {
    fn begin(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        _: &AppHeader,
    ) -> Result<Place, LinkError> {
        assert_eq!(link, self.link);
        Ok(self.end.port.frame_begin(link, header)?)
    }

    fn complete(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        app: &AppHeader,
        body: &[u8],
    ) -> Result<(), LinkError> {
        let end = &mut *self.end;
        match end.port.frame_complete(Time(1), link, header, app, body)? {
            Arrival::Opened { at, .. } => end.offered.push(at),
            Arrival::Message { at, .. } => *end.unread.entry(at).or_default() += body.len() as u64,
            Arrival::Envelope { at, seq, len, .. } => end.announced.push((at, seq, len)),
            Arrival::Pulled { buffer, len, .. } => {
                let memory = end.buffers.remove(&buffer).expect("it was being pulled");
                assert!(len <= memory.len() as u64);
            }
            Arrival::Nothing
            | Arrival::Accepted(_)
            | Arrival::Rejected(_)
            | Arrival::Finished(_) => {}
        }
        end.drain();
        Ok(())
    }
}

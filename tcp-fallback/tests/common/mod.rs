//! Two transports joined by one link, and the memory they work on.
// Not every test file uses all of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use meander_core::transport::{
    Body, Frame, FrameSink, LinkError, LinkEvent, Memory, Place, Slice, Transport,
};
use meander_core::wire::{AppHeader, FrameHeader, FrameKind};
use meander_core::{BufferId, Card, LinkId, TransportKind};
use meander_tcp::TcpTransport;

pub const LOOPBACK: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
/// Where bodies are received into; no sent body has this number.
const PLACE: BufferId = BufferId(u64::MAX);

/// Buffers by number, and the frames that came.
#[derive(Default)]
pub struct Store {
    pub buffers: HashMap<BufferId, Vec<u8>>,
    pub frames: Vec<Got>,
    pub errors: Vec<LinkError>,
    /// Whether bodies of data frames go straight into a place.
    pub into_place: bool,
}

pub struct Got {
    pub header: FrameHeader,
    pub app: Vec<u8>,
    pub body: Vec<u8>,
}

impl Memory for Store {
    fn read(&self, slice: Slice) -> &[u8] {
        let buffer = self
            .buffers
            .get(&slice.buffer)
            .map_or(&[][..], |bytes| bytes);
        buffer
            .get(slice.offset as usize..(slice.offset + slice.len) as usize)
            .unwrap_or(&[])
    }
    fn write(&mut self, slice: Slice) -> &mut [u8] {
        let buffer = self.buffers.get_mut(&slice.buffer).unwrap();
        &mut buffer[slice.offset as usize..(slice.offset + slice.len) as usize]
    }
}

impl FrameSink for Store {
    fn begin(
        &mut self,
        _: LinkId,
        header: &FrameHeader,
        _: &AppHeader,
    ) -> Result<Place, LinkError> {
        if !self.into_place {
            return Ok(Place::Whole);
        }
        let len = header.body_bytes();
        self.buffers.insert(PLACE, vec![0; len]);
        Ok(Place::Into(Slice {
            buffer: PLACE,
            offset: 0,
            len: len as u64,
        }))
    }
    fn complete(
        &mut self,
        _: LinkId,
        header: &FrameHeader,
        app: &AppHeader,
        body: &[u8],
    ) -> Result<(), LinkError> {
        let body = match self.into_place {
            true => self.buffers.remove(&PLACE).unwrap(),
            false => body.to_vec(),
        };
        self.frames.push(Got {
            header: *header,
            app: app.to_vec(),
            body,
        });
        Ok(())
    }
}

/// Two transports joined by one link.
pub struct Ends {
    pub left: TcpTransport,
    pub left_link: LinkId,
    pub left_store: Store,
    pub right: TcpTransport,
    pub right_store: Store,
}

impl Ends {
    pub fn connect() -> Ends {
        let open = || TcpTransport::open(&LOOPBACK).unwrap();
        Ends::join(open(), open())
    }

    pub fn join(left: TcpTransport, right: TcpTransport) -> Ends {
        let card = right.card();
        Ends::join_by(left, right, &card)
    }

    /// Joined by a link to this card.
    pub fn join_by(mut left: TcpTransport, mut right: TcpTransport, card: &Card) -> Ends {
        let left_link = left.dial(card).unwrap();
        let (mut connected, mut accepted) = (Vec::new(), Vec::new());
        until(|| {
            left.poll(Duration::from_millis(1), &mut connected);
            right.poll(Duration::from_millis(1), &mut accepted);
            !connected.is_empty() && !accepted.is_empty()
        });
        assert!(matches!(connected[0], LinkEvent::Connected(link) if link == left_link));
        assert!(matches!(accepted[0], LinkEvent::Accepted(_)));
        Ends {
            left,
            left_link,
            left_store: Store::default(),
            right,
            right_store: Store::default(),
        }
    }

    /// Sends from left to right, waiting for room.
    pub fn send(&mut self, kind: FrameKind, seq: u64, app: &[u8], body: &[u8]) {
        let frame = frame(&mut self.left_store, kind, seq, app, body);
        until(|| {
            let sent = self
                .left
                .send(self.left_link, frame.clone(), &mut self.left_store)
                .is_ok();
            if !sent {
                self.step();
            }
            sent
        });
    }

    pub fn pump_until(&mut self, mut done: impl FnMut(&Store) -> bool) {
        until(|| {
            self.step();
            done(&self.right_store)
        });
        assert!(
            self.right_store.errors.is_empty(),
            "{:?}",
            self.right_store.errors
        );
    }

    pub fn step(&mut self) {
        self.left.flush(self.left_link, &self.left_store);
        pump(&mut self.left, &mut self.left_store);
        pump(&mut self.right, &mut self.right_store);
    }
}

/// Does what a port does with what happened.
pub fn pump(transport: &mut TcpTransport, store: &mut Store) {
    let mut events = Vec::new();
    transport.poll(Duration::ZERO, &mut events);
    for event in events {
        match event {
            LinkEvent::Readable(link) => {
                if let Err(error) = transport.receive(link, store) {
                    store.errors.push(error);
                    transport.close(link);
                }
            }
            LinkEvent::Broken(_, error) => store.errors.push(error),
            LinkEvent::Writable(link) => transport.flush(link, store),
            LinkEvent::Connected(_) | LinkEvent::Accepted(_) => {}
        }
    }
}

/// A frame whose body is a buffer of the store.
pub fn frame(store: &mut Store, kind: FrameKind, seq: u64, app: &[u8], body: &[u8]) -> Frame {
    let mut header = FrameHeader::new(kind);
    header.seq.set(seq);
    header.app_len = app.len() as u8;
    header.body_len.set(body.len() as u32);
    let buffer = BufferId(seq);
    store.buffers.insert(buffer, body.to_vec());
    let body = match body.len() {
        0 => Body::Empty,
        len if seq.is_multiple_of(3) => Body::Own(store.buffers[&buffer][..len].to_vec()),
        len => Body::Slice(Slice {
            buffer,
            offset: 0,
            len: len as u64,
        }),
    };
    Frame {
        header,
        app: AppHeader::try_from(app).unwrap(),
        body,
    }
}

/// A frame as it is on the wire.
pub fn encode(kind: FrameKind, seq: u64, app: &[u8], body: &[u8]) -> Vec<u8> {
    let frame = frame(&mut Store::default(), kind, seq, app, body);
    [&frame.header.to_bytes()[..], app, body].concat()
}

pub fn addresses(card: &Card) -> Vec<SocketAddr> {
    postcard::from_bytes(&card.bytes).unwrap()
}

pub fn card(addresses: &[SocketAddr]) -> Card {
    Card {
        transport: TransportKind::Tcp,
        bytes: postcard::to_stdvec(addresses).unwrap(),
    }
}

pub fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it never happens"
        );
        std::thread::yield_now();
    }
}

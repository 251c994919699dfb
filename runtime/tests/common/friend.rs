//! A peer that is made of the protocol alone, over a socket of the test's own: it can be recorded,
//! and it can be lied with.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use meander::{Contact, Epoch, Key, Limits, Location, PortId};
use meander_core::port::{Arrival, Config, Effect, Message, Port, StreamAt};
use meander_core::transport::Body;
use meander_core::wire::{AppHeader, FrameHeader, HEADER_BYTES};
use meander_core::{Card, LinkId, Time, TransportKind};

const LINK: LinkId = LinkId(1);

/// What went over a connection.
#[derive(Clone, Default)]
pub struct Recorded {
    pub said: Vec<u8>,
    pub heard: Vec<u8>,
}

/// See the module.
pub struct Friend {
    pub port: Port,
    socket: Option<TcpStream>,
    pub recorded: Recorded,
    unread: Vec<u8>,
    pub arrivals: Vec<Arrival>,
}

/// Where a port listens.
pub fn address_of(contact: &Contact) -> SocketAddr {
    let card = &contact.location.cards[0];
    assert_eq!(card.transport, TransportKind::Tcp);
    let addresses: Vec<SocketAddr> = postcard::from_bytes(&card.bytes).unwrap();
    addresses[0]
}

impl Friend {
    /// A port with this address and key, attached at this epoch. Nobody can dial it.
    pub fn new(id: u128, key: Key, epoch: u64) -> Friend {
        let mut port = Port::new(Config {
            id: PortId(id),
            key,
            limits: Limits::default(),
            seed: [epoch as u8 + 1; 32],
        });
        port.attach(Time(0), Epoch(epoch), location());
        Friend::with(port)
    }

    fn with(port: Port) -> Friend {
        Friend {
            port,
            socket: None,
            recorded: Recorded::default(),
            unread: Vec::new(),
            arrivals: Vec::new(),
        }
    }

    /// The same port after a move: a value that another process has attached.
    pub fn moved(mut self) -> Friend {
        self.port.suspend();
        self.socket = None;
        let epoch = self.port.epoch().next();
        let mut port = Port::from_snapshot(self.port.snapshot(), [99; 32]);
        port.attach(Time(0), epoch, location());
        Friend::with(port)
    }

    /// Sends a message on the fixed stream that the runtime uses.
    pub fn post(&mut self, to: &Contact, app: &[u8]) {
        self.port.learn(Time(0), to);
        let stream = self.port.open_fixed(to.port, 0).unwrap();
        let message = Message {
            app: AppHeader::try_from(app).unwrap(),
            body: None,
            copied: false,
            synchronous: false,
        };
        let peer = to.port;
        let at = StreamAt { peer, stream };
        self.port.send(Time(0), at, message).unwrap();
    }

    /// Dials, and talks until it is linked and everything is said. `None`: the other side hung up.
    pub fn talk(&mut self, to: &Contact) -> Option<()> {
        self.port.learn(Time(0), to);
        if self.socket.is_none() {
            while self.port.poll_effect().is_some() {}
            self.socket = Some(TcpStream::connect(address_of(to)).unwrap());
            self.port.dialled(Time(0), to.port, LINK);
            self.port.connected(LINK);
        }
        let started = Instant::now();
        while !(self.port.is_linked(to.port) && self.port.is_drained()) {
            self.say();
            self.hear()?;
            self.port.solicit();
            assert!(started.elapsed() < Duration::from_secs(20), "no answer");
        }
        Some(())
    }

    fn say(&mut self) {
        while let Some(frame) = self.port.poll_transmit(LINK) {
            let body = match &frame.body {
                Body::Own(bytes) => &bytes[..],
                _ => &[],
            };
            let bytes = [&frame.header.to_bytes()[..], &frame.app, body].concat();
            self.recorded.said.extend_from_slice(&bytes);
            let _ = self.socket.as_ref().unwrap().write_all(&bytes);
        }
    }

    fn hear(&mut self) -> Option<()> {
        let socket = self.socket.as_mut().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer) {
            Ok(0) => return None,
            Ok(count) => {
                self.recorded.heard.extend_from_slice(&buffer[..count]);
                self.unread.extend_from_slice(&buffer[..count]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return None,
        }
        while let Some(header) = self.unread.first_chunk::<HEADER_BYTES>() {
            let header = FrameHeader::parse(header).unwrap();
            let body_at = HEADER_BYTES + usize::from(header.app_len);
            let end = body_at + header.body_bytes();
            if self.unread.len() < end {
                break;
            }
            let app = AppHeader::try_from(&self.unread[HEADER_BYTES..body_at]).unwrap();
            let body = self.unread[body_at..end].to_vec();
            self.unread.drain(..end);
            self.port.frame_begin(LINK, &header).ok()?;
            let arrival = self
                .port
                .frame_complete(Time(0), LINK, &header, &app, &body);
            self.arrivals.push(arrival.ok()?);
            while let Some(effect) = self.port.poll_effect() {
                if effect == Effect::Close(LINK) {
                    return None;
                }
            }
        }
        Some(())
    }
}

fn location() -> Location {
    let card = Card {
        transport: TransportKind::Tcp,
        bytes: postcard::to_stdvec(&vec![SocketAddr::from(([127, 0, 0, 1], 9))]).unwrap(),
    };
    Location {
        cards: vec![card],
        ..Location::default()
    }
}

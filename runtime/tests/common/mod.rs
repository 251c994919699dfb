//! Ports on loopback, and a handler that collects.
#![allow(dead_code)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use meander::{
    Config, Credit, EventHandler, Key, MessageKey, Payload, Port, PortId, SendId, Sink, Source,
    StreamKey, TransportKind,
};

pub const SOME_TIME: Option<Duration> = Some(Duration::from_secs(30));
pub const SERVICE: u32 = 7;

pub fn config() -> Config {
    let mut config = Config::new(Key([7; 32]));
    config.tcp.bind = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    config
}

/// What ports of different nodes have.
pub fn over_tcp() -> Config {
    Config {
        transports: Some(vec![TransportKind::Tcp]),
        ..config()
    }
}

/// What ports of one node have that share memory.
pub fn over_shm() -> Config {
    Config {
        transports: Some(vec![TransportKind::Shm, TransportKind::Tcp]),
        ..config()
    }
}

pub fn open_over_shm() -> Port {
    Port::open(over_shm()).unwrap()
}

pub fn open() -> Port {
    Port::open(config()).unwrap()
}

pub fn open_over_tcp() -> Port {
    Port::open(over_tcp()).unwrap()
}

/// Two ports that know each other.
pub fn pair() -> (Port, Port) {
    let (left, right) = (open(), open());
    left.add_peer(&right.contact());
    right.add_peer(&left.contact());
    (left, right)
}

/// A stream between two ports, both of its ends.
pub fn connect(left: &Port, right: &Port) -> (meander::Stream, meander::Stream) {
    right.listen(SERVICE);
    let stream = left.connect(&right.contact(), SERVICE).unwrap();
    (stream, right.accept(SOME_TIME).unwrap())
}

/// Collects what a port delivers.
#[derive(Default)]
pub struct Collector {
    pub messages: Vec<(Vec<u8>, Vec<u8>)>,
    pub envelopes: Vec<(MessageKey, Vec<u8>, u64)>,
    pub sent: Vec<SendId>,
    pub returned: usize,
    pub pulled: Vec<(MessageKey, Vec<u8>)>,
    pub dead: Vec<PortId>,
    /// Whether credit for messages is held back; and what was.
    pub holds: bool,
    pub held: Vec<(StreamKey, u64)>,
}

impl EventHandler for Collector {
    fn message(&mut self, from: StreamKey, app: &[u8], payload: Payload<'_>) -> Credit {
        self.messages.push((app.to_vec(), payload.to_vec()));
        if self.holds {
            self.held.push((from, payload.len() as u64));
            return Credit::Hold;
        }
        Credit::Return
    }
    fn envelope(&mut self, _: StreamKey, app: &[u8], message: MessageKey, len: u64) {
        self.envelopes.push((message, app.to_vec(), len));
    }
    fn sent(&mut self, id: SendId, source: Option<Box<dyn Source>>) {
        self.sent.push(id);
        self.returned += usize::from(source.is_some());
    }
    fn pulled(&mut self, message: MessageKey, mut sink: Box<dyn Sink>, len: u64) {
        self.pulled
            .push((message, sink.bytes_mut()[..len as usize].to_vec()));
    }
    fn peer_dead(&mut self, peer: PortId, _: String) {
        self.dead.push(peer);
    }
}

/// Pulls every envelope as it comes, from within the handler, and keeps the order of messages.
pub struct Reader {
    port: Port,
    pub received: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pulling: HashMap<MessageKey, usize>,
    pub complete: usize,
}

impl Reader {
    pub fn new(port: &Port) -> Reader {
        let port = port.clone();
        Reader {
            port,
            received: Vec::new(),
            pulling: HashMap::new(),
            complete: 0,
        }
    }

    /// Progresses the port, and whatever else `step` does, until so many messages are complete.
    pub fn read(&mut self, messages: usize, mut step: impl FnMut()) {
        let start = Instant::now();
        while self.complete < messages {
            step();
            let port = self.port.clone();
            if !port.progress(self) {
                port.wait(Duration::from_millis(1));
            }
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "{} of {messages}",
                self.complete
            );
        }
    }

    pub fn pulled(&self) -> usize {
        self.pulling.len()
    }
}

impl EventHandler for Reader {
    fn message(&mut self, _: StreamKey, app: &[u8], payload: Payload<'_>) -> Credit {
        self.received.push((app.to_vec(), Some(payload.to_vec())));
        self.complete += 1;
        Credit::Return
    }
    fn envelope(&mut self, _: StreamKey, app: &[u8], message: MessageKey, len: u64) {
        self.pulling.insert(message, self.received.len());
        self.received.push((app.to_vec(), None));
        self.port
            .pull(message, Box::new(vec![0; len as usize]), u64::MAX);
        assert!(
            !self.port.clone().progress(self),
            "nothing is delivered inside a delivery"
        );
    }
    fn sent(&mut self, _: SendId, _: Option<Box<dyn Source>>) {}
    fn pulled(&mut self, message: MessageKey, mut sink: Box<dyn Sink>, len: u64) {
        let place = &mut self.received[self.pulling[&message]].1;
        assert!(
            place
                .replace(sink.bytes_mut()[..len as usize].to_vec())
                .is_none()
        );
        self.complete += 1;
    }
    fn peer_dead(&mut self, _: PortId, why: String) {
        panic!("{why}");
    }
}

/// Progresses the ports until `done`.
pub fn until(ports: &mut [(&Port, &mut Collector)], mut done: impl FnMut(&[&Collector]) -> bool) {
    let start = Instant::now();
    loop {
        for (port, collector) in ports.iter_mut() {
            port.progress(*collector);
        }
        let collectors: Vec<&Collector> = ports.iter().map(|(_, collector)| &**collector).collect();
        if done(&collectors) {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "it never happens"
        );
        ports[0].0.wait(Duration::from_millis(1));
    }
}

/// Bytes that tell their place.
pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 9) ^ seed) as u8)
        .collect()
}

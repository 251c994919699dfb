//! The contenders: ways to get a message to the other process and one back.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use meander::{
    Credit, EventHandler, MessageKey, Outgoing, Payload, Port, PortId, Posted, SendId, SendMode,
    Sink, Source, Stream, StreamKey,
};
use serde::{Deserialize, Serialize};

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// A TCP socket that is read without blocking until there is something.
    RawSocket,
    /// A stream as libraries use it: [`Port::post`] and [`Port::progress`].
    StreamPosted,
    /// A stream as programs use it: [`Stream::send`] and [`Stream::recv`].
    Stream,
}

impl Contender {
    pub const ALL: [Contender; 3] = [
        Contender::RawSocket,
        Contender::StreamPosted,
        Contender::Stream,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Contender::RawSocket => "raw-socket",
            Contender::StreamPosted => "stream-posted",
            Contender::Stream => "stream",
        }
    }
}

/// A way to the other process.
pub trait Line {
    /// Sends a message; it may still be on its way afterwards.
    fn send(&mut self, message: &Arc<Vec<u8>>) -> Result<()>;
    /// Receives a message of this many bytes.
    fn receive(&mut self, len: usize) -> Result<()>;
}

/// See [`Contender::RawSocket`].
pub struct RawSocket {
    socket: TcpStream,
    place: Vec<u8>,
}

impl RawSocket {
    pub fn new(socket: TcpStream) -> Result<RawSocket> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(RawSocket {
            socket,
            place: Vec::new(),
        })
    }
}

impl Line for RawSocket {
    fn send(&mut self, message: &Arc<Vec<u8>>) -> Result<()> {
        let mut rest = &message[..];
        while !rest.is_empty() {
            let sent = spin(|| self.socket.write(rest))?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    fn receive(&mut self, len: usize) -> Result<()> {
        self.place.resize(len, 0);
        let mut rest = &mut self.place[..];
        while !rest.is_empty() {
            let read = spin(|| self.socket.read(rest))?;
            if read == 0 {
                bail!("the other process has closed its socket");
            }
            rest = &mut rest[read..];
        }
        Ok(())
    }
}

fn spin(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            done => return done,
        }
    }
}

impl Line for Stream {
    fn send(&mut self, message: &Arc<Vec<u8>>) -> Result<()> {
        Ok(Stream::send(self, message)?)
    }

    fn receive(&mut self, len: usize) -> Result<()> {
        let message = self
            .recv(None)?
            .context("the other process has finished its stream")?;
        anyhow::ensure!(
            message.len() == len,
            "{} bytes instead of {len}",
            message.len()
        );
        Ok(())
    }
}

/// See [`Contender::StreamPosted`].
pub struct StreamPosted {
    port: Port,
    to: StreamKey,
    eager_bytes: usize,
    events: Events,
}

/// Sends that may wait for the peer at a time.
const SENDS_PENDING: usize = 8;

#[derive(Default)]
struct Events {
    arrived: VecDeque<usize>,
    announced: VecDeque<(MessageKey, u64)>,
    pending: usize,
    /// Places to receive into, for reuse.
    places: Vec<Box<dyn Sink>>,
    dead: bool,
}

impl StreamPosted {
    pub fn new(port: Port, peer: PortId) -> StreamPosted {
        let (to, eager_bytes) = (port.fixed_stream(peer), port.limits().eager_bytes);
        StreamPosted {
            port,
            to,
            eager_bytes,
            events: Events::default(),
        }
    }

    /// Progresses the port until `done` gives something.
    fn until<T>(&mut self, mut done: impl FnMut(&mut Events) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = done(&mut self.events) {
                return Ok(found);
            }
            if self.events.dead {
                bail!("the other process is dead");
            }
            if !self.port.progress(&mut self.events) {
                self.port.wait(Duration::from_secs(1));
            }
            while let Some((message, len)) = self.events.announced.pop_front() {
                let fits = |place: &mut Box<dyn Sink>| place.bytes_mut().len() as u64 == len;
                let place = self.events.places.pop_if(fits);
                let place = place.unwrap_or_else(|| Box::new(vec![0; len as usize]));
                self.port.pull(message, place, len);
            }
        }
    }
}

impl Line for StreamPosted {
    fn send(&mut self, message: &Arc<Vec<u8>>) -> Result<()> {
        self.until(|events| (events.pending < SENDS_PENDING).then_some(()))?;
        let body = if message.len() <= self.eager_bytes {
            Outgoing::Bytes(message)
        } else {
            Outgoing::Source(Box::new(Shared(Arc::clone(message))))
        };
        if let Posted::Pending(_) = self.port.post(self.to, b"", body, SendMode::Standard)? {
            self.events.pending += 1;
        }
        Ok(())
    }

    fn receive(&mut self, len: usize) -> Result<()> {
        let arrived = self.until(|events| events.arrived.pop_front())?;
        anyhow::ensure!(arrived == len, "{arrived} bytes instead of {len}");
        Ok(())
    }
}

struct Shared(Arc<Vec<u8>>);

impl Source for Shared {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl EventHandler for Events {
    fn message(&mut self, _: StreamKey, _: &[u8], payload: Payload<'_>) -> Credit {
        self.arrived.push_back(payload.len());
        Credit::Return
    }
    fn envelope(&mut self, _: StreamKey, _: &[u8], message: MessageKey, len: u64) {
        self.announced.push_back((message, len));
    }
    fn sent(&mut self, _: SendId, _: Option<Box<dyn Source>>) {
        self.pending -= 1;
    }
    fn pulled(&mut self, _: MessageKey, place: Box<dyn Sink>, len: u64) {
        self.arrived.push_back(len as usize);
        self.places.push(place);
    }
    fn peer_dead(&mut self, _: PortId, _: String) {
        self.dead = true;
    }
}

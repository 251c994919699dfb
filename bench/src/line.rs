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
    Sink, Source, Stream, StreamKey, TransportKind,
};
use serde::{Deserialize, Serialize};

use crate::measure::Measure;

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// A TCP socket that is read without blocking until there is something.
    RawSocket,
    /// A ring of cache lines in shared memory.
    RawRing,
    /// Messages in shared memory that are copied once.
    RawMemcpy,
    /// A stream as libraries use it: [`Port::post`] and [`Port::progress`].
    StreamPosted,
    /// A stream as programs use it: [`Stream::send`] and [`Stream::recv`].
    Stream,
}

impl Contender {
    /// Who takes part where streams go by this transport; the first is what the others are compared with.
    pub fn over(transport: TransportKind, measure: Measure) -> Vec<Contender> {
        let raw: &[Contender] = match (transport, measure) {
            (TransportKind::Shm, Measure::Latency | Measure::Rate) => &[Contender::RawRing],
            (TransportKind::Shm, Measure::Bandwidth | Measure::Bidirectional) => {
                &[Contender::RawMemcpy, Contender::RawRing]
            }
            _ => &[Contender::RawSocket],
        };
        [raw, &[Contender::StreamPosted, Contender::Stream]].concat()
    }

    /// Whether it is something that streams are compared with.
    pub fn is_raw(self) -> bool {
        !matches!(self, Contender::StreamPosted | Contender::Stream)
    }

    pub fn name(self) -> &'static str {
        match self {
            Contender::RawSocket => "raw-socket",
            Contender::RawRing => "raw-ring",
            Contender::RawMemcpy => "raw-memcpy",
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
    /// Sends so many messages and receives as many, while the other process does the same.
    fn exchange(&mut self, message: &Arc<Vec<u8>>, messages: usize) -> Result<()> {
        for number in 0..messages + SENT_AHEAD {
            if number < messages {
                self.send(message)?;
            }
            if number >= SENT_AHEAD {
                self.receive(message.len())?;
            }
        }
        Ok(())
    }
}

/// Messages of an exchange that are sent before the first is received.
const SENT_AHEAD: usize = 4;

/// Bytes to the other process and back; neither call waits, and 0 bytes is that it would have to.
pub trait Pipe {
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize>;
    fn read_some(&mut self, place: &mut [u8]) -> io::Result<usize>;
}

/// A pipe with nothing around it, looked at again and again until there is something.
pub struct Raw<P> {
    pipe: P,
    place: Vec<u8>,
}

impl<P: Pipe> Raw<P> {
    pub fn new(pipe: P) -> Raw<P> {
        Raw {
            pipe,
            place: Vec::new(),
        }
    }
}

impl<P: Pipe> Line for Raw<P> {
    fn send(&mut self, message: &Arc<Vec<u8>>) -> Result<()> {
        let (mut sent, mut idle) = (0, Idle::default());
        while sent < message.len() {
            let written = self.pipe.write_some(&message[sent..])?;
            sent += written;
            idle.after(written);
        }
        Ok(())
    }

    fn receive(&mut self, len: usize) -> Result<()> {
        self.place.resize(len, 0);
        let (mut received, mut idle) = (0, Idle::default());
        while received < len {
            let read = self.pipe.read_some(&mut self.place[received..])?;
            received += read;
            idle.after(read);
        }
        Ok(())
    }

    /// Neither direction waits for the other, however little the pipe holds.
    fn exchange(&mut self, message: &Arc<Vec<u8>>, messages: usize) -> Result<()> {
        let len = message.len();
        self.place.resize(len, 0);
        let (mut sent, mut received, mut idle) = (0, 0, Idle::default());
        while sent < messages * len || received < messages * len {
            let mut moved = 0;
            if sent < messages * len {
                moved += self.pipe.write_some(&message[sent % len..])?;
                sent += moved;
            }
            if received < messages * len {
                let read = self.pipe.read_some(&mut self.place[received % len..])?;
                received += read;
                moved += read;
            }
            idle.after(moved);
        }
        Ok(())
    }
}

/// Waits by looking again; where it takes long, others may need the processor.
#[derive(Default)]
pub struct Idle {
    looks: u32,
}

/// Looks in vain before the processor is offered to others: a tenth of a millisecond of memory, a few of a socket.
const LOOKS: u32 = 4096;

impl Idle {
    fn after(&mut self, moved: usize) {
        if moved > 0 {
            self.looks = 0;
        } else {
            self.again();
        }
    }

    /// Nothing has come yet.
    pub fn again(&mut self) {
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

impl Raw<TcpStream> {
    pub fn socket(socket: TcpStream) -> Result<Raw<TcpStream>> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Raw::new(socket))
    }
}

impl Pipe for TcpStream {
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        some(self.write(bytes))
    }

    fn read_some(&mut self, place: &mut [u8]) -> io::Result<usize> {
        match some(self.read(place).map(Some))? {
            Some(0) => Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the other process has closed its socket",
            )),
            read => Ok(read.unwrap_or(0)),
        }
    }
}

fn some<T: Default>(done: io::Result<T>) -> io::Result<T> {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(T::default()),
        done => done,
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

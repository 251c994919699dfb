//! The other process of a measurement: sends back, or receives and says when it has all; and hands
//! its port on to a successor.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result};
use meander::{Contact, Key, Port};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::line::{Contender, Line, Raw, StreamPosted};
use crate::measure::{Measure, config};
use crate::pin::pin;
use crate::shared::{Copied, Ring, Segment, SegmentName, Side};
use crate::transport::Transport;

/// What the peer needs to reach the measuring process: the first line of its input, in JSON.
#[derive(Serialize, Deserialize)]
pub struct Invitation {
    /// Not told over a network: there, both have it already.
    pub key: Option<Key>,
    pub contact: Contact,
    pub raw: RawEnds,
    /// What its port may use, where the environment does not say.
    pub transport: Option<Transport>,
    /// The processor it stays on.
    pub processor: Option<usize>,
}

/// Where the other ends of the raw lines are.
#[derive(Serialize, Deserialize)]
pub struct RawEnds {
    pub socket: SocketAddr,
    /// Only of a process on the same machine.
    pub segment: Option<SegmentName>,
}

/// What a successor needs: its input's first line.
#[derive(Serialize, Deserialize)]
pub struct Succession {
    /// The suspended port.
    pub port: Vec<u8>,
    pub raw: RawEnds,
    pub transport: Option<Transport>,
    pub processor: Option<usize>,
    /// How many messages it sends back on the port's stream before it looks for orders.
    pub size: usize,
    pub messages: usize,
}

/// A line of its input.
#[derive(Serialize, Deserialize)]
pub enum Order {
    /// A round of a measurement.
    Round(Round),
    /// Send back so many messages of the stream, then suspend the port, print it as a line, and end.
    HandOver { size: usize, messages: usize },
}

/// One round.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Round {
    pub measure: Measure,
    pub contender: Contender,
    pub size: usize,
    pub messages: usize,
    /// So many messages go before those that are timed, or are the first of them.
    pub warm_up: usize,
}

impl Round {
    /// The messages that warm up, and those that are timed.
    pub fn parts(&self) -> [usize; 2] {
        [self.warm_up, self.messages - self.warm_up]
    }
}

/// The service of the program's stream.
pub const SERVICE: u32 = 1;

/// The lines between the two processes, one for each contender.
pub struct Lines {
    pub raw: RawLines,
    pub stream_posted: StreamPosted,
    pub stream: meander::Stream,
}

/// Those that are no streams.
pub struct RawLines {
    socket: Raw<TcpStream>,
    /// Only between processes of one machine.
    memory: Option<(Raw<Ring>, Copied)>,
}

impl Lines {
    pub fn of(&mut self, contender: Contender) -> Result<&mut dyn Line> {
        Ok(match contender {
            Contender::StreamPosted => &mut self.stream_posted,
            Contender::Stream => &mut self.stream,
            Contender::RawSocket => &mut self.raw.socket,
            Contender::RawRing => &mut self.raw.memory()?.0,
            Contender::RawMemcpy => &mut self.raw.memory()?.1,
        })
    }
}

impl RawLines {
    pub fn new(socket: TcpStream, segment: Option<Arc<Segment>>, side: Side) -> Result<RawLines> {
        let memory = segment.map(|segment| {
            let ring = Ring::new(Arc::clone(&segment), side);
            (Raw::new(ring), Copied::new(segment, side))
        });
        Ok(RawLines {
            socket: Raw::socket(socket)?,
            memory,
        })
    }

    fn connect(ends: &RawEnds) -> Result<RawLines> {
        let segment = ends.segment.as_ref().map(Segment::open).transpose()?;
        let socket = TcpStream::connect(ends.socket)?;
        RawLines::new(socket, segment.map(Arc::new), Side::Answering)
    }

    fn memory(&mut self) -> Result<&mut (Raw<Ring>, Copied)> {
        self.memory
            .as_mut()
            .context("two machines have no memory in common")
    }
}

/// The lines of its input.
pub type Input<'a> = &'a mut dyn Iterator<Item = io::Result<String>>;

/// Connects, and carries out orders until there are no more.
pub fn serve() -> Result<()> {
    die_with_parent()?;
    accept_invitation(&mut io::stdin().lines(), None)
}

/// Takes an invitation and then orders from a process that has this key, or tells its own.
pub fn accept_invitation(input: Input<'_>, key: Option<Key>) -> Result<()> {
    let invitation: Invitation = next(input)?.context("no invitation")?;
    let key = key.or(invitation.key).context("no key")?;
    let port = Port::open(config(key, invitation.transport)?)?;
    pin(invitation.processor)?;
    let stream = port.connect(&invitation.contact, SERVICE)?;
    let lines = Lines {
        raw: RawLines::connect(&invitation.raw)?,
        stream_posted: StreamPosted::new(port.clone(), invitation.contact.port),
        stream,
    };
    obey(port, lines, input)
}

/// Attaches a port that another process has handed over, and goes on in its place.
pub fn succeed() -> Result<()> {
    die_with_parent()?;
    let mut lines = io::stdin().lines();
    let input: Input<'_> = &mut lines;
    let Succession {
        port,
        raw,
        transport,
        processor,
        size,
        messages,
    } = next(input)?.context("no port")?;
    let unused = Key([0; 32]); // The port brings its own.
    let (port, mut streams) = Port::attach(config(unused, transport)?, &port)?;
    pin(processor)?;
    let mut stream = streams.pop().context("the port had no stream")?;
    echo(&mut stream, size, messages)?;
    let lines = Lines {
        raw: RawLines::connect(&raw)?,
        stream_posted: StreamPosted::new(port.clone(), stream.peer()),
        stream,
    };
    obey(port, lines, input)
}

fn obey(port: Port, mut lines: Lines, input: Input<'_>) -> Result<()> {
    while let Some(order) = next(input)? {
        match order {
            Order::Round(round) => carry_out(&mut lines, &round)?,
            Order::HandOver { size, messages } => {
                echo(&mut lines.stream, size, messages)?;
                // A stream that is dropped before is finished, and does not move.
                serde_json::to_writer(io::stdout(), &port.suspend()?)?;
                println!();
                return Ok(());
            }
        }
    }
    Ok(())
}

fn carry_out(lines: &mut Lines, round: &Round) -> Result<()> {
    let line = lines.of(round.contender)?;
    let receipt = Arc::new(vec![1; 1]);
    line.send(&receipt)?;
    match round.measure {
        Measure::Latency => echo(line, round.size, round.messages),
        Measure::Bandwidth | Measure::Rate => {
            for part in round.parts() {
                for _ in 0..part {
                    line.receive(round.size)?;
                }
                line.send(&receipt)?;
            }
            Ok(())
        }
        Measure::Bidirectional => {
            let message = Arc::new(vec![1; round.size]);
            for part in round.parts() {
                line.exchange(&message, part)?;
            }
            Ok(())
        }
    }
}

fn echo(line: &mut dyn Line, size: usize, messages: usize) -> Result<()> {
    let message = Arc::new(vec![1; size]);
    for _ in 0..messages {
        line.receive(size)?;
        line.send(&message)?;
    }
    Ok(())
}

/// The next line of the input, unless it has ended.
fn next<T: for<'a> Deserialize<'a>>(input: Input<'_>) -> Result<Option<T>> {
    Ok(match input.next() {
        None => None,
        Some(line) => Some(serde_json::from_str(&line?)?),
    })
}

/// A round that nobody measures any more would never end.
fn die_with_parent() -> Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

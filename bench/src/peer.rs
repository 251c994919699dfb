//! The other process of a measurement: sends back, or receives and says when it has all; and hands
//! its port on to a successor.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result};
use meander::{Config, Contact, Key, Port};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::line::{Contender, Line, RawSocket, StreamPosted};
use crate::measure::Measure;

/// What the peer needs to reach the measuring process: the first line of its input, in JSON.
#[derive(Serialize, Deserialize)]
pub struct Invitation {
    /// Not told over a network: there, both have it already.
    pub key: Option<Key>,
    pub contact: Contact,
    pub socket: SocketAddr,
}

/// What a successor needs: its input's first line.
#[derive(Serialize, Deserialize)]
pub struct Succession {
    /// The suspended port.
    pub port: Vec<u8>,
    pub socket: SocketAddr,
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
}

/// The service of the program's stream.
pub const SERVICE: u32 = 1;

/// The lines between the two processes, one for each contender.
pub struct Lines {
    pub raw_socket: RawSocket,
    pub stream_posted: StreamPosted,
    pub stream: meander::Stream,
}

impl Lines {
    pub fn of(&mut self, contender: Contender) -> &mut dyn Line {
        match contender {
            Contender::RawSocket => &mut self.raw_socket,
            Contender::StreamPosted => &mut self.stream_posted,
            Contender::Stream => &mut self.stream,
        }
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
    let port = Port::open(Config::from_env(key)?)?;
    let stream = port.connect(&invitation.contact, SERVICE)?;
    let lines = Lines {
        raw_socket: RawSocket::new(TcpStream::connect(invitation.socket)?)?,
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
        socket,
        size,
        messages,
    } = next(input)?.context("no port")?;
    let unused = Key([0; 32]); // The port brings its own.
    let (port, mut streams) = Port::attach(Config::from_env(unused)?, &port)?;
    let mut stream = streams.pop().context("the port had no stream")?;
    echo(&mut stream, size, messages)?;
    let lines = Lines {
        raw_socket: RawSocket::new(TcpStream::connect(socket)?)?,
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
    let line = lines.of(round.contender);
    let receipt = Arc::new(vec![1; 1]);
    line.send(&receipt)?;
    match round.measure {
        Measure::Latency => echo(line, round.size, round.messages),
        Measure::Bandwidth => {
            for _ in 0..round.messages {
                line.receive(round.size)?;
            }
            line.send(&receipt)
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

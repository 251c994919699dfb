//! The other process of a measurement: sends back, or receives and says when it has all.

use std::io::{self, BufRead, Read};
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
    pub key: Key,
    pub contact: Contact,
    pub socket: SocketAddr,
}

/// One round, a line of its input each.
#[derive(Serialize, Deserialize)]
pub struct Order {
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

/// Carries out orders until there are no more.
pub fn serve() -> Result<()> {
    // A round that nobody measures any more would never end.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut input = io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let invitation: Invitation = serde_json::from_str(&line).context("the first line")?;
    let port = Port::open(Config::from_env(invitation.key)?)?;
    let stream = port.connect(&invitation.contact, SERVICE)?;
    // Tells the other side which port this is, and makes the link.
    let mut lines = Lines {
        raw_socket: RawSocket::new(TcpStream::connect(invitation.socket)?)?,
        stream_posted: StreamPosted::new(port.clone(), invitation.contact.port),
        stream,
    };
    loop {
        let mut line = String::new();
        if input.by_ref().read_line(&mut line)? == 0 {
            return Ok(());
        }
        obey(&mut lines, &serde_json::from_str(&line)?)?;
    }
}

fn obey(lines: &mut Lines, order: &Order) -> Result<()> {
    let line = lines.of(order.contender);
    let message = Arc::new(vec![1; order.size]);
    let receipt = Arc::new(vec![1; 1]);
    line.send(&receipt)?;
    for _ in 0..order.messages {
        line.receive(order.size)?;
        if order.measure == Measure::Latency {
            line.send(&message)?;
        }
    }
    if order.measure == Measure::Bandwidth {
        line.send(&receipt)?;
    }
    Ok(())
}

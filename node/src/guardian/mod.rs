//! The process that restores a rank, holds it, and stays as its parent and relay.
//!
//! Destination of a move: the guardian process calls [`Prepared::restore`], confirms, and after
//! the commit [`Prepared::release`] and [`Guardian::serve`], which returns when the rank has ended
//! (and its shadow knows everything) or has moved on.
//!
//! Source of a later move: the mover finds the guardian by [`Handle::of`], and after
//! [`crate::checkpoint::dump`] asks it to [`Handle::depart`]; what it gets goes to the next
//! guardian with the image. Then [`Handle::stay`] (rolled back) or [`Handle::gone`] (committed:
//! instead of `become_shadow` or `Hold::kill`).

pub(crate) mod control;
mod outputs;
mod relay;
mod stdin;
pub(crate) mod wire;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use meander::{NodeName, Port, Stream};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub use control::Handle;

use crate::checkpoint::{self, Ended, Error, HeldCopy, Hold, Manifest, RunningCopy};
use crate::{keyfile, shadow};
use control::{Answer, Control, Demand};
use relay::{Carry, Relay};
use wire::{SERVICE, port_config};

/// How long the shadow may take to hear the last words; it may be stopped, or its output blocked.
const LAST_WORDS: Duration = Duration::from_secs(300);
/// How long a guardian whose rank died while it was leaving waits to be told what became of it.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a guardian looks whether signals that it kept can be delivered.
const LOOK: Duration = Duration::from_millis(100);

/// What one guardian hands to the next: the stream to the shadow, as a value, and what is on its
/// way between rank and shadow. Secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Baton {
    port: Vec<u8>,
    carry: Carry,
}

/// A held copy with its relay, before the commit.
pub struct Prepared {
    copy: HeldCopy,
    line: Line,
}

/// The line to the shadow.
enum Line {
    /// First move: the shadow is not there yet.
    New { port: Port, shadow: shadow::Config },
    /// Later: it is in the baton.
    Handed { baton: Baton, node: NodeName },
}

/// A released copy with its relay.
pub struct Guardian {
    copy: Arc<RunningCopy>,
    ends: relay::Ends,
    port: Port,
    stream: Option<Stream>,
    carry: Carry,
    control: Control,
}

/// How a guardian's work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rank ended and the shadow knows.
    Ended(Ended),
    /// The rank has moved on; another guardian has it.
    MovedOn,
}

impl Prepared {
    /// Restores the image in `images`, held. `baton` comes from the guardian before this one, `None`
    /// at the first move. Blocks.
    pub fn restore(
        images: &Path,
        manifest: &Manifest,
        baton: Option<Baton>,
        node: NodeName,
    ) -> Result<Prepared, Error> {
        let line = match baton {
            Some(baton) => Line::Handed { baton, node },
            None => {
                let key = keyfile::random();
                let port = port_config(key.clone(), Some(node)).and_then(Port::open);
                let port = port.map_err(stream("open the port to the shadow"))?;
                port.listen(SERVICE);
                let guardian = port.contact();
                Line::New {
                    port,
                    shadow: shadow::Config { key, guardian },
                }
            }
        };
        let copy = checkpoint::restore(images, manifest)?;
        Ok(Prepared { copy, line })
    }

    /// The held copy, as this node numbers it.
    pub fn pid(&self) -> Pid {
        self.copy.pid()
    }

    /// For the source, at the first move: what the original becomes. `None` at later moves.
    pub fn shadow_config(&self) -> Option<shadow::Config> {
        match &self.line {
            Line::New { shadow, .. } => Some(shadow.clone()),
            Line::Handed { .. } => None,
        }
    }

    /// Not committed: kills the copy.
    pub fn discard(self) {
        self.copy.discard();
    }

    /// Committed: takes the line to the shadow and lets the copy run. An error means that it has not
    /// run, and never will: whoever hears of it may let the original go on.
    pub fn release(mut self) -> Result<Guardian, Error> {
        let control = Control::bind(self.copy.pid())?;
        let (port, stream, carry) = match self.line {
            Line::New { port, .. } => (port, None, Carry::default()),
            Line::Handed { baton, node } => {
                let (port, stream) = attach(&baton, node)?;
                (port, Some(stream), baton.carry)
            }
        };
        let ends = relay::Ends::new(self.copy.take_stdio())?;
        // The last step that may fail.
        let copy = self.copy.release()?;
        Ok(Guardian {
            copy: Arc::new(copy),
            ends,
            port,
            stream,
            carry,
            control,
        })
    }
}

fn attach(baton: &Baton, node: NodeName) -> Result<(Port, Stream), Error> {
    // The key is the value's; this one is not used.
    let config = port_config(keyfile::random(), Some(node));
    let (port, mut streams) = config
        .and_then(|config| Port::attach(config, &baton.port))
        .map_err(stream("attach the port to the shadow"))?;
    let stream = streams.pop().ok_or_else(|| {
        Error::Restore("the guardian before this one had no stream to the shadow".to_owned())
    })?;
    Ok((port, stream))
}

/// What a serving guardian hears of.
enum Event {
    Connected(Stream),
    RankEnded(Ended),
    Demand(Demand, Answer),
}

impl Guardian {
    /// The rank, as this node numbers it.
    pub fn pid(&self) -> Pid {
        self.copy.pid()
    }

    /// Relays stdio and signals until the rank has ended or moved on.
    pub fn serve(self) -> Result<Outcome, Error> {
        let (events, heard) = channel();
        let node = self.port.contact().location.node;
        let waiter = { (self.copy.clone(), events.clone()) };
        thread::spawn(move || {
            let (copy, events) = waiter;
            let killed = Ended::Killed(nix::libc::SIGKILL);
            let _ = events.send(Event::RankEnded(copy.wait().unwrap_or(killed)));
        });
        let demands = events.clone();
        self.control.serve(move |demand, answer| {
            let _ = demands.send(Event::Demand(demand, answer));
        });
        let mut serving = Serving {
            copy: self.copy,
            ends: self.ends,
            node,
            state: State::Waiting(self.carry),
            heard,
        };
        match self.stream {
            Some(stream) => serving.connected(self.port.clone(), stream),
            None => accept(self.port.clone(), events),
        }
        let outcome = serving.run(self.port);
        drop(self.control);
        outcome
    }
}

fn accept(port: Port, events: Sender<Event>) {
    thread::spawn(move || {
        if let Ok(stream) = port.accept(None) {
            let _ = events.send(Event::Connected(stream));
        }
    });
}

struct Serving {
    copy: Arc<RunningCopy>,
    ends: relay::Ends,
    node: NodeName,
    state: State,
    heard: Receiver<Event>,
}

/// Where the line to the shadow is.
enum State {
    /// The shadow has not called yet.
    Waiting(Carry),
    /// It is in use.
    Relaying(Relay),
    /// It is a value, which another guardian may have.
    Left(Baton),
}

impl Serving {
    fn run(mut self, port: Port) -> Result<Outcome, Error> {
        let mut ended = None;
        let mut give_up: Option<Instant> = None;
        loop {
            if let (Some(ended), State::Relaying(_)) = (ended, &self.state) {
                return self.tell_end(ended);
            }
            if give_up.is_some_and(|at| Instant::now() > at) {
                return Ok(match (ended, &self.state) {
                    (Some(ended), State::Waiting(_)) => Outcome::Ended(ended),
                    _ => Outcome::MovedOn,
                });
            }
            match self.heard.recv_timeout(LOOK) {
                Ok(Event::Connected(stream)) => self.connected(port.clone(), stream),
                Ok(Event::RankEnded(how)) => {
                    ended = Some(how);
                    let patience = match self.state {
                        State::Left(_) => VERDICT_TIMEOUT,
                        _ => LAST_WORDS,
                    };
                    give_up = Some(Instant::now() + patience);
                }
                Ok(Event::Demand(Demand::Depart, answer)) => answer.baton(self.depart()),
                Ok(Event::Demand(Demand::Stay, answer)) => answer.done(self.stay()),
                Ok(Event::Demand(Demand::Gone, answer)) => {
                    let killed = match Hold::find(self.copy.pid()) {
                        Ok(Some(hold)) => hold.kill(),
                        _ => self.copy.kill(),
                    };
                    answer.done(killed);
                    return Ok(Outcome::MovedOn);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let State::Relaying(relay) = &self.state {
                        relay.deliver_kept_signals();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(Outcome::MovedOn),
            }
        }
    }

    fn connected(&mut self, port: Port, stream: Stream) {
        if let State::Waiting(carry) = &mut self.state {
            let carry = std::mem::take(carry);
            self.state = State::Relaying(self.relay(port, stream, carry));
        }
    }

    fn relay(&self, port: Port, stream: Stream, carry: Carry) -> Relay {
        Relay::start(port, stream, self.copy.clone(), self.ends.clone(), carry)
    }

    fn depart(&mut self) -> Result<Baton, Error> {
        match std::mem::replace(&mut self.state, State::Waiting(Carry::default())) {
            State::Relaying(relay) => {
                let (port, carry) = relay
                    .depart()
                    .map_err(stream("suspend the port to the shadow"))?;
                let baton = Baton { port, carry };
                self.state = State::Left(baton.clone());
                Ok(baton)
            }
            // The one who asked was killed, and another asks.
            State::Left(baton) => {
                self.state = State::Left(baton.clone());
                Ok(baton)
            }
            State::Waiting(carry) => {
                self.state = State::Waiting(carry);
                Err(Error::Restore(
                    "its shadow has not called yet; try again".to_owned(),
                ))
            }
        }
    }

    fn stay(&mut self) -> Result<(), Error> {
        if let State::Left(baton) = &self.state {
            let (port, stream) = attach(baton, self.node.clone())?;
            let carry = baton.carry.clone();
            self.state = State::Relaying(self.relay(port, stream, carry));
        }
        Ok(())
    }

    fn tell_end(self, ended: Ended) -> Result<Outcome, Error> {
        if let State::Relaying(relay) = self.state {
            relay.finish(ended, LAST_WORDS);
        }
        Ok(Outcome::Ended(ended))
    }
}

/// For `map_err`.
fn stream(doing: &'static str) -> impl FnOnce(meander::Error) -> Error {
    move |source| Error::Restore(format!("{doing}: {source}"))
}

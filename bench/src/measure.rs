//! Rounds, in which the contenders take turns.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use meander::{Config, Key, Port, VerbsCounters};
use serde::{Deserialize, Serialize};

use crate::line::{Contender, Line, RawSocket, StreamPosted};
use crate::peer::{Invitation, Lines, Order, Round, SERVICE};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    Latency,
    Bandwidth,
}

/// The results at one size.
#[derive(Serialize)]
pub struct Row {
    /// Bytes of a message.
    pub size: usize,
    pub messages: usize,
    pub results: Vec<ContenderResult>,
}

/// One contender at one size: the median of its rounds.
#[derive(Serialize)]
pub struct ContenderResult {
    pub contender: Contender,
    /// Latency: the median of half the round trip, in microseconds. Bandwidth: 10^6 bytes a second.
    pub value: f64,
    /// Latency only: of 100 round trips, 99 were no longer than twice this.
    pub p99: Option<f64>,
    /// `value` as a multiple of the raw socket's.
    pub of_raw: f64,
    /// Every round's value.
    pub rounds: Vec<f64>,
    /// On this side, a message (and the one that comes back, where latency is measured), over all
    /// rounds. `None` without verbs.
    pub per_message: Option<PerMessage>,
}

/// What a message costs by verbs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PerMessage {
    /// Work requests for sending.
    pub send_requests: f64,
    /// Calls that post some of them.
    pub send_doorbells: f64,
    /// Calls that post room for what is received.
    pub receive_doorbells: f64,
    /// Completions that were taken, of both.
    pub completions: f64,
}

impl PerMessage {
    /// From the counters before and after each of some rounds.
    pub fn of(rounds: &[(VerbsCounters, VerbsCounters)], messages: usize) -> Option<PerMessage> {
        let each = |count: fn(&VerbsCounters) -> u64| {
            let counts = rounds
                .iter()
                .map(|(before, after)| count(after) - count(before));
            counts.sum::<u64>() as f64 / (rounds.len() * messages) as f64
        };
        (!rounds.is_empty()).then(|| PerMessage {
            send_requests: each(|it| it.send_requests),
            send_doorbells: each(|it| it.doorbells),
            receive_doorbells: each(|it| it.receive_doorbells),
            completions: each(|it| it.send_completions + it.receive_completions),
        })
    }
}

/// What the rounds of one contender gave.
struct Samples {
    contender: Contender,
    rounds: Vec<f64>,
    tails: Vec<f64>,
    counted: Vec<(VerbsCounters, VerbsCounters)>,
}

/// The two processes and the lines between them.
pub struct Session {
    pub(crate) lines: Lines,
    pub(crate) orders: Box<dyn Write>,
    /// `None`: it runs elsewhere.
    pub(crate) peer: Option<Child>,
    listener: TcpListener,
    port: Port,
}

/// A round's messages where nothing else is said: so many, or so many bytes.
const LATENCY_MESSAGES: usize = 10_000;
const LATENCY_BYTES: usize = 64 << 20;
const BANDWIDTH_MESSAGES: usize = 100_000;
const BANDWIDTH_BYTES: usize = 512 << 20;
/// The first of this many messages of a round are not counted.
const WARM_UP: usize = 10;

impl Session {
    /// Starts the other process and connects every line.
    pub fn start() -> Result<Session> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let (peer, orders) = other_process("peer")?;
        let key = Key(secret);
        let local = Ipv4Addr::LOCALHOST.into();
        let mut session = Session::invite(Box::new(orders), local, key, true)?;
        session.peer = Some(peer);
        Ok(session)
    }

    /// Connects every line with a process that takes orders, and reaches this one at an address; it
    /// has the key, or is told.
    pub fn invite(
        mut orders: Box<dyn Write>,
        here: IpAddr,
        key: Key,
        tell: bool,
    ) -> Result<Session> {
        let port = Port::open(Config::from_env(key.clone())?)?;
        port.listen(SERVICE);
        let listener = TcpListener::bind((here, 0))?;
        let invitation = Invitation {
            key: tell.then_some(key),
            contact: port.contact(),
            socket: listener.local_addr()?,
        };
        say(&mut orders, &invitation)?;
        let stream = port.accept(Some(Duration::from_secs(20)))?;
        let stream_posted = StreamPosted::new(port.clone(), stream.peer());
        let raw_socket = RawSocket::new(listener.accept()?.0)?;
        Ok(Session {
            lines: Lines {
                raw_socket,
                stream_posted,
                stream,
            },
            orders,
            peer: None,
            listener,
            port,
        })
    }

    /// Where the raw socket's other end connects.
    pub fn socket(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Takes the raw socket of another process that has connected to [`Session::socket`].
    pub fn accept_socket(&mut self) -> Result<()> {
        self.lines.raw_socket = RawSocket::new(self.listener.accept()?.0)?;
        Ok(())
    }

    /// Measures contenders at one size; the first is what the others are compared with.
    pub fn row(
        &mut self,
        measure: Measure,
        contenders: &[Contender],
        size: usize,
        rounds: usize,
        messages: Option<usize>,
    ) -> Result<Row> {
        let messages = messages
            .unwrap_or_else(|| usual_messages(measure, size))
            .max(1);
        let samples = contenders.iter().map(|&contender| Samples {
            contender,
            rounds: Vec::new(),
            tails: Vec::new(),
            counted: Vec::new(),
        });
        let mut samples: Vec<_> = samples.collect();
        for _ in 0..rounds {
            for sample in &mut samples {
                let before = self.port.verbs_counters();
                let (value, tail) = self.round(&Round {
                    measure,
                    contender: sample.contender,
                    size,
                    messages,
                })?;
                sample.rounds.push(value);
                sample.tails.extend(tail);
                let counted = before.zip(self.port.verbs_counters());
                sample.counted.extend(counted);
            }
        }
        let raw = median(&samples[0].rounds);
        let results = samples.into_iter().map(|sample| {
            let value = median(&sample.rounds);
            let p99 = (!sample.tails.is_empty()).then(|| median(&sample.tails));
            ContenderResult {
                contender: sample.contender,
                value,
                p99,
                of_raw: value / raw,
                rounds: sample.rounds,
                per_message: PerMessage::of(&sample.counted, messages),
            }
        });
        Ok(Row {
            size,
            messages,
            results: results.collect(),
        })
    }

    /// One contender's round: its value, and its 99th percentile.
    pub fn round(&mut self, round: &Round) -> Result<(f64, Option<f64>)> {
        say(&mut self.orders, &Order::Round(*round))?;
        let line = self.lines.of(round.contender);
        let message = Arc::new(vec![0; round.size]);
        // The peer is there.
        line.receive(1)?;
        match round.measure {
            Measure::Latency => latency(line, &message, round.messages),
            Measure::Bandwidth => Ok((bandwidth(line, &message, round.messages)?, None)),
        }
    }

    /// Ends the other process.
    pub fn end(self) -> Result<()> {
        drop(self.orders);
        if let Some(mut peer) = self.peer {
            ensure!(peer.wait()?.success(), "the other process failed");
        }
        Ok(())
    }
}

/// Median and 99th percentile of half the round trip, in microseconds.
fn latency(
    line: &mut dyn Line,
    message: &Arc<Vec<u8>>,
    messages: usize,
) -> Result<(f64, Option<f64>)> {
    let mut times = Histogram::<u64>::new(3)?;
    for number in 0..messages {
        let start = Instant::now();
        line.send(message)?;
        line.receive(message.len())?;
        if number >= messages / WARM_UP {
            times.record(start.elapsed().as_nanos() as u64)?;
        }
    }
    let half = |quantile| times.value_at_quantile(quantile) as f64 / 2e3;
    Ok((half(0.5), Some(half(0.99))))
}

/// Megabytes a second, until the peer has said that it has everything.
fn bandwidth(line: &mut dyn Line, message: &Arc<Vec<u8>>, messages: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..messages {
        line.send(message)?;
    }
    line.receive(1)?;
    Ok((messages * message.len()) as f64 / start.elapsed().as_secs_f64() / 1e6)
}

fn usual_messages(measure: Measure, size: usize) -> usize {
    let (most, bytes) = match measure {
        Measure::Latency => (LATENCY_MESSAGES, LATENCY_BYTES),
        Measure::Bandwidth => (BANDWIDTH_MESSAGES, BANDWIDTH_BYTES),
    };
    (bytes / size.max(1)).clamp(8, most)
}

/// Starts this program as another process of a measurement; gives its input too.
pub fn other_process(part: &str) -> Result<(Child, ChildStdin)> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(part)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = command.spawn()?;
    let input = process.stdin.take().context("the process has no input")?;
    Ok((process, input))
}

/// The middle of the values, or of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    } else {
        sorted[middle]
    }
}

/// Writes a line that the other process understands.
pub fn say(to: &mut dyn Write, what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}

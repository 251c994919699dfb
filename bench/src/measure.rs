//! Rounds, in which the contenders take turns.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use meander::{Config, Key, Port, TransportKind, VerbsCounters};
use serde::{Deserialize, Serialize};

use crate::line::{Contender, Line, StreamPosted};
use crate::peer::{Invitation, Lines, Order, RawEnds, RawLines, Round, SERVICE, Succession};
use crate::pin::{Pin, pin};
use crate::shared::{Segment, Side};
use crate::transport::Transport;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    Latency,
    Bandwidth,
    Rate,
    Bidirectional,
}

impl Measure {
    pub fn unit(self) -> &'static str {
        match self {
            Measure::Latency => "microseconds, half round trip",
            Measure::Bandwidth => "10^6 bytes a second",
            Measure::Rate => "10^6 messages a second",
            Measure::Bidirectional => "10^6 bytes a second, both directions together",
        }
    }

    /// Sizes where nothing else is said.
    pub fn usual_sizes(self) -> &'static [usize] {
        match self {
            Measure::Latency => &[1, 8, 64, 1024, 16_384, 65_536],
            Measure::Rate => &[1, 8, 64, 512],
            Measure::Bandwidth | Measure::Bidirectional => {
                &[64, 1024, 16_384, 65_536, 1 << 20, 16 << 20]
            }
        }
    }

    /// A round's messages where nothing else is said: so many, or so many bytes.
    fn usual_messages(self, size: usize) -> usize {
        let (most, bytes) = match self {
            Measure::Latency => (10_000, 64 << 20),
            Measure::Bandwidth | Measure::Rate | Measure::Bidirectional => (100_000, 512 << 20),
        };
        (bytes / size.max(1)).clamp(MESSAGES_MIN, most)
    }
}

/// The results at one size over one transport.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// By which streams went: `tcp`, `shm`, `verbs`.
    pub transport: String,
    /// Bytes of a message.
    pub size: usize,
    /// Of a round, those that warm up too.
    pub messages: usize,
    pub results: Vec<ContenderResult>,
}

/// One contender at one size: medians of its rounds.
#[derive(Debug, Serialize, Deserialize)]
pub struct ContenderResult {
    pub contender: Contender,
    /// In [`Measure::unit`]; of a latency, the median.
    pub value: f64,
    /// Latency only: half of what 99 of 100 round trips took at most.
    pub p99: Option<f64>,
    /// Latency only: half of what 999 of 1000 took at most.
    pub p999: Option<f64>,
    /// `value` as a multiple of the first contender's, which is raw where both are on one machine.
    pub of_raw: f64,
    /// Every round's value.
    pub rounds: Vec<f64>,
    /// On this side, a message (and the one that comes back, where latency is measured), over all
    /// rounds. `None` without verbs.
    pub per_message: Option<PerMessage>,
}

/// What a message costs by verbs.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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

/// What one round gave: a median and its tail, or a value without one.
#[derive(Clone, Copy)]
pub struct Taken {
    pub value: f64,
    pub tail: Option<Tail>,
}

/// Percentiles 99 and 99.9.
#[derive(Clone, Copy)]
pub struct Tail {
    pub p99: f64,
    pub p999: f64,
}

/// What the rounds of one contender gave.
struct Samples {
    contender: Contender,
    rounds: Vec<Taken>,
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
    transport: Option<Transport>,
    pin: Pin,
    /// Of the messages for which there is shared memory; `None` between machines.
    bytes_max: Option<usize>,
    segment: Option<Arc<Segment>>,
}

/// What is said of a session before it begins.
#[derive(Clone, Copy)]
pub struct Setting {
    /// What the ports may use; what the environment says, if `None`.
    pub transport: Option<Transport>,
    pub pin: Pin,
    /// The largest message.
    pub bytes_max: usize,
}

/// A round has so many messages at least.
const MESSAGES_MIN: usize = 8;
/// One of so many messages warms up.
const WARM_UP: usize = 10;

impl Session {
    /// Starts the other process and connects every line.
    pub fn start(setting: &Setting) -> Result<Session> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let (peer, orders) = other_process("peer")?;
        let key = Key(secret);
        let local = Ipv4Addr::LOCALHOST.into();
        let mut session = Session::invite(Box::new(orders), local, key, setting, true)?;
        session.peer = Some(peer);
        Ok(session)
    }

    /// Connects every line with a process that takes orders, and reaches this one at an address. It is a
    /// child and is told the key, or has it, and runs on another machine.
    pub fn invite(
        mut orders: Box<dyn Write>,
        here: IpAddr,
        key: Key,
        setting: &Setting,
        child: bool,
    ) -> Result<Session> {
        let port = Port::open(config(key.clone(), setting.transport)?)?;
        pin(setting.pin.this())?;
        port.listen(SERVICE);
        let listener = TcpListener::bind((here, 0))?;
        let bytes_max = child.then_some(setting.bytes_max);
        let segment = bytes_max.map(Segment::make).transpose()?.map(Arc::new);
        let invitation = Invitation {
            key: child.then_some(key),
            contact: port.contact(),
            raw: RawEnds {
                socket: listener.local_addr()?,
                segment: segment.as_ref().map(|it| it.name()),
            },
            transport: setting.transport,
            processor: setting.pin.other().filter(|_| child),
        };
        say(&mut orders, &invitation)?;
        let stream = port.accept(Some(CONNECT_LIMIT))?;
        let stream_posted = StreamPosted::new(port.clone(), stream.peer());
        let raw = RawLines::new(listener.accept()?.0, segment.clone(), Side::Measuring)?;
        Ok(Session {
            lines: Lines {
                raw,
                stream_posted,
                stream,
            },
            orders,
            peer: None,
            listener,
            port,
            transport: setting.transport,
            pin: setting.pin,
            bytes_max,
            segment,
        })
    }

    /// What the other process's successor is told of the session.
    pub fn succession(
        &mut self,
        port: Vec<u8>,
        size: usize,
        messages: usize,
    ) -> Result<Succession> {
        // Numbers in the old one are the first process's.
        self.segment = self.bytes_max.map(Segment::make).transpose()?.map(Arc::new);
        Ok(Succession {
            port,
            raw: RawEnds {
                socket: self.listener.local_addr()?,
                segment: self.segment.as_ref().map(|it| it.name()),
            },
            transport: self.transport,
            processor: self.pin.other(),
            size,
            messages,
        })
    }

    /// Takes the raw lines of a successor.
    pub fn accept_raw(&mut self) -> Result<()> {
        let socket = self.listener.accept()?.0;
        self.lines.raw = RawLines::new(socket, self.segment.clone(), Side::Measuring)?;
        Ok(())
    }

    /// By what streams go.
    pub fn transport(&self) -> Result<TransportKind> {
        let linked = self.port.linked_by(self.lines.stream.peer());
        linked.context("the other process's port is not linked")
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
            .unwrap_or_else(|| measure.usual_messages(size))
            .max(1);
        let samples = contenders.iter().map(|&contender| Samples {
            contender,
            rounds: Vec::new(),
            counted: Vec::new(),
        });
        let mut samples: Vec<_> = samples.collect();
        for _ in 0..rounds {
            for sample in &mut samples {
                let before = self.port.verbs_counters();
                let round = Round::new(measure, sample.contender, size, messages);
                sample.rounds.push(self.round(&round)?);
                let counted = before.zip(self.port.verbs_counters());
                sample.counted.extend(counted);
            }
        }
        let raw = samples[0]
            .median(|it| Some(it.value))
            .context("no rounds")?;
        let results = samples.into_iter().map(|sample| {
            let value = sample.median(|it| Some(it.value)).unwrap_or(f64::NAN);
            ContenderResult {
                contender: sample.contender,
                value,
                p99: sample.median(|it| Some(it.tail?.p99)),
                p999: sample.median(|it| Some(it.tail?.p999)),
                of_raw: value / raw,
                rounds: sample.rounds.iter().map(|it| it.value).collect(),
                per_message: PerMessage::of(&sample.counted, messages),
            }
        });
        Ok(Row {
            transport: self.transport()?.to_string(),
            size,
            messages,
            results: results.collect(),
        })
    }

    /// One contender's round.
    pub fn round(&mut self, round: &Round) -> Result<Taken> {
        say(&mut self.orders, &Order::Round(*round))?;
        let line = self.lines.of(round.contender)?;
        let message = Arc::new(vec![0; round.size]);
        // The peer is there.
        line.receive(1)?;
        if round.measure == Measure::Latency {
            return latency(line, &message, round);
        }
        let seconds = timed(line, &message, round)?;
        let [_, messages] = round.parts();
        let value = match round.measure {
            Measure::Rate => messages as f64 / seconds / 1e6,
            Measure::Bidirectional => (2 * messages * round.size) as f64 / seconds / 1e6,
            _ => (messages * round.size) as f64 / seconds / 1e6,
        };
        Ok(Taken { value, tail: None })
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

/// How long the other process may take to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

impl Samples {
    fn median(&self, of: impl Fn(&Taken) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| median(&values))
    }
}

impl Round {
    pub fn new(measure: Measure, contender: Contender, size: usize, messages: usize) -> Round {
        Round {
            measure,
            contender,
            size,
            messages,
            warm_up: messages / WARM_UP,
        }
    }
}

/// A port's configuration.
pub fn config(key: Key, transport: Option<Transport>) -> Result<Config> {
    let mut config = Config::from_env(key)?;
    if let Some(transport) = transport {
        config.transports = Some(vec![transport.kind()]);
    }
    Ok(config)
}

/// Median and tail of half the round trip, in microseconds.
fn latency(line: &mut dyn Line, message: &Arc<Vec<u8>>, round: &Round) -> Result<Taken> {
    let mut times = Histogram::<u64>::new(3)?;
    for number in 0..round.messages {
        let start = Instant::now();
        line.send(message)?;
        line.receive(message.len())?;
        if number >= round.warm_up {
            times.record(start.elapsed().as_nanos() as u64)?;
        }
    }
    let half = |quantile| times.value_at_quantile(quantile) as f64 / 2e3;
    let tail = Tail {
        p99: half(0.99),
        p999: half(0.999),
    };
    Ok(Taken {
        value: half(0.5),
        tail: Some(tail),
    })
}

/// Seconds until the messages after the warm-up are with the peer, and its own here where it sends too.
fn timed(line: &mut dyn Line, message: &Arc<Vec<u8>>, round: &Round) -> Result<f64> {
    let mut start = Instant::now();
    for part in round.parts() {
        start = Instant::now();
        if round.measure == Measure::Bidirectional {
            line.exchange(message, part)?;
        } else {
            for _ in 0..part {
                line.send(message)?;
            }
            line.receive(1)?;
        }
    }
    Ok(start.elapsed().as_secs_f64())
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

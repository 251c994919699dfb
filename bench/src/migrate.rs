//! What a move costs a stream: latency before, the gap while its other end moves from one process to
//! another, latency after. The port moves as a value ([`meander::Port::suspend`]), so the process's
//! own memory is not in it; `cargo xtask downtime` moves whole ranks.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::line::{Contender, Line};
use crate::measure::{Measure, Session, Setting, Taken, median, other_process, say};
use crate::output::{Format, digits};
use crate::peer::{Order, Round};
use crate::pin::Pin;
use crate::sizes::Bytes;
use crate::survey::progress_bar;
use crate::transport::{self, Transport};

#[derive(Args)]
pub struct Options {
    /// Size of the messages.
    #[arg(long, default_value = "8")]
    pub size: Bytes,
    /// Rounds, a move each.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Messages before a move, and after it.
    #[arg(long)]
    pub messages: Option<usize>,
    /// Transports, separated by commas; else what MEANDER_TRANSPORT says, else all there are.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub transport: Vec<Transport>,
    /// Processors of this process and the other: 0,1, or none; by default two cores.
    #[arg(long, value_name = "A,B")]
    pub pin: Option<Pin>,
    #[command(flatten)]
    pub format: Format,
}

/// What came of all moves.
#[derive(Debug, Serialize, Deserialize)]
pub struct Document {
    /// Says what this is.
    pub measure: Moves,
    pub rows: Vec<Moved>,
}

/// The name of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moves {
    Migrate,
}

/// What came of the rounds over one transport; times are half round trips in microseconds but for the gap.
#[derive(Debug, Serialize, Deserialize)]
pub struct Moved {
    pub transport: String,
    /// Bytes of a message.
    pub size: usize,
    pub results: Vec<Sides>,
    /// The longest round trip while the port moved, in milliseconds: the median of the rounds.
    pub gap_ms: f64,
    /// Every round's.
    pub gaps_ms: Vec<f64>,
    /// Of the last round, around the move: when a message was sent, in milliseconds, and half its round trip.
    pub trace: Vec<(f64, f64)>,
}

/// One contender before and after.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sides {
    pub contender: Contender,
    pub before: Half,
    pub after: Half,
}

/// Medians of the rounds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Half {
    pub median: f64,
    pub p99: f64,
    pub p999: f64,
}

/// Messages of a round, before as after the move.
const MESSAGES: usize = 10_000;
/// Messages of the time around the move: so many before it and after it.
const MESSAGES_AROUND: usize = 400;

/// Moves, and prints what came of it.
pub fn run(options: &Options) -> Result<()> {
    let document = measure(options)?;
    let format = options.format;
    if format.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        lines(&document, format.csv)
            .iter()
            .for_each(|line| println!("{line}"));
    }
    Ok(())
}

/// Moves the other end in each round, with processes of the round's own.
pub fn measure(options: &Options) -> Result<Document> {
    let transports = transport::chosen(&options.transport, false);
    let bar = progress_bar(transports.len() * options.rounds.max(1));
    let mut rows = Vec::new();
    for transport in transports {
        let setting = Setting {
            transport,
            pin: options.pin.unwrap_or_else(Pin::usual),
            bytes_max: options.size.0,
        };
        let mut rounds = Vec::new();
        for _ in 0..options.rounds.max(1) {
            rounds.push(one_move(options, &setting)?);
            bar.inc(1);
        }
        rows.push(Moved::of(options.size.0, rounds));
    }
    bar.finish_and_clear();
    Ok(Document {
        measure: Moves::Migrate,
        rows,
    })
}

/// What one move gave.
struct OneMove {
    transport: String,
    /// In the order of the contenders.
    before: Vec<(Contender, Taken)>,
    after: Vec<(Contender, Taken)>,
    trace: Vec<(f64, f64)>,
}

fn one_move(options: &Options, setting: &Setting) -> Result<OneMove> {
    let mut session = Session::start(setting)?;
    let transport = session.transport()?;
    let mut contenders = Contender::over(transport, Measure::Latency);
    contenders.retain(|&it| it != Contender::StreamPosted);
    let (size, messages) = (options.size.0, options.messages.unwrap_or(MESSAGES).max(1));
    let take = |session: &mut Session| -> Result<Vec<(Contender, Taken)>> {
        let round = |&it| {
            let round = Round::new(Measure::Latency, it, size, messages);
            Ok((it, session.round(&round)?))
        };
        contenders.iter().map(round).collect()
    };
    let before = take(&mut session)?;
    let (trace, mut session) = hand_over(session, size)?;
    let after = take(&mut session)?;
    session.end()?;
    Ok(OneMove {
        transport: transport.to_string(),
        before,
        after,
        trace,
    })
}

impl Moved {
    fn of(size: usize, mut rounds: Vec<OneMove>) -> Moved {
        let gap = |it: &OneMove| {
            it.trace
                .iter()
                .map(|(_, half)| half * 2e-3)
                .fold(0.0, f64::max)
        };
        let gaps_ms: Vec<f64> = rounds.iter().map(gap).collect();
        let contenders = rounds[0].before.iter().map(|(contender, _)| *contender);
        let results = contenders.enumerate().map(|(at, contender)| Sides {
            contender,
            before: Half::of(rounds.iter().map(|it| it.before[at].1)),
            after: Half::of(rounds.iter().map(|it| it.after[at].1)),
        });
        Moved {
            transport: rounds[0].transport.clone(),
            size,
            results: results.collect(),
            gap_ms: median(&gaps_ms),
            gaps_ms,
            trace: rounds.pop().map(|it| it.trace).unwrap_or_default(),
        }
    }
}

impl Half {
    fn of(rounds: impl Iterator<Item = Taken> + Clone) -> Half {
        let middle =
            |value: fn(Taken) -> f64| median(&rounds.clone().map(value).collect::<Vec<_>>());
        Half {
            median: middle(|it| it.value),
            p99: middle(|it| it.tail.map_or(it.value, |tail| tail.p99)),
            p999: middle(|it| it.tail.map_or(it.value, |tail| tail.p999)),
        }
    }
}

/// Moves the port of the other process to a third one while messages go to and fro.
fn hand_over(mut session: Session, size: usize) -> Result<(Vec<(f64, f64)>, Session)> {
    let (successor, mut orders) = other_process("successor")?;
    let mut first = session.peer.take().context("the peer is no child")?;
    let value = first.stdout.take().context("the peer has no output")?;
    let messages = MESSAGES_AROUND;
    say(&mut session.orders, &Order::HandOver { size, messages })?;
    let mut succession = session.succession(Vec::new(), size, messages)?;
    let hand_on = move || -> Result<ChildStdin> {
        succession.port = value_of(value)?;
        say(&mut orders, &succession)?;
        Ok(orders)
    };
    let (trace, orders) = thread::scope(|scope| {
        let handing_on = scope.spawn(hand_on);
        let trace = trace(&mut session.lines.stream, size)?;
        let orders = handing_on
            .join()
            .map_err(|_| anyhow!("the hand-over panicked"))??;
        Ok::<_, anyhow::Error>((trace, orders))
    })?;
    ensure!(first.wait()?.success(), "the first process failed");
    session.peer = Some(successor);
    session.orders = Box::new(orders);
    session.accept_raw()?;
    Ok((trace, session))
}

fn value_of(output: ChildStdout) -> Result<Vec<u8>> {
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    serde_json::from_str(&line).context("the suspended port")
}

fn trace(line: &mut dyn Line, size: usize) -> Result<Vec<(f64, f64)>> {
    let message = Arc::new(vec![0; size]);
    let beginning = Instant::now();
    let mut trace = Vec::with_capacity(2 * MESSAGES_AROUND);
    for _ in 0..2 * MESSAGES_AROUND {
        let start = Instant::now();
        line.send(&message)?;
        line.receive(size)?;
        let at = (start - beginning).as_secs_f64() * 1e3;
        trace.push((at, start.elapsed().as_secs_f64() / 2.0 * 1e6));
    }
    Ok(trace)
}

/// Before, after, and the gap between.
fn lines(document: &Document, csv: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if csv {
        lines.push("measure,transport,bytes,contender,before,after,gap_ms".to_owned());
    } else {
        lines.push("microseconds, half round trip: medians, and times the time before".to_owned());
        let heads = ["before", "after", "times", "gap, ms"];
        let heads = heads.map(|head| format!(" {head:>10}")).concat();
        lines.push(format!("{:<6} {:>10} {:<14}{heads}", "", "bytes", ""));
    }
    for row in &document.rows {
        for sides in &row.results {
            let (before, after) = (sides.before.median, sides.after.median);
            let (transport, size, name) = (&row.transport, row.size, sides.contender.name());
            let moves = sides.contender == Contender::Stream;
            lines.push(if csv {
                let gap = if moves { row.gap_ms.to_string() } else { String::new() };
                format!("migrate,{transport},{size},{name},{before},{after},{gap}")
            } else {
                let gap = if moves { digits(row.gap_ms) } else { "-".to_owned() };
                let (before, after, times) = (digits(before), digits(after), after / before);
                format!("{transport:<6} {size:>10} {name:<14} {before:>10} {after:>10} {times:>10.2} {gap:>10}")
            });
        }
    }
    lines
}

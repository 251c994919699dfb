//! What a move costs a stream: latency before, the gap while its other end moves from one process to
//! another, latency after. The port moves as a value ([`meander::Port::suspend`]), so the process's
//! own memory is not in it; `cargo xtask downtime` moves whole ranks.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use crate::line::{Contender, Line};
use crate::measure::{Measure, Session, median, other_process, say};
use crate::peer::{Order, Round, Succession};

/// What came of all rounds; times are half round trips in microseconds but for the gap.
#[derive(Serialize)]
pub struct Results {
    /// Bytes of a message.
    pub size: usize,
    pub before: Sides,
    pub after: Sides,
    /// The longest round trip while the port moved, in milliseconds: the median of the rounds.
    pub gap_ms: f64,
    /// Every round's.
    pub gaps_ms: Vec<f64>,
}

/// Medians of the rounds' medians.
#[derive(Serialize)]
pub struct Sides {
    pub raw_socket: f64,
    pub stream: f64,
}

/// Messages of a round, before as after the move.
const MESSAGES: usize = 10_000;
/// Messages of the time around the move: so many before it and after it.
const MESSAGES_AROUND: usize = 100;

/// Moves the other end in each round, with processes of the round's own.
pub fn measure(size: usize, rounds: usize, messages: Option<usize>) -> Result<Results> {
    let messages = messages.unwrap_or(MESSAGES).max(1);
    let (mut before, mut after, mut gaps) = (Samples::default(), Samples::default(), Vec::new());
    for _ in 0..rounds {
        let mut session = Session::start()?;
        before.take(&mut session, size, messages)?;
        let (gap, mut session) = hand_over(session, size)?;
        gaps.push(gap.as_secs_f64() * 1e3);
        after.take(&mut session, size, messages)?;
        session.end()?;
    }
    Ok(Results {
        size,
        before: before.medians(),
        after: after.medians(),
        gap_ms: median(&gaps),
        gaps_ms: gaps,
    })
}

#[derive(Default)]
struct Samples {
    raw_socket: Vec<f64>,
    stream: Vec<f64>,
}

impl Samples {
    fn take(&mut self, session: &mut Session, size: usize, messages: usize) -> Result<()> {
        for (contender, values) in [
            (Contender::RawSocket, &mut self.raw_socket),
            (Contender::Stream, &mut self.stream),
        ] {
            let round = Round {
                measure: Measure::Latency,
                contender,
                size,
                messages,
            };
            values.push(session.round(&round)?.0);
        }
        Ok(())
    }

    fn medians(&self) -> Sides {
        Sides {
            raw_socket: median(&self.raw_socket),
            stream: median(&self.stream),
        }
    }
}

/// Moves the port of the other process to a third one while messages go to and fro; gives the
/// longest round trip.
fn hand_over(mut session: Session, size: usize) -> Result<(Duration, Session)> {
    let (successor, mut orders) = other_process("successor")?;
    let mut first = session.peer.take().context("the peer is no child")?;
    let value = first.stdout.take().context("the peer has no output")?;
    say(
        &mut session.orders,
        &Order::HandOver {
            size,
            messages: MESSAGES_AROUND,
        },
    )?;
    let socket = session.socket()?;
    let hand_on = move || -> Result<ChildStdin> {
        let succession = Succession {
            port: value_of(value)?,
            socket,
            size,
            messages: MESSAGES_AROUND,
        };
        say(&mut orders, &succession)?;
        Ok(orders)
    };
    let (longest, orders) = thread::scope(|scope| {
        let handing_on = scope.spawn(hand_on);
        let longest = longest_round_trip(&mut session.lines.stream, size)?;
        let orders = handing_on
            .join()
            .map_err(|_| anyhow!("the hand-over panicked"))??;
        Ok::<_, anyhow::Error>((longest, orders))
    })?;
    ensure!(first.wait()?.success(), "the first process failed");
    session.peer = Some(successor);
    session.orders = Box::new(orders);
    session.accept_socket()?;
    Ok((longest, session))
}

fn value_of(output: ChildStdout) -> Result<Vec<u8>> {
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    serde_json::from_str(&line).context("the suspended port")
}

fn longest_round_trip(line: &mut dyn Line, size: usize) -> Result<Duration> {
    let message = Arc::new(vec![0; size]);
    let mut longest = Duration::ZERO;
    for _ in 0..2 * MESSAGES_AROUND {
        let start = Instant::now();
        line.send(&message)?;
        line.receive(size)?;
        longest = longest.max(start.elapsed());
    }
    Ok(longest)
}

//! Streams over verbs beside the tools that measure verbs, rsockets and UCX, between two machines of
//! an rxe lab, in one run; or on this machine, where its kernel has soft-RoCE.
//!
//! For each size all take turns, round after round, each in a pair of fresh processes; what counts is
//! the median of the rounds. In emulation times mean something only as ratios, and roughly.

mod site;
mod tools;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use self::site::{CLIENT, SERVER, Site};
use self::tools::{Measure, Run, Tool};
use crate::artifacts::target_dir;

/// What to compare.
pub struct Options {
    /// Bytes of the messages.
    pub sizes: Vec<usize>,
    /// Rounds of each tool at each size.
    pub rounds: usize,
    /// Names of the tools; all if it is empty.
    pub others: Vec<String>,
    /// What our side uses.
    pub transport: String,
    /// On this machine, not in a lab of virtual ones.
    pub host: bool,
}

/// Sizes that are compared where nothing else is said.
pub const SIZES: [usize; 7] = [8, 64, 1024, 8 << 10, 64 << 10, 1 << 20, 4 << 20];
/// Seconds that one program may take: the machines are slow.
const RUN_LIMIT: &str = "180";
/// The file with the results, in the target directory.
const RESULTS: &str = "rxe-compare.json";

/// One comparison.
#[derive(Serialize)]
struct Row {
    /// Our transport.
    path: String,
    /// `latency_us`, `bandwidth_MBps` or `rate_Mps`.
    metric: &'static str,
    /// Of a message.
    bytes: usize,
    ours: f64,
    other: f64,
    other_name: &'static str,
    /// Above 1 where ours is better.
    ratio: f64,
}

/// Compares, in a lab of this name or on this machine, and writes the results. Fails when a tool did.
pub fn run(name: &str, options: &Options) -> Result<()> {
    let others = tools::named(&options.others)?;
    let site = if options.host {
        Site::host()?
    } else {
        Site::machines(name)?
    };
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    print_head();
    for measure in [Measure::Latency, Measure::Bandwidth] {
        for &bytes in &options.sizes {
            let run = Run { measure, bytes };
            let taking_part = others.iter().filter(|tool| tool.measures(measure));
            let mut contenders = vec![Contender::new(Tool::Ours)];
            contenders.extend(taking_part.map(|&tool| Contender::new(tool)));
            for _ in 0..options.rounds.max(1) {
                for contender in &mut contenders {
                    contender.take_turn(&site, &run, &options.transport, &mut failures);
                }
            }
            if let Some(costs) = &contenders[0].costs {
                println!("{:<15} {bytes:>8} {costs}", "per message");
            }
            let fresh = compare(&run, &contenders, &options.transport);
            fresh.iter().for_each(print_row);
            rows.extend(fresh);
            // Kept up to date: a comparison takes long.
            write(&rows)?;
        }
    }
    println!("{} rows in {}", rows.len(), results_path().display());
    ensure!(
        failures.is_empty(),
        "{} runs failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(())
}

struct Contender {
    tool: Tool,
    values: Vec<f64>,
    /// What a message cost us in the last round.
    costs: Option<Value>,
}

impl Contender {
    fn new(tool: Tool) -> Contender {
        Contender {
            tool,
            values: Vec::new(),
            costs: None,
        }
    }

    fn take_turn(&mut self, site: &Site, run: &Run, transport: &str, failures: &mut Vec<String>) {
        match measure(site, self.tool, run, transport) {
            Ok((value, costs)) => {
                self.values.push(value);
                self.costs = costs;
            }
            Err(error) => {
                let failure = format!("{} at {}: {error:#}", self.tool.name(), run.bytes);
                eprintln!("{failure}");
                failures.push(failure);
            }
        }
    }

    fn median(&self) -> Option<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

/// One run of one tool: its value, and what a message cost if it is ours.
fn measure(site: &Site, tool: Tool, run: &Run, transport: &str) -> Result<(f64, Option<Value>)> {
    let ends = site.ends(transport);
    let (server, client) = tool.commands(run, &ends);
    let server = Server::start(limited(site, SERVER, &server)?)?;
    // It may not listen yet: then the other fails at once.
    let words: Vec<String> = client.iter().map(|word| format!("'{word}'")).collect();
    let words = words.join(" ");
    let script = format!(
        "for attempt in 1 2 3 4 5 6 7 8 9 10; do sleep 0.3; said=$({words} 2>&1) && break; done; status=$?; echo \"$said\"; exit $status"
    );
    let client = ["bash".to_owned(), "-c".to_owned(), script];
    let output = limited(site, CLIENT, &client)?
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{}: {said}\nthe server said: {}",
            output.status,
            server.end()
        );
    }
    Ok((tool.value(run, &said)?, tools::our_costs(&said)))
}

/// A command on a machine that does not outlive its time.
fn limited(site: &Site, node: &str, words: &[String]) -> Result<Command> {
    let limit = ["timeout", RUN_LIMIT];
    let words: Vec<&str> = limit
        .into_iter()
        .chain(words.iter().map(String::as_str))
        .collect();
    site.command(node, &words)
}

/// The serving program. It ends when the measuring one has, or by its limit.
struct Server(Child);

impl Server {
    fn start(mut command: Command) -> Result<Server> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Server(command.stderr(Stdio::null()).spawn()?))
    }

    fn end(mut self) -> String {
        let _ = self.0.kill();
        let mut said = String::new();
        if let Some(stdout) = &mut self.0.stdout {
            let _ = stdout.read_to_string(&mut said);
        }
        said
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

fn compare(run: &Run, contenders: &[Contender], path: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let (ours, others) = contenders.split_first().expect("we are the first");
    let Some(ours) = ours.median() else {
        return rows;
    };
    for other in others {
        let Some(value) = other.median() else {
            continue;
        };
        let row = |metric, ours: f64, other_value: f64, ratio| Row {
            path: path.to_owned(),
            metric,
            bytes: run.bytes,
            ours,
            other: other_value,
            other_name: other.tool.name(),
            ratio,
        };
        let bytes = run.bytes as f64;
        match run.measure {
            Measure::Latency => rows.push(row("latency_us", ours, value, value / ours)),
            Measure::Bandwidth => {
                rows.push(row("bandwidth_MBps", ours, value, ours / value));
                rows.push(row("rate_Mps", ours / bytes, value / bytes, ours / value));
            }
        }
    }
    rows
}

fn print_head() {
    println!(
        "{:<15} {:>8} {:>14} {:>14} {:<13} {:>6}",
        "", "bytes", "ours", "other", "", "ratio"
    );
}

fn print_row(row: &Row) {
    println!(
        "{:<15} {:>8} {:>14.6} {:>14.6} {:<13} {:>6.2}",
        row.metric, row.bytes, row.ours, row.other, row.other_name, row.ratio
    );
}

fn results_path() -> PathBuf {
    target_dir().join(RESULTS)
}

fn write(rows: &[Row]) -> Result<()> {
    let path: &Path = &results_path();
    fs::write(path, serde_json::to_string_pretty(rows)?)
        .with_context(|| format!("writing {}", path.display()))
}

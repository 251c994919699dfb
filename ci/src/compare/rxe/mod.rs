//! Streams over verbs beside the tools that measure verbs, rsockets and UCX, between two machines of
//! an rxe lab, in one run; or on this machine, where its kernel has soft-RoCE.
//!
//! In emulation times mean something only as ratios, and roughly.

mod site;
mod tools;

use anyhow::{Result, ensure};
use serde_json::Value;

use self::site::{CLIENT, SERVER, Site};
use self::tools::{Measure, Run, Tool};
use super::pair::{self, End};
use super::rows::{self, Row};
use super::turns::{self, Contender};
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
const RUN_LIMIT_S: u32 = 180;
/// The file with the results, in the target directory.
const RESULTS: &str = "rxe-compare.json";

/// Compares, in a lab of this name or on this machine, and writes the results. Fails when a tool did.
pub fn run(name: &str, options: &Options) -> Result<()> {
    let others = turns::named(&options.others, &Tool::OTHERS, Tool::name)?;
    let site = if options.host {
        Site::host()?
    } else {
        Site::machines(name)?
    };
    let results = target_dir().join(RESULTS);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    rows::print_head();
    for measure in [Measure::Latency, Measure::Bandwidth] {
        for &bytes in &options.sizes {
            let run = Run { measure, bytes };
            let taking_part = others.iter().filter(|tool| tool.measures(measure));
            let mut contenders = vec![Contender::new(Tool::Ours)];
            contenders.extend(taking_part.map(|&tool| Contender::new(tool)));
            let mut costs = None;
            turns::take(
                &mut contenders,
                options.rounds,
                &mut failures,
                |tool| format!("{} at {bytes}", tool.name()),
                |&tool, _| {
                    let (value, of_message) = one_run(&site, tool, &run, &options.transport)?;
                    costs = of_message.or(costs.take());
                    Ok(value)
                },
            );
            if let Some(costs) = &costs {
                println!("{:<20} {bytes:>8} {costs}", "per message");
            }
            let fresh = compare(&run, &contenders, &options.transport);
            fresh.iter().for_each(rows::print);
            found.extend(fresh);
            // Kept up to date: a comparison takes long.
            rows::write(&results, &found)?;
        }
    }
    println!("{} rows in {}", found.len(), results.display());
    ensure!(
        failures.is_empty(),
        "{} runs failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(())
}

/// One run of one tool: its value, and what a message cost if it is ours.
fn one_run(site: &Site, tool: Tool, run: &Run, transport: &str) -> Result<(f64, Option<Value>)> {
    let commands = tool.commands(run, &site.ends(transport));
    let said = pair::run(&commands, RUN_LIMIT_S, |end, words| match end {
        End::Serving => site.command(SERVER, words),
        End::Measuring => site.command(CLIENT, words),
    })?;
    Ok((tool.value(run, &said)?, tools::our_costs(&said)))
}

fn compare(run: &Run, contenders: &[Contender<Tool>], path: &str) -> Vec<Row> {
    let mut found = Vec::new();
    let (ours, others) = contenders.split_first().expect("we are the first");
    let Some(ours) = ours.median() else {
        return found;
    };
    for other in others {
        let Some(value) = other.median() else {
            continue;
        };
        let row = |metric, ours: f64, value: f64| Row {
            path: path.to_owned(),
            metric,
            bytes: run.bytes,
            ranks: None,
            ours,
            other: value,
            other_name: other.tool.name(),
            ratio: rows::ratio(ours, value, run.measure == Measure::Latency),
        };
        let bytes = run.bytes as f64;
        match run.measure {
            Measure::Latency => found.push(row("latency_us", ours, value)),
            Measure::Bandwidth => {
                found.push(row("bandwidth_MBps", ours, value));
                found.push(row("rate_Mps", ours / bytes, value / bytes));
            }
        }
    }
    found
}

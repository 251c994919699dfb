//! `cargo xtask sim`: many runs by seed, or one to be read.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use clap::Parser;
use meander_sim::exhaustive::{Outcome, Small};
use meander_sim::{Coverage, Plan, Report, run};

/// Runs the protocol through moves and failures on virtual time.
///
/// A seed decides everything: the same one gives the same run. A run that breaks a promise is
/// reported with its seed, which `--seed` replays with all that happens.
#[derive(Parser)]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 2000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    first: u64,
    /// Run this one and print what happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Moves begun in each run.
    #[arg(long, default_value_t = 20)]
    moves: usize,
    /// Plant one fault after another and see that each is found.
    #[cfg(feature = "planted-faults")]
    #[arg(long)]
    mutants: bool,
    /// Look at every state of the small worlds instead.
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    exhaustive: bool,
    /// Ports in each run; 0: the seed decides, 2 to 16.
    #[arg(long, default_value_t = 0)]
    ranks: usize,
}

#[cfg(feature = "planted-faults")]
mod mutants;

fn main() -> ExitCode {
    let options = Options::parse();
    let plan = Plan {
        ranks: options.ranks,
        moves: options.moves,
        ..Plan::default()
    };
    #[cfg(feature = "planted-faults")]
    if options.mutants {
        return mutants::find(options.seeds, &plan);
    }
    if options.exhaustive {
        return exhaustive();
    }
    match options.seed {
        Some(seed) => replay(seed, plan),
        None => many(&options, &plan),
    }
}

/// Looks at all of the small worlds.
fn exhaustive() -> ExitCode {
    let mut states = 0;
    for small in Small::ALL {
        let outcome = small.explore(|| {});
        let Outcome {
            transitions,
            ends,
            fault,
            ..
        } = outcome;
        println!(
            "exhaustive: {}: {} states, {transitions} transitions, {ends} good ends",
            small.name(),
            outcome.states
        );
        if let Some((fault, way)) = fault {
            way.iter().for_each(|action| println!("    {action}"));
            println!("exhaustive: {fault:?}");
            return ExitCode::FAILURE;
        }
        states += outcome.states;
    }
    println!("exhaustive: ok states={states}");
    ExitCode::SUCCESS
}

fn replay(seed: u64, plan: Plan) -> ExitCode {
    let report = run(
        seed,
        &Plan {
            trace: true,
            ..plan
        },
    );
    println!(
        "sim: seed={seed} moves={} trace={:016x}",
        report.moves, report.trace
    );
    verdict(seed, &report)
}

fn verdict(seed: u64, report: &Report) -> ExitCode {
    if report.faults.is_empty() {
        return ExitCode::SUCCESS;
    }
    for fault in &report.faults {
        println!("sim: seed {seed}: {fault:?}");
    }
    println!("sim: replay it with `cargo xtask sim --seed {seed}`");
    ExitCode::FAILURE
}

fn many(options: &Options, plan: &Plan) -> ExitCode {
    let next = AtomicU64::new(options.first);
    let end = options.first + options.seeds;
    let work = || {
        let (mut moves, mut coverage) = (0, Coverage::default());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return Ok((moves, coverage));
            }
            let report = run(seed, plan);
            if !report.faults.is_empty() {
                return Err((seed, report));
            }
            moves += report.moves;
            coverage.add(&report.coverage);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a run panicked"))
            .collect()
    });
    let (mut moves, mut coverage) = (0, Coverage::default());
    for result in results {
        match result {
            Ok((more, other)) => {
                moves += more;
                coverage.add(&other);
            }
            Err((seed, report)) => return verdict(seed, &report),
        }
    }
    for (what, count) in coverage.counts() {
        println!("{count:>12}  {what}");
    }
    let missing = coverage.missing();
    if !missing.is_empty() {
        println!("sim: never came by: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    println!("sim: ok seeds={} moves={moves}", options.seeds);
    ExitCode::SUCCESS
}

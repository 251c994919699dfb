//! `cargo xtask downtime`: how long a move takes, phase by phase, and what a peer feels of it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Lab;
use crate::artifacts;
use crate::meander::Migration;

const LAB: &str = "downtime";
const NODES: [&str; 3] = ["a", "b", "c"];
/// Memory of the rank that moves, in MB.
const MEMORY_MB: [u32; 2] = [10, 1000];
/// Moves of each, there and back in turn; the medians of these are reported.
const MOVES: usize = 6;
/// How long the job runs: as long as the moves may take.
const JOB_S: &str = "100";
/// How long one thing may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures, and prints the table of `docs/performance.md`.
pub fn run() -> Result<ExitCode> {
    let program = artifacts::program("gap")?;
    println!("Moves of a rank on three nodes of one machine; medians of {MOVES} moves, in ms.");
    println!(
        "The peer's gap is the longest wait of rank 0 for an 8-byte answer, seen by rank 0.\n"
    );
    let mut columns: Vec<(u32, BTreeMap<String, Vec<f64>>)> = Vec::new();
    for memory in MEMORY_MB {
        let lab = Lab::up(LAB, &NODES)?;
        lab.start_agents()?;
        let memory_text = memory.to_string();
        let job = lab
            .mpirun(&NODES[..2], 1)
            .ranks(2)
            .start(&program, &[memory_text.as_str(), JOB_S])?;
        let ranks = lab.wait_for_ranks(2, PATIENCE)?;
        let name = format!("{}/1", ranks.first().context("a job has ranks")?.job);
        job.wait_for("a steady exchange", PATIENCE, |line| {
            line.starts_with("steady_us=")
        })?;
        let mut column = BTreeMap::new();
        for turn in 0..MOVES {
            let (from, to) = if turn % 2 == 0 {
                ("b", "c")
            } else {
                ("c", "b")
            };
            let told = gaps(&job.lines()).len();
            let migration = lab.migrate(from, &name, to)?.moved()?;
            note_phases(&migration, &mut column);
            job.wait_for("the peer's word", PATIENCE, |line| {
                line.starts_with("gap_ms=")
            })?;
            let lines = crate::state::wait_until("the peer's word on this move", PATIENCE, || {
                let lines = gaps(&job.lines());
                (lines.len() > told).then_some(lines)
            })?;
            for field in lines[told..].iter().flat_map(|line| line.split(' ')) {
                if let Some((key, value)) = field.split_once('=') {
                    column
                        .entry(key.to_owned())
                        .or_default()
                        .push(value.parse()?);
                }
            }
        }
        columns.push((memory, column));
        drop(job);
        lab.down()?;
    }
    print(&columns);
    Ok(ExitCode::SUCCESS)
}

fn gaps(lines: &[crate::mpirun::Line]) -> Vec<String> {
    let texts = lines.iter().map(|line| line.text.clone());
    texts.filter(|text| text.starts_with("gap_ms=")).collect()
}

/// `  freeze   123.4 ms` and `downtime 431.2 ms (...)`, as the command prints them at the end.
fn note_phases(migration: &Migration, column: &mut BTreeMap<String, Vec<f64>>) {
    for line in migration.text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(number), Some("ms")) = (words.next(), words.next(), words.next())
            && let Ok(number) = number.parse()
        {
            column.entry(name.to_owned()).or_default().push(number);
        }
    }
}

const ROWS: [(&str, &str); 12] = [
    ("check", "check"),
    ("suspend", "suspend"),
    ("freeze", "freeze and dump"),
    ("copy", "copy"),
    ("confirm", "restore, held"),
    ("commit", "commit"),
    ("attach", "attach"),
    ("shadow", "shadow"),
    ("downtime", "downtime, by the agents"),
    ("gap_ms", "gap, by the peer"),
    ("before_us", "latency before, us"),
    ("after_us", "latency after, us"),
];

fn print(columns: &[(u32, BTreeMap<String, Vec<f64>>)]) {
    print!("| phase |");
    for (memory, _) in columns {
        print!(" {memory} MB |");
    }
    println!("\n| --- |{}", " ---: |".repeat(columns.len()));
    for (key, title) in ROWS {
        print!("| {title} |");
        for (_, column) in columns {
            match column.get(key).map(|values| median(values)) {
                Some(value) => print!(" {value:.1} |"),
                None => print!(" - |"),
            }
        }
        println!();
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

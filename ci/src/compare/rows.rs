//! What a comparison finds: a row for each thing that was measured and each who is compared with.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What ours goes over: `shm`, `tcp`, `verbs`.
    pub path: String,
    /// With its unit: `latency_us`, `bandwidth_MBps`, `rate_Mps`, or a collective's: `allreduce_us`.
    pub metric: &'static str,
    /// Of a message; 0 of a barrier.
    pub bytes: usize,
    /// Of the MPI program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<u32>,
    pub ours: f64,
    pub other: f64,
    pub other_name: &'static str,
    /// Above 1 where ours is better.
    pub ratio: f64,
}

/// How many times as good ours is, of a time or of a rate.
pub fn ratio(ours: f64, other: f64, less_is_better: bool) -> f64 {
    if less_is_better {
        other / ours
    } else {
        ours / other
    }
}

pub fn print_head() {
    println!(
        "{:<4} {:<15} {:>8} {:>5} {:>14} {:>14} {:<15} {:>6}",
        "", "", "bytes", "ranks", "ours", "other", "", "ratio"
    );
}

pub fn print(row: &Row) {
    let ranks = row.ranks.map(|ranks| ranks.to_string()).unwrap_or_default();
    println!(
        "{:<4} {:<15} {:>8} {ranks:>5} {:>14.6} {:>14.6} {:<15} {:>6.2}",
        row.path, row.metric, row.bytes, row.ours, row.other, row.other_name, row.ratio
    );
}

/// Puts them into a file.
pub fn write(path: &Path, rows: &[Row]) -> Result<()> {
    fs::write(path, serde_json::to_string_pretty(rows)?)
        .with_context(|| format!("writing {}", path.display()))
}

//! `cargo xtask test` and `cargo xtask soak`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::layer::{Counts, Layer, Outcome};
use crate::process::Failure;
use crate::{build, debian};

/// In a soak, the ranks of `ci/tests/wander.rs` wander for this many seconds.
const WANDER: (&str, &str) = ("MEANDER_WANDER_S", "300");

/// Runs the named layers, or all, and prints each one's time; the last line counts the tests.
pub fn run(names: &[&str]) -> Result<ExitCode, Failure> {
    let layers = chosen(names)?;
    debian::setup()?;
    let outcomes: Vec<(Layer, Outcome)> = layers
        .into_iter()
        .map(|layer| (layer, layer.run()))
        .collect();
    println!();
    let mut sum = Counts::default();
    for (layer, outcome) in &outcomes {
        let Outcome { counts, took, note } = outcome;
        let seconds = took.as_secs_f64();
        let Counts {
            passed,
            failed,
            skipped,
        } = *counts;
        let name = layer.name();
        print!(
            "{name:<10} {seconds:>7.1} s  {passed:>4} passed {failed:>3} failed {skipped:>3} skipped"
        );
        println!("{}{note}", if note.is_empty() { "" } else { "  " });
        sum.add(*counts);
    }
    println!(
        "{} passed, {} failed, {} skipped",
        sum.passed, sum.failed, sum.skipped
    );
    Ok(if sum.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the scenarios and the demo until the time is over.
pub fn soak(minutes: u64) -> Result<ExitCode, Failure> {
    debian::setup()?;
    build::release()?;
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let mut sum = Counts::default();
    let mut rounds = 0;
    while rounds == 0 || Instant::now() < end {
        rounds += 1;
        for layer in [Layer::Scenarios, Layer::Demo] {
            sum.add(layer.run_with(&[WANDER]).counts);
        }
        println!(
            "soak: round {rounds}: {} passed, {} failed so far",
            sum.passed, sum.failed
        );
    }
    println!(
        "{} passed, {} failed, {} skipped",
        sum.passed, sum.failed, sum.skipped
    );
    Ok(if sum.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn chosen(names: &[&str]) -> Result<Vec<Layer>, Failure> {
    if names.is_empty() {
        return Ok(Layer::ALL.to_vec());
    }
    let find = |name: &&str| {
        let found = Layer::ALL.into_iter().find(|layer| layer.name() == *name);
        found.ok_or_else(|| {
            let all: Vec<&str> = Layer::ALL.iter().map(|layer| layer.name()).collect();
            Failure::new(format!(
                "there is no layer {name:?}; there are {}",
                all.join(", ")
            ))
        })
    };
    names.iter().map(find).collect()
}

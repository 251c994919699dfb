//! Scenarios in virtual machines with kernels and soft-RoCE devices of their own.
//!
//! Booting takes the time of several scenarios, so they share one lab and run one after another:
//! a harness of its own, which speaks as Rust's own does. Words on the command line choose
//! scenarios whose names contain one of them.

mod mpi;
mod support;
mod verbs;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use meander_lab::Rxe;

type Scenario = fn(&Rxe) -> Result<()>;

/// What each is called, and does.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("rxe_pingpong_of_the_verbs_library", verbs::pingpong),
    (
        "rxe_verbs_pass_their_tests_on_a_device",
        verbs::tests_on_a_device,
    ),
    (
        "rxe_large_messages_over_verbs_through_moves",
        mpi::large_messages_through_moves,
    ),
    (
        "rxe_netpipe_checks_integrity_through_a_move",
        mpi::netpipe_through_a_move,
    ),
    (
        "rxe_heat2d_computes_the_same_through_a_move",
        mpi::heat2d_through_a_move,
    ),
    ("rxe_hpcc_passes_through_a_move", mpi::hpcc_through_a_move),
    (
        "rxe_a_cable_is_pulled_and_put_back",
        mpi::cable_pulled_and_put_back,
    ),
    ("rxe_frozen_packets_thaw", mpi::frozen_packets_thaw),
    (
        "rxe_to_a_node_without_rdma_and_back",
        mpi::to_a_node_without_rdma_and_back,
    ),
    ("rxe_no_receiver_was_ever_not_ready", verbs::never_not_ready),
];

fn main() -> ExitCode {
    let choice = Choice::from_arguments();
    let chosen: Vec<_> = SCENARIOS
        .iter()
        .filter(|(name, _)| choice.takes(name))
        .collect();
    println!("\nrunning {} tests", chosen.len());
    let failed = run(&chosen).unwrap_or_else(|error| {
        println!("the lab did not come up: {error:#}");
        chosen.len()
    });
    let passed = chosen.len() - failed;
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let left_out = SCENARIOS.len() - chosen.len();
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left_out} filtered out"
    );
    ExitCode::from(u8::from(failed > 0))
}

/// Which scenarios are wanted, in the words of Rust's own harness.
#[derive(Default)]
struct Choice {
    words: Vec<String>,
    skipped: Vec<String>,
}

impl Choice {
    fn from_arguments() -> Choice {
        let mut choice = Choice::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(word) = arguments.next() {
            match word.as_str() {
                "--skip" => choice.skipped.extend(arguments.next()),
                option if option.starts_with('-') => {}
                _ => choice.words.push(word),
            }
        }
        choice
    }

    fn takes(&self, name: &str) -> bool {
        let has = |words: &[String]| words.iter().any(|word| name.contains(word.as_str()));
        (self.words.is_empty() || has(&self.words)) && !has(&self.skipped)
    }
}

/// Runs scenarios; how many of them failed.
fn run(chosen: &[&(&str, Scenario)]) -> Result<usize> {
    if chosen.is_empty() {
        return Ok(0);
    }
    let mut lab = boot()?;
    let mut failed = 0;
    for (name, scenario) in chosen {
        let start = Instant::now();
        let mut outcome = scenario(&lab);
        // An emulated kernel crashes at times, in its own network code: that says nothing of ours.
        if outcome.is_err()
            && let Some(last_words) = lab.crashed()
        {
            println!("{last_words}\n{name} is run again, on new machines");
            drop(lab);
            lab = boot()?;
            outcome = scenario(&lab);
        }
        let seconds = start.elapsed().as_secs();
        match &outcome {
            Ok(()) => println!("test {name} ... ok ({seconds} s)"),
            Err(error) => println!("test {name} ... FAILED ({seconds} s)\n{error:#}"),
        }
        failed += usize::from(outcome.is_err());
    }
    Ok(failed)
}

fn boot() -> Result<Rxe> {
    let lab = Rxe::up("t-rxe", &["a", "b", "c"])?;
    lab.start_agents()?;
    Ok(lab)
}

//! Scenarios on soft-RoCE devices: in virtual machines with kernels and devices of their own, or on a
//! machine whose own kernel has soft-RoCE, in namespaces that share a device.
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
use meander_lab::rxe::{Rxe, Shared, Site};

/// What is tried.
struct Scenario {
    name: &'static str,
    run: fn(&Site) -> Result<()>,
    /// Why it can't be tried where all nodes share one device.
    unshared: Option<&'static str>,
}

/// A scenario for every site.
const fn everywhere(name: &'static str, run: fn(&Site) -> Result<()>) -> Scenario {
    let unshared = None;
    Scenario {
        name,
        run,
        unshared,
    }
}

/// A scenario for nodes that have a device each; `why` says what is amiss where they share one.
const fn own_devices(
    name: &'static str,
    run: fn(&Site) -> Result<()>,
    why: &'static str,
) -> Scenario {
    let unshared = Some(why);
    Scenario {
        name,
        run,
        unshared,
    }
}

const SCENARIOS: &[Scenario] = &[
    everywhere("rxe_pingpong_of_the_verbs_library", verbs::pingpong),
    own_devices(
        "rxe_verbs_pass_their_tests_on_a_device",
        verbs::tests_on_a_device,
        "they go by the name rxe0, and take down its network card, which no node has",
    ),
    everywhere(
        "rxe_large_messages_over_verbs_through_moves",
        mpi::large_messages_through_moves,
    ),
    everywhere(
        "rxe_netpipe_checks_integrity_through_a_move",
        mpi::netpipe_through_a_move,
    ),
    everywhere(
        "rxe_heat2d_computes_the_same_through_a_move",
        mpi::heat2d_through_a_move,
    ),
    everywhere("rxe_hpcc_passes_through_a_move", mpi::hpcc_through_a_move),
    own_devices(
        "rxe_a_cable_is_pulled_and_put_back",
        mpi::cable_pulled_and_put_back,
        "the one device has one network card, which is no node's own",
    ),
    own_devices(
        "rxe_frozen_packets_thaw",
        mpi::frozen_packets_thaw,
        "a device delivers to itself what it sends to its own address: no packet is on a network",
    ),
    own_devices(
        "rxe_to_a_node_without_rdma_and_back",
        mpi::to_a_node_without_rdma_and_back,
        "every node sees the one device",
    ),
    everywhere("rxe_no_receiver_was_ever_not_ready", verbs::never_not_ready),
];

/// `host` in it: nodes are namespaces of this machine, whose kernel has soft-RoCE.
const SITE_VARIABLE: &str = "MEANDER_RXE_SITE";
const NODES: [&str; 3] = ["a", "b", "c"];

fn main() -> ExitCode {
    let choice = Choice::from_arguments();
    let wanted: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| choice.takes(scenario.name))
        .collect();
    println!("\nrunning {} tests", wanted.len());
    let shared = std::env::var(SITE_VARIABLE).is_ok_and(|site| site == "host");
    let mut chosen = Vec::new();
    for &scenario in &wanted {
        match scenario.unshared {
            Some(why) if shared => println!("test {} ... ignored, {why}", scenario.name),
            _ => chosen.push(scenario),
        }
    }
    let failed = run(&chosen, shared).unwrap_or_else(|error| {
        println!("the lab did not come up: {error:#}");
        chosen.len()
    });
    let (passed, ignored) = (chosen.len() - failed, wanted.len() - chosen.len());
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let left_out = SCENARIOS.len() - wanted.len();
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {left_out} filtered out"
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
fn run(chosen: &[&Scenario], shared: bool) -> Result<usize> {
    if chosen.is_empty() {
        return Ok(0);
    }
    let mut site = bring_up(shared)?;
    let mut failed = 0;
    for Scenario { name, run, .. } in chosen {
        let start = Instant::now();
        let mut outcome = run(&site);
        // An emulated kernel crashes at times, with another register's bits in its flags: that is the
        // emulator's doing (seen with QEMU 7.2), and says nothing of ours.
        if outcome.is_err()
            && let Some(last_words) = site.crashed()
        {
            println!("{last_words}\n{name} is run again, on new machines");
            drop(site);
            site = bring_up(shared)?;
            outcome = run(&site);
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

fn bring_up(shared: bool) -> Result<Site> {
    let site = if shared {
        Site::Shared(Shared::up("t-rxe", &NODES)?)
    } else {
        Site::Machines(Rxe::up("t-rxe", &NODES)?)
    };
    site.start_agents()?;
    Ok(site)
}

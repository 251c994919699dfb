//! `cargo xtask`: every habit of the project as one command. Needs nothing but Rust, so that it can
//! install the rest.

mod build;
mod debian;
mod fuzz;
mod layer;
mod process;
mod rules;
mod test;

use std::path::Path;
use std::process::{Command, ExitCode};

use process::{Failure, artifact};

const HELP: &str = "\
cargo xtask COMMAND

Try it:
  demo              an MPI program runs on two nodes, one rank moves to a third and back
  lab up [NODES]    bring up nodes a, b, c (or those named, or as many as a number says), with agents
  lab run NODE CMD  run a command on a node: `cargo xtask lab run a mpirun --host a:2,b:2 hostname`
  lab link NODE up|down     cut a node's cable, or mend it
  lab shape NODE RATE|off   slow a node's cable: 100mbit
  lab agent NODE    start a node's agent again
  lab list          the labs that are up
  lab down          take the lab down, with all that runs in it
  rxe up [NODES]    boot two virtual machines with soft-RoCE, a and b (or those named), with agents
  rxe run NODE CMD  run a command on one: `cargo xtask rxe run a ibv_devices`
  rxe down          end them
  rxe test          the scenarios on such machines
  rxe compare       streams over verbs beside perftest, rsockets and UCX there (--sizes, --rounds, --with):
                    a table, and target/rxe-compare.json
  rxe --host test|compare   the same on this machine's own kernel, which must have rdma_rxe: nodes
                    are namespaces that share a device
  rxe instructions  what a message costs that repeats: instructions of our code, and what is asked of the
                    device; on this machine, without one

Work on it:
  setup             install what is missing: Debian packages, and a CRIU that works on this kernel
  build             the release build: target/release/meander and libmeander_mpi.so
  test              format, lint, every test, the demo; the last line counts them
  test LAYER...     only these layers: format lint unit simulator fuzz build scenarios rxe demo
  sim --seeds N     the protocol through moves and failures on virtual time
  sim --seed X      one of these runs, with all that happens in it
  rules             the rules of docs/protocol.md and the places that cite them agree
  exhaustive        every interleaving of one small move with crashes; prints the number of states
  mutants           plants faults in the protocol; the simulator must find each
  fuzz [--seconds N] [--keep] [TARGET]   the corpus, then new inputs to decoders and ports for a minute;
                    --keep takes what was learnt into the corpus
  compare           an MPI program under the shim beside the same under Open MPI and MPICH, and beside UCX,
                    NetPIPE and raw baselines, by shm and tcp on this machine: tables, and target/compare.json;
                    a missing row fails. --path, --metric, --sizes, --ranks, --rounds and --with take less
  downtime          measures moves: phase by phase, and what a peer feels of them
  soak [MINUTES]    the scenarios again and again, an hour if nothing is said

A lab is made of namespaces on this machine and wants root, or sudo. Its state and its agents' logs
are in /run/meander-lab/NAME; `lab --name NAME ...` picks one where there are several. What setup
downloads is kept in /var/cache/meander, outside this directory, and made once.
";

/// How long `soak` runs when nothing is said, in minutes.
const SOAK_MINUTES_DEFAULT: u64 = 60;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Some(code) = process::in_a_session_of_its_own() {
        return code;
    }
    let here = process::enter_source_root();
    match run(&words, &here) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str], here: &Path) -> Result<ExitCode, Failure> {
    match words {
        [] | ["help" | "--help" | "-h"] => print!("{HELP}"),
        ["setup"] => debian::setup()?,
        ["build"] => {
            debian::setup()?;
            build::release()?;
        }
        ["demo"] => {
            debian::setup()?;
            build::release()?;
            return process::as_root(&artifact("meander-lab"), &["demo"])?.exit_code();
        }
        ["downtime"] => {
            debian::setup()?;
            build::release()?;
            return process::as_root(&artifact("meander-lab"), &["downtime"])?.exit_code();
        }
        ["compare", rest @ ..] => return compare(rest),
        ["test", layers @ ..] => return test::run(layers),
        ["sim", rest @ ..] => return process::run(&mut layer::simulator(rest))?.exit_code(),
        ["exhaustive"] => {
            return process::run(&mut layer::simulator(&["--exhaustive"]))?.exit_code();
        }
        ["mutants"] => return process::run(&mut layer::mutants())?.exit_code(),
        ["rules"] => {
            return Ok(if rules::check()? {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        ["fuzz", rest @ ..] => return fuzz(rest),
        ["soak"] => return test::soak(SOAK_MINUTES_DEFAULT),
        ["soak", minutes] => {
            let minutes = minutes.parse().map_err(|_| {
                Failure::new(format!("soak: {minutes:?} is not a number of minutes"))
            })?;
            return test::soak(minutes);
        }
        ["lab", rest @ ..] => return lab(rest, here),
        ["rxe", "test"] => return rxe_test(&[]),
        ["rxe", "--host", "test"] => return rxe_test(&[layer::RXE_ON_HOST]),
        ["rxe", rest @ ..] => return rxe(rest),
        [other, ..] => {
            return Err(Failure::new(format!(
                "there is no command {other:?}; `cargo xtask help` lists them"
            )));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn fuzz(words: &[&str]) -> Result<ExitCode, Failure> {
    let (mut target, mut seconds, mut keep) = (None, fuzz::SECONDS_DEFAULT, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--keep" => keep = true,
            "--seconds" => {
                let number = words.next().and_then(|number| number.parse().ok());
                seconds = number
                    .ok_or_else(|| Failure::new("fuzz: --seconds wants a number of seconds"))?;
            }
            name => target = Some(name),
        }
    }
    Ok(if fuzz::run(target, seconds, keep)? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn rxe(words: &[&str]) -> Result<ExitCode, Failure> {
    if let ["instructions"] = words {
        debian::setup()?;
        build::release()?;
    } else if matches!(words, ["up" | "compare", ..] | ["--host", "compare", ..]) {
        debian::setup()?;
        debian::setup_machines()?;
        build::release()?;
    }
    let words = [&["rxe"], words].concat();
    process::as_root(&artifact("meander-lab"), &words)?.exit_code()
}

/// Wants no root: it makes no nodes.
fn compare(words: &[&str]) -> Result<ExitCode, Failure> {
    debian::setup()?;
    debian::setup_peers()?;
    build::release()?;
    let words = [&["compare"], words].concat();
    process::run(Command::new(artifact("meander-lab")).args(words))?.exit_code()
}

fn rxe_test(environment: &[(&str, &str)]) -> Result<ExitCode, Failure> {
    debian::setup()?;
    build::release()?;
    let counts = layer::Layer::Rxe.run_with(environment).counts;
    if counts.failed > 0 {
        return Ok(ExitCode::FAILURE);
    }
    if counts.skipped > 0 {
        println!("rxe: {} skipped, each named above", counts.skipped);
    }
    println!("rxe: ok {} scenarios", counts.passed);
    Ok(ExitCode::SUCCESS)
}

/// `here` is where the user is, and where `lab run` runs its command.
fn lab(words: &[&str], here: &Path) -> Result<ExitCode, Failure> {
    if words.contains(&"up") {
        debian::setup()?;
        build::release()?;
    } else if !artifact("meander-lab").exists() {
        build::release_of(&["meander-lab"])?;
    }
    let program = artifact("meander-lab");
    std::env::set_current_dir(here)
        .map_err(|error| Failure::new(format!("{}: {error}", here.display())))?;
    process::as_root(&program, words)?.exit_code()
}

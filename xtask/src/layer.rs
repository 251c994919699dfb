//! The layers of `cargo xtask test`: what each runs, and what came of it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Failure, artifact, cargo, host_triple, root_prefix};
use crate::{build, debian, fuzz};

/// How many tests of a layer ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
    /// Not run.
    pub skipped: u64,
}

impl Counts {
    const PASSED: Counts = Counts {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    const FAILED: Counts = Counts {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    fn of(passed: bool) -> Counts {
        if passed {
            Counts::PASSED
        } else {
            Counts::FAILED
        }
    }

    /// Adds another layer's.
    pub fn add(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// A layer that was run.
pub struct Outcome {
    /// Its tests.
    pub counts: Counts,
    /// How long it took.
    pub took: Duration,
    /// What to say of it, beside the numbers.
    pub note: String,
}

/// A layer, by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// `cargo fmt --check`.
    Format,
    /// Clippy on all targets, where a warning is an error; the protocol's rules and who cites them.
    Lint,
    /// Unit, property and documentation tests of every crate but the lab.
    Unit,
    /// The protocol on virtual time, by seeds; then with faults planted, which must be found.
    Simulator,
    /// The corpus of every fuzz target, and a minute of new inputs.
    Fuzz,
    /// The release build, which the next two run.
    Build,
    /// The scenarios, in labs, one after the other.
    Scenarios,
    /// Machines with soft-RoCE.
    Rxe,
    /// The demo.
    Demo,
}

impl Layer {
    /// Every layer, in the order in which they run.
    pub const ALL: [Layer; 9] = [
        Layer::Format,
        Layer::Lint,
        Layer::Unit,
        Layer::Simulator,
        Layer::Fuzz,
        Layer::Build,
        Layer::Scenarios,
        Layer::Rxe,
        Layer::Demo,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Layer::Format => "format",
            Layer::Lint => "lint",
            Layer::Unit => "unit",
            Layer::Simulator => "simulator",
            Layer::Fuzz => "fuzz",
            Layer::Build => "build",
            Layer::Scenarios => "scenarios",
            Layer::Rxe => "rxe",
            Layer::Demo => "demo",
        }
    }

    /// Runs it.
    pub fn run(self) -> Outcome {
        self.run_with(&[])
    }

    /// Runs it with further variables in the environment of its tests.
    pub fn run_with(self, environment: &[(&str, &str)]) -> Outcome {
        println!("\n== {} ==", self.name());
        let start = Instant::now();
        let (counts, note) = match self.try_run(environment) {
            Ok(counts) => (counts, String::new()),
            Err(failure) => {
                println!("{}: {failure}", self.name());
                (Counts::FAILED, failure.to_string())
            }
        };
        Outcome {
            counts,
            took: start.elapsed(),
            note,
        }
    }

    fn try_run(self, environment: &[(&str, &str)]) -> Result<Counts, Failure> {
        match self {
            Layer::Format => once(cargo().args(["fmt", "--all", "--check"])),
            Layer::Lint => {
                let mut counts = once(cargo().args(LINT))?;
                counts.add(once(
                    cargo()
                        .args(DOCUMENTS)
                        .env("RUSTDOCFLAGS", "--deny warnings"),
                )?);
                counts.add(Counts::of(crate::rules::check()?));
                Ok(counts)
            }
            Layer::Unit => {
                let mut counts = tests(cargo().args(UNIT))?;
                counts.add(tests(cargo_as_root()?.args(UNIT_AS_ROOT))?);
                counts.add(tests(cargo_as_root()?.args(USERS_OF_SHM))?);
                counts.add(tests(cargo_as_root()?.args(HUGE_PAGES))?);
                println!("{IGNORED}");
                Ok(counts)
            }
            Layer::Simulator => {
                let mut counts = once(&mut simulator(&[]))?;
                counts.add(once(&mut simulator(&["--exhaustive"]))?);
                counts.add(once(&mut mutants())?);
                Ok(counts)
            }
            Layer::Fuzz => fuzz::run(None, fuzz::SECONDS_DEFAULT, false).map(Counts::of),
            Layer::Build => {
                debian::setup()?;
                build::release().map(|()| Counts::PASSED)
            }
            Layer::Scenarios => tests(
                cargo_as_root()?
                    .args(SCENARIOS)
                    .envs(environment.iter().copied()),
            ),
            Layer::Rxe => {
                debian::setup_machines()?;
                let programs = build::device_tests()?.join(":");
                let mut run = cargo_as_root()?;
                run.args(RXE).envs(environment.iter().copied());
                tests(run.env(DEVICE_TESTS_VARIABLE, programs))
            }
            Layer::Demo => {
                let mut words = root_prefix()?;
                words.push(artifact("meander-lab").display().to_string());
                let (program, rest) = words.split_first().expect("it has words");
                once(Command::new(program).args(rest).arg("demo"))
            }
        }
    }
}

const LINT: &[&str] = &[
    "clippy",
    "--workspace",
    "--all-targets",
    "--quiet",
    "--",
    "--deny",
    "warnings",
];
const DOCUMENTS: &[&str] = &["doc", "--workspace", "--no-deps", "--quiet"];
const UNIT: &[&str] = &[
    "test",
    "--workspace",
    "--exclude",
    "meander-lab",
    "--exclude",
    "meander-node",
    "--no-fail-fast",
    "--quiet",
];
/// These move processes.
const UNIT_AS_ROOT: &[&str] = &[
    "test",
    "--package",
    "meander-node",
    "--no-fail-fast",
    "--quiet",
];
/// These need another user.
const USERS_OF_SHM: &[&str] = &[
    "test",
    "--package",
    "meander-shm",
    "--test",
    "users",
    "--quiet",
    "--",
    "--ignored",
    "--skip",
    "a_part_for_another_user",
];
/// These set huge pages aside.
const HUGE_PAGES: &[&str] = &[
    "test",
    "--package",
    "meander-verbs",
    "--test",
    "registration",
    "--quiet",
    "--",
    "--ignored",
];
/// What the unit layer counts as skipped.
const IGNORED: &str = "ignored above: two tests that need root, which were run as root just now, and the \
     tests of `verbs` that need an RDMA device, which the layer rxe runs on its machines";
const SCENARIOS: &[&str] = &[
    "test",
    "--package",
    "meander-lab",
    "--no-fail-fast",
    "--",
    "--test-threads=1",
    "--skip",
    "rxe_",
];
/// The scenarios in `ci/tests/rxe`, a harness of their own.
const RXE: &[&str] = &["test", "--package", "meander-lab", "--test", "rxe"];
/// Has them run on this machine's own kernel, which must have soft-RoCE.
pub const RXE_ON_HOST: (&str, &str) = ("MEANDER_RXE_SITE", "host");
/// Names the programs of `verbs`' own tests that a machine with a device is to run.
const DEVICE_TESTS_VARIABLE: &str = "MEANDER_DEVICE_TESTS";

/// The simulator, built so that it is fast.
pub fn simulator(arguments: &[&str]) -> Command {
    let mut run = cargo();
    run.args([
        "run",
        "--release",
        "--quiet",
        "--package",
        "meander-sim",
        "--",
    ]);
    run.args(arguments);
    run
}

/// The simulator with one fault planted after another.
pub fn mutants() -> Command {
    let mut run = cargo();
    run.args(["run", "--release", "--quiet", "--package", "meander-sim"]);
    run.args(["--features", "planted-faults", "--", "--mutants"]);
    run
}

/// Cargo, set to run test programs as root: they move processes, or make a lab of namespaces.
fn cargo_as_root() -> Result<Command, Failure> {
    let mut cargo = cargo();
    let prefix = root_prefix()?;
    if !prefix.is_empty() {
        let host = host_triple()?.to_uppercase().replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{host}_RUNNER"), prefix.join(" "));
    }
    // Their errors name what happened; the way there through the test harness says nothing.
    cargo.env("RUST_LIB_BACKTRACE", "0");
    Ok(cargo)
}

/// A layer that is one check.
fn once(command: &mut Command) -> Result<Counts, Failure> {
    crate::process::run(command).map(|ended| Counts::of(ended.success()))
}

/// A layer of test programs: passes their output on and sums what they count.
fn tests(command: &mut Command) -> Result<Counts, Failure> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| Failure::new(format!("cannot run cargo: {error}")))?;
    let mut counts = Counts::default();
    let pipe = child
        .stdout
        .take()
        .ok_or_else(|| Failure::new("cargo has no output"))?;
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while pipe
        .read_until(b'\n', &mut line)
        .is_ok_and(|bytes| bytes > 0)
    {
        let _ = std::io::stdout().write_all(&line);
        if let Some(more) = test_result(&String::from_utf8_lossy(&line)) {
            counts.add(more);
        }
        line.clear();
    }
    let status = child
        .wait()
        .map_err(|error| Failure::new(format!("cargo: {error}")))?;
    // A program that did not build, or crashed, counts no test.
    if !status.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    if status.success() && counts.passed == 0 {
        return Err(Failure::new("no test was run"));
    }
    Ok(counts)
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
fn test_result(line: &str) -> Option<Counts> {
    let rest = line.trim_start().strip_prefix("test result:")?;
    let number = |word: &str| -> u64 {
        let before = rest
            .split(word)
            .next()
            .filter(|before| before.len() < rest.len());
        let last = before.and_then(|before| before.split_whitespace().next_back());
        last.and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    Some(Counts {
        passed: number("passed"),
        failed: number("failed"),
        skipped: number("ignored"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed() {
        let line =
            "test result: FAILED. 31 passed; 2 failed; 4 ignored; 0 measured; 7 filtered out";
        assert_eq!(
            test_result(line),
            Some(Counts {
                passed: 31,
                failed: 2,
                skipped: 4
            })
        );
        assert_eq!(test_result("test a::b ... ok"), None);
    }

    #[test]
    fn every_layer_has_a_name_of_its_own() {
        let mut names: Vec<&str> = Layer::ALL.iter().map(|layer| layer.name()).collect();
        names.dedup();
        assert_eq!(names.len(), Layer::ALL.len());
    }
}

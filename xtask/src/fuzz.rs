//! `cargo xtask fuzz`: replays the corpus of every fuzz target, then tries new inputs.
//!
//! The targets are laid out for cargo-fuzz, and built here as cargo-fuzz does without a sanitizer:
//! what it needs of the compiler is in the stable one, so that nothing has to be installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::process::{Failure, cargo, host_triple, must};

/// Every target, the slowest to learn first.
const TARGETS: &[&str] = &["ports", "link", "control", "wire"];
/// How long new inputs are tried where nothing is said, in seconds, all targets together.
pub const SECONDS_DEFAULT: u64 = 60;
/// What makes code tell the fuzzer where it has been.
const FLAGS: &[&str] = &[
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Longest input, one input's time in seconds, and a target's memory.
const BOUNDS: &[&str] = &[
    "-max_len=4096",
    "-len_control=10",
    "-timeout=20",
    "-rss_limit_mb=2048",
];

/// How a target did.
struct Outcome {
    target: &'static str,
    /// Inputs of the corpus, and new ones that were tried.
    replayed: u64,
    tried: u64,
    /// The fuzzer's last words, if it found something.
    found: Option<String>,
}

/// Runs one target, or all, for so many seconds in all. Returns whether nothing was found.
/// `keep`: what was learnt goes into the corpus.
pub fn run(target: Option<&str>, seconds: u64, keep: bool) -> Result<bool, Failure> {
    let chosen: Vec<&'static str> = TARGETS
        .iter()
        .copied()
        .filter(|name| target.is_none_or(|wanted| wanted == *name))
        .collect();
    if chosen.is_empty() {
        let all = TARGETS.join(", ");
        return Err(Failure::new(format!("fuzz: the targets are {all}")));
    }
    let programs = build()?;
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let workers = workers.min(chosen.len());
    let seconds_each = (seconds * workers as u64 / chosen.len() as u64).max(1);
    let waiting = Mutex::new(chosen.iter());
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no worker panics").next();
                    let Some(target) = next else { break };
                    let outcome = fuzz(&programs, target, seconds_each);
                    outcomes.lock().expect("no worker panics").push(outcome);
                }
            });
        }
    });
    let outcomes: Vec<Outcome> = outcomes
        .into_inner()
        .expect("no worker panics")
        .into_iter()
        .collect::<Result<_, _>>()?;
    for outcome in &outcomes {
        let Outcome {
            target,
            replayed,
            tried,
            found,
        } = outcome;
        println!("{target:<8} {replayed:>5} of the corpus, {tried:>9} new");
        if let Some(words) = found {
            println!("{words}");
        }
        if keep && found.is_none() {
            merge(&programs, target)?;
        }
    }
    let found = outcomes.iter().filter(|it| it.found.is_some()).count();
    let tried: u64 = outcomes.iter().map(|it| it.tried).sum();
    let verdict = if found == 0 { "ok" } else { "FAILED" };
    println!("fuzz: {verdict} targets={} inputs={tried}", outcomes.len());
    Ok(found == 0)
}

/// Builds all targets; gives the directory of their programs.
fn build() -> Result<PathBuf, Failure> {
    let host = host_triple()?;
    let target = PathBuf::from("target/fuzz");
    let mut build = cargo();
    build
        .args(["build", "--release", "--quiet"])
        .args(["--manifest-path", "fuzz/Cargo.toml", "--target", &host])
        .arg("--target-dir")
        .arg(&target)
        // Flags with `--target` are not those of build scripts.
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .env_remove("RUSTFLAGS");
    must(&mut build, "building the fuzz targets")?;
    Ok(target.join(host).join("release"))
}

fn fuzz(programs: &Path, target: &'static str, seconds: u64) -> Result<Outcome, Failure> {
    let corpus = corpus(target);
    let mut outcome = Outcome {
        target,
        replayed: fs::read_dir(&corpus).map_or(0, |files| files.count() as u64),
        tried: 0,
        found: None,
    };
    let learnt = learnt(target);
    let _ = fs::remove_dir_all(&learnt);
    make(&learnt)?;
    make(Path::new("target/fuzz/found"))?;
    // With a directory of inputs the whole of it is run before anything new is tried.
    let mut run = program(programs, target);
    run.arg(format!("-max_total_time={seconds}"))
        .arg("-print_final_stats=1")
        .arg(&learnt)
        .arg(&corpus);
    let output = run
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(format!("cannot run {target}: {error}")))?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    outcome.tried = executed(&words)
        .unwrap_or(0)
        .saturating_sub(outcome.replayed);
    if !output.status.success() {
        outcome.found = Some(last_lines(&words));
    }
    Ok(outcome)
}

/// Takes what was learnt into the corpus, as far as it shows something new.
fn merge(programs: &Path, target: &str) -> Result<(), Failure> {
    let smaller = PathBuf::from("target/fuzz/corpus").join(target);
    let _ = fs::remove_dir_all(&smaller);
    make(&smaller)?;
    let corpus = corpus(target);
    let mut run = program(programs, target);
    run.args(["-set_cover_merge=1", "-use_counters=0", "-use_cmp=0"]);
    run.arg(&smaller);
    run.arg(&corpus).arg(learnt(target)).stderr(Stdio::null());
    must(&mut run, "merging what was learnt")?;
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", corpus.display()));
    // Inputs with a name of their own once found something: they stay.
    for file in fs::read_dir(&corpus).map_err(failed)? {
        let file = file.map_err(failed)?;
        if is_hash(&file.file_name().to_string_lossy()) {
            fs::remove_file(file.path()).map_err(failed)?;
        }
    }
    for file in fs::read_dir(&smaller).map_err(failed)? {
        let file = file.map_err(failed)?;
        if is_hash(&file.file_name().to_string_lossy()) {
            fs::copy(file.path(), corpus.join(file.file_name())).map_err(failed)?;
        }
    }
    Ok(())
}

fn program(programs: &Path, target: &str) -> Command {
    let mut run = Command::new(programs.join(target));
    run.args(BOUNDS)
        .arg(format!("-artifact_prefix=target/fuzz/found/{target}-"));
    run
}

fn corpus(target: &str) -> PathBuf {
    Path::new("fuzz/corpus").join(target)
}

fn learnt(target: &str) -> PathBuf {
    Path::new("target/fuzz/learnt").join(target)
}

fn make(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory)
        .map_err(|error| Failure::new(format!("{}: {error}", directory.display())))
}

/// Reads `stat::number_of_executed_units: 4711`.
fn executed(words: &str) -> Option<u64> {
    let line = words
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    line?.trim().parse().ok()
}

/// What the fuzzer says of what it has found: where the input is, and the panic before it.
fn last_lines(words: &str) -> String {
    let told = words.lines().filter(|line| {
        !line.starts_with('#') && !line.starts_with("stat::") && !line.starts_with("INFO:")
    });
    let told: Vec<&str> = told.collect();
    told[told.len().saturating_sub(40)..].join("\n")
}

/// The fuzzer names inputs by their hashes.
fn is_hash(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuzzers_count_is_read() {
        let words = "Done 12 runs\nstat::number_of_executed_units: 4711\nstat::new_units: 3\n";
        assert_eq!(executed(words), Some(4711));
        assert_eq!(executed("#3 READ"), None);
    }

    #[test]
    fn what_was_found_is_told_without_the_fuzzers_progress() {
        let words = "INFO: seed\n#1 READ\nthread panicked\n#2 NEW\nartifact: x\n";
        assert_eq!(last_lines(words), "thread panicked\nartifact: x");
    }

    #[test]
    fn only_the_fuzzers_own_names_are_hashes() {
        assert!(is_hash("da39a3ee5e6b4b0d3255bfef95601890afd80709"));
        assert!(!is_hash("pull-behind-the-end"));
    }
}

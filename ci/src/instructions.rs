//! What a message costs that does not depend on the machine's speed: the instructions of our own code, and what is
//! asked of the device.
//!
//! One process sends to itself over verbs, with a provider in place of the device that takes no time
//! (`verbs/stub`), under callgrind. Counted is what runs between the call of the API and the provider's
//! `post_send`, and between what its `poll_cq` returns and the caller: everything but the provider.

mod callgrind;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::artifacts::{Artifacts, target_dir};

/// A half of a message, as a kind of stream does it.
#[derive(Clone, Debug, Serialize)]
pub struct Half {
    /// `stream-posted`, as libraries use it, or `stream`, as programs do.
    pub line: &'static str,
    /// `send` or `receive`.
    pub half: &'static str,
    /// Bytes of the message.
    pub bytes: usize,
    /// Instructions of our own code (and of what it calls that is not the provider).
    pub ours: f64,
    /// Instructions of the provider that stands for the device.
    pub provider: f64,
}

/// What a message asks of the device, both ends together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Requests {
    /// Bytes of the message.
    #[serde(default)]
    pub bytes: usize,
    /// Work requests for sending.
    pub send_requests: f64,
    /// Calls that post some of them.
    pub send_doorbells: f64,
    /// Calls that post room for what is received.
    pub receive_doorbells: f64,
    /// Completions that were taken, of both.
    pub completions: f64,
}

/// Everything that was counted.
#[derive(Clone, Debug, Serialize)]
pub struct Counts {
    /// Of our own code, by line and half.
    pub instructions: Vec<Half>,
    /// Of the device, by size.
    pub requests: Vec<Requests>,
}

/// Messages whose instructions are counted.
const MESSAGES: usize = 1000;
/// The sizes whose requests are counted, and how many messages of each.
const SIZES: [(usize, usize); 3] = [(8, 1000), (64 << 10, 200), (1 << 20, 50)];
/// The provider, as cargo names it, and as programs look for it.
const BUILT: &str = "libmeander_verbs_stub.so";
const LOADED: &str = "libibverbs.so.1";
/// The file with the results, in the target directory.
const RESULTS: &str = "rxe-instructions.json";

/// Counts, prints a table, and writes the results.
pub fn run() -> Result<Counts> {
    let counts = count()?;
    println!(
        "{:<15} {:<8} {:>8} {:>14} {:>10}",
        "", "", "bytes", "instructions", "provider"
    );
    for half in &counts.instructions {
        println!(
            "{:<15} {:<8} {:>8} {:>14.0} {:>10.0}",
            half.line, half.half, half.bytes, half.ours, half.provider
        );
    }
    println!(
        "{:<24} {:>8} {:>14} {:>10} {:>10} {:>12}",
        "a message, both ends", "bytes", "work requests", "doorbells", "receives", "completions"
    );
    for it in &counts.requests {
        println!(
            "{:<24} {:>8} {:>14.2} {:>10.2} {:>10.2} {:>12.2}",
            "", it.bytes, it.send_requests, it.send_doorbells, it.receive_doorbells, it.completions
        );
    }
    let path = target_dir().join(RESULTS);
    fs::write(&path, serde_json::to_string_pretty(&counts)?)
        .with_context(|| format!("writing {}", path.display()))?;
    println!("in {}", path.display());
    Ok(counts)
}

/// Counts.
pub fn count() -> Result<Counts> {
    let provider = Provider::new()?;
    let mut counts = Counts {
        instructions: Vec::new(),
        requests: Vec::new(),
    };
    for line in ["stream-posted", "stream"] {
        for half in ["send", "receive"] {
            counts.instructions.push(provider.half(line, half)?);
        }
    }
    for (bytes, messages) in SIZES {
        counts.requests.push(provider.requests(bytes, messages)?);
    }
    Ok(counts)
}

/// The library that stands for libibverbs, in a directory of its own.
struct Provider {
    dir: tempfile::TempDir,
    bench: PathBuf,
}

impl Provider {
    fn new() -> Result<Provider> {
        let artifacts = Artifacts::locate();
        let (built, bench) = (
            artifacts.dir().join(BUILT),
            artifacts.dir().join("meander-bench"),
        );
        for path in [&built, &bench] {
            ensure!(
                path.exists(),
                "{} is missing: `cargo xtask build` makes it",
                path.display()
            );
        }
        let dir = tempfile::tempdir().context("a directory for the provider")?;
        fs::copy(&built, dir.path().join(LOADED))?;
        Ok(Provider { dir, bench })
    }

    fn half(&self, line: &'static str, half: &'static str) -> Result<Half> {
        let bytes = 8;
        let output = self.dir.path().join("callgrind.out");
        let mut valgrind = self.over_verbs("valgrind");
        valgrind
            .args(["--tool=callgrind", "--collect-atstart=no"])
            .arg(format!("--toggle-collect=*counted_{half}*"))
            .arg(format!("--callgrind-out-file={}", output.display()))
            .arg(&self.bench);
        bench(&mut valgrind, line, bytes, MESSAGES)?;
        let text = fs::read_to_string(&output).context("what callgrind has written")?;
        let totals = callgrind::totals(&text, is_provider)?;
        let each = |count: u64| count as f64 / MESSAGES as f64;
        let (ours, provider) = (each(totals.all - totals.inside), each(totals.inside));
        Ok(Half {
            line,
            half,
            bytes,
            ours,
            provider,
        })
    }

    fn requests(&self, bytes: usize, messages: usize) -> Result<Requests> {
        let mut program = self.over_verbs(&self.bench);
        let said = bench(&mut program, "stream-posted", bytes, messages)?;
        let counted: Option<Requests> = serde_json::from_str(said.trim())
            .with_context(|| format!("meander-bench said {said:?}"))?;
        let counted = counted.context("the streams were not over verbs")?;
        Ok(Requests { bytes, ..counted })
    }

    fn over_verbs(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_LIBRARY_PATH", self.dir.path())
            .env("MEANDER_TRANSPORT", "verbs");
        command
    }
}

fn is_provider(object: &str) -> bool {
    Path::new(object)
        .file_name()
        .is_some_and(|name| name == LOADED)
}

fn bench(program: &mut Command, line: &str, bytes: usize, messages: usize) -> Result<String> {
    let name = program.get_program().to_string_lossy().into_owned();
    let output = program
        .args(["instructions", "--line", line])
        .args([
            "--size",
            &bytes.to_string(),
            "--messages",
            &messages.to_string(),
        ])
        .output()
        .with_context(|| format!("{name} (`cargo xtask setup` installs what is missing)"))?;
    if !output.status.success() {
        bail!(
            "{name}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

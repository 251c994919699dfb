//! Running programs under `mpirun`, for the tests beside.

// Not every test file uses all of it.
#![allow(dead_code)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// Longest that any run may take.
pub const PATIENCE: Duration = Duration::from_secs(150);

pub fn expect_ok(name: &str, ranks: u32, run: &Output) {
    let text = words(run);
    assert!(
        run.status.success(),
        "{name} on {ranks}: {}\n{text}",
        run.status
    );
    assert!(
        text.contains(&format!("{name}: ok on {ranks}")),
        "{name} on {ranks}:\n{text}"
    );
}

pub fn shimmed(ranks: u32, program: &[&str]) -> Output {
    let preload = preload();
    let mut arguments = vec!["-x", &preload];
    arguments.extend(program);
    mpirun(ranks, &arguments)
}

pub fn native(ranks: u32, program: &[&str]) -> Output {
    mpirun(ranks, program)
}

pub fn mpirun(ranks: u32, arguments: &[&str]) -> Output {
    let mut command = command(ranks, arguments);
    let began = Instant::now();
    let run = command
        .stdin(Stdio::null())
        .output()
        .expect("mpirun starts");
    assert!(
        began.elapsed() < PATIENCE,
        "{arguments:?} took too long:\n{}",
        words(&run)
    );
    run
}

pub fn command(ranks: u32, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .arg(PATIENCE.as_secs().to_string())
        .args(["mpirun", "--oversubscribe", "-np", &ranks.to_string()])
        .args(arguments)
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("MEANDER_TCP_ADDR", "127.0.0.1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub fn preload() -> String {
    format!("LD_PRELOAD={}", shim().display())
}

pub fn words(run: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    format!("{out}{err}")
}

/// The shim with its helper beside it, built once by the cargo that runs the tests.
pub fn shim() -> PathBuf {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--package",
                "meander-mpi",
                "--package",
                "meander-wireup",
            ])
            .current_dir(root())
            .status()
            .expect("cargo starts");
        assert!(status.success());
        // .../target/debug/deps/programs-<hash>
        let own = std::env::current_exe().expect("a path");
        let target = own.ancestors().nth(3).expect("the target directory");
        target.join("debug/libmeander_mpi.so")
    })
    .clone()
}

/// A program of `tests/c`, compiled once.
pub fn program(name: &str) -> String {
    static COMPILED: OnceLock<(tempfile::TempDir, Mutex<HashSet<String>>)> = OnceLock::new();
    let (dir, compiled) = COMPILED.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        (dir, Mutex::new(HashSet::new()))
    });
    let binary = dir.path().join(name);
    let mut compiled: MutexGuard<'_, _> = compiled.lock().unwrap_or_else(|lock| lock.into_inner());
    if compiled.insert(name.to_owned()) {
        let source = root().join(format!("mpi-shim/tests/c/{name}.c"));
        let status = Command::new("mpicc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&binary, &source])
            .status()
            .expect("mpicc (libopenmpi-dev)");
        assert!(status.success(), "{name}.c does not compile");
    }
    binary.display().to_string()
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
}

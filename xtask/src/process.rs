//! Running other programs, with messages that say what to do when one is missing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

/// Why a command of ours stopped.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure with its reason, for people.
    pub fn new(why: impl Into<String>) -> Failure {
        Failure(why.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a program ended.
pub struct Ended(ExitStatus);

impl Ended {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.0.success()
    }

    /// Its exit code, as ours.
    pub fn exit_code(&self) -> Result<ExitCode, Failure> {
        let code = self
            .0
            .code()
            .ok_or_else(|| Failure::new(format!("it was ended: {}", self.0)))?;
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }
}

/// Runs this command once more, in a session of its own, where its session began outside its pid
/// namespace (a container or sandbox that was entered without one): what runs in such a session
/// can't be dumped by CRIU. Gives the second run's exit code, or nothing where all is well.
pub fn in_a_session_of_its_own() -> Option<ExitCode> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may hold anything; state, parent, process group and session follow.
    let session = stat.rsplit_once(')')?.1.split_whitespace().nth(3)?;
    if session != "0" {
        return None;
    }
    let again = std::env::current_exe().ok()?;
    let mut setsid = Command::new("setsid");
    setsid
        .arg("--wait")
        .arg(again)
        .args(std::env::args_os().skip(1));
    run(&mut setsid).ok()?.exit_code().ok()
}

/// Makes the root of the source tree the working directory, so that every path can start there;
/// gives the one before.
pub fn enter_source_root() -> PathBuf {
    let before = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    if let Some(root) = here.parent().filter(|root| root.exists()) {
        let _ = std::env::set_current_dir(root);
    }
    before
}

/// A program of the release build.
pub fn artifact(name: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let path = target.join("release").join(name);
    std::path::absolute(&path).unwrap_or(path)
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // These were set for xtask itself, and would make cargo rebuild what depends on them.
    for variable in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        cargo.env_remove(variable);
    }
    cargo
}

/// What Rust calls this kind of machine.
pub fn host_triple() -> Result<String, Failure> {
    let output = Command::new("rustc").arg("-vV").output();
    let text = output
        .map_err(|error| Failure::new(format!("cannot run rustc: {error}")))?
        .stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .ok_or_else(|| Failure::new("rustc -vV names no host"))
}

/// Runs a command on our terminal and waits for it.
pub fn run(command: &mut Command) -> Result<Ended, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .status()
        .map(Ended)
        .map_err(|error| Failure::new(format!("cannot run {name}: {error}")))
}

/// Runs a command and fails unless it succeeds.
pub fn must(command: &mut Command, what: &str) -> Result<(), Failure> {
    if run(command)?.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("{what} failed")))
    }
}

/// Runs a program as root.
pub fn as_root(program: &Path, arguments: &[&str]) -> Result<Ended, Failure> {
    let prefix = root_prefix()?;
    let mut words = prefix.iter().map(String::as_str).chain(program.to_str());
    let first = words
        .next()
        .ok_or_else(|| Failure::new("a path that is not text"))?;
    run(Command::new(first).args(words).args(arguments))
}

/// What goes before a command that needs root: nothing as root, else sudo.
pub fn root_prefix() -> Result<Vec<String>, Failure> {
    if is_root() {
        return Ok(Vec::new());
    }
    if !in_path("sudo") {
        return Err(Failure::new(
            "this needs root, and there is no sudo: run it as root",
        ));
    }
    // sudo replaces PATH, and cargo's programs are in the user's own.
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(vec![
        "sudo".into(),
        "-E".into(),
        "env".into(),
        format!("PATH={path}"),
    ])
}

/// Whether a program can be found.
pub fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .any(|dir| dir.join(program).exists())
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}

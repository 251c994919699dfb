//! Hidden subcommands: the parts of a move that must be processes of their own.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use crate::checkpoint::{self, Error};
use crate::shadow;

/// Runs a program in the pid and mount namespaces of a process: `PID PROGRAM ARGUMENTS...`.
pub(crate) const ENTER: &str = "enter";
/// Restores a copy and stays as its pid namespace's init.
pub(crate) const COPY_INIT: &str = "copy-init";
/// What an original becomes.
pub(crate) const SHADOW: &str = "shadow";
/// The shadow's child, which has its port.
pub(crate) const SHADOW_RELAY: &str = "shadow-relay";

/// Runs the hidden subcommand that the command line names, if it names one: `main` calls this
/// before it reads its options.
pub fn run() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.len() == 0 && checkpoint::hook::is_called() {
        return Some(checkpoint::hook::main());
    }
    let name = arguments.next()?;
    let rest: Vec<_> = arguments.collect();
    Some(match name.to_str()? {
        ENTER => checkpoint::enter::main(&rest),
        COPY_INIT => checkpoint::init::main(&rest),
        SHADOW => shadow::main(),
        SHADOW_RELAY => shadow::relay::main(),
        _ => return None,
    })
}

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says which program is `meander`, for programs that are not: tests.
pub fn use_program(path: PathBuf) {
    let _ = PROGRAM.set(path);
}

/// The `meander` program: this one, unless [`use_program`] said otherwise.
pub(crate) fn program() -> Result<PathBuf, Error> {
    match PROGRAM.get() {
        Some(path) => Ok(path.clone()),
        None => std::env::current_exe().map_err(Error::os("find the meander program")),
    }
}

/// A command that runs a hidden subcommand.
pub(crate) fn command(name: &str) -> Result<Command, Error> {
    let mut command = Command::new(program()?);
    command.arg(name);
    Ok(command)
}

//! `meander enter PID PROGRAM ARGUMENTS...`: runs a program where a restored process lives.

use std::ffi::OsString;
use std::fs::File;
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, setns};

/// The hidden subcommand. Its exit code is the program's, or 125 where it could not be run.
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("meander enter: {error}");
            ExitCode::from(125)
        }
    }
}

fn run(arguments: &[OsString]) -> std::io::Result<u8> {
    let [pid, program, rest @ ..] = arguments else {
        return Err(std::io::Error::other(
            "usage: enter PID PROGRAM ARGUMENTS...",
        ));
    };
    let namespace = |name| File::open(format!("/proc/{}/ns/{name}", pid.to_string_lossy()));
    let (mounts, pids) = (namespace("mnt")?, namespace("pid")?);
    setns(mounts, CloneFlags::CLONE_NEWNS)?;
    setns(pids, CloneFlags::CLONE_NEWPID)?;
    // Only a child is in the pid namespace.
    let status = Command::new(program).args(rest).status()?;
    Ok(status.code().map_or(125, |code| code as u8))
}

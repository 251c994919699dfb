//! `meander`, called by CRIU at the stages of a restore; freezes the copy before it runs.
//!
//! At `pre-resume` the restored threads stand in front of their first instruction, held by CRIU with
//! ptrace; frozen here, they stay there when CRIU lets go. CRIU ignores a failure of this
//! stage, so a hook that fails kills the copy; and it heeds one of `pre-restore`, where it is
//! proved that the hook runs at all.

use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::freezer::Group;
use super::{Error, proc};

/// The variable that names the control group.
pub(super) const GROUP: &str = "MEANDER_COPY_GROUP";

/// The variable in which CRIU names the stage.
const STAGE: &str = "CRTOOLS_SCRIPT_ACTION";

/// Whether this process is a call of the hook. CRIU can pass no arguments: it runs the program by
/// its path, so the environment has to say it.
pub(crate) fn is_called() -> bool {
    std::env::var_os(GROUP).is_some() && std::env::var_os(STAGE).is_some()
}

/// The hook.
pub(crate) fn main() -> ExitCode {
    let stage = std::env::var(STAGE).unwrap_or_default();
    let done = match stage.as_str() {
        "pre-restore" => ready(),
        "pre-resume" => freeze(),
        _ => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meander, called by CRIU at {stage}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn group() -> Group {
    Group::at(&PathBuf::from(std::env::var_os(GROUP).unwrap_or_default()))
}

fn ready() -> Result<(), Error> {
    group().processes().map(drop)
}

fn freeze() -> Result<(), Error> {
    let root = std::env::var("CRTOOLS_INIT_PID")
        .ok()
        .and_then(|text| text.parse().ok());
    let root = Pid::from_raw(root.ok_or_else(|| Error::Restore("CRIU names no process".into()))?);
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(pid) = tree.get(next) {
        let children = proc::children(*pid)?;
        tree.extend(children.into_iter().map(Pid::from_raw));
        next += 1;
    }
    let group = group();
    let added = tree.iter().try_for_each(|pid| group.add(*pid));
    let frozen = added.and_then(|()| group.freeze(root));
    if frozen.is_err() {
        for pid in tree {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
    frozen
}

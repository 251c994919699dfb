//! From an image to a held copy.

use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{Error, Manifest, Stdio};

/// A restored process that has not run yet, in a pid and mount namespace of its own.
///
/// It lives no longer than the process that made it: should that die, the copy is killed.
#[must_use = "a held copy is to be released or discarded"]
#[derive(Debug)]
pub struct HeldCopy {
    pid: Pid,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal.
    Killed(i32),
}

/// A restored process that runs.
#[derive(Debug)]
pub struct RunningCopy {
    pid: Pid,
}

/// Restores the image in `directory`, held. Takes about as long as the image is big; blocks.
pub fn restore(directory: &Path, manifest: &Manifest) -> Result<HeldCopy, Error> {
    let _ = (directory, manifest);
    todo!()
}

impl HeldCopy {
    /// The copy, as this node numbers it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets it run.
    pub fn release(self) -> Result<(RunningCopy, Stdio), Error> {
        todo!()
    }

    /// Kills it; it has run not one instruction.
    pub fn discard(self) {
        todo!()
    }
}

impl RunningCopy {
    /// The copy, as this node numbers it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let _ = signal;
        todo!()
    }

    /// Waits for its end.
    pub fn wait(&self) -> Result<Ended, Error> {
        todo!()
    }
}

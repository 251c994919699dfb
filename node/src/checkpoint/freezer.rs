//! Holding a process with the control groups' freezer.

use nix::unistd::Pid;

use super::Error;

/// A process that is held: frozen, whatever signal it gets.
#[must_use = "a held process stays frozen until it is released or killed"]
#[derive(Debug)]
pub struct Hold {
    pid: Pid,
}

impl Hold {
    /// Freezes a running process with all its threads and waits until it is.
    pub fn freeze(pid: Pid) -> Result<Hold, Error> {
        Ok(Hold { pid })
    }

    /// The hold of a process that is held, where its owner died. `None` where it is not held.
    pub fn find(pid: Pid) -> Result<Option<Hold>, Error> {
        let _ = pid;
        todo!()
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets it run on.
    pub fn release(self) -> Result<(), Error> {
        todo!()
    }

    /// Kills it: it runs no further instruction.
    pub fn kill(self) -> Result<(), Error> {
        todo!()
    }
}

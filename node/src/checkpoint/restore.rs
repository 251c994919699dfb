//! From an image to a held copy.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio as Redirect};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use meander::control::run_dir;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::freezer::Group;
use super::init::{FromInit, Order, RESTORE_LOG, ToInit};
use super::limits::RESTORE_ATTEMPTS;
use super::stdio::make_raw;
use super::{Error, Manifest, Stdio, channel, criu, proc};
use crate::hidden;

/// A restored process that has not run yet, in a pid and mount namespace of its own.
///
/// It lives no longer than the process that made it: should that die, the copy is killed.
#[must_use = "a held copy is to be released or discarded"]
#[derive(Debug)]
pub struct HeldCopy {
    copy: RunningCopy,
    stdio: Stdio,
    /// To be sent to it at the release.
    signals: Vec<i32>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal.
    Killed(i32),
}

/// A restored process that runs. Dropping it kills the process.
#[derive(Debug)]
pub struct RunningCopy {
    pid: Pid,
    group: Group,
    socket: UnixStream,
    telling: Mutex<()>,
    helper: Child,
}

/// Restores the image in `directory`, held. Takes about as long as the image is big; blocks.
///
/// A signal may spoil an attempt; nothing is left of that and it is tried again.
pub fn restore(directory: &Path, manifest: &Manifest) -> Result<HeldCopy, Error> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let _turn = turn()?;
    let mut attempt = 0;
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let group = Group::for_copy(&format!("{}-{number}", std::process::id()))?;
        let started = start(directory, manifest, group.clone());
        if started.is_err() {
            let _ = group.kill();
            let _ = group.remove();
        }
        attempt += 1;
        let log = directory.join(RESTORE_LOG);
        match started {
            Err(Error::Criu { why, .. })
                if attempt < RESTORE_ATTEMPTS && criu::complaint(&log, "").by_signal =>
            {
                tracing::debug!(attempt, why, "a signal spoiled the restore; once more");
            }
            other => return other,
        }
    }
}

/// Waits until no other restore goes on, on this node, until the file is dropped: files that are open
/// and deleted (the native MPI library has one in each rank) CRIU makes anew under names that two
/// restores at once would share.
fn turn() -> Result<File, Error> {
    let path = run_dir().join("restore.lock");
    let locking = || Error::os(format!("lock {}", path.display()));
    fs::create_dir_all(run_dir()).map_err(locking())?;
    let file = File::create(&path).map_err(locking())?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|errno| locking()(errno.into()))?;
    Ok(file)
}

fn start(directory: &Path, manifest: &Manifest, group: Group) -> Result<HeldCopy, Error> {
    let (inner, stdio) = manifest.stdio.remake(manifest.uid, manifest.gid)?;
    let order = Order {
        criu: criu::program()?,
        images: directory.to_owned(),
        group: group.directory().to_owned(),
        pid: manifest.pid,
        threads: manifest.threads.clone(),
        keys: inner.iter().map(|(key, _)| key.clone()).collect(),
    };
    let (socket, theirs) = UnixStream::pair().map_err(Error::os("make a socket pair"))?;
    let helper = hidden::command(hidden::COPY_INIT)?
        .stdin(OwnedFd::from(theirs))
        .stdout(Redirect::null())
        .spawn()
        .map_err(Error::os("start the helper that restores"))?;
    let ends: Vec<BorrowedFd<'_>> = inner.iter().map(|(_, end)| end.as_fd()).collect();
    channel::send(&socket, &ToInit::Restore(order))
        .and_then(|()| channel::send_descriptors(&socket, &ends))
        .map_err(Error::os("talk to the helper that restores"))?;
    let answer =
        channel::receive(&socket).map_err(Error::os("hear from the helper that restores"))?;
    match answer {
        Some(FromInit::Restored) => {}
        Some(FromInit::Failed { why }) => {
            let log = directory.join(RESTORE_LOG);
            return Err(Error::Criu {
                what: "restore",
                why,
                log,
            });
        }
        _ => return Err(Error::Restore("the helper that restores died".to_owned())),
    }
    make_raw(&inner)?;
    let mut held = group.processes()?.into_iter();
    let pid = held.find(|pid| {
        let ids = proc::Status::of(*pid)
            .map(|status| status.ns_pids())
            .unwrap_or_default();
        ids.last() == Some(&manifest.pid)
    });
    let pid = pid.ok_or(Error::Gone { pid: manifest.pid })?;
    Ok(HeldCopy {
        copy: RunningCopy {
            pid,
            group,
            socket,
            telling: Mutex::new(()),
            helper,
        },
        stdio,
        signals: manifest.signals.clone(),
    })
}

impl HeldCopy {
    /// The copy, as this node numbers it.
    pub fn pid(&self) -> Pid {
        self.copy.pid
    }

    /// Our ends of its standard streams; once.
    pub fn take_stdio(&mut self) -> Stdio {
        std::mem::take(&mut self.stdio)
    }

    /// Lets it run. An error means that it has not run, and never will.
    pub fn release(self) -> Result<RunningCopy, Error> {
        // They were pending at the dump; the copy gets them when it runs.
        for number in self.signals {
            self.copy.tell(&ToInit::Signal(number))?;
        }
        self.copy.group.thaw()?;
        Ok(self.copy)
    }

    /// Kills it; it has run not one instruction.
    pub fn discard(self) {
        drop(self);
    }
}

impl RunningCopy {
    /// The copy, as this node numbers it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it the signal of this number; nothing happens when it has ended.
    pub fn signal(&self, number: i32) -> Result<(), Error> {
        self.tell(&ToInit::Signal(number))
    }

    /// Kills it, also where it is frozen.
    pub fn kill(&self) -> Result<(), Error> {
        self.tell(&ToInit::Kill)
    }

    /// Waits for its end. Ask once.
    pub fn wait(&self) -> Result<Ended, Error> {
        let answer =
            channel::receive(&self.socket).map_err(Error::os("hear from the copy's init"))?;
        match answer {
            Some(FromInit::Ended(ended)) => Ok(ended),
            // The init was killed, and the kernel killed the copy with it.
            _ => Ok(Ended::Killed(Signal::SIGKILL as i32)),
        }
    }

    fn tell(&self, message: &ToInit) -> Result<(), Error> {
        let _turn = self
            .telling
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match channel::send(&self.socket, message) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::os("tell the copy's init")(error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for RunningCopy {
    fn drop(&mut self) {
        // The init ends with its socket, and kills what is left of the copy before. Where the init
        // itself was killed, frozen processes of its namespace can die only after a thaw.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.group.kill();
        let _ = self.helper.wait();
        let _ = self.group.remove();
    }
}

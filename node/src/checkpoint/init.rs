//! `meander copy-init`: the first process of a restored process's pid namespace.
//!
//! It makes the namespaces, runs CRIU, reaps, passes signals on, and reports the end. Its standard
//! input is a socket to the process that wants the copy; when that closes, the copy is killed.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio as Redirect};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, setsid};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{WaitOptions, wait};
use serde::{Deserialize, Serialize};

use super::freezer::Group;
use super::limits::HELPER_PIDS;
use super::{Ended, channel, criu, hook};
use crate::hidden;

/// What the init is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToInit {
    /// First frame; the inner ends of the standard streams follow.
    Restore(Order),
    /// Send the copy a signal.
    Signal(i32),
    /// Kill the copy, frozen or not.
    Kill,
}

/// What to restore.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub criu: PathBuf,
    pub images: PathBuf,
    /// The control group that the copy is held in.
    pub group: PathBuf,
    /// The copy's pid, and the ids of all its threads.
    pub pid: i32,
    pub threads: Vec<i32>,
    /// CRIU's names of the descriptors that follow.
    pub keys: Vec<String>,
}

/// What the init says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromInit {
    /// The copy is there, frozen.
    Restored,
    /// It is not, and nothing is left of it.
    Failed { why: String },
    /// The copy has ended.
    Ended(Ended),
}

pub(super) const RESTORE_LOG: &str = "restore.log";
const INNER: &str = "--inner";

/// The hidden subcommand.
pub(crate) fn main(arguments: &[OsString]) -> ExitCode {
    let done = match arguments.first() {
        Some(word) if word == INNER => inner(),
        _ => outer(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meander copy-init: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the namespaces. Only a child can be the first process of the new pid namespace.
fn outer() -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
    // What is mounted on the node later shows here too; what is mounted here stays here.
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?;
    let mut command = hidden::command(hidden::COPY_INIT).map_err(std::io::Error::other)?;
    command.arg(INNER).status()?;
    Ok(())
}

fn inner() -> std::io::Result<()> {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    setsid()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)?;
    let Some(ToInit::Restore(order)) = channel::receive(&socket)? else {
        return Ok(());
    };
    let ends = channel::receive_descriptors(&socket)?;
    let group = Group::at(&order.group);
    match restore(&order, &group, ends) {
        Ok(()) => channel::send(&socket, &FromInit::Restored)?,
        Err(why) => {
            let _ = group.kill();
            channel::send(&socket, &FromInit::Failed { why })?;
            return Ok(());
        }
    }
    let served = serve(&socket, &order, &group);
    // Whatever is left of the copy goes, also where the socket broke while it was frozen.
    let _ = group.kill();
    reap(order.pid);
    let _ = group.remove();
    served
}

fn restore(order: &Order, group: &Group, ends: Vec<OwnedFd>) -> Result<(), String> {
    keep_pids_free(&order.threads).map_err(|error| format!("choose pids for CRIU: {error}"))?;
    let hook = hidden::program().map_err(|error| error.to_string())?;
    let mut command = Command::new(&order.criu);
    command
        .arg("restore")
        .arg("--images-dir")
        .arg(&order.images);
    command.args([
        "--log-file",
        RESTORE_LOG,
        "-v4",
        "--shell-job",
        "--restore-detached",
    ]);
    command.args([
        "--restore-sibling",
        "--manage-cgroups=ignore",
        "--action-script",
    ]);
    command.arg(hook);
    for (key, end) in order.keys.iter().zip(&ends) {
        fcntl_setfd(end, FdFlags::empty()).map_err(|errno| errno.to_string())?;
        command.args(["--inherit-fd", &format!("fd[{}]:{key}", end.as_raw_fd())]);
    }
    command.env(hook::GROUP, &order.group);
    command
        .stdin(Redirect::null())
        .stdout(Redirect::null())
        .stderr(Redirect::null());
    let status = command
        .status()
        .map_err(|error| format!("run {:?}: {error}", order.criu))?;
    if !status.success() {
        return Err(criu::complaint(&order.images.join(RESTORE_LOG), &status.to_string()).text);
    }
    let held = group.processes().map_err(|error| error.to_string())?;
    let frozen = group.is_frozen().map_err(|error| error.to_string())?;
    match frozen && held.contains(&Pid::from_raw(order.pid)) {
        true => Ok(()),
        false => Err("CRIU left the copy running; it was killed".to_owned()),
    }
}

/// The copy's ids are free in a new namespace, but for those that CRIU and its helpers take.
fn keep_pids_free(threads: &[i32]) -> std::io::Result<()> {
    let starts = (0..).map(|block: i32| 1 + block * HELPER_PIDS);
    let free = |start: &i32| {
        !threads
            .iter()
            .any(|id| (*start..=start + HELPER_PIDS).contains(id))
    };
    let start = starts.into_iter().find(free).unwrap_or(1);
    fs::write("/proc/sys/kernel/ns_last_pid", start.to_string())
}

/// Passes signals on and waits for the end of the copy, of the socket, or a word to kill.
fn serve(socket: &UnixStream, order: &Order, group: &Group) -> std::io::Result<()> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut ended = false;
    loop {
        if let Some(end) = reap(order.pid) {
            // Who wanted the copy may be gone.
            let _ = channel::send(socket, &FromInit::Ended(end));
            ended = true;
        }
        let mut wanted = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        while children.read_signal()?.is_some() {}
        if !wanted[0].any().unwrap_or(false) {
            continue;
        }
        match channel::receive(socket)? {
            Some(ToInit::Signal(number)) if !ended => send(order.pid, number),
            Some(ToInit::Kill) => group.kill().map_err(std::io::Error::other)?,
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

fn send(pid: i32, number: i32) {
    match Signal::try_from(number) {
        Ok(signal) => drop(kill(Pid::from_raw(pid), signal)),
        // A real-time signal, which has no name: the shell can send it.
        Err(_) => {
            let script = format!("kill -{number} {pid}");
            let _ = Command::new("sh").args(["-c", &script]).status();
        }
    }
}

/// Takes the ends of all children that have ended; gives that of `pid`.
fn reap(pid: i32) -> Option<Ended> {
    let mut end = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((one, status))) if one.as_raw_pid() == pid => {
                let killed = status.terminating_signal().map(Ended::Killed);
                end = killed.or(status.exit_status().map(Ended::Exited));
            }
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return end,
        }
    }
}

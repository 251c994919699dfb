//! What `/proc` says of a process, and waiting for one.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that can't be mistaken for a later one of the same number.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
}

impl Process {
    /// The process with this number; `None` where there is none.
    pub fn find(host_pid: u32) -> Option<Process> {
        let pid = Pid::from_raw(i32::try_from(host_pid).ok()?)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(Process { pidfd })
    }

    /// Whether it has ended, waiting for that at most so long; `None` waits for ever.
    pub fn has_ended(&self, wait: Option<Duration>) -> bool {
        wait_readable(&self.pidfd, wait)
    }

    /// Kills it.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// Readable once the process has ended.
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Who is on the other side of a local socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The process, as this one sees it; 0 where it can't, for it lives in an outer pid namespace.
    pub host_pid: u32,
}

impl Peer {
    /// Asks the system.
    pub fn of(stream: &UnixStream) -> io::Result<Peer> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        let host_pid = u32::try_from(credentials.pid()).unwrap_or(0);
        Ok(Peer {
            uid: credentials.uid(),
            host_pid,
        })
    }
}

/// Whether there is something to read, waiting for it at most so long.
pub fn is_readable(fd: impl AsFd, wait: Duration) -> bool {
    wait_readable(fd, Some(wait))
}

fn wait_readable(fd: impl AsFd, wait: Option<Duration>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
    loop {
        match poll(&mut fds, wait.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.is_ok_and(|count| count > 0),
        }
    }
}

/// The number of a process in its own pid namespace.
pub fn inner_pid(host_pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{host_pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// Whether a process ends as soon as it is thawed: it was killed while it was held.
pub fn is_being_killed(host_pid: u32) -> bool {
    const KILLED: u64 = 1 << (9 - 1);
    let status = fs::read_to_string(format!("/proc/{host_pid}/status")).unwrap_or_default();
    let pending = status.lines().filter_map(|line| {
        let mask = line
            .strip_prefix("SigPnd:")
            .or(line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    pending.fold(0, |all, mask| all | mask) & KILLED != 0
}

/// The arguments that a process was started with.
pub fn arguments(host_pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{host_pid}/cmdline")).unwrap_or_default();
    let words = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty());
    words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

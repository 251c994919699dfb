//! Single copies: this side reads the other's memory, never writes it.
//!
//! The sender names address and length; its memory stays as it is until its link is closed, or until this side has
//! said that it has the payload. What was read counts only if, after it was read, the sender had not closed and its
//! process had not ended: then the memory was still the sender's, and still what it named. `[R72]`
//!
//! Whether it works is found out by doing it: each side keeps a nonce in its memory and names its
//! address at set-up. That covers users, namespaces of processes, and what a kernel is configured to allow.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::PidfdFlags;

/// A process whose memory can be read.
pub(crate) struct Process {
    pid: Pid,
    /// Readable from when it has ended: from then on the number may be another's.
    handle: OwnedFd,
}

/// A secret of one side, in its memory, by which the other finds out whether it can read that.
pub(crate) struct Nonce(Box<[u8; NONCE_BYTES]>);

/// Bytes of a nonce.
pub(crate) const NONCE_BYTES: usize = 16;

impl Nonce {
    pub(crate) fn random() -> Result<Nonce, getrandom::Error> {
        let mut nonce = Box::new([0; NONCE_BYTES]);
        getrandom::fill(&mut nonce[..])?;
        Ok(Nonce(nonce))
    }

    /// Where it is, and what it is.
    pub(crate) fn tell(&self) -> (u64, [u8; NONCE_BYTES]) {
        (self.0.as_ptr() as u64, *self.0)
    }
}

impl Process {
    /// The process at the other end of a socket, by the number it has here; `None` if its memory can't be read, or the
    /// nonce is not where it was said to be.
    pub(crate) fn probe(pid: i32, address: u64, nonce: &[u8; NONCE_BYTES]) -> Option<Process> {
        // Of a process in a namespace that is not ours to see the system says 0.
        let number = rustix::process::Pid::from_raw(pid.max(0))?;
        let handle = rustix::process::pidfd_open(number, PidfdFlags::NONBLOCK).ok()?;
        let process = Process {
            pid: Pid::from_raw(pid),
            handle,
        };
        let mut there = [0; NONCE_BYTES];
        process.read(address, &mut there).ok()?;
        (there == *nonce).then_some(process)
    }

    /// Reads all of `bytes`, or fails.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < bytes.len() {
            let base = (address as usize).checked_add(done).ok_or(Errno::FAULT)?;
            let rest = &mut bytes[done..];
            let remote = [RemoteIoVec {
                base,
                len: rest.len(),
            }];
            match process_vm_readv(self.pid, &mut [IoSliceMut::new(rest)], &remote) {
                Ok(0) => return Err(Errno::FAULT),
                Ok(count) => done += count,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(Errno::from_raw_os_error(errno as i32)),
            }
        }
        Ok(())
    }

    /// Whether it has ended: what was read since may be another's.
    pub(crate) fn has_ended(&self) -> bool {
        let now = Timespec::default();
        let mut on = [PollFd::new(&self.handle, PollFlags::IN)];
        !matches!(poll(&mut on, Some(&now)), Ok(0))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_an_error_and_no_process() {
        let nonce = Nonce::random().unwrap();
        let (address, value) = nonce.tell();
        let me = std::process::id() as i32;
        let process = Process::probe(me, address, &value).unwrap();
        assert!(Process::probe(me, address, &[0; NONCE_BYTES]).is_none());
        assert!(Process::probe(0, address, &value).is_none());
        assert!(Process::probe(-1, address, &value).is_none());
        let mut bytes = [0; 64];
        for address in [0, u64::MAX, u64::MAX - 63, 1 << 50] {
            assert!(process.read(address, &mut bytes).is_err());
        }
        assert!(!process.has_ended());
    }

    #[test]
    fn a_process_that_has_ended_is_known_to_have() {
        let mut child = std::process::Command::new("sleep")
            .arg("9")
            .spawn()
            .unwrap();
        let number = rustix::process::Pid::from_child(&child);
        let process = Process {
            pid: Pid::from_raw(child.id() as i32),
            handle: rustix::process::pidfd_open(number, PidfdFlags::NONBLOCK).unwrap(),
        };
        assert!(!process.has_ended());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.has_ended());
        assert!(process.read(4096, &mut [0; 8]).is_err());
    }
}

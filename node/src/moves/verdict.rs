//! Telling a suspended rank how its move ended.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use meander::PortId;
use meander::control::{ToPort, verdict_socket};
use meander_core::moves::Trouble;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Error;
use crate::net::frame;
use crate::process::{Peer, Process};

/// How long a rank may take to hear its verdict once it runs.
const LIMIT: Duration = Duration::from_secs(120);
/// How often it is looked whether the rank still lives.
const PERIOD: Duration = Duration::from_millis(200);
/// How long a connection may take over the verdict.
const TALK: Duration = Duration::from_secs(5);

/// The socket where a rank hears its verdict. Bind it before the rank runs. `[R30]`
pub struct Verdict {
    path: PathBuf,
    listener: UnixListener,
    uid: u32,
}

impl Verdict {
    /// Opens the socket of this port, for this user only.
    pub fn bind(port: PortId, uid: u32) -> Result<Verdict, Trouble> {
        Verdict::bind_at(verdict_socket(port), uid)
    }

    /// The same, at another place. `[R44]`
    pub fn bind_at(path: PathBuf, uid: u32) -> Result<Verdict, Trouble> {
        let opening = || Error::io(format!("opening {}", path.display()));
        let _ = std::fs::remove_file(&path);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(opening())?;
        }
        let listener = UnixListener::bind(&path).map_err(opening())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::os::unix::fs::chown(&path, Some(uid), None))
            .and_then(|()| listener.set_nonblocking(true))
            .map_err(opening())?;
        Ok(Verdict {
            path,
            listener,
            uid,
        })
    }

    /// Tells the rank, as soon as it asks. Gives up when it has ended, and when `needless` says
    /// that it does not ask.
    pub fn deliver(
        self,
        message: &ToPort,
        rank: &Process,
        needless: impl Fn() -> bool,
    ) -> Result<(), Trouble> {
        let started = Instant::now();
        while started.elapsed() < LIMIT {
            if let Some(mut stream) = self.next() {
                if self.tell(&mut stream, message) {
                    return Ok(());
                }
            } else if rank.has_ended(Some(Duration::ZERO)) {
                return Err(Trouble::new("the rank has ended"));
            } else if needless() {
                return Ok(());
            }
        }
        let why = format!("the rank has not asked for its verdict within {LIMIT:?}");
        Err(Trouble::new(why).mend("is it stopped, or does it not get a processor?"))
    }

    fn next(&self) -> Option<UnixStream> {
        let mut fds = [PollFd::from_borrowed_fd(
            self.listener.as_fd(),
            PollFlags::IN,
        )];
        let _ = poll(&mut fds, Timespec::try_from(PERIOD).ok().as_ref());
        self.listener.accept().ok().map(|(stream, _)| stream)
    }

    /// Returns whether the rank has it: it closes the connection once it has read it.
    fn tell(&self, stream: &mut UnixStream, message: &ToPort) -> bool {
        if !Peer::of(stream).is_ok_and(|peer| peer.uid == self.uid || peer.uid == 0) {
            return false;
        }
        let told = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(TALK)))
            .and_then(|()| stream.set_write_timeout(Some(TALK)))
            .and_then(|()| frame::write(stream, message));
        // It may answer before it closes; either shows that it has read.
        told.is_ok() && stream.read(&mut [0; 1]).is_ok()
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_hears_it_and_the_socket_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let uid = rustix::process::getuid().as_raw();
        let verdict = Verdict {
            path: path.clone(),
            listener,
            uid,
        };
        let rank = Process::find(std::process::id()).unwrap();
        let there = path.clone();
        let hearer = std::thread::spawn(move || {
            let mut stream = UnixStream::connect(&there).unwrap();
            frame::read::<ToPort>(&mut stream).unwrap()
        });
        verdict.deliver(&ToPort::Resume, &rank, || false).unwrap();
        assert_eq!(hearer.join().unwrap(), Some(ToPort::Resume));
        assert!(!path.exists());
    }

    #[test]
    fn a_rank_that_has_ended_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let rank = Process::find(child.id()).unwrap();
        child.kill().unwrap();
        let verdict = Verdict {
            path,
            listener,
            uid: 0,
        };
        assert!(verdict.deliver(&ToPort::Resume, &rank, || false).is_err());
        child.wait().unwrap();
    }
}

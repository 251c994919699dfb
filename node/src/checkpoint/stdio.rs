//! The standard streams of a process, as they are carried to another node.
//!
//! Under a launcher a process's standard streams are pipes and terminals whose other ends are the
//! launcher's. CRIU is told of them as *external*, and its restore gets new ones, whose other ends
//! the guardian holds.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;

use nix::unistd::Pid;
use rustix::fs::{Gid, Uid, fchown};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use serde::{Deserialize, Serialize};

use super::Error;
use super::proc::Descriptor;

/// How one standard stream is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channel {
    /// The process reads it (stdin): a pipe.
    PipeIn,
    /// The process writes it: a pipe.
    PipeOut,
    /// A terminal: written, and read where descriptor 0 is the same terminal.
    Terminal,
}

/// What a process's standard streams are, other than files: found at the dump, remade at the
/// restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdioPlan {
    pub(crate) externals: Vec<External>,
}

/// A pipe or terminal whose other end is another process's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct External {
    /// CRIU's name of it: `pipe:[inode]` or `tty[rdev:dev]`.
    pub key: String,
    pub channel: Channel,
    /// The highest standard descriptor it is at; for a terminal 1 before 2 before 0.
    pub fd: i32,
    /// It is also descriptor 0: a terminal that is read.
    pub reads: bool,
    /// Rows and columns of a terminal.
    pub window: (u16, u16),
}

/// The outer ends of a restored process's standard streams, which its guardian holds.
#[derive(Debug, Default)]
pub struct Stdio {
    /// What the process reads; `None` where its stdin is a file.
    pub stdin: Option<OwnedFd>,
    /// A second read end of the pipe behind [`Stdio::stdin`]: what waits in it can be looked at.
    pub stdin_inner: Option<OwnedFd>,
    /// What the process wrote to descriptor 1: a pipe, or a terminal's master.
    pub stdout: Option<OwnedFd>,
    /// What the process wrote to descriptor 2, where it is not the same as descriptor 1.
    pub stderr: Option<OwnedFd>,
}

/// Pipes and terminals among the descriptors of a process, by the object they name.
pub(super) struct Channels {
    pub plan: StdioPlan,
    /// Descriptors that lead to another process and are no standard stream, with what they are.
    pub foreign: Vec<(i32, String)>,
}

impl Channels {
    pub fn of(pid: Pid, descriptors: &[Descriptor]) -> Channels {
        let mut objects: BTreeMap<&str, Vec<&Descriptor>> = BTreeMap::new();
        for descriptor in descriptors {
            let target = descriptor.target.as_str();
            if target.starts_with("pipe:[") || target.starts_with("/dev/pts/") {
                objects.entry(target).or_default().push(descriptor);
            }
        }
        let mut plan = StdioPlan::default();
        let mut foreign = Vec::new();
        for (target, ends) in objects {
            let terminal = target.starts_with("/dev/pts/");
            let has_both =
                ends.iter().any(|end| end.writes()) && ends.iter().any(|end| !end.writes());
            if !terminal && has_both {
                continue; // a pipe to itself: CRIU carries it with what is in it
            }
            match external(pid, &ends, terminal) {
                Some(found) => plan.externals.push(found),
                None => {
                    let what = match terminal {
                        true => format!("the terminal {target}"),
                        false => "a pipe to another process".to_owned(),
                    };
                    foreign.extend(ends.iter().map(|end| (end.fd, what.clone())));
                }
            }
        }
        Channels { plan, foreign }
    }
}

fn external(pid: Pid, ends: &[&Descriptor], terminal: bool) -> Option<External> {
    let at = |fd: i32| ends.iter().any(|end| end.fd == fd);
    let fd = [1, 2, 0].into_iter().find(|fd| at(*fd))?;
    let end = ends.iter().find(|end| end.fd == fd)?;
    if !terminal {
        let channel = if end.writes() {
            Channel::PipeOut
        } else {
            Channel::PipeIn
        };
        // A pipe that is written through descriptor 0, or read through 1 or 2, is nobody's habit.
        if (channel == Channel::PipeIn) != (fd == 0) {
            return None;
        }
        let key = end.target.clone();
        return Some(External {
            key,
            channel,
            fd,
            reads: false,
            window: (0, 0),
        });
    }
    let metadata = fs::metadata(end.link(pid)).ok()?;
    let key = format!("tty[{:x}:{:x}]", metadata.rdev(), metadata.dev());
    // Without the flag it would become the controlling terminal of a mover, and its end a mover's.
    let tty = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOCTTY)
        .open(end.link(pid));
    let size = tty.ok().and_then(|tty| tcgetwinsize(tty).ok());
    let window = size.map_or((0, 0), |size| (size.ws_row, size.ws_col));
    Some(External {
        key,
        channel: Channel::Terminal,
        fd,
        reads: at(0),
        window,
    })
}

impl StdioPlan {
    /// New pipes and terminals: the inner ends with CRIU's names for them, and the outer ends. They
    /// are the user's, who may open them again by `/dev/stdout`.
    pub(super) fn remake(
        &self,
        uid: u32,
        gid: u32,
    ) -> Result<(Vec<(String, OwnedFd)>, Stdio), Error> {
        let mut inner = Vec::new();
        let mut outer = Stdio::default();
        for external in &self.externals {
            let end = match external.channel {
                Channel::PipeIn => {
                    let (read, write) = pipe()?;
                    outer.stdin = Some(write);
                    outer.stdin_inner = Some(duplicate(&read)?);
                    read
                }
                Channel::PipeOut => {
                    let (read, write) = pipe()?;
                    outer.set_output(external.fd, read);
                    write
                }
                Channel::Terminal => {
                    let (master, slave) = terminal(external.window)?;
                    if external.reads {
                        outer.stdin = Some(duplicate(&master)?);
                    }
                    outer.set_output(external.fd, master);
                    slave
                }
            };
            fchown(&end, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|errno| Error::os("give a pipe or terminal to its user")(errno.into()))?;
            inner.push((external.key.clone(), end));
        }
        Ok((inner, outer))
    }
}

impl Stdio {
    fn set_output(&mut self, fd: i32, end: OwnedFd) {
        match fd {
            2 => self.stderr = Some(end),
            _ => self.stdout = Some(end),
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| Error::os("make a pipe")(errno.into()))
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, Error> {
    fd.try_clone().map_err(Error::os("duplicate a descriptor"))
}

fn terminal(window: (u16, u16)) -> Result<(OwnedFd, OwnedFd), Error> {
    let make = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let (ws_row, ws_col) = window;
        tcsetwinsize(
            &slave,
            Winsize {
                ws_row,
                ws_col,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )?;
        Ok((master, slave))
    };
    make().map_err(|errno| Error::os("make a terminal")(errno.into()))
}

/// Makes the terminals among the inner ends raw: what the process writes arrives as it is, and the
/// terminal at its shadow's end does what terminals do. To be called after CRIU, which gives
/// them the attributes of the original's.
pub(super) fn make_raw(inner: &[(String, OwnedFd)]) -> Result<(), Error> {
    for (key, end) in inner {
        if key.starts_with("tty[") {
            let make = || -> rustix::io::Result<()> {
                let mut attributes = tcgetattr(end)?;
                attributes.make_raw();
                tcsetattr(end, OptionalActions::Now, &attributes)
            };
            make().map_err(|errno| Error::os("make a terminal raw")(errno.into()))?;
        }
    }
    Ok(())
}

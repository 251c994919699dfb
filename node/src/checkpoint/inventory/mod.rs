//! What a process holds, and what of it can't move.

mod descriptors;
mod mappings;
mod needs;

use std::fs;
use std::path::PathBuf;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub use needs::{NeededPath, Needs, PathKind};

use super::stdio::Channels;
use super::{Error, StdioPlan, proc};

/// Its number in capabilities(7).
const CAP_SYS_RESOURCE: u32 = 24;

/// What a process holds.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The process, as this node numbers it.
    pub pid: Pid,
    /// Its owner.
    pub uid: u32,
    /// Its owner's group.
    pub gid: u32,
    /// Its program.
    pub exe: PathBuf,
    /// How many threads it has.
    pub threads: usize,
    /// Memory that is its own and will be in the image, in bytes.
    pub memory_bytes: u64,
    /// Its standard streams.
    pub stdio: StdioPlan,
    /// What the destination must have.
    pub needs: Needs,
    /// What can't move; empty where it can be moved.
    pub obstacles: Vec<Obstacle>,
    /// What its port must have given up when it is suspended: sockets, verbs devices, shared
    /// segments. What is still there at the dump is an obstacle.
    pub until_suspended: Vec<Obstacle>,
}

/// Something that can't be moved, named for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Obstacle {
    /// A descriptor of the process.
    #[error("descriptor {fd} is {what}")]
    Descriptor {
        /// Its number.
        fd: i32,
        /// What it is.
        what: String,
    },
    /// A mapping of the process.
    #[error("its memory maps {what}")]
    Mapping {
        /// What is mapped.
        what: String,
    },
    /// Forked children.
    #[error("it has forked children: {pids:?}")]
    Children {
        /// Which.
        pids: Vec<i32>,
    },
    /// A property of the whole process.
    #[error("{0}")]
    Process(String),
    /// The destination lacks something.
    #[error("{0}")]
    Missing(String),
}

/// What the process `pid` holds. It may run meanwhile; what matters is looked at again at the dump.
pub fn inspect(pid: Pid) -> Result<Inventory, Error> {
    look(pid, true)
}

/// Like [`inspect`], for a process that stands still and should not do so for long: what it needs
/// was looked at before.
pub(super) fn inspect_held(pid: Pid) -> Result<Inventory, Error> {
    look(pid, false)
}

fn look(pid: Pid, identify: bool) -> Result<Inventory, Error> {
    let status = proc::Status::of(pid)?;
    if status.is_dead() {
        return Err(Error::Gone { pid: pid.as_raw() });
    }
    let (uid, gid) = status.owner();
    let open = proc::descriptors(pid)?;
    let maps = proc::mappings(pid)?;
    let channels = Channels::of(pid, &open);
    let mut findings = Findings {
        identify,
        ..Findings::default()
    };
    whole_process(pid, &status, &mut findings)?;
    for (fd, what) in channels.foreign {
        findings.obstacles.push(Obstacle::Descriptor { fd, what });
    }
    descriptors::look(pid, &open, &mut findings);
    mappings::look(pid, &maps, &mut findings);
    findings.need_directory_of(pid, "cwd");
    let memory_bytes = proc::own_memory_bytes(pid)?;
    Ok(Inventory {
        pid,
        uid,
        gid,
        exe: fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default(),
        threads: proc::threads(pid)?.len(),
        memory_bytes,
        stdio: channels.plan,
        needs: Needs {
            paths: findings.paths,
            cpu_features: needs::cpu_features(),
            memory_bytes,
        },
        obstacles: findings.obstacles,
        until_suspended: findings.until_suspended,
    })
}

/// What has been found so far.
#[derive(Default)]
struct Findings {
    /// Whether programs and libraries are looked into.
    identify: bool,
    obstacles: Vec<Obstacle>,
    until_suspended: Vec<Obstacle>,
    paths: Vec<NeededPath>,
}

impl Findings {
    fn need(&mut self, path: PathBuf, kind: PathKind) {
        let needed = NeededPath { path, kind };
        if !self.paths.contains(&needed) {
            self.paths.push(needed);
        }
    }

    fn need_directory_of(&mut self, pid: Pid, link: &str) {
        match fs::read_link(format!("/proc/{pid}/{link}")) {
            Ok(path) if path.to_string_lossy().ends_with(" (deleted)") => {
                let what = format!("its working directory {} is deleted", path.display());
                self.obstacles.push(Obstacle::Process(what));
            }
            Ok(path) => self.need(path, PathKind::Directory),
            Err(_) => {}
        }
    }
}

fn whole_process(pid: Pid, status: &proc::Status, findings: &mut Findings) -> Result<(), Error> {
    let children = proc::children(pid)?;
    if !children.is_empty() {
        findings
            .obstacles
            .push(Obstacle::Children { pids: children });
    }
    let tracer = status.tracer();
    if tracer != 0 {
        let what = format!("it is being traced by process {tracer} (a debugger?)");
        findings.obstacles.push(Obstacle::Process(what));
    }
    let mover = proc::Status::of(nix::unistd::getpid())?;
    if status.owner() != mover.owner() && !mover.is_capable(CAP_SYS_RESOURCE) {
        let what = "it is another user's, and root lacks CAP_SYS_RESOURCE here (a container?), \
                    without which CRIU can't read or set its limits";
        findings.obstacles.push(Obstacle::Process(what.to_owned()));
    }
    if status.is_led_from_outside() {
        let what = "the leader of its session or process group is outside its pid namespace (a \
                    container entered without a session of its own?), and CRIU can't dump it so; \
                    start the job with `setsid --wait mpirun ...`";
        findings.obstacles.push(Obstacle::Process(what.to_owned()));
    }
    for name in ["net", "ipc", "uts", "user"] {
        let link = |of: &str| fs::read_link(format!("/proc/{of}/ns/{name}")).ok();
        if link(&pid.to_string()) != link("self") {
            let what =
                format!("it lives in a {name} namespace that is not this node's (a container?)");
            findings.obstacles.push(Obstacle::Process(what));
        }
    }
    let root = fs::read_link(format!("/proc/{pid}/root")).unwrap_or_else(|_| "/".into());
    if root.as_os_str() != "/" {
        let what = format!("its root directory is {} (chroot)", root.display());
        findings.obstacles.push(Obstacle::Process(what));
    }
    Ok(())
}

/// The other processes of this node that hold what `holds` says.
fn others(pid: Pid, holds: impl Fn(Pid) -> bool) -> Vec<Pid> {
    let candidates = proc::all().into_iter().filter(|other| *other != pid);
    candidates.filter(|other| holds(*other)).collect()
}

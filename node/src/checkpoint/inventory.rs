//! What a process holds, and what of it can't move.

use std::path::PathBuf;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{Error, StdioPlan};

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
}

/// What a destination must have for a process to live there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Binary, libraries, open files, directories.
    pub paths: Vec<NeededPath>,
    /// Instruction sets, as `/proc/cpuinfo` calls them.
    pub cpu_features: Vec<String>,
    /// Memory, in bytes.
    pub memory_bytes: u64,
}

/// A path that must exist at the destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeededPath {
    /// The path.
    pub path: PathBuf,
    /// What must be there.
    pub kind: PathKind,
}

/// What must be at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathKind {
    /// A program or library with the same content.
    Code {
        /// Its size.
        size_bytes: u64,
        /// Its ELF build id, or the SHA-256 of its content.
        identity: String,
    },
    /// A data file that is open or mapped.
    File,
    /// A directory: the working directory, or an open one.
    Directory,
    /// A device node.
    Device,
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
    #[error("it has {count} child process(es): {pids:?}")]
    Children {
        /// How many.
        count: usize,
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
    let _ = pid;
    todo!()
}

impl Needs {
    /// What this node lacks of it.
    pub fn missing_here(&self) -> Vec<Obstacle> {
        todo!()
    }
}

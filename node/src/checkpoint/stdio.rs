//! The standard streams of a process, as they are carried to another node.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

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

/// What a process's standard streams are, other than files: found at the dump, remade at the restore.
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
    /// The lowest descriptor it is at: 0, 1 or 2.
    pub fd: i32,
    /// Also descriptor 0, for a terminal at 1.
    pub reads: bool,
}

/// The outer ends of a restored process's standard streams, which its guardian holds.
#[derive(Debug, Default)]
pub struct Stdio {
    /// What the process reads; `None` where its stdin is a file.
    pub stdin: Option<OwnedFd>,
    /// What the process wrote to descriptor 1: a pipe, or a terminal's master.
    pub stdout: Option<OwnedFd>,
    /// What the process wrote to descriptor 2, where it is not the same as descriptor 1.
    pub stderr: Option<OwnedFd>,
}

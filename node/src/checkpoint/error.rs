//! Why a checkpoint, a restore or an injection failed.

use std::io;
use std::path::PathBuf;

use super::Obstacle;

/// Why a checkpoint, a restore or an injection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process is gone.
    #[error("process {pid} has ended")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// It holds what can't move.
    #[error("process {pid} can't be moved: {}", list(.obstacles))]
    Obstacles {
        /// The process.
        pid: i32,
        /// What.
        obstacles: Vec<Obstacle>,
    },
    /// The operating system refused.
    #[error("{operation}: {source}")]
    Os {
        /// What was tried, and on what.
        operation: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// No control group can hold a process here.
    #[error(
        "no freezer: neither cgroup v1's freezer nor cgroup v2 is mounted at {}; mount one",
        .looked.display()
    )]
    NoFreezer {
        /// Where it was looked for.
        looked: PathBuf,
    },
    /// The process did not freeze in time.
    #[error("process {pid} did not freeze within {waited_ms} ms (a thread waits in the kernel?)")]
    NotFrozen {
        /// The process.
        pid: i32,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// There is no CRIU to run.
    #[error("CRIU can't be run ({tried}): make it with ci/criu-tree.sh, or set MEANDER_CRIU")]
    NoCriu {
        /// What was tried.
        tried: String,
    },
    /// CRIU failed.
    #[error("criu {what} failed: {why} (log: {})", .log.display())]
    Criu {
        /// `dump` or `restore`.
        what: &'static str,
        /// The errors of its log.
        why: String,
        /// Its log.
        log: PathBuf,
    },
    /// An image file is not as expected.
    #[error("image {file}: {why}")]
    Image {
        /// The file's name.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The process that restores and holds a copy failed.
    #[error("restore: {0}")]
    Restore(String),
    /// The original could not be made a shadow.
    #[error("process {pid} could not become a shadow: {why}")]
    Shadow {
        /// The process.
        pid: i32,
        /// What happened.
        why: String,
    },
}

fn list(obstacles: &[Obstacle]) -> String {
    let texts: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl Error {
    /// For `map_err`: `operation` is what was tried.
    pub(crate) fn os(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let operation = operation.into();
        move |source| Error::Os { operation, source }
    }
}

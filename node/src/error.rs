//! Why a part of the `meander` command failed.

use std::io;
use std::path::PathBuf;

use meander_core::moves::Trouble;

use crate::checkpoint;

/// Why a part of the `meander` command failed. [`Error::mend`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no cluster file.
    #[error("there is no cluster file at {}", .path.display())]
    NoClusterFile {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The cluster file can't be understood.
    #[error("cluster file {}: {why}", .path.display())]
    BadClusterFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A node that the cluster file does not name.
    #[error("the cluster file names no node `{node}`, only {known}")]
    UnknownNode {
        /// The node.
        node: String,
        /// Those it names.
        known: String,
    },
    /// There is no cluster key.
    #[error("there is no cluster key at {}", .path.display())]
    NoKey {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file that should hold a key does not, or others can read it.
    #[error("cluster key {}: {why}", .path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The operating system refused.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried, and on what.
        operation: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// No agent serves this node.
    #[error("no agent answers at {}: {source}", .path.display())]
    NoAgent {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A node of the cluster can't be reached.
    #[error("{peer} can't be reached: {source}")]
    Unreachable {
        /// Who: a node's name and address.
        peer: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The other side does not prove that it knows the cluster key.
    #[error("{peer} does not know this cluster's key, or is no agent")]
    NotTrusted {
        /// Who.
        peer: String,
    },
    /// The other side broke off, or said something that the protocol does not allow.
    #[error("{peer}: {why}")]
    Protocol {
        /// Who.
        peer: String,
        /// What happened.
        why: String,
    },
    /// The directory's file can't be used.
    #[error("the directory's file {}: {why}", .path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The directory could not be asked.
    #[error("the directory can't be reached: {why}")]
    NoDirectory {
        /// Why.
        why: String,
    },
    /// Taking a process off this node or putting it on failed.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A stream between the two sides of a move failed.
    #[error("{doing}: {source}")]
    Stream {
        /// What was going on.
        doing: &'static str,
        /// What happened.
        #[source]
        source: meander::Error,
    },
    /// What another process reported.
    #[error("{0}")]
    Trouble(Trouble),
}

impl Error {
    /// For `map_err`: `operation` is what was tried.
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let operation = operation.into();
        move |source| Error::Io { operation, source }
    }

    /// For `map_err` on streams: `doing` is what was going on.
    pub(crate) fn stream(doing: &'static str) -> impl FnOnce(meander::Error) -> Error {
        move |source| Error::Stream { doing, source }
    }

    /// What to do about it; empty where there is no advice.
    pub fn mend(&self) -> String {
        match self {
            Error::NoClusterFile { .. } => "write one, the same on every node:\n\
                 \n  directory = \"a\"\n  [nodes.a]\n  address = \"192.0.2.1:7117\"\n  \
                 [nodes.b]\n  address = \"192.0.2.2:7117\"\n\nor name another with --cluster"
                .into(),
            Error::NoKey { path } | Error::BadKey { path, .. } => format!(
                "make one with `meander key --key {0}` on one node and copy it to {0} on the \
                 others, owner root, mode 0600",
                path.display()
            ),
            Error::NoAgent { .. } => "start one: `meander agent --node NAME` as root \
                 (MEANDER_RUN_DIR names another socket directory)"
                .into(),
            Error::Unreachable { .. } => "is the agent started there, and does the cluster file \
                 give its right address?"
                .into(),
            Error::NotTrusted { .. } => "`meander key` shows a key's fingerprint: it must be the \
                 same on both nodes"
                .into(),
            Error::NoDirectory { .. } => {
                "start the agent of the node that holds the directory: the cluster \
                 file's `directory`, unless it was moved; `meander doctor` checks it"
                    .into()
            }
            Error::Trouble(trouble) => trouble.mend.clone(),
            _ => String::new(),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        match error {
            Error::Trouble(trouble) => trouble,
            other => Trouble::new(other.to_string()).mend(other.mend()),
        }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Error {
        Error::Trouble(trouble)
    }
}

//! The move of a process, as two sans-I/O state machines.
//!
//! [`Source`] is driven by the process that owns the move where the rank is, [`Destination`] by
//! the rank's guardian where it goes to. Both take what happened (`handle_*`) and give what to do
//! next (`poll_effect`); the `node` crate carries the effects out and decides nothing.
//!
//! ```text
//! source       check - suspend - freeze - copy - confirm - COMMIT - attach - shadow
//! destination               receive image - restore - held .......... release
//! ```
//!
//! Safety `[R27]`: of the original and the copy never both can run. The original is held before the image
//! is complete, and the copy is held until the move is committed in the directory. Before that
//! everything that fails ends in rolling back: the copy is discarded, the original thawed and
//! resumed. After it only the copy may run. Where the outcome is not known the directory is asked
//! until it answers `[R28]`.

mod burial;
mod destination;
mod effect;
mod plan;
mod source;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use burial::{Burial, BurialEffect};
pub use destination::{Destination, DestinationEffect, DestinationEnd};
pub use effect::{SourceEffect, SourceEnd, Verdict};
pub use plan::Plan;
pub use source::Source;
pub use watch::Times;

use crate::directory::{Refusal, Reply};
use crate::ids::Epoch;

/// The phases of a move, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Whether the rank can leave here, and whether it can run there.
    Check,
    /// Its port goes off the fabric.
    Suspend,
    /// It is held, and its image taken.
    Freeze,
    /// The image goes to the destination.
    Copy,
    /// The destination restores it, held, and says so.
    Confirm,
    /// The compare-and-set in the directory.
    Commit,
    /// The copy is released; its port attaches.
    Attach,
    /// What is left of the original becomes the shadow.
    Shadow,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 8] = [
        Phase::Check,
        Phase::Suspend,
        Phase::Freeze,
        Phase::Copy,
        Phase::Confirm,
        Phase::Commit,
        Phase::Attach,
        Phase::Shadow,
    ];

    /// Its name, as it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Check => "check",
            Phase::Suspend => "suspend",
            Phase::Freeze => "freeze",
            Phase::Copy => "copy",
            Phase::Confirm => "confirm",
            Phase::Commit => "commit",
            Phase::Attach => "attach",
            Phase::Shadow => "shadow",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What went wrong, for people: what, and how to mend it where there is a way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Trouble {
    /// What happened, and why.
    pub what: String,
    /// What the user can do about it; empty where there is nothing.
    pub mend: String,
}

impl Trouble {
    /// Trouble that no advice helps with.
    pub fn new(what: impl Into<String>) -> Trouble {
        Trouble {
            what: what.into(),
            mend: String::new(),
        }
    }

    /// The same, with advice.
    pub fn mend(self, mend: impl Into<String>) -> Trouble {
        Trouble {
            mend: mend.into(),
            ..self
        }
    }
}

/// From the owner of a move to the guardian at its destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuardian {
    /// The move is committed: release the copy.
    Committed {
        /// The epoch that the rank's port has from now on.
        epoch: Epoch,
    },
    /// The move does not happen: discard the copy.
    Abort {
        /// Why.
        why: Trouble,
    },
}

/// From the guardian at the destination to the owner of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromGuardian {
    /// The copy is restored and held.
    Confirmed {
        /// The process, as its node sees it.
        host_pid: u32,
        /// What the node needs to make the shadow; opaque here. It may hold a key: secret.
        shadow: Vec<u8>,
    },
    /// The copy runs.
    Released,
    /// There is no copy any more, and not one instruction of it has run.
    Failed {
        /// Why.
        why: Trouble,
    },
}

/// How a question to the directory ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// It answered.
    Answered(Reply),
    /// The question has certainly not reached it.
    NotSent(String),
    /// It may have reached it; the answer is lost.
    Unknown(String),
}

/// How long the parts of a move may take that depend on others.
#[derive(Clone, Debug)]
pub struct MoveLimits {
    /// Until the rank has taken its port off the fabric.
    pub suspend: Duration,
    /// Until the destination has restored the image.
    pub confirm: Duration,
    /// Until the destination says that the copy runs; then the move is over all the same.
    pub attach: Duration,
    /// How long a directory that can't be reached is tried before the move is rolled back.
    pub directory: Duration,
    /// Pause between two questions to the directory.
    pub retry: Duration,
}

impl Default for MoveLimits {
    fn default() -> Self {
        MoveLimits {
            suspend: Duration::from_secs(30),
            confirm: Duration::from_secs(300),
            attach: Duration::from_secs(30),
            directory: Duration::from_secs(5),
            retry: Duration::from_millis(100),
        }
    }
}

fn refused(refusal: &Refusal) -> Trouble {
    Trouble::new(format!("the directory refused the move: {refusal}"))
}

//! What the owner of a move has to do, and how it can end.

use serde::{Deserialize, Serialize};

use super::watch::Times;
use super::{Phase, Trouble};
use crate::directory::Request;
use crate::ids::Epoch;

/// What the original is told as it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The move did not happen: attach with the epoch you had.
    Resume,
    /// It happened, and was taken back: attach with this epoch.
    Attach(Epoch),
}

/// What the node has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEffect {
    /// Find out whether the rank can leave, and have the destination take the offer;
    /// [`super::Source::handle_checked`] follows.
    Check,
    /// Tell the rank to take its port off the fabric; [`super::Source::handle_suspended`] follows.
    Suspend,
    /// Hold the rank and take its image; [`super::Source::handle_frozen`] follows.
    Freeze,
    /// Send the image; [`super::Source::handle_copied`] follows.
    Copy,
    /// Ask the directory; [`super::Source::handle_directory`] follows.
    Ask(Request),
    /// Tell the guardian that the move is committed.
    TellCommitted(Epoch),
    /// Tell the guardian to discard what it has; best effort.
    TellAbort(Trouble),
    /// Let the original go on: thaw it if it is held, give it the verdict if its port is
    /// suspended; [`super::Source::handle_resumed`] follows.
    Resume {
        /// Whether it is held.
        thaw: bool,
        /// What to tell it; `None` where it was not suspended.
        verdict: Option<Verdict>,
    },
    /// The original becomes the shadow, or ends where it is no launcher's child;
    /// [`super::Source::handle_shadowed`] follows.
    Shadow,
    /// The move is over. Nothing follows.
    Finish(SourceEnd),
}

/// How a move ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceEnd {
    /// The rank runs at the destination.
    Moved {
        /// Its epoch.
        epoch: Epoch,
        /// How long it took.
        times: Times,
        /// What went wrong after the commit.
        warnings: Vec<Trouble>,
    },
    /// The rank runs where it was.
    RolledBack {
        /// The phase that failed.
        phase: Phase,
        /// Why.
        why: Trouble,
        /// How long it took.
        times: Times,
    },
    /// The rank ended by itself before the move was committed.
    Ended {
        /// How long it took.
        times: Times,
    },
    /// The directory says that the rank lives elsewhere, by no doing of this move. The original
    /// stays held.
    Fenced {
        /// What is known.
        why: Trouble,
        /// How long it took.
        times: Times,
    },
}

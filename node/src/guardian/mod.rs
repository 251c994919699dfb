//! The process that restores a rank, holds it, and stays as its parent and relay.
//!
//! Destination of a move: the guardian process calls [`Prepared::restore`], confirms, and after
//! the commit [`Prepared::release`] and [`Guardian::serve`], which returns when the rank has ended
//! (and its shadow knows everything) or has moved on.
//!
//! Source of a later move: the mover finds the guardian by [`Handle::of`], and after
//! [`crate::checkpoint::Hold::freeze`] asks it to [`Handle::depart`]; what it gets goes to the next
//! guardian with the image. Then [`Handle::stay`] (rolled back) or [`Handle::gone`] (committed:
//! instead of `become_shadow` or `Hold::kill`).

use std::path::Path;

use meander::NodeName;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Ended, Error, Manifest};
use crate::shadow;

/// What one guardian hands to the next: the stream to the shadow, as a value, and what the rank
/// has not read of its stdin. Secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Baton {
    port: Vec<u8>,
    unread_stdin: Vec<u8>,
    stdin_ended: bool,
}

/// A held copy with its relay, before the commit.
pub struct Prepared {}

/// A released copy with its relay.
pub struct Guardian {}

/// How a guardian's work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rank ended and the shadow knows.
    Ended(Ended),
    /// The rank has moved on; another guardian has it.
    MovedOn,
}

impl Prepared {
    /// Restores the image in `images`, held. `baton` comes from the guardian before this one, `None`
    /// at the first move. Blocks.
    pub fn restore(
        images: &Path,
        manifest: &Manifest,
        baton: Option<Baton>,
        node: NodeName,
    ) -> Result<Prepared, Error> {
        let _ = (images, manifest, baton, node);
        todo!()
    }

    /// The held copy, as this node numbers it.
    pub fn pid(&self) -> Pid {
        todo!()
    }

    /// For the source, at the first move: what the original becomes. `None` at later moves.
    pub fn shadow_config(&self) -> Option<shadow::Config> {
        todo!()
    }

    /// Not committed: kills the copy.
    pub fn discard(self) {
        todo!()
    }

    /// Committed: lets the copy run.
    pub fn release(self) -> Result<Guardian, Error> {
        todo!()
    }
}

impl Guardian {
    /// The rank, as this node numbers it.
    pub fn pid(&self) -> Pid {
        todo!()
    }

    /// Relays stdio and signals until the rank has ended or moved on.
    pub fn serve(self) -> Result<Outcome, Error> {
        todo!()
    }
}

/// A rank's guardian, as the owner of its next move sees it.
pub struct Handle {}

impl Handle {
    /// The guardian of the process `pid` of this node; `None` where it has none (it never moved).
    pub fn of(pid: Pid) -> Result<Option<Handle>, Error> {
        let _ = pid;
        todo!()
    }

    /// The rank is frozen: takes in all it has written and suspends the stream to the shadow.
    pub fn depart(&mut self) -> Result<Baton, Error> {
        todo!()
    }

    /// Rolled back: the guardian goes on. The caller releases its hold afterwards.
    pub fn stay(self) -> Result<(), Error> {
        todo!()
    }

    /// Committed elsewhere: the guardian kills the frozen rank, ends the hold, and ends.
    pub fn gone(self) -> Result<(), Error> {
        todo!()
    }
}

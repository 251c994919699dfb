//! Taking a process off a node and putting it on another: by freezer, CRIU and ptrace.
//!
//! This module knows processes, not agents, moves or directories. The owner of a move calls, at
//! the source:
//!
//! 1. [`inspect`] says what the process holds; [`Inventory::obstacles`] names what can't move;
//!    [`Inventory::needs`] goes to the destination, which asks [`Needs::missing_here`];
//! 2. [`Hold::freeze`] stops it: from here on not one instruction of it runs, whatever signal it
//!    gets;
//! 3. [`dump`] writes its image into a directory and leaves it frozen;
//! 4. then [`Hold::release`] (rolled back), [`become_shadow`] (committed, first move) or
//!    [`Hold::kill`] (committed, later moves).
//!
//! And at the destination [`restore`] makes a [`HeldCopy`], frozen before its first instruction:
//! then [`HeldCopy::release`] or [`HeldCopy::discard`].
//!
//! Dropping a [`Hold`] decides nothing: what is held stays held until someone who knows how the
//! move ended says so. [`Hold::find`] takes up a hold that a killed owner left. A [`HeldCopy`]
//! lives no longer than the process that made it.

pub(crate) mod channel;
mod criu;
mod dump;
pub(crate) mod enter;
mod error;
mod freezer;
pub(crate) mod hook;
mod images;
pub(crate) mod init;
mod inject;
mod inventory;
mod limits;
mod proc;
mod protobuf;
mod remote;
mod restore;
mod stdio;

pub use criu::program as criu_program;
pub use dump::{Dump, Manifest, dump};
pub use error::Error;
pub use freezer::Hold;
pub use inject::become_shadow;
pub use inventory::{Inventory, NeededPath, Needs, Obstacle, PathKind, inspect};
pub use restore::{Ended, HeldCopy, RunningCopy, restore};
pub use stdio::{Channel, Stdio, StdioPlan};

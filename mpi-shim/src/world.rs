//! All that a rank knows between `MPI_Init` and `MPI_Finalize`.

use std::ffi::c_int;
use std::sync::Arc;

use meander::control::Control;
use parking_lot::{Mutex, MutexGuard};
use slotmap::SlotMap;

use crate::attributes::Attributes;
use crate::comm::Comm;
use crate::datatype::Datatypes;
use crate::engine::Engine;
use crate::errors::Errhandler;
use crate::group::Group;
use crate::handles::{CommKey, ErrhandlerKey, GroupKey};
use crate::native::Predefined;

/// The state of a rank.
pub struct World {
    /// Its rank in `MPI_COMM_WORLD`.
    pub rank: u32,
    /// The thread level that the program was granted.
    pub thread_level: c_int,
    /// The native library's predefined handles.
    pub predefined: &'static Predefined,
    /// Messages and requests.
    pub engine: Engine,
    /// Datatypes met so far.
    pub datatypes: Datatypes,
    /// `MPI_COMM_WORLD`.
    pub comm_world: Arc<Comm>,
    /// `MPI_COMM_SELF`.
    pub comm_self: Arc<Comm>,
    /// The other communicators.
    pub comms: SlotMap<CommKey, Arc<Comm>>,
    /// The lowest number that no communicator of this rank has had.
    pub next_comm: u32,
    /// Groups.
    pub groups: SlotMap<GroupKey, Arc<Group>>,
    /// Error handlers that the program made.
    pub errhandlers: SlotMap<ErrhandlerKey, Errhandler>,
    /// What `MPI_Comm_get_attr` tells of the world.
    pub attributes: Attributes,
    /// The thread that serves the node's agent.
    pub control: Control,
}

/// Where a process is in its life with MPI.
pub enum Stage {
    /// Before `MPI_Init`.
    Before,
    /// Between `MPI_Init` and `MPI_Finalize`.
    Running(Box<World>),
    /// After `MPI_Finalize`.
    Finalized,
}

static STAGE: Mutex<Stage> = Mutex::new(Stage::Before);

/// The process's stage, locked: one thread at a time is in MPI (`MPI_THREAD_SERIALIZED`).
pub fn stage() -> MutexGuard<'static, Stage> {
    STAGE.lock()
}

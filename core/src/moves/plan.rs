//! What a move is to do, and how that is put to the directory.

use crate::directory::{Commit, Request, Shadow};
use crate::ids::{Epoch, MoveId, NodeName, PortId};

/// What is to be moved, and where to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The rank's port.
    pub port: PortId,
    /// The epoch it has.
    pub from: Epoch,
    /// This attempt.
    pub move_id: MoveId,
    /// The attempt to take the rank back, should its copy be lost between commit and release.
    pub reclaim_id: MoveId,
    /// This node.
    pub here: NodeName,
    /// The rank's process, as this node sees it.
    pub host_pid: u32,
    /// The destination.
    pub there: NodeName,
    /// The rank's shadow, if it has one already.
    pub shadow: Option<Shadow>,
}

impl Plan {
    /// The move itself; `host_pid` is the copy, as its node sees it.
    pub(super) fn commit(&self, host_pid: u32) -> Request {
        let first = Shadow {
            node: self.here.clone(),
            host_pid: self.host_pid,
        };
        let commit = Commit {
            move_id: self.move_id,
            from: self.from,
            node: self.there.clone(),
            host_pid,
            shadow: Some(self.shadow.clone().unwrap_or(first)),
        };
        Request::Commit {
            port: self.port,
            commit,
        }
    }

    /// Did the move happen? If not, it never will.
    pub(super) fn settle(&self) -> Request {
        Request::Settle {
            port: self.port,
            move_id: self.move_id,
        }
    }

    /// The way back: the rank is its original again.
    pub(super) fn reclaim(&self, from: Epoch) -> Request {
        let commit = Commit {
            move_id: self.reclaim_id,
            from,
            node: self.here.clone(),
            host_pid: self.host_pid,
            shadow: self.shadow.clone(),
        };
        Request::Commit {
            port: self.port,
            commit,
        }
    }

    /// Was the rank taken back? If not, it never will be.
    pub(super) fn settle_reclaim(&self) -> Request {
        Request::Settle {
            port: self.port,
            move_id: self.reclaim_id,
        }
    }
}

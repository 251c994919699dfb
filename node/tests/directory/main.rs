//! The directory over real processes: what every backend must do, and what each survives.

#[path = "../support/rank.rs"]
mod rank;
#[path = "../support/mod.rs"]
mod support;

mod agents;
mod conformance;
mod embedded;
mod etcd;
mod moved;
mod oracle;

use meander::{Epoch, JobId, Location, NodeName, PortId};
use meander_core::directory::{Commit, Entry, Identity};
use meander_core::{Card, MoveId, TransportKind};

/// A rank as its agent lists it.
pub fn entry(epoch: u64, node: &str) -> Entry {
    let card = Card {
        transport: TransportKind::Sim,
        bytes: vec![7],
    };
    Entry {
        identity: Identity {
            job: JobId("job1".into()),
            rank: 0,
            size: 1,
            program: "fake".into(),
        },
        epoch: Epoch(epoch),
        location: Location {
            node: NodeName(node.into()),
            cards: vec![card],
        },
        uid: 1000,
        pid: 7,
        // One that lives: an agent that starts has what does not live forgotten.
        host_pid: 1,
        shadow: None,
    }
}

/// A move from that epoch.
pub fn commit(move_id: MoveId, from: u64, node: &str) -> Commit {
    Commit {
        move_id,
        from: Epoch(from),
        node: NodeName(node.into()),
        host_pid: 1,
        shadow: None,
    }
}

/// A port that no other test has.
pub fn new_port() -> PortId {
    PortId(meander_node::keyfile::random_id())
}

/// A move that no other test has.
pub fn new_move() -> MoveId {
    MoveId(meander_node::keyfile::random_id())
}

//! Where a port is now, and what it takes to reach it there.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeName, PortId};

/// The kinds of transport a card can be for; the number is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TransportKind {
    /// TCP sockets: where there is nothing better.
    Tcp,
    /// Shared memory within a node.
    Shm,
    /// InfiniBand or RoCE reliable-connected queue pairs.
    Verbs,
    /// The simulator's network, and tests.
    Sim,
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            TransportKind::Tcp => "tcp",
            TransportKind::Shm => "shm",
            TransportKind::Verbs => "verbs",
            TransportKind::Sim => "sim",
        })
    }
}

/// What one transport needs to connect; opaque to everyone but that transport.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Card {
    /// The transport that made the card and can dial it.
    pub transport: TransportKind,
    /// The transport's own encoding; at most [`crate::limits::CARD_BYTES`] bytes.
    pub bytes: Vec<u8>,
}

/// Where a port is now: a node, and one card for each transport it can be reached by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Location {
    /// The node, where an agent has told it.
    pub node: NodeName,
    /// The ways to reach the port; empty while it is suspended.
    pub cards: Vec<Card>,
}

/// All that a stranger needs to reach a port, apart from the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Contact {
    /// The address, which never changes.
    pub port: PortId,
    /// The epoch for which `location` holds.
    pub epoch: Epoch,
    /// Where the port was when the contact was made.
    pub location: Location,
}

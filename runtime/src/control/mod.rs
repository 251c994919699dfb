//! What a process with a port and its node's agent say to each other, over a Unix socket.
//!
//! Frames are a little-endian `u32` length, then a postcard encoding of [`FromPort`] or [`ToPort`].
//! The agent listens at [`agent_socket`]. While a move holds the port suspended, its fate is told
//! at [`verdict_socket`] by the process that owns the move, so that no agent need be alive.

mod client;
mod frame;

use std::path::PathBuf;

pub use meander_core::Identity;
use meander_core::{Contact, Epoch, Location, NodeName, PortId};
use serde::{Deserialize, Serialize};

pub use client::Control;

/// Version of this protocol.
pub const CONTROL_VERSION: u32 = 1;
/// Longest frame either side takes, in bytes.
pub const CONTROL_FRAME_BYTES: usize = 1 << 20;

/// The directory of a node's sockets: `$MEANDER_RUN_DIR`, or `/run/meander`.
pub fn run_dir() -> PathBuf {
    std::env::var_os("MEANDER_RUN_DIR").map_or_else(|| PathBuf::from("/run/meander"), PathBuf::from)
}

/// Where the node's agent listens for local processes.
pub fn agent_socket() -> PathBuf {
    run_dir().join("agent.sock")
}

/// Where the owner of a move tells a suspended port how the move ended.
pub fn verdict_socket(port: PortId) -> PathBuf {
    run_dir().join(format!("verdict-{port}.sock"))
}

/// From a process to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromPort {
    /// First frame. Sent again on every new connection. Pid and uid come from the socket.
    Register {
        /// [`CONTROL_VERSION`].
        version: u32,
        /// Who it is.
        identity: Identity,
        /// Its port, epoch and cards.
        contact: Contact,
    },
    /// The port's cards changed (attached or resumed).
    Located {
        /// The epoch for which `location` holds.
        epoch: Epoch,
        /// Where it is.
        location: Location,
    },
    /// Answer to [`ToPort::Suspend`]: the port is off the fabric, and this connection closes.
    Suspended {
        /// The epoch it had.
        epoch: Epoch,
        /// The ports it is connected to.
        peers: Vec<PortId>,
    },
    /// Answer to [`ToPort::Suspend`]: it can't be done now.
    SuspendRefused {
        /// The reason, for people.
        why: String,
    },
    /// Where is this port?
    Lookup {
        /// The port.
        port: PortId,
    },
    /// The process ends in good order; it need not be listed any more.
    Leaving,
}

/// From the agent to a process, and from the owner of a move at the verdict socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToPort {
    /// Answer to [`FromPort::Register`].
    Registered {
        /// The node that the agent serves.
        node: NodeName,
    },
    /// Take the port off the fabric.
    Suspend,
    /// Answer to [`FromPort::Lookup`]; `None` where the directory does not know it.
    Found {
        /// The port asked for.
        port: PortId,
        /// Where it is.
        contact: Option<Contact>,
    },
    /// A port is dead for certain: its process ended.
    PeerDead {
        /// The port.
        port: PortId,
    },
    /// Verdict: the move was committed; attach with this epoch, on this node.
    Attach {
        /// The new epoch.
        epoch: Epoch,
        /// The node it is on now.
        node: NodeName,
    },
    /// Verdict: the move did not happen; attach where you were, with the epoch you had.
    Resume,
}

//! What the `meander` command and the agent of its node say to each other, over the agent's Unix
//! socket: frames of [`crate::net::frame`]. The first one is [`HELLO`], by which the agent tells a
//! user from a rank; then one [`FromUser`]; then [`ToUser`] until the end of the stream.
//!
//! During a move the socket is passed on to the process that owns the move, so that the command
//! hears how it ends even if the agent does not live to see it.

use std::io;
use std::os::unix::net::UnixStream;

use meander::control::agent_socket;
use meander::{NodeName, PortId};
use meander_core::directory::Entry;
use meander_core::moves::{Phase, SourceEnd, Trouble};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::net::frame;

/// The first frame of a user, as it is.
pub const HELLO: &[u8] = b"meander user 1";

/// What a user asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromUser {
    /// All ranks of all nodes.
    List,
    /// Move a rank.
    Migrate {
        /// Its job; a beginning of the name that fits only one job will do.
        job: String,
        /// Its number in the job.
        rank: u32,
        /// Where to.
        to: NodeName,
    },
    /// How the agent is.
    Status,
    /// Where the directory is.
    Directory,
    /// Have the directory handed over to this node.
    MoveDirectory {
        /// The node.
        to: NodeName,
    },
    /// From the owner of a move: this rank has left a shadow here. There is no answer.
    WatchShadow {
        /// The rank's port.
        port: PortId,
    },
    /// Whether a rank of this node is connected to the agent, and so not suspended.
    IsConnected {
        /// Its port.
        port: PortId,
    },
}

/// What a user is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToUser {
    /// Some of the ranks; more follow until the stream ends.
    Ranks(Vec<(PortId, Entry)>),
    /// Before the ranks: the nodes whose lease has run out.
    Unwell(Vec<(NodeName, Health)>),
    /// Where the directory is, for people.
    DirectoryAt {
        /// The place.
        place: String,
    },
    /// How the agent is.
    Status(Status),
    /// Whether the rank is connected.
    Connected(bool),
    /// A move has begun.
    Moving(Moving),
    /// How far a move is.
    Progress(Progress),
    /// A move is over.
    Ended(SourceEnd),
    /// It can't be done, and nothing was.
    Refused {
        /// Which kind of reason.
        reason: Reason,
        /// The reason.
        why: Trouble,
    },
}

/// What is known of a node whose lease has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// Its host answers; only its agent does not run. Its ranks may live.
    NoAgent,
    /// Its host does not answer either: it is taken for dead, with all its ranks.
    Dead,
}

/// The kinds of reason for which an agent refuses; each has an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// There is no such rank or node, or the rank is not this user's.
    NotPossible,
    /// The directory or an agent can't be reached.
    Unreachable,
}

/// What is being moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// The rank.
    pub name: String,
    /// From which node.
    pub from: NodeName,
    /// To which node.
    pub to: NodeName,
}

/// How far a move is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The phase it is in, or the one that failed.
    pub phase: Phase,
    /// Whether it is being rolled back.
    pub rolling_back: bool,
    /// Bytes of the image that are at the destination.
    pub copied_bytes: u64,
    /// Bytes of the image, once they are known.
    pub image_bytes: u64,
}

/// How an agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node it serves.
    pub node: NodeName,
    /// The version of its program.
    pub version: String,
    /// Fingerprint of the cluster key.
    pub fingerprint: String,
    /// The ranks registered with it.
    pub ranks: usize,
    /// Every node of the cluster, and what is wrong with reaching its agent.
    pub nodes: Vec<(NodeName, Option<Trouble>)>,
    /// What is wrong with reaching the directory.
    pub directory: Option<Trouble>,
}

/// Connects to this node's agent and asks.
pub fn ask(question: &FromUser) -> Result<UnixStream, Error> {
    let path = agent_socket();
    let mut stream = UnixStream::connect(&path).map_err(|source| Error::NoAgent {
        path: path.clone(),
        source,
    })?;
    frame::write_bytes(&mut stream, HELLO)
        .and_then(|()| frame::write(&mut stream, question))
        .map_err(|source| Error::NoAgent { path, source })?;
    Ok(stream)
}

/// Whether this node's agent has a connection to a rank; false where there is no agent.
pub fn is_connected(port: PortId) -> bool {
    let answer = ask(&FromUser::IsConnected { port }).and_then(|mut stream| hear(&mut stream));
    matches!(answer, Ok(Some(ToUser::Connected(true))))
}

/// The next thing the agent, or the owner of the move, says; `None` at the end.
pub fn hear(stream: &mut UnixStream) -> Result<Option<ToUser>, Error> {
    frame::read(stream).map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "broke off".into(),
            _ => error.to_string(),
        };
        Error::Protocol {
            peer: "the agent".into(),
            why,
        }
    })
}

//! What the agents of a cluster say to each other, and movers to agents.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use meander::control::ToPort;
use meander::{Contact, Epoch, JobId, Key, NodeName, PortId};
use meander_core::directory::Entry;
use meander_core::moves::Trouble;
use meander_core::{Identity, MoveId};
use serde::{Deserialize, Serialize};

use super::local::Refusal;
use super::{Agent, admission, departure, keeper, shadows};
use crate::Error;
use crate::checkpoint::Needs;
use crate::net::frame;
use crate::net::secure::Secure;
use crate::user::ToUser;

/// How long an agent may take to answer a simple question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an agent may take to have the directory's process run.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// From an agent, or from the owner of a move, to an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromPeer {
    /// Are you there? [`ToPeer::Here`] is the answer.
    Ping,
    /// Start the move of a rank of yours; [`ToPeer::User`]s follow until the end of the stream.
    Start {
        /// Its port.
        port: PortId,
        /// Where to.
        to: NodeName,
        /// The user who asks.
        uid: u32,
    },
    /// Take a rank in; [`ToPeer::Accepted`] or [`ToPeer::Refused`] is the answer.
    Offer(Box<Offer>),
    /// This port's process has died.
    Died {
        /// Its job.
        job: JobId,
        /// The port.
        port: PortId,
    },
    /// The shadow of a rank of yours has died: kill the rank.
    Kill {
        /// Its port.
        port: PortId,
        /// The epoch for which this holds.
        epoch: Epoch,
    },
    /// Run a directory's process from now on; [`ToPeer::Here`] once it answers, or
    /// [`ToPeer::Refused`].
    StartDirectory,
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToPeer {
    /// The agent of this node is here.
    Here {
        /// The node.
        node: NodeName,
    },
    /// What the user is to be told.
    User(ToUser),
    /// The offer is taken; a guardian waits at this contact, with the offer's key.
    Accepted {
        /// The guardian's port.
        guardian: Contact,
    },
    /// The rank can't be taken in.
    Refused(Trouble),
}

/// A rank, offered to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which attempt.
    pub move_id: MoveId,
    /// The rank's port.
    pub port: PortId,
    /// The epoch it has.
    pub epoch: Epoch,
    /// Who it is.
    pub identity: Identity,
    /// The user whose process it is.
    pub uid: u32,
    /// From which node.
    pub from: NodeName,
    /// To which node.
    pub to: NodeName,
    /// What its process needs there.
    pub needs: Needs,
    /// The key of the streams of this one move.
    pub key: Key,
}

/// Serves another agent or a mover.
pub(super) fn serve(agent: &Arc<Agent>, mut peer: Secure) {
    while let Ok(message) = peer.receive::<FromPeer>(None) {
        let answer = match message {
            FromPeer::Ping => ToPeer::Here {
                node: agent.node().clone(),
            },
            FromPeer::Offer(offer) => match admission::admit(agent, &offer) {
                Ok(guardian) => ToPeer::Accepted { guardian },
                Err(why) => ToPeer::Refused(why),
            },
            FromPeer::StartDirectory => match keeper::start_one(agent) {
                Ok(()) => ToPeer::Here {
                    node: agent.node().clone(),
                },
                Err(error) => ToPeer::Refused(error.into()),
            },
            FromPeer::Start { port, to, uid } => {
                return start_here(agent, port, uid, &to, peer);
            }
            FromPeer::Died { job, port } => {
                agent.ranks.tell_job(&job, &ToPort::PeerDead { port });
                continue;
            }
            FromPeer::Kill { port, epoch } => {
                shadows::kill_here(agent, port, epoch);
                continue;
            }
        };
        if peer.send(&answer).is_err() {
            break;
        }
    }
}

/// Asks another node's agent whether it is there.
pub(super) fn ping(agent: &Agent, node: &NodeName) -> Result<(), Error> {
    let mut peer = connect(agent, node)?;
    peer.send(&FromPeer::Ping)?;
    match peer.receive(Some(ANSWER_TIMEOUT))? {
        ToPeer::Here { node: name } if name == *node => Ok(()),
        other => Err(Error::Protocol {
            peer: format!("the agent at {node}'s address"),
            why: format!("is not that of {node}: {other:?}"),
        }),
    }
}

/// Has another node's agent run a directory's process.
pub(super) fn start_directory(agent: &Agent, node: &NodeName) -> Result<(), Error> {
    let mut peer = connect(agent, node)?;
    peer.send(&FromPeer::StartDirectory)?;
    match peer.receive(Some(START_TIMEOUT))? {
        ToPeer::Here { .. } => Ok(()),
        ToPeer::Refused(why) => Err(why.into()),
        other => Err(Error::Protocol {
            peer: format!("the agent of {node}"),
            why: format!("answered {other:?}"),
        }),
    }
}

/// Tells this node's ranks of a job, and every other agent, that one of them has died.
pub(super) fn report_death(agent: &Agent, job: &JobId, port: PortId) {
    agent.ranks.tell_job(job, &ToPort::PeerDead { port });
    std::thread::scope(|scope| {
        for node in agent.cluster.nodes().filter(|node| node != agent.node()) {
            scope.spawn(move || {
                tell_node(
                    agent,
                    &node,
                    FromPeer::Died {
                        job: job.clone(),
                        port,
                    },
                )
            });
        }
    });
}

/// Tells another node's agent something that has no answer. One that is not there is told nothing.
pub(super) fn tell_node(agent: &Agent, node: &NodeName, message: FromPeer) {
    let told = agent.cluster.address(node).and_then(|address| {
        tell(
            &format!("the agent of {node}"),
            address,
            &agent.key,
            &message,
        )
    });
    if let Err(error) = told {
        tracing::warn!("telling {node} of {message:?}: {error}");
    }
}

/// Tells an agent something that has no answer.
pub fn tell(peer: &str, address: SocketAddr, key: &Key, message: &FromPeer) -> Result<(), Error> {
    let mut peer = Secure::connect(peer, address, key)?;
    peer.send(message)?;
    // The question behind it makes sure that it was read before the connection closes.
    peer.send(&FromPeer::Ping)?;
    peer.receive::<ToPeer>(Some(ANSWER_TIMEOUT)).map(drop)
}

/// Has the agent of the rank's node start the move, and passes on what it tells the user.
pub(super) fn start_there(
    agent: &Agent,
    port: PortId,
    entry: &Entry,
    uid: u32,
    to: &NodeName,
    mut user: UnixStream,
) -> Result<(), Refusal> {
    let node = &entry.location.node;
    let mut peer = connect(agent, node).map_err(Refusal::unreachable)?;
    peer.send(&FromPeer::Start {
        port,
        to: to.clone(),
        uid,
    })
    .map_err(Refusal::unreachable)?;
    loop {
        match peer.receive(None) {
            Ok(ToPeer::User(message)) => {
                let last = matches!(message, ToUser::Ended(_) | ToUser::Refused { .. });
                if frame::write(&mut user, &message).is_err() || last {
                    return Ok(());
                }
            }
            Ok(other) => {
                let why = format!("the agent of {node} answered {other:?}");
                return Err(Refusal::unreachable(Trouble::new(why)));
            }
            Err(error) => {
                let why = Trouble::new(format!("lost sight of the move: {error}"));
                let mend = "it goes on by itself; `meander ps` shows where the rank is";
                return Err(Refusal::unreachable(why.mend(mend)));
            }
        }
    }
}

/// The other side of [`start_there`].
fn start_here(agent: &Arc<Agent>, port: PortId, uid: u32, to: &NodeName, mut peer: Secure) {
    let started = UnixStream::pair()
        .map_err(|error| Refusal::not_possible(Trouble::new(error.to_string())))
        .and_then(|(ours, movers)| {
            let listed = agent.directory.lookup(port).map_err(Refusal::unreachable)?;
            let here = |entry: &Entry| entry.location.node == *agent.node();
            let entry = listed.filter(here).ok_or_else(|| {
                let why = format!("the rank is not (or no longer) on {}", agent.node());
                Refusal::not_possible(Trouble::new(why).mend("`meander ps` shows where it is"))
            })?;
            departure::check(&entry, uid, to).map_err(Refusal::not_possible)?;
            departure::start(agent, port, &entry.identity, uid, to, movers)?;
            Ok(ours)
        });
    match started {
        Ok(mut ours) => {
            while let Ok(Some(message)) = frame::read::<ToUser>(&mut ours) {
                if peer.send(&ToPeer::User(message)).is_err() {
                    break;
                }
            }
        }
        Err(refusal) => {
            let _ = peer.send(&ToPeer::User(refusal.into()));
        }
    }
}

fn connect(agent: &Agent, node: &NodeName) -> Result<Secure, Error> {
    let address = agent.cluster.address(node)?;
    Secure::connect(&format!("the agent of {node}"), address, &agent.key)
}

//! What is said between the directory's process and those who ask it, and between two of them.

use std::time::Duration;

use meander::{Key, NodeName, PortId};
use meander_core::directory::{Entry, Record, Reply, Request};
use meander_core::moves::Trouble;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cluster::Cluster;
use crate::net::secure::Secure;

/// How long a simple answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// To the directory's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Question {
    /// What are you? [`Answer::Role`]; every node that runs a directory's process answers.
    Role,
    /// [`Answer::Reply`].
    Ask(Request),
    /// [`Answer::Changed`], once the port's entry is not `seen`, or that time is over.
    WaitChange {
        port: PortId,
        seen: Option<Entry>,
        wait: Duration,
    },
    /// This node counts as alive for so long. [`Answer::Done`].
    HoldLease { node: NodeName, lease: Duration },
    /// [`Answer::Alive`].
    Alive,
    /// Hand the directory over to this node. [`Answer::Role`] once that is decided.
    HandOver { to: NodeName },
    /// From the holder: some of the records, and whether they are the last. [`Answer::Done`]; after
    /// the last it means that all are on the disk, and that the term begins with [`Question::Begin`]
    /// or when the holder is heard to be [`Role::Gone`].
    Take {
        term: u64,
        from: NodeName,
        records: Vec<(PortId, Record)>,
        last: bool,
    },
    /// From the holder: the term is yours. [`Answer::Done`].
    Begin { term: u64 },
}

/// From the directory's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    Role(Role),
    Reply(Reply),
    Changed(Option<Entry>),
    Done,
    Alive(Vec<NodeName>),
    /// It was not done, for this node does not hold the directory.
    NotHolder(Role),
    /// It was not done.
    Failed(Trouble),
}

/// What a node is to the directory. Durable; every change of it is a step of a hand-over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Nothing yet.
    Nothing,
    /// It holds the directory.
    Holder {
        /// Counts hand-overs, those that failed as well.
        term: u64,
    },
    /// It is handing the directory over and answers nobody. Who is found in this state was killed in
    /// the middle, and holds the directory: the other side can't have begun.
    Giving {
        /// The term that would begin.
        term: u64,
        /// Where.
        to: NodeName,
    },
    /// It has handed the directory over.
    Gone {
        /// The term that has begun.
        term: u64,
        /// Where.
        to: NodeName,
    },
    /// It has all records, and waits to hear whether the term has begun.
    Taking {
        /// The term.
        term: u64,
        /// From whom.
        from: NodeName,
        /// What it knew before: the last term it gave away, and to whom.
        before: Option<(u64, NodeName)>,
    },
}

impl Role {
    /// The latest term it knows to have begun, or to have failed.
    pub fn term(&self) -> u64 {
        match self {
            Role::Nothing => 0,
            Role::Holder { term } | Role::Gone { term, .. } => *term,
            Role::Giving { term, .. } => term.saturating_sub(1),
            Role::Taking { before, .. } => before.as_ref().map_or(0, |(term, _)| *term),
        }
    }
}

/// Connects to a node's directory process and asks what it is.
pub(super) fn connect(
    cluster: &Cluster,
    key: &Key,
    node: &NodeName,
) -> Result<(Secure, Role), Error> {
    let peer = format!("the directory on {node}");
    let mut secure = Secure::connect(&peer, cluster.directory_address(node)?, key)?;
    match exchange(&mut secure, &Question::Role, ANSWER_TIMEOUT)? {
        Answer::Role(role) => Ok((secure, role)),
        other => Err(unexpected(&secure, &other)),
    }
}

/// What a node's directory process is; an error where there is none, or it does not answer.
pub fn role_at(cluster: &Cluster, key: &Key, node: &NodeName) -> Result<Role, Error> {
    connect(cluster, key, node).map(|(_, role)| role)
}

pub(super) fn exchange(
    secure: &mut Secure,
    question: &Question,
    timeout: Duration,
) -> Result<Answer, Error> {
    secure.send(question)?;
    secure.receive(Some(timeout))
}

pub(super) fn unexpected(secure: &Secure, answer: &Answer) -> Error {
    Error::Protocol {
        peer: secure.peer().into(),
        why: format!("answered {answer:?}"),
    }
}

//! What the directory's process knows, and its answers.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meander::{Key, NodeName, PortId};
use meander_core::directory::{Directory, Entry, Reply, Request};

use super::store::Store;
use super::wire::{Answer, Question, Role};
use super::{connection, handover};
use crate::Error;
use crate::cluster::Cluster;
use crate::directory::backend::WAIT_MAX;

/// The state of a directory's process, shared by its conversations.
pub(super) struct Shared {
    pub(super) cluster: Cluster,
    pub(super) key: Key,
    /// The node it runs on.
    pub(super) node: NodeName,
    state: Mutex<State>,
    /// Something in the state has changed.
    changed: Condvar,
}

pub(super) struct State {
    pub(super) role: Role,
    pub(super) directory: Directory,
    pub(super) store: Store,
    /// When each node's lease runs out.
    leases: HashMap<NodeName, Instant>,
}

impl Shared {
    /// Takes up what the file says. Where it is new, `node` holds the directory if the cluster file
    /// says so and nobody else says that he does.
    pub(super) fn open(
        cluster: Cluster,
        key: Key,
        node: NodeName,
        store: Store,
    ) -> Result<Shared, Error> {
        let role = match store.role()? {
            Some(Role::Giving { term, .. }) => Role::Holder { term },
            Some(role) => role,
            None => first_role(&cluster, &key, &node),
        };
        store.set_role(&role)?;
        let shared = Shared {
            state: Mutex::new(State {
                role: Role::Nothing,
                directory: Directory::default(),
                store,
                leases: HashMap::new(),
            }),
            cluster,
            key,
            node,
            changed: Condvar::new(),
        };
        shared.become_role(&mut shared.lock(), role)?;
        Ok(shared)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up a role that is on the disk.
    pub(super) fn become_role(&self, state: &mut State, role: Role) -> Result<(), Error> {
        tracing::info!("the directory's process on {}: {role:?}", self.node);
        let holds = matches!(role, Role::Holder { .. });
        state.directory = if holds {
            Directory::from_records(state.store.records()?)
        } else {
            Directory::default()
        };
        // Nobody counts as dead before he had the time to be heard.
        let grace = Instant::now() + self.cluster.lease();
        state.leases = self.cluster.nodes().map(|node| (node, grace)).collect();
        state.role = role;
        self.changed.notify_all();
        Ok(())
    }

    /// Answers a question.
    pub(super) fn answer(
        self: &Arc<Self>,
        question: Question,
        taking: &mut handover::Parts,
    ) -> Answer {
        match question {
            Question::Role => Answer::Role(self.lock().role.clone()),
            Question::Ask(request) => self.ask(request),
            Question::WaitChange { port, seen, wait } => {
                self.wait_change(port, seen.as_ref(), wait.min(WAIT_MAX))
            }
            Question::HoldLease { node, lease } => self.as_holder(|state| {
                // Only nodes of the cluster: the table is bounded.
                if self.cluster.nodes().any(|known| known == node) {
                    state.leases.insert(node, Instant::now() + lease);
                }
                Answer::Done
            }),
            Question::Alive => self.as_holder(|state| {
                let now = Instant::now();
                let mut alive: Vec<NodeName> = state.leases.keys().cloned().collect();
                alive.retain(|node| state.leases[node] > now);
                Answer::Alive(alive)
            }),
            Question::HandOver { to } => handover::give(self, &to),
            Question::Take {
                term,
                from,
                records,
                last,
            } => handover::take(self, taking, term, &from, records, last),
            Question::Begin { term } => handover::begin(self, term),
        }
    }

    fn as_holder(&self, answer: impl FnOnce(&mut State) -> Answer) -> Answer {
        let mut state = self.lock();
        match &state.role {
            Role::Holder { .. } => answer(&mut state),
            other => Answer::NotHolder(other.clone()),
        }
    }

    /// Answers when the change is on the disk. `[R23]`
    fn ask(&self, request: Request) -> Answer {
        self.as_holder(|state| {
            let (reply, change) = state.directory.handle(request);
            if let Some(change) = change {
                state.store.apply(&change).unwrap_or_else(stop);
                self.changed.notify_all();
            }
            Answer::Reply(reply)
        })
    }

    fn wait_change(&self, port: PortId, seen: Option<&Entry>, wait: Duration) -> Answer {
        let until = Instant::now() + wait;
        let mut state = self.lock();
        loop {
            if !matches!(state.role, Role::Holder { .. }) {
                return Answer::NotHolder(state.role.clone());
            }
            let entry = match state.directory.handle(Request::Lookup { port }).0 {
                Reply::Found(entry) => entry,
                _ => None,
            };
            let left = until.saturating_duration_since(Instant::now());
            if entry.as_ref() != seen || left.is_zero() {
                return Answer::Changed(entry);
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Memory and disk differ now. What was not answered may be forgotten; what was is on the disk, and
/// the next process reads it there.
pub(super) fn stop(error: Error) {
    tracing::error!("{error}; the directory stops");
    std::process::exit(1);
}

fn first_role(cluster: &Cluster, key: &Key, node: &NodeName) -> Role {
    match connection::ask_around(cluster, key, Some(node)) {
        Some(place) => Role::Gone {
            term: place.term,
            to: place.node,
        },
        None if cluster.first_holder() == *node => Role::Holder { term: 0 },
        None => Role::Nothing,
    }
}

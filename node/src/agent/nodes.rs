//! Which nodes are alive, as far as their leases and their hosts say.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use meander::NodeName;

use super::Agent;
use crate::Error;
use crate::user::Health;

/// How long an answer about all nodes is good for.
const FRESH: Duration = Duration::from_secs(1);
/// How long the host of a node without a lease may take to show that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What was found out last.
#[derive(Default)]
pub(super) struct Nodes {
    unwell: Mutex<Option<(Instant, BTreeMap<NodeName, Health>)>>,
}

/// The nodes whose lease has run out. One whose host still answers only lacks its agent: its ranks
/// may well live. The others are taken for dead.
pub(super) fn unwell(agent: &Agent) -> Result<BTreeMap<NodeName, Health>, Error> {
    find_out(agent, FRESH)
}

/// Whether a node is taken for dead. Where that can't be found out it is not. `[R53]`
pub(super) fn is_dead(agent: &Agent, node: &NodeName) -> bool {
    // A good word may be a moment old, but not a bad one: the node may just have come back.
    let dead = |age| {
        let unwell = find_out(agent, age);
        unwell.is_ok_and(|unwell| unwell.get(node) == Some(&Health::Dead))
    };
    node != agent.node() && dead(FRESH) && dead(Duration::ZERO)
}

/// An answer that is at most so old.
fn find_out(agent: &Agent, age: Duration) -> Result<BTreeMap<NodeName, Health>, Error> {
    let mut kept = agent
        .nodes
        .unwell
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some((at, unwell)) = &*kept
        && at.elapsed() < age
    {
        return Ok(unwell.clone());
    }
    let alive = agent.directory.alive()?;
    let unwell = examine(agent, &alive);
    *kept = Some((Instant::now(), unwell.clone()));
    Ok(unwell)
}

fn examine(agent: &Agent, alive: &BTreeSet<NodeName>) -> BTreeMap<NodeName, Health> {
    let silent: Vec<NodeName> = agent
        .cluster
        .nodes()
        .filter(|node| node != agent.node() && !alive.contains(node))
        .collect();
    std::thread::scope(|scope| {
        let probes: Vec<_> = silent
            .into_iter()
            .map(|node| {
                scope.spawn(|| {
                    let address = agent.cluster.address(&node);
                    let answers = address.is_ok_and(|address| host_answers(&address));
                    let health = if answers {
                        Health::NoAgent
                    } else {
                        Health::Dead
                    };
                    (node, health)
                })
            })
            .collect();
        let joined = probes.into_iter().filter_map(|probe| probe.join().ok());
        joined.collect()
    })
}

/// A host that refuses a connection lives as well as one that takes it.
fn host_answers(address: &SocketAddr) -> bool {
    match TcpStream::connect_timeout(address, PROBE_TIMEOUT) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    }
}

//! The shadows on this node. A shadow that dies before its rank takes the rank with it: the
//! launcher has counted it as dead. A shadow's end is what is acted on, never a broken connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meander::{Epoch, PortId};
use meander_core::directory::{Ending, Entry, Reply, Request, Shadow};

use super::Agent;
use super::remote::{self, FromPeer};
use crate::process::{self, Process};

/// How long a rank may be listed after its shadow ended, since a rank that ends is taken off the
/// list at about the time its shadow ends.
const GRACE: Duration = Duration::from_secs(3);
/// Pause before the directory is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Watches the shadows that were here before this agent, and forgets ranks that ended unseen.
pub(super) fn start(agent: &Arc<Agent>) {
    let agent = agent.clone();
    std::thread::spawn(move || {
        let all = loop {
            match agent.directory.list() {
                Ok(all) => break all,
                Err(error) => tracing::debug!("finding what was here before: {error}"),
            }
            std::thread::sleep(RETRY);
        };
        for (port, entry) in all {
            if let Some(shadow) = &entry.shadow
                && shadow.node == *agent.node()
            {
                watch(&agent, port, shadow.clone());
            }
            if entry.location.node == *agent.node() && Process::find(entry.host_pid).is_none() {
                let reply = agent.directory.request(&Request::Remove {
                    port,
                    epoch: entry.epoch,
                    ending: Ending::Died,
                });
                if matches!(reply, Ok(Reply::Done)) {
                    remote::report_death(&agent, &entry.identity.job, port);
                }
            }
        }
    });
}

/// Watches the shadow that a move has just made here, if it made one.
pub(super) fn watch_new(agent: &Arc<Agent>, port: PortId) {
    let entry = agent.directory.lookup(port).ok().flatten();
    let shadow = entry.and_then(|entry| entry.shadow);
    if let Some(shadow) = shadow.filter(|shadow| shadow.node == *agent.node()) {
        watch(agent, port, shadow);
    }
}

/// Watches a shadow from now on, if it is not watched yet.
fn watch(agent: &Arc<Agent>, port: PortId, shadow: Shadow) {
    let known = &agent.shadows;
    let news = known
        .lock()
        .is_ok_and(|mut known| known.insert((port, shadow.host_pid)));
    if !news {
        return;
    }
    let agent = agent.clone();
    std::thread::spawn(move || {
        if let Some(process) = find(&shadow) {
            process.has_ended(None);
        }
        if let Some(entry) = still_listed(&agent, port, &shadow) {
            kill(&agent, port, &entry);
        }
    });
}

/// The rank, if it is listed with this shadow [`GRACE`] after that has ended.
fn still_listed(agent: &Agent, port: PortId, shadow: &Shadow) -> Option<Entry> {
    let ended = Instant::now();
    let mut seen = None;
    loop {
        let left = GRACE.saturating_sub(ended.elapsed());
        match agent.directory.wait_change(port, seen.as_ref(), left) {
            Ok(entry) => {
                seen = Some(entry.filter(|entry| entry.shadow.as_ref() == Some(shadow))?);
                if left.is_zero() {
                    return seen;
                }
            }
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}

/// The shadow's process. Its number may be another's by now.
fn find(shadow: &Shadow) -> Option<Process> {
    let process = Process::find(shadow.host_pid)?;
    let arguments = process::arguments(shadow.host_pid);
    arguments
        .iter()
        .any(|word| word == "shadow")
        .then_some(process)
}

fn kill(agent: &Agent, port: PortId, entry: &Entry) {
    let node = &entry.location.node;
    let (job, rank) = (&entry.identity.job, entry.identity.rank);
    tracing::warn!("the shadow of rank {job}/{rank} has died; the rank on {node} is killed");
    if node == agent.node() {
        kill_here(agent, port, entry.epoch);
    } else {
        remote::tell_node(
            agent,
            node,
            FromPeer::Kill {
                port,
                epoch: entry.epoch,
            },
        );
    }
}

/// Kills a rank of this node whose shadow has died. It may not have registered here yet.
pub(super) fn kill_here(agent: &Agent, port: PortId, epoch: Epoch) {
    let Ok(Some(entry)) = agent.directory.lookup(port) else {
        return;
    };
    if entry.epoch == epoch && entry.location.node == *agent.node() {
        if let Some(process) = Process::find(entry.host_pid) {
            process.kill();
            process.has_ended(Some(GRACE));
        }
        let _ = agent.directory.request(&Request::Remove {
            port,
            epoch,
            ending: Ending::Died,
        });
    }
}

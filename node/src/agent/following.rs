//! Ranks that asked for one that is between two places: they are told as soon as it has one.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meander::PortId;
use meander::control::ToPort;
use meander_core::directory::Entry;

use super::Agent;

/// Ports that are waited for at a time; whoever asks for more of them asks again by himself.
const FOLLOWED: usize = 256;
/// How long one that does not arrive is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The ports that are waited for, each with those who asked for it.
#[derive(Default)]
pub(super) struct Following {
    askers: Mutex<HashMap<PortId, BTreeSet<PortId>>>,
}

/// Tells `asker` where `port` is, once it is somewhere; `seen` is what was said of it.
pub(super) fn follow(agent: &Arc<Agent>, asker: PortId, port: PortId, seen: Entry) {
    {
        let mut askers = agent.following.lock();
        if let Some(others) = askers.get_mut(&port) {
            others.insert(asker);
            return;
        }
        if askers.len() >= FOLLOWED {
            return;
        }
        askers.insert(port, BTreeSet::from([asker]));
    }
    let agent = agent.clone();
    std::thread::spawn(move || {
        let found = wait(&agent, port, seen);
        let askers = agent.following.lock().remove(&port).unwrap_or_default();
        let Some(entry) = found else { return };
        let message = ToPort::Found {
            port,
            contact: Some(entry.contact(port)),
        };
        for rank in askers.iter().filter_map(|asker| agent.ranks.get(*asker)) {
            rank.tell(message.clone());
        }
    });
}

/// The entry once it has a place; `None` where it goes, or nothing comes of it.
fn wait(agent: &Agent, port: PortId, mut seen: Entry) -> Option<Entry> {
    let started = std::time::Instant::now();
    while started.elapsed() < PATIENCE {
        let left = PATIENCE.saturating_sub(started.elapsed());
        let entry = agent
            .directory
            .wait_change(port, Some(&seen), left)
            .ok()??;
        if !entry.location.cards.is_empty() {
            return Some(entry);
        }
        seen = entry;
    }
    None
}

impl Following {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PortId, BTreeSet<PortId>>> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

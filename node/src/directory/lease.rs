//! Holding a node's lease: while one of the agent and the owners of moves on a node lives, and
//! reaches the directory, the node counts as alive.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use meander::NodeName;

use super::Client;

/// Pause before a renewal that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Renews a node's lease from a thread of its own until it is dropped. The lease itself then runs
/// out in its own time: whoever else holds it may go on.
pub struct Lease {
    /// The thread ends when this is dropped; nobody waits for a question it is in the middle of.
    _stop: mpsc::Sender<()>,
}

impl Lease {
    /// Begins, and does not wait for the first renewal.
    pub fn hold(directory: &Arc<Client>, node: &NodeName) -> Lease {
        let (stop, stopped) = mpsc::channel();
        let (directory, node) = (directory.clone(), node.clone());
        let thread = std::thread::Builder::new().name("lease".into());
        let started = thread.spawn(move || {
            let mut pause = Duration::ZERO;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = renew(&directory, &node);
            }
        });
        if let Err(error) = started {
            tracing::warn!("no thread to hold the lease: {error}");
        }
        Lease { _stop: stop }
    }
}

/// Returns the pause until the next time: three renewals fit into a lease.
fn renew(directory: &Client, node: &NodeName) -> Duration {
    match directory.hold_lease(node) {
        Ok(()) => directory.lease() / 3,
        Err(error) => {
            tracing::debug!("renewing the lease of {node}: {error}");
            RETRY.min(directory.lease() / 3)
        }
    }
}

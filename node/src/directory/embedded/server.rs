//! The directory's process: `meander directory serve`, started by the agent of its node.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use meander::{Key, NodeName};

use super::handover::{self, Parts};
use super::state::Shared;
use super::store::Store;
use super::wire::{Question, Role};
use crate::Error;
use crate::cluster::Cluster;
use crate::net::secure::{self, Secure};

/// Serves the cluster with this key on this node, detached from the agent that started it, until
/// the listener fails or a change can't be made durable.
pub fn start(cluster: &Cluster, key: &Key, node: &NodeName, store: &Path) -> Result<(), Error> {
    // Fails where it leads a session already, which is as good.
    let _ = nix::unistd::setsid();
    // The file first: whoever has it open is the directory, and a second one ends here.
    let store = Store::open(store)?;
    let address = cluster.directory_address(node)?;
    let listener = TcpListener::bind(address).map_err(Error::io(format!(
        "listening for the directory on {address}"
    )))?;
    let shared = Shared::open(cluster.clone(), key.clone(), node.clone(), store)?;
    let shared = Arc::new(shared);
    if matches!(shared.lock().role, Role::Taking { .. }) {
        handover::find_out_later(&shared);
    }
    tracing::info!("the directory's process serves on {address}");
    let error = secure::serve(&listener, key, move |secure| converse(&shared, secure));
    Err(Error::Io {
        operation: format!("taking connections on {address}"),
        source: error,
    })
}

fn converse(shared: &Arc<Shared>, mut peer: Secure) {
    let mut parts = Parts::default();
    while let Ok(question) = peer.receive::<Question>(None) {
        let answer = shared.answer(question, &mut parts);
        if peer.send(&answer).is_err() {
            break;
        }
    }
}

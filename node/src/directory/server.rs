//! The directory's process: `meander directory`, started by the agent of its node.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use meander::Key;
use meander_core::directory::{Directory, Reply, Request};

use super::store::Store;
use crate::Error;
use crate::cluster::Cluster;
use crate::keyfile;
use crate::net::secure::{self, Secure};

/// Where the directory's file is: in `$MEANDER_STATE_DIR`, or in `/var/lib/meander`. A cluster with
/// another key is another cluster, and begins with an empty directory.
fn default_store(key: &Key) -> PathBuf {
    let directory = std::env::var_os("MEANDER_STATE_DIR")
        .map_or_else(|| "/var/lib/meander".into(), PathBuf::from);
    directory.join(format!("directory-{}.redb", keyfile::fingerprint(key)))
}

/// `meander directory`: serves the cluster of this file with this key, detached from the agent that
/// started it.
pub fn start(cluster: &Path, key: &Path, store: Option<PathBuf>) -> Result<(), Error> {
    // Fails where it leads a session already, which is as good.
    let _ = nix::unistd::setsid();
    let cluster = Cluster::read(cluster)?;
    let key = keyfile::read(key)?;
    let store = store.unwrap_or_else(|| default_store(&key));
    run(&cluster, &key, &store)
}

/// Serves until the listener fails, or a change can't be made durable.
fn run(cluster: &Cluster, key: &Key, store: &Path) -> Result<(), Error> {
    // The file first: whoever has it open is the directory, and a second one ends here.
    let store = Store::open(store)?;
    let address = cluster.directory_address()?;
    let listener = TcpListener::bind(address).map_err(Error::io(format!(
        "listening for the directory on {address}"
    )))?;
    let directory = Directory::from_records(store.records()?);
    tracing::info!("the directory serves on {address}");
    let shared = Arc::new(Mutex::new((directory, store)));
    let error = secure::serve(&listener, key, move |secure| converse(&shared, secure));
    Err(Error::Io {
        operation: format!("taking connections on {address}"),
        source: error,
    })
}

fn converse(shared: &Mutex<(Directory, Store)>, mut peer: Secure) {
    while let Ok(request) = peer.receive::<Request>(None) {
        let reply = answer(shared, request);
        if peer.send(&reply).is_err() {
            break;
        }
    }
}

/// Answers when the change is on the disk. `[R23]`
fn answer(shared: &Mutex<(Directory, Store)>, request: Request) -> Reply {
    let mut shared = shared.lock().expect("nothing panics while answering");
    let (directory, store) = &mut *shared;
    let (reply, change) = directory.handle(request);
    if let Some(Err(error)) = change.map(|change| store.apply(&change)) {
        // Memory and disk differ now. What was not answered may be forgotten; what was is on
        // the disk, and the next process reads it there.
        tracing::error!("{error}; the directory stops");
        std::process::exit(1);
    }
    reply
}

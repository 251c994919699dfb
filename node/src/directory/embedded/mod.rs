//! The directory in a process of its own, with a file of its own: `meander directory serve`.
//!
//! ```text
//! Connection --- Question / Answer (Noise over TCP) ---> server: State = core's Directory + Store
//! ```
//!
//! One node *holds* it, in a *term*; a hand-over ([`Connection::hand_over`]) ends one term and begins
//! the next on another node. A node that held it goes on telling who does. Whoever asks learns from
//! that, or asks all nodes, and keeps what he learned in a file ([`Places`]).

mod connection;
mod handover;
mod place;
pub mod server;
mod state;
mod store;
mod wire;

pub use connection::Connection;
pub use place::{Place, Places};
pub use store::Store;
pub use wire::{Role, role_at};

use std::path::PathBuf;

use meander::Key;

use crate::keyfile;

/// Where the directory's file is by default. A cluster with another key is another cluster, and
/// begins with an empty directory.
pub fn default_store(key: &Key) -> PathBuf {
    state_dir().join(format!("directory-{}.redb", keyfile::fingerprint(key)))
}

/// `$MEANDER_STATE_DIR`, or `/var/lib/meander`.
fn state_dir() -> PathBuf {
    std::env::var_os("MEANDER_STATE_DIR").map_or_else(|| "/var/lib/meander".into(), PathBuf::from)
}

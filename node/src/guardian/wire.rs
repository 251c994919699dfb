//! What a guardian and its rank's shadow say to each other, on one message stream.

use std::time::Duration;

use meander::{Config, Key, NodeName};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Ended;

/// The service of the stream; the guardian listens for it.
pub(crate) const SERVICE: u32 = 3;
/// Bytes of one piece of a standard stream.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of stdin that may be on their way to the rank.
pub(crate) const STDIN_WINDOW_BYTES: u64 = 256 * 1024;
/// Bytes of output that may be on their way to the shadow.
pub(crate) const OUTPUT_WINDOW_BYTES: u64 = 1024 * 1024;
/// How long the other may be out of reach: as good as for ever, since its death is told by agents
/// and a move may take its time.
const PEER_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// From the shadow.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToRank {
    /// The launcher wrote this to the rank's stdin.
    Stdin(Vec<u8>),
    /// The launcher has closed it.
    StdinEnd,
    /// The launcher, or a user, sent this signal.
    Signal(i32),
    /// So many bytes of output have been written.
    Taken(u64),
    /// The shadow was killed: the launcher has counted the rank as dead.
    ShadowDied,
}

/// To the shadow.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToShadow {
    /// The rank wrote this to descriptor 1 or 2.
    Output {
        /// Which.
        fd: u8,
        /// What.
        bytes: Vec<u8>,
    },
    /// The rank has so many bytes of stdin, or its pipe has.
    StdinTaken(u64),
    /// The rank has ended, and all it wrote came before this.
    Ended(Ended),
}

/// What either side's port is opened with.
pub(crate) fn port_config(key: Key, node: Option<NodeName>) -> Result<Config, meander::Error> {
    let mut config = Config::from_env(key)?;
    config.limits.peer_timeout = PEER_TIMEOUT;
    config.node = node.unwrap_or_default();
    Ok(config)
}

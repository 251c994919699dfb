//! A move, carried out: the effects of `meander_core::moves`.
//!
//! [`source`] is `meander move-source`, which owns a move where the rank is; [`destination`] is
//! `meander guardian`, which restores the rank and stays with it. Both are processes in sessions of
//! their own and need no agent once they run.

pub mod destination;
mod hearing;
pub(crate) mod image;
mod journal;
pub(crate) mod pause;
mod report;
pub mod source;
pub mod verdict;

pub use journal::Journal;

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use meander::{Config, Key, Limits, NodeName, PortId, TcpConfig, TransportKind};
use meander_core::directory::Entry;
use meander_core::moves::Trouble;
use meander_core::{MoveId, Time};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};

use crate::agent::Offer;
use crate::cluster::Cluster;
use crate::{Error, checkpoint, logs};

/// The service of the messages between mover and guardian.
const CONTROL_SERVICE: u32 = 1;
/// The service of the image.
const IMAGE_SERVICE: u32 = 2;
/// What the owner of a move is told by the agent that starts it. No secrets: they are in files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The cluster file.
    pub cluster: PathBuf,
    /// The directory, where it is not the cluster file's.
    pub directory: Option<String>,
    /// The cluster key's file.
    pub key: PathBuf,
    /// This node.
    pub node: NodeName,
    /// The destination.
    pub to: NodeName,
    /// The rank's port.
    pub port: PortId,
    /// This attempt.
    pub move_id: MoveId,
    /// The attempt to take the rank back, should its copy be lost.
    pub reclaim_id: MoveId,
    /// What is known of the rank.
    pub entry: Entry,
}

/// What a guardian is told by the agent that starts it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GuardianOrder {
    /// The cluster file.
    pub cluster: PathBuf,
    /// The directory, where it is not the cluster file's.
    pub directory: Option<String>,
    /// The cluster key's file.
    pub key: PathBuf,
    /// The rank that comes.
    pub offer: Offer,
    /// Largest image to take in, in bytes.
    pub image_limit_bytes: Option<u64>,
}

/// The clock of one side of a move.
struct Clock(Instant);

impl Clock {
    fn start() -> Clock {
        Clock(Instant::now())
    }

    fn now(&self) -> Time {
        Time(self.0.elapsed().as_nanos() as u64)
    }
}

/// The set-up of the port that one move's streams are on.
fn port_config(cluster: &Cluster, node: &NodeName, key: Key) -> Result<Config, Error> {
    let mut config = Config::new(key);
    config.node = node.clone();
    config.limits = Limits {
        peer_timeout: hearing::PEER_TIMEOUT,
        ..Limits::default()
    };
    // Agents talk over TCP: their ports come and go with each move.
    config.transports = Some(vec![TransportKind::Tcp]);
    config.tcp.bind = vec![address_of(cluster, node)?];
    config.tcp.encryption = TcpConfig::encryption_from_env()
        .map_err(Error::stream("setting up the streams of a move"))?;
    Ok(config)
}

fn address_of(cluster: &Cluster, node: &NodeName) -> Result<IpAddr, Error> {
    Ok(cluster.address(node)?.ip())
}

/// Where the image of a move lies: in `$MEANDER_IMAGE_DIR`, or in `/dev/shm`.
pub(crate) fn image_path(move_id: MoveId, side: &str) -> PathBuf {
    let parent = std::env::var_os("MEANDER_IMAGE_DIR")
        .map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    parent.join(format!("meander-{move_id}-{side}"))
}

/// Makes the directory of an image, which is nobody else's.
fn image_directory(move_id: MoveId, side: &str) -> Result<PathBuf, Error> {
    use std::os::unix::fs::DirBuilderExt;
    let path = image_path(move_id, side);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .map_err(Error::io(format!("making {}", path.display())))?;
    Ok(path)
}

/// Makes this process independent of the agent that started it, and gives what that passed as
/// standard input and output; `/dev/null` takes their place.
fn detach() -> Result<(OwnedFd, OwnedFd), Error> {
    let starting = || Error::io("detaching from the agent");
    let input = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(starting())?;
    let output = std::io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map_err(starting())?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(starting())?;
    for target in [0, 1] {
        nix::unistd::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), target)
            .map_err(|errno| starting()(errno.into()))?;
    }
    // A leader of a session without a terminal gets the first one that it opens, and would be hung
    // up with it. Ours are opened so that they are not taken; what CRIU opens is not in our hands.
    let mut hangup = SigSet::empty();
    hangup.add(Signal::SIGHUP);
    hangup
        .thread_block()
        .map_err(|errno| starting()(errno.into()))?;
    // Fails where it leads a session already, which is as good.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/").map_err(starting())?;
    Ok((input, output))
}

/// For what leaves a log beside the image: the log is kept.
fn failed(images: &Path, error: checkpoint::Error) -> Trouble {
    let trouble = trouble(error);
    Trouble {
        what: logs::keep(images, &trouble.what),
        mend: trouble.mend,
    }
}

fn trouble(error: checkpoint::Error) -> Trouble {
    Error::from(error).into()
}

//! `meander agent`: the daemon of a node.
//!
//! It knows the ranks of its node (`ranks`), keeps them listed in the directory, starts moves
//! (`departure`) and lets ranks of other nodes in (`admission`). It owns nothing that a move
//! depends on: movers and guardians are processes of their own, ranks connect again by
//! themselves, and the directory is a process of its own, so it may be killed at any time.

mod admission;
mod departure;
mod following;
mod keeper;
mod local;
mod nodes;
mod ranks;
mod remote;
mod seats;
mod shadows;

use std::collections::HashSet;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meander::control::{agent_socket, run_dir};
use meander::{Key, NodeName, PortId};

use crate::cluster::Cluster;
use crate::directory::{Client, Lease};
use crate::net::secure;
use crate::{Error, keyfile};

pub use remote::{FromPeer, Offer, ToPeer, tell};

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster file.
    pub cluster: PathBuf,
    /// The directory, where it is not the cluster file's: a node, or `etcd://host:port,...`.
    pub directory: Option<String>,
    /// The cluster key's file.
    pub key: PathBuf,
    /// The node it serves.
    pub node: NodeName,
    /// Largest image it takes in, in bytes; without it only free memory bounds it.
    pub memory_limit_bytes: Option<u64>,
    /// The directory's file, should this node hold it.
    pub store: Option<PathBuf>,
}

/// A running agent.
struct Agent {
    config: Config,
    cluster: Cluster,
    key: Key,
    directory: Arc<Client>,
    keeper: keeper::Keeper,
    ranks: ranks::Ranks,
    nodes: nodes::Nodes,
    following: following::Following,
    /// The shadows that are watched: their ranks' ports and their processes.
    shadows: Mutex<HashSet<(PortId, u32)>>,
}

/// Serves until a listener fails.
pub fn run(config: Config) -> Result<(), Error> {
    let cluster = Cluster::read(&config.cluster)?.with_directory(config.directory.as_deref())?;
    let key = keyfile::read(&config.key)?;
    let address = cluster.address(&config.node)?;
    let peers = TcpListener::bind(address).map_err(Error::io(format!(
        "listening for other agents on {address}"
    )))?;
    let directory = Arc::new(Client::new(&cluster, &key));
    let agent = Arc::new(Agent {
        config,
        cluster,
        key,
        directory,
        keeper: keeper::Keeper::default(),
        ranks: ranks::Ranks::default(),
        nodes: nodes::Nodes::default(),
        following: following::Following::default(),
        shadows: Mutex::default(),
    });

    keeper::start(&agent)?;
    let _lease = Lease::hold(&agent.directory, agent.node());
    // Last: whoever finds the socket finds an agent that can answer.
    let users = listen_locally()?;
    shadows::start(&agent);
    departure::recover_orphans();
    let serving = agent.clone();
    std::thread::spawn(move || {
        let error = secure::serve(&peers, &serving.key.clone(), {
            let agent = serving.clone();
            move |peer| remote::serve(&agent, peer)
        });
        tracing::error!("taking connections of other agents: {error}");
        std::process::exit(1);
    });
    tracing::info!("agent of node {} serves on {address}", agent.config.node);
    loop {
        match users.accept() {
            Ok((stream, _)) => local::take(&agent, stream),
            Err(error) if secure::is_passing(&error) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => {
                return Err(Error::io("taking connections of this node's processes")(
                    error,
                ));
            }
        }
    }
}

impl Agent {
    fn node(&self) -> &NodeName {
        &self.config.node
    }
}

/// The socket of this node's ranks and users. One that a killed agent left behind is replaced; one
/// that answers is another agent's.
fn listen_locally() -> Result<UnixListener, Error> {
    let path = agent_socket();
    let directory = run_dir();
    std::fs::create_dir_all(&directory)
        .map_err(Error::io(format!("making {}", directory.display())))?;
    if UnixStream::connect(&path).is_ok() {
        let taken = std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            "another agent serves this node (MEANDER_RUN_DIR names another directory)",
        );
        return Err(Error::io(format!("listening on {}", path.display()))(taken));
    }
    let _ = std::fs::remove_file(&path);
    let listener =
        UnixListener::bind(&path).map_err(Error::io(format!("listening on {}", path.display())))?;
    // Any user may talk to the agent; what he may do, his uid on the socket says.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(Error::io(
        format!("opening {} to all users", path.display()),
    ))?;
    Ok(listener)
}

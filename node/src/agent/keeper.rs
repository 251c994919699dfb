//! Keeping the directory's process alive, on every node that holds the directory or has held it.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meander::NodeName;
use meander_core::moves::Trouble;

use super::Agent;
use crate::cluster::Holder;
use crate::directory::embedded::{self, Connection, Place, Places};
use crate::{Error, logs};

/// How often it is looked after.
const PERIOD: Duration = Duration::from_millis(500);
/// How long a directory that was just started may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether this node runs the directory's process.
#[derive(Default)]
pub(super) struct Keeper {
    wanted: AtomicBool,
}

/// Starts the process where this node needs one and none runs, waits until it answers, and starts
/// it again whenever it ends. It outlives the agent.
pub(super) fn start(agent: &Arc<Agent>) -> Result<(), Error> {
    if !matches!(agent.cluster.holder(), Holder::Node(_)) {
        return Ok(());
    }
    // A node that held it once goes on telling who does.
    let holds = Places::open(&agent.cluster, &agent.key).last().node == *agent.node();
    let wanted = holds || store(agent).exists();
    agent.keeper.wanted.store(wanted, Ordering::Relaxed);
    let kept = agent.clone();
    std::thread::spawn(move || keep(&kept));
    if wanted {
        wait_until_it_answers(agent)?;
    }
    Ok(())
}

/// Has this node run the directory's process from now on, and waits until it answers.
pub(super) fn start_one(agent: &Agent) -> Result<(), Error> {
    agent.keeper.wanted.store(true, Ordering::Relaxed);
    wait_until_it_answers(agent)
}

/// Has the holder hand the directory over to this node, whose agent runs a process already.
pub(super) fn hand_over(agent: &Agent, to: &NodeName) -> Result<Place, Error> {
    connection(agent)?.hand_over(to)
}

/// Where the directory is.
pub(super) fn place(agent: &Agent) -> Result<Place, Error> {
    connection(agent)?.place()
}

fn connection(agent: &Agent) -> Result<Connection, Error> {
    match agent.cluster.holder() {
        Holder::Node(_) => Ok(Connection::new(agent.cluster.clone(), agent.key.clone())),
        Holder::Etcd(members) => {
            let why = format!("the directory is in etcd ({})", members.join(", "));
            Err(Trouble::new(why)
                .mend("etcd has commands of its own for that")
                .into())
        }
    }
}

fn wait_until_it_answers(agent: &Agent) -> Result<(), Error> {
    let started = Instant::now();
    while !answers(agent) {
        if started.elapsed() > START_TIMEOUT {
            let why = format!("see {}", logs::path("directory").display());
            return Err(Error::NoDirectory { why });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Starts it as often as it ends: one that was killed a moment ago may still have the file.
fn keep(agent: &Agent) {
    let mut child: Option<Child> = None;
    loop {
        if let Some(process) = &mut child
            && matches!(process.try_wait(), Ok(Some(_)))
        {
            child = None;
        }
        let wanted = agent.keeper.wanted.load(Ordering::Relaxed);
        if wanted && child.is_none() && !answers(agent) {
            tracing::info!("the directory's process is not there; starting it");
            match launch(agent) {
                Ok(process) => child = Some(process),
                Err(error) => tracing::error!("{error}"),
            }
        }
        std::thread::sleep(PERIOD);
    }
}

/// Whether a process of this node answers, whatever it says.
fn answers(agent: &Agent) -> bool {
    embedded::role_at(&agent.cluster, &agent.key, agent.node()).is_ok()
}

fn store(agent: &Agent) -> std::path::PathBuf {
    let given = agent.config.store.clone();
    given.unwrap_or_else(|| embedded::default_store(&agent.key))
}

fn launch(agent: &Agent) -> Result<Child, Error> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["directory", "serve", "--node"])
        .arg(&agent.node().0)
        .arg("--cluster")
        .arg(&agent.config.cluster)
        .arg("--key")
        .arg(&agent.config.key)
        .arg("--store")
        .arg(store(agent));
    if let Some(directory) = &agent.config.directory {
        command.arg("--directory").arg(directory);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(logs::open("directory"))
        .spawn()
        .map_err(Error::io("starting the directory"))
}

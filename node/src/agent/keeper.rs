//! Keeping the directory's process alive, on the node that holds it.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meander_core::directory::Request;

use super::Agent;
use crate::{Error, logs};

/// How often it is looked after.
const PERIOD: Duration = Duration::from_millis(500);
/// How long a directory that was just started may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the directory if none is running, waits until it answers, and starts it again whenever
/// it ends. It outlives the agent.
pub fn start(agent: &Arc<Agent>) -> Result<(), Error> {
    let mut child = None;
    if !answers(agent) {
        child = Some(launch(agent)?);
        let started = Instant::now();
        while !answers(agent) {
            if started.elapsed() > START_TIMEOUT {
                let why = format!("see {}", logs::path("directory").display());
                return Err(Error::NoDirectory { why });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let agent = agent.clone();
    std::thread::spawn(move || keep(&agent, child));
    Ok(())
}

fn keep(agent: &Agent, mut child: Option<Child>) {
    loop {
        std::thread::sleep(PERIOD);
        if let Some(process) = &mut child
            && matches!(process.try_wait(), Ok(Some(_)))
        {
            child = None;
        }
        if child.is_none() && !answers(agent) {
            tracing::warn!("the directory is gone; starting it again");
            match launch(agent) {
                Ok(process) => child = Some(process),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }
}

fn answers(agent: &Agent) -> bool {
    // A port that nobody has: the cheapest question there is.
    let question = Request::Lookup {
        port: meander::PortId(0),
    };
    agent.directory.request(&question).is_ok()
}

fn launch(agent: &Agent) -> Result<Child, Error> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("directory");
    command
        .arg("--cluster")
        .arg(&agent.config.cluster)
        .arg("--key")
        .arg(&agent.config.key);
    if let Some(store) = &agent.config.store {
        command.arg("--store").arg(store);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(logs::open("directory"))
        .spawn()
        .map_err(Error::io("starting the directory"))
}

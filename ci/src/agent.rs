//! The agents of a lab: `meander agent` on each node, with a cluster file and a key of the lab's own.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::Lab;
use crate::state::{Incarnation, wait_until};

/// The port on which agents listen for each other.
pub const AGENT_PORT: u16 = 7117;
/// Where an agent listens for the ranks and users of its node.
pub const AGENT_SOCKET: &str = "/run/meander/agent.sock";
/// How long an agent may take until it listens.
const READY_LIMIT: Duration = Duration::from_secs(20);

impl Lab {
    /// Starts an agent on every node and waits until all of them listen.
    pub fn start_agents(&self) -> Result<()> {
        self.artifacts().check()?;
        self.write_cluster()?;
        for node in self.nodes() {
            self.launch_agent(&node.name, &[], &[])?;
        }
        self.nodes()
            .iter()
            .try_for_each(|node| self.wait_for_agent(&node.name))
    }

    /// Starts the agent of one node, with further options and variables, and waits until it listens.
    pub fn start_agent(
        &self,
        node: &str,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<()> {
        self.write_cluster()?;
        self.launch_agent(node, options, environment)?;
        self.wait_for_agent(node)
    }

    /// Ends a node's agent by a signal, and waits until it is gone. What the agent started is left alone.
    pub fn stop_agent(&self, node: &str, signal: Signal) -> Result<()> {
        let agent = self
            .agent(node)
            .with_context(|| format!("node {node} has no agent"))?;
        let pid = Pid::from_raw(agent.pid as i32).context("bad pid")?;
        kill_process(pid, signal).context("cannot signal the agent")?;
        let child = self
            .agents
            .lock()
            .ok()
            .and_then(|mut agents| agents.remove(node));
        if let Some(mut child) = child {
            child.wait()?;
        }
        wait_until(&format!("the agent of {node} to end"), READY_LIMIT, || {
            (!agent.alive()).then_some(())
        })
    }

    /// The process of a node's agent, while it runs.
    pub fn agent(&self, node: &str) -> Option<Incarnation> {
        Incarnation::load(&self.agent_file(node, "pid")).filter(|agent| agent.alive())
    }

    /// What a node's agent wrote.
    pub fn agent_log(&self, node: &str) -> String {
        fs::read(self.agent_file(node, "log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Writes the cluster file and the key where they are missing.
    pub fn write_cluster(&self) -> Result<()> {
        let first = self.nodes().first().context("a lab has a node")?;
        let mut text = format!("directory = {:?}\n", first.name);
        for node in self.nodes() {
            let address = format!("{}:{AGENT_PORT}", node.address());
            text += &format!("\n[nodes.{}]\naddress = {address:?}\n", node.name);
        }
        let cluster = self.dir().join("cluster.toml");
        if !cluster.exists() {
            fs::write(&cluster, text).context("cannot write the cluster file")?;
        }
        let key = self.dir().join("cluster.key");
        if !key.exists() {
            let made = self
                .command(&first.name, self.artifacts().meander())
                .args(["key", "--key"])
                .arg(&key)
                .output()
                .context("cannot run meander key")?;
            if !key.exists() {
                bail!(
                    "meander key: {}",
                    String::from_utf8_lossy(&made.stderr).trim()
                );
            }
        }
        Ok(())
    }

    fn launch_agent(
        &self,
        node: &str,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<()> {
        if self.agent(node).is_some() {
            bail!("node {node} has an agent already");
        }
        // A socket left by an agent that was killed would look like a listening one for a moment.
        let _ = fs::remove_file(self.node(node).path_from_outside(AGENT_SOCKET));
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.agent_file(node, "log"))?;
        let child = self
            .command(node, self.artifacts().meander())
            .arg("agent")
            .arg("--cluster")
            .arg(self.dir().join("cluster.toml"))
            .arg("--key")
            .arg(self.dir().join("cluster.key"))
            .args(["--node", node])
            .args(options)
            .env("MEANDER_STATE_DIR", self.node(node).dir().join("state"))
            .envs(environment.iter().copied())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start the agent")?;
        Incarnation::of(child.id())?.save(&self.agent_file(node, "pid"))?;
        if let Ok(mut agents) = self.agents.lock() {
            agents.insert(node.into(), child);
        }
        Ok(())
    }

    fn wait_for_agent(&self, node: &str) -> Result<()> {
        let socket = self.node(node).path_from_outside(AGENT_SOCKET);
        let listening = wait_until(
            &format!("the agent of {node} to listen"),
            READY_LIMIT,
            || {
                let ended = self
                    .agents
                    .lock()
                    .ok()?
                    .get_mut(node)?
                    .try_wait()
                    .ok()?
                    .is_some();
                let up = UnixStream::connect(&socket).is_ok();
                (up || ended).then_some(up)
            },
        );
        if !matches!(listening, Ok(true)) {
            bail!(
                "the agent of {node} does not listen; it wrote:\n{}",
                self.agent_log(node)
            );
        }
        Ok(())
    }

    fn agent_file(&self, node: &str, what: &str) -> PathBuf {
        self.node(node).dir().join(format!("agent.{what}"))
    }
}

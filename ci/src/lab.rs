//! A lab: nodes on one bridge, brought up together and taken down together.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::artifacts::Artifacts;
use crate::mpirun::Mpirun;
use crate::node::{self, Node};
use crate::state::{Incarnation, check_name, lab_dir};
use crate::teardown;

/// Most nodes a lab can have: their number is the last byte of the address.
pub const NODES_MAX: usize = 200;

const RSH_AGENT: &str = include_str!("../scripts/rsh-agent.sh");

/// A set of nodes. Dropping it ends everything that runs in them, and leaves nothing behind.
pub struct Lab {
    name: String,
    dir: PathBuf,
    nodes: Vec<Node>,
    artifacts: Artifacts,
    keep: bool,
    holders: Vec<Child>,
    pub(crate) agents: Mutex<BTreeMap<String, Child>>,
}

impl Lab {
    /// Brings up a lab. What an earlier lab of the same name left is cleared away first; one that a
    /// living process still uses is refused.
    pub fn up(name: &str, nodes: &[&str]) -> Result<Lab> {
        let mut lab = Lab::describe(name, nodes)?;
        if !rustix::process::geteuid().is_root() {
            bail!("a lab makes namespaces, which only root may: run this as root or through sudo");
        }
        if let Some(owner) = Incarnation::load(&lab.dir.join("owner"))
            && owner.pid != std::process::id()
            && owner.alive()
        {
            bail!(
                "lab {name} is in use by process {}; give yours another name",
                owner.pid
            );
        }
        teardown::lab_down(&lab.dir)
            .with_context(|| format!("clearing away the old lab {name}"))?;
        lab.build()
            .with_context(|| format!("bringing up lab {name}"))?;
        Ok(lab)
    }

    /// A lab that is up already, made by another process. Dropping this value leaves it up.
    pub fn find(name: &str) -> Result<Lab> {
        check_name("lab", name)?;
        let list = fs::read_to_string(lab_dir(name).join("nodes"))
            .with_context(|| format!("lab {name} is not up: `cargo xtask lab up` makes it"))?;
        let names: Vec<&str> = list
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let mut lab = Lab::describe(name, &names)?;
        lab.keep = true;
        lab.nodes.iter_mut().try_for_each(Node::find)?;
        Ok(lab)
    }

    /// Leaves the lab up when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        let _ = fs::remove_file(self.dir.join("owner"));
    }

    /// Takes the lab down, and says what went wrong where dropping it would only print that.
    pub fn down(mut self) -> Result<()> {
        self.keep = true;
        self.end()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of its state, which nodes see at the same path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of that name. Panics where there is none: a scenario's own mistake.
    pub fn node(&self, name: &str) -> &Node {
        self.try_node(name).expect("a node of this lab")
    }

    /// The node of that name.
    pub fn try_node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .with_context(|| {
                let all: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
                format!(
                    "lab {} has no node {name:?}; it has {}",
                    self.name,
                    all.join(", ")
                )
            })
    }

    /// Our own programs, as this lab runs them.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// A command inside a node. `mpirun`, `meander` and the programs of Meander's build are found there,
    /// and `mpirun --host a:2,b:2` spans the nodes with no other option.
    pub fn command(&self, node: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.node(node).command(program);
        command.envs(self.environment());
        command.env_remove("LD_PRELOAD");
        command
    }

    /// An `mpirun` started on the first of `hosts`, with `slots` ranks on each of them.
    pub fn mpirun(&self, hosts: &[&str], slots: u32) -> Mpirun<'_> {
        Mpirun::new(self, hosts, slots)
    }

    /// What a command in a node has in its environment besides the caller's.
    pub fn environment(&self) -> Vec<(String, String)> {
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}:/usr/sbin:/sbin", self.artifacts.dir().display());
        let rsh_agent = self.dir.join("rsh-agent").display().to_string();
        let mut all = vec![
            ("PATH".into(), path),
            ("MEANDER_LAB".into(), self.name.clone()),
            ("OMPI_ALLOW_RUN_AS_ROOT".into(), "1".into()),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM".into(), "1".into()),
        ];
        let parameters = [
            ("plm_rsh_agent", rsh_agent.as_str()),
            ("oob_tcp_if_include", node::INTERFACE),
            ("btl_tcp_if_include", node::INTERFACE),
            ("btl", "self,vader,tcp"),
            // More ranks than cores are the rule here, and the second node's daemon sees only its own.
            ("mpi_yield_when_idle", "1"),
            ("hwloc_base_binding_policy", "none"),
            ("rmaps_base_oversubscribe", "1"),
        ];
        all.extend(parameters.map(|(name, value)| (format!("OMPI_MCA_{name}"), value.into())));
        all
    }

    fn describe(name: &str, nodes: &[&str]) -> Result<Lab> {
        check_name("lab", name)?;
        if nodes.is_empty() || nodes.len() > NODES_MAX {
            bail!("a lab has 1 to {NODES_MAX} nodes, not {}", nodes.len());
        }
        let dir = lab_dir(name);
        let mut list: Vec<Node> = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            check_name("node", node)?;
            if list.iter().any(|other| other.name == *node) {
                bail!("node {node} is named twice");
            }
            list.push(Node::new(&dir, node, index as u8 + 1));
        }
        Ok(Lab {
            name: name.into(),
            dir,
            nodes: list,
            artifacts: Artifacts::locate(),
            keep: false,
            holders: Vec::new(),
            agents: Mutex::default(),
        })
    }

    fn build(&mut self) -> Result<()> {
        let dir = &self.dir;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Incarnation::of(std::process::id())?.save(&dir.join("owner"))?;
        let mut hosts = String::from("127.0.0.1 localhost\n");
        let mut list = String::new();
        for node in &self.nodes {
            hosts += &format!("{} {}\n", node.address(), node.name);
            list += &format!("{} {}\n", node.name, node.address());
        }
        fs::write(dir.join("hosts"), hosts)?;
        fs::write(dir.join("nodes"), list)?;
        let rsh_agent = dir.join("rsh-agent");
        fs::write(&rsh_agent, RSH_AGENT)?;
        fs::set_permissions(&rsh_agent, fs::Permissions::from_mode(0o755))?;
        node::hub_up(dir)?;
        for node in &mut self.nodes {
            self.holders.push(node.up(&self.name, dir)?);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let result = teardown::lab_down(&self.dir);
        let agents = self
            .agents
            .get_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        for mut child in agents.into_values().chain(self.holders.drain(..)) {
            let _ = child.wait();
        }
        result
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = self.end() {
            eprintln!("lab {}: {error:#}", self.name);
        }
    }
}

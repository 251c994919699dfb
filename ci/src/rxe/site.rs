//! Where the scenarios of `ci/tests/rxe` run, so that each is written once: on virtual machines, or in
//! namespaces of a machine whose own kernel has soft-RoCE.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::host;
use super::{Rxe, Shared};

/// A directory for files of scenarios, on each node its own.
pub const FILES_DIR: &str = "/run/rxe";

/// Nodes with RDMA devices.
pub enum Site {
    /// Each with a kernel, network cards and a device of its own.
    Machines(Rxe),
    /// With one device, which all of them share.
    Shared(Shared),
}

impl Site {
    /// The names of the nodes.
    pub fn nodes(&self) -> Vec<&str> {
        match self {
            Site::Machines(lab) => lab.nodes().collect(),
            Site::Shared(shared) => {
                let nodes = shared.lab().nodes().iter();
                nodes.map(|node| node.name.as_str()).collect()
            }
        }
    }

    /// The device's name on every node.
    pub fn device(&self) -> &str {
        match self {
            Site::Machines(_) => super::DEVICE,
            Site::Shared(_) => host::DEVICE,
        }
    }

    /// The index of its RoCE v2 address for IPv4.
    pub fn gid_index(&self) -> &str {
        match self {
            Site::Machines(_) => super::GID_INDEX,
            Site::Shared(shared) => shared.gid_index(),
        }
    }

    /// A command on a node, with our build in the PATH.
    pub fn command(&self, node: &str, words: &[&str]) -> Result<Command> {
        match self {
            Site::Machines(lab) => lab.command(node, words),
            Site::Shared(shared) => shared.command(node, words),
        }
    }

    /// Runs a command on a node and gives what it printed; a failure says what that was.
    pub fn run(&self, node: &str, words: &[&str]) -> Result<String> {
        output(node, words, self.command(node, words)?)
    }

    /// A command that runs a program on one rank on each of these nodes, with these options of
    /// mpirun's besides, under the shim or the MPI library alone.
    pub fn mpirun(
        &self,
        nodes: &[&str],
        shim: bool,
        options: &[&str],
        program: &[&str],
    ) -> Result<Command> {
        match self {
            Site::Machines(lab) => lab.mpirun(nodes, shim, options, program),
            Site::Shared(shared) => shared.mpirun(nodes, shim, options, program),
        }
    }

    /// Starts an agent on every node, and waits until each answers.
    pub fn start_agents(&self) -> Result<()> {
        match self {
            Site::Machines(lab) => lab.start_agents(),
            Site::Shared(shared) => shared.lab().start_agents(),
        }
    }

    /// The last words of a machine that has ended by itself, where one has: its kernel crashed.
    pub fn crashed(&self) -> Option<String> {
        match self {
            Site::Machines(lab) => lab.crashed(),
            Site::Shared(_) => None,
        }
    }
}

/// Runs what is a node's command of these words; see [`Site::run`].
pub(super) fn output(node: &str, words: &[&str], mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let words = words.join(" ");
        bail!("{words} on {node}: {}\n{text}{errors}", output.status);
    }
    Ok(text)
}

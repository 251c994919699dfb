//! Nodes that are namespaces of this machine, and share the one soft-RoCE device of its own kernel.

use std::process::Command;

use anyhow::{Context, Result};

use super::host::{self, HostDevice};
use super::site::FILES_DIR;
use crate::Lab;

/// A lab of namespaces whose nodes see [`host::DEVICE`].
pub struct Shared {
    lab: Lab,
    device: HostDevice,
}

impl Shared {
    /// Makes the device and the nodes.
    pub fn up(name: &str, nodes: &[&str]) -> Result<Shared> {
        let device = HostDevice::make()?;
        let lab = Lab::up(name, nodes)?;
        for node in nodes {
            std::fs::create_dir_all(lab.node(node).path_from_outside(FILES_DIR))?;
        }
        Ok(Shared { lab, device })
    }

    pub(super) fn lab(&self) -> &Lab {
        &self.lab
    }

    pub(super) fn gid_index(&self) -> &str {
        &self.device.gid_index
    }

    pub(super) fn command(&self, node: &str, words: &[&str]) -> Result<Command> {
        let (program, rest) = words.split_first().context("no command")?;
        self.lab.try_node(node)?;
        let mut command = self.lab.command(node, program);
        command.args(rest);
        Ok(command)
    }

    /// The same as [`Rxe::mpirun`](super::Rxe::mpirun).
    pub(super) fn mpirun(
        &self,
        nodes: &[&str],
        shim: bool,
        options: &[&str],
        program: &[&str],
    ) -> Result<Command> {
        let hosts: Vec<String> = nodes.iter().map(|node| format!("{node}:1")).collect();
        let (ranks, hosts) = (hosts.len().to_string(), hosts.join(","));
        let preload = format!("LD_PRELOAD={}", self.lab.artifacts().shim().display());
        // This machine may have other devices.
        let device = format!("MEANDER_VERBS_DEVICE={}", host::DEVICE);
        let mut words = vec!["mpirun", "-np", &ranks, "--host", &hosts, "-x", &device];
        if shim {
            words.extend(["-x", &preload]);
        }
        words.extend(options);
        words.extend(program);
        self.command(nodes[0], &words)
    }
}

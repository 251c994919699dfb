//! Where a comparison runs: on two machines of a lab, or on this one with a device of its own.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::tools::Ends;
use crate::artifacts::Artifacts;
use crate::rxe::host::{self, HostDevice};
use crate::rxe::{self, Rxe};

/// The machine that serves, and the one that measures.
pub const SERVER: &str = "a";
pub const CLIENT: &str = "b";

/// Where.
pub enum Site {
    /// Two machines.
    Machines(Rxe),
    /// Two processes of this one.
    Host(Host),
}

/// This machine.
pub struct Host {
    device: HostDevice,
    artifacts: Artifacts,
    key: String,
}

impl Site {
    /// Boots two machines.
    pub fn machines(name: &str) -> Result<Site> {
        let lab = Rxe::up(name, &[SERVER, CLIENT])?;
        for node in lab.nodes() {
            lab.run(node, &["modprobe", "rdma_ucm"])?; // For rsockets.
        }
        Ok(Site::Machines(lab))
    }

    /// Makes a device here.
    pub fn host() -> Result<Site> {
        let device = HostDevice::make()?;
        let artifacts = Artifacts::locate();
        artifacts.check()?;
        let key = format!("/run/meander-compare.{}.key", std::process::id());
        let made = Command::new(artifacts.meander())
            .args(["key", "--key", &key])
            .output()?;
        ensure!(
            made.status.success(),
            "meander key: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        Ok(Site::Host(Host {
            device,
            artifacts,
            key,
        }))
    }

    /// The two ends.
    pub fn ends<'a>(&'a self, transport: &'a str) -> Ends<'a> {
        match self {
            Site::Machines(_) => Ends {
                device: rxe::DEVICE,
                gid_index: rxe::GID_INDEX,
                rdma_address: "10.78.1.1",
                address: "10.78.2.1",
                client_address: "10.78.2.2",
                transport,
                key: "/etc/meander/cluster.key",
            },
            Site::Host(host) => Ends {
                device: host::DEVICE,
                gid_index: &host.device.gid_index,
                rdma_address: host::ADDRESS,
                address: "127.0.0.1",
                client_address: "127.0.0.1",
                transport,
                key: &host.key,
            },
        }
    }

    /// A command at one end, with our build in the PATH.
    pub fn command(&self, node: &str, words: &[&str]) -> Result<Command> {
        match self {
            Site::Machines(lab) => lab.command(node, words),
            Site::Host(host) => {
                let (program, rest) = words.split_first().context("no command")?;
                let ours = host.artifacts.dir().display();
                let path = std::env::var("PATH").unwrap_or_default();
                let mut command = Command::new(program);
                command.args(rest).env("PATH", format!("{ours}:{path}"));
                Ok(command)
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.key);
    }
}

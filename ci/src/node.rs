//! One node of the netns lab: its namespaces, its place on the bridge, and the way in.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::state::wait_until;

/// The name of a node's network interface.
pub const INTERFACE: &str = "eth0";
/// The bridge that joins the nodes, in the lab's hub namespace.
pub const BRIDGE: &str = "br0";
/// How far apart the uptimes of neighbouring nodes are, in seconds. Restoring a process on a node
/// whose clock is behind is what makes CRIU need a time namespace.
pub const UPTIME_STEP_S: u64 = 100_000;
/// How long a node's set-up may take.
const SETUP_LIMIT: Duration = Duration::from_secs(20);

const NODE_SCRIPT: &str = include_str!("../scripts/node.sh");

/// A node of a lab.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its host name.
    pub name: String,
    /// Its number, from 1.
    pub number: u8,
    /// The process that holds its namespaces open; 0 until it is up.
    pub holder: u32,
    dir: PathBuf,
}

impl Node {
    /// Describes a node whose files are under `lab_dir`.
    pub fn new(lab_dir: &Path, name: &str, number: u8) -> Node {
        Node {
            name: name.into(),
            number,
            holder: 0,
            dir: lab_dir.join(name),
        }
    }

    /// Its address on the lab's bridge.
    pub fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// Its directory in the lab's state.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The end of its cable that is in the hub.
    pub fn hub_port(&self) -> String {
        format!("port{}", self.number)
    }

    /// A path as the node sees it, for use from outside.
    pub fn path_from_outside(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.holder))
    }

    /// Makes the namespaces and plugs the node in. The child must be kept until the node is down.
    pub fn up(&mut self, lab: &str, lab_dir: &Path) -> Result<Child> {
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot make {}", self.dir.display()))?;
        let script = self.dir.join("setup.sh");
        fs::write(&script, NODE_SCRIPT)?;
        let log_path = self.dir.join("setup.log");
        let log = File::create(&log_path).context("cannot make a log file")?;
        let uptime = u64::from(self.number) * UPTIME_STEP_S;
        let mut child = Command::new("unshare")
            .args([
                "--net",
                "--uts",
                "--mount",
                "--time",
                "--fork",
                "--propagation",
                "private",
            ])
            .args([
                "--boottime",
                &uptime.to_string(),
                "--monotonic",
                &uptime.to_string(),
            ])
            .args(["--", "bash"])
            .arg(&script)
            .args([lab, &self.name])
            .arg(lab_dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot run unshare (Debian package util-linux)")?;
        let pid_file = self.dir.join("pid");
        let ready = wait_until(
            &format!("node {} to come up", self.name),
            SETUP_LIMIT,
            || {
                if let Ok(Some(status)) = child.try_wait() {
                    return Some(Err(status));
                }
                fs::read_to_string(&pid_file)
                    .ok()?
                    .trim()
                    .parse()
                    .ok()
                    .map(Ok)
            },
        )?;
        match ready {
            Ok(pid) => self.holder = pid,
            Err(status) => {
                let log = fs::read_to_string(&log_path).unwrap_or_default();
                bail!(
                    "node {} did not come up ({status}): {}",
                    self.name,
                    log.trim()
                );
            }
        }
        self.plug_in(lab_dir)?;
        Ok(child)
    }

    /// Finds a node that is up.
    pub fn find(&mut self) -> Result<()> {
        let pid = fs::read_to_string(self.dir.join("pid"))
            .with_context(|| format!("node {} is not up", self.name))?;
        self.holder = pid.trim().parse().context("bad pid file")?;
        Ok(())
    }

    /// A command that runs inside the node, in the caller's working directory.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.to_string()]);
        command.args(["--net", "--uts", "--mount", "--time"]);
        let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
        command.arg(format!("--wdns={}", here.display()));
        command.arg("--").arg(program);
        command
    }

    fn plug_in(&self, lab_dir: &Path) -> Result<()> {
        let pin = self.dir.join("net");
        pin_namespace(&format!("/proc/{}/ns/net", self.holder), &pin)?;
        let hub = hub_namespace(lab_dir);
        let port = self.hub_port();
        let holder = self.holder.to_string();
        let link = [
            "link", "add", &port, "type", "veth", "peer", "name", INTERFACE, "netns", &holder,
        ];
        ip(&hub, &link)?;
        ip(&hub, &["link", "set", &port, "master", BRIDGE, "up"])?;
        ip(
            &pin,
            &[
                "addr",
                "add",
                &format!("{}/24", self.address()),
                "dev",
                INTERFACE,
            ],
        )?;
        ip(&pin, &["link", "set", INTERFACE, "up"])
    }
}

/// The file that holds the network namespace of the bridge.
pub fn hub_namespace(lab_dir: &Path) -> PathBuf {
    lab_dir.join("hub.net")
}

/// Makes the bridge, in a namespace of its own that lives until its mount is taken away.
pub fn hub_up(lab_dir: &Path) -> Result<()> {
    let hub = hub_namespace(lab_dir);
    File::create(&hub).context("cannot make the hub's file")?;
    let mut pin = Command::new("unshare");
    pin.arg(format!("--net={}", hub.display()))
        .args(["--", "true"]);
    run(pin, "making the hub's network namespace")?;
    ip(
        &hub,
        &[
            "link",
            "add",
            BRIDGE,
            "type",
            "bridge",
            "forward_delay",
            "0",
            "stp_state",
            "0",
        ],
    )?;
    ip(&hub, &["link", "set", BRIDGE, "up"])
}

/// Runs `ip ARGS` in the network namespace that `namespace` names.
pub fn ip(namespace: &Path, args: &[&str]) -> Result<()> {
    in_network(namespace, "ip", args)
}

/// Runs a network tool in the network namespace that `namespace` names.
pub fn in_network(namespace: &Path, tool: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", namespace.display()))
        .arg("--")
        .arg(tool)
        .args(args);
    run(command, &format!("{tool} {}", args.join(" ")))
}

fn pin_namespace(namespace: &str, pin: &Path) -> Result<()> {
    File::create(pin).with_context(|| format!("cannot make {}", pin.display()))?;
    let mut mount = Command::new("mount");
    mount.args(["--bind", namespace]).arg(pin);
    run(mount, "holding a network namespace by a mount")
}

fn run(mut command: Command, what: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| {
        format!(
            "{what}: cannot run {:?}; `cargo xtask setup` installs it",
            command.get_program()
        )
    })?;
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

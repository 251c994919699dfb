//! The rxe lab: nodes are virtual machines with real soft-RoCE, in plain emulation.
//!
//! Each boots Debian 13's kernel on the host's own userland (read only, a tmpfs on top), so that
//! every program is there at its path. It has three network cards: `rdma0`, with the RDMA device
//! `rxe0` on it, and `tcp0`, each on a [`hub`] of their own with the other machines' cards; and
//! `host0`, by which this process reaches its ssh server over loopback, and which leads nowhere else.
//!
//! Emulation proves correctness; its times mean something only as ratios within one run, and roughly.

pub mod host;
pub mod hub;
mod machine;
mod shared;
mod site;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::machine::Machine;
pub use self::shared::Shared;
pub use self::site::{FILES_DIR, Site};
use crate::artifacts::{Artifacts, source_root};
use crate::state::{Incarnation, check_name, wait_until};

/// Where every rxe lab of this machine has its directory.
pub const LABS_DIR: &str = "/run/meander-rxe";
/// The RDMA device of every machine, and the index of its RoCE v2 address for IPv4.
pub(crate) const DEVICE: &str = "rxe0";
pub(crate) const GID_INDEX: &str = "1";
/// Most machines of a lab: each takes memory and a good part of a processor.
pub const MACHINES_MAX: usize = 8;
/// How long a machine may take to boot on a busy host.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long the emulator may take to end when its machine has crashed.
const CRASH_LIMIT: Duration = Duration::from_secs(30);
/// The script that makes kernel, modules and initramfs.
const KERNEL_SCRIPT: &str = "ci/kernel-tree.sh";
/// The remote shell for `mpirun`, on the machines.
pub const RSH_AGENT_PATH: &str = "/run/rxe/rsh-agent";
const RSH_AGENT: &str = "#!/bin/sh\nnode=$1 && shift && HOME=/run/rxe exec dbclient -i /run/rxe/key root@$node \"$*\"\n";
const GUEST_SCRIPT: &str = include_str!("../../scripts/rxe-guest.sh");

/// Virtual machines on two hubs. Dropping it ends them.
pub struct Rxe {
    dir: PathBuf,
    machines: Vec<Machine>,
    artifacts: Artifacts,
    keep: bool,
}

impl Rxe {
    /// Boots machines of these names. A lab of the same name is taken down before.
    pub fn up(name: &str, nodes: &[&str]) -> Result<Rxe> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "only root may share the whole file system with a machine: run this as root or by sudo"
        );
        ensure!(
            (1..=MACHINES_MAX).contains(&nodes.len()),
            "{} machines: an rxe lab has 1 to {MACHINES_MAX}",
            nodes.len()
        );
        let mut lab = Rxe::describe(name, nodes)?;
        lab.keep = false;
        lab.take_down();
        lab.build()
            .with_context(|| format!("bringing up rxe lab {name}"))?;
        Ok(lab)
    }

    /// A lab that another process has brought up. Dropping this value leaves it up.
    pub fn find(name: &str) -> Result<Rxe> {
        check_name("lab", name)?;
        let list = fs::read_to_string(Path::new(LABS_DIR).join(name).join("nodes"))
            .with_context(|| format!("rxe lab {name} is not up: `cargo xtask rxe up` boots it"))?;
        Rxe::describe(name, &list.lines().collect::<Vec<_>>())
    }

    fn describe(name: &str, nodes: &[&str]) -> Result<Rxe> {
        check_name("lab", name)?;
        let dir = Path::new(LABS_DIR).join(name);
        let machines = nodes.iter().zip(1..).map(|(node, number)| {
            check_name("node", node)?;
            Ok(Machine::new(&dir, node, number))
        });
        Ok(Rxe {
            machines: machines.collect::<Result<_>>()?,
            dir,
            artifacts: Artifacts::locate(),
            keep: true,
        })
    }

    /// Leaves the machines running when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The names of the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.machines.iter().map(|machine| machine.name.as_str())
    }

    /// Logs and state.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command on a node: over ssh, with the words as they are given, and our build in the PATH.
    pub fn command(&self, node: &str, words: &[&str]) -> Result<Command> {
        let machine = self.machines.iter().find(|machine| machine.name == node);
        let machine = machine.with_context(|| format!("the lab has no node {node}"))?;
        let path = format!(
            "PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.artifacts.dir().display()
        );
        let set = [
            "env",
            &path,
            "OMPI_ALLOW_RUN_AS_ROOT=1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
        ];
        let quoted = set.iter().chain(words).map(|word| quote(word));
        let mut command = machine.ssh()?;
        command.arg(quoted.collect::<Vec<_>>().join(" "));
        Ok(command)
    }

    /// Runs a command on a node and gives what it printed; a failure says what that was.
    pub fn run(&self, node: &str, words: &[&str]) -> Result<String> {
        site::output(node, words, self.command(node, words)?)
    }

    /// The last words of a machine that has ended by itself, where one has: its kernel crashed. Its
    /// emulator takes a moment to end after that, so that each machine ends or answers first.
    pub fn crashed(&self) -> Option<String> {
        self.machines.iter().find_map(|machine| {
            let answered = wait_until("a machine to answer", CRASH_LIMIT, || machine.answers());
            answered.ok()?.err().map(|words| words.to_string())
        })
    }

    /// Starts an agent on every machine, and waits until each answers. Its log there is
    /// `/run/rxe/agent.log`.
    pub fn start_agents(&self) -> Result<()> {
        let script = "setsid meander agent </dev/null >/run/rxe/agent.log 2>&1 &";
        for node in self.nodes() {
            self.run(node, &["sh", "-c", script])?;
        }
        for node in self.nodes() {
            wait_until(&format!("the agent of {node}"), BOOT_LIMIT, || {
                self.run(node, &["meander", "ps"]).ok()
            })?;
        }
        Ok(())
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
        let hosts: Vec<String> = nodes.iter().map(|node| format!("{node}:1")).collect();
        let (ranks, hosts) = (hosts.len().to_string(), hosts.join(","));
        let preload = format!("LD_PRELOAD={}", self.artifacts.shim().display());
        let mut words = vec!["mpirun", "--mca", "plm_rsh_agent", RSH_AGENT_PATH];
        words.extend(["--mca", "btl_tcp_if_include", "tcp0"]);
        words.extend(["--mca", "oob_tcp_if_include", "tcp0"]);
        words.extend(["-np", &ranks, "--host", &hosts]);
        if shim {
            words.extend(["-x", &preload]);
        }
        words.extend(options);
        words.extend(program);
        self.command(nodes[0], &words)
    }

    /// Ends the machines and forgets the lab.
    pub fn down(mut self) {
        self.keep = false;
    }

    fn build(&self) -> Result<()> {
        let kernel = kernel_tree()?;
        let guest = self.dir.join("guest");
        fs::create_dir_all(&guest)?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700))?;
        let names: Vec<&str> = self.nodes().collect();
        fs::write(self.dir.join("nodes"), names.join("\n") + "\n")?;
        fs::write(guest.join("guest.sh"), GUEST_SCRIPT)?;
        fs::write(guest.join("hosts"), self.hosts())?;
        let agent = guest.join("rsh-agent");
        fs::write(&agent, RSH_AGENT)?;
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))?;
        fs::write(guest.join("key.pub"), make_key(&guest.join("key"))?)?;
        let host_key = make_key(&guest.join("host-key"))?;
        let names = self.nodes().chain(["127.0.0.1"]);
        let known: String = names.map(|name| format!("{name} {host_key}")).collect();
        fs::create_dir_all(guest.join(".ssh"))?;
        fs::write(guest.join(".ssh/known_hosts"), known)?;
        fs::write(guest.join("cluster.toml"), self.cluster())?;
        self.make_cluster_key(&guest.join("cluster.key"))?;
        hub::start(&self.dir)?;
        for machine in &self.machines {
            machine.start(&kernel)?;
        }
        self.machines.iter().try_for_each(|machine| {
            wait_until(&format!("{} to boot", machine.name), BOOT_LIMIT, || {
                machine.answers()
            })
            .and_then(|answer| answer)
        })
    }

    /// The agents' cluster file; they talk over the network without RDMA.
    fn cluster(&self) -> String {
        let mut text = format!("directory = {:?}\n", self.machines[0].name);
        for machine in &self.machines {
            let (name, number) = (&machine.name, machine.number);
            text += &format!("[nodes.{name}]\naddress = \"10.78.2.{number}:7117\"\n");
        }
        text
    }

    fn make_cluster_key(&self, path: &Path) -> Result<()> {
        self.artifacts.check()?;
        let made = Command::new(self.artifacts.meander())
            .args(["key", "--key"])
            .arg(path)
            .output()?;
        let errors = String::from_utf8_lossy(&made.stderr);
        ensure!(path.exists(), "meander key: {errors}");
        Ok(())
    }

    fn hosts(&self) -> String {
        let mut hosts = String::from("127.0.0.1 localhost\n");
        for machine in &self.machines {
            let (name, number) = (&machine.name, machine.number);
            hosts += &format!("10.78.2.{number} {name}\n10.78.1.{number} {name}-rdma\n");
        }
        hosts
    }

    fn take_down(&self) {
        let pids = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in pids.filter(|entry| entry.file_name().to_string_lossy().ends_with(".pid")) {
            if let Some(process) = Incarnation::load(&entry.path()) {
                end(process);
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Rxe {
    fn drop(&mut self) {
        if !self.keep {
            self.take_down();
        }
    }
}

fn end(process: Incarnation) {
    let pid = i32::try_from(process.pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid.filter(|_| process.alive()) else {
        return;
    };
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    // A child of ours stays as a zombie until it is waited for.
    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
}

/// Kernel, modules and initramfs; made where they are missing.
fn kernel_tree() -> Result<PathBuf> {
    let output = Command::new("bash")
        .arg(source_root().join(KERNEL_SCRIPT))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run bash")?;
    ensure!(output.status.success(), "{KERNEL_SCRIPT} failed");
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}

/// Makes a key in a file, and gives its public half.
fn make_key(path: &Path) -> Result<String> {
    let output = Command::new("dropbearkey")
        .args(["-t", "ed25519", "-f"])
        .arg(path)
        .output()
        .context(
            "cannot run dropbearkey: `cargo xtask rxe up` installs it (Debian: dropbear-bin)",
        )?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Type and key, without the comment.
    let line = text.lines().find(|line| line.starts_with("ssh-"));
    let words = line.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
    words.map(|words| words + "\n").with_context(|| {
        format!(
            "dropbearkey: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// For the shell at the other end of ssh.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_pass_a_shell_unchanged() {
        for word in ["plain", "two words", "it's", "$HOME `x` \"y\"", ""] {
            let script = format!("printf %s {}", quote(word));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}

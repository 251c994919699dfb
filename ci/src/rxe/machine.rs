//! One machine of the rxe lab: a QEMU process.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::hub;
use crate::state::Incarnation;

const MEMORY: &str = "1536M";
/// All that the emulator knows but what costs time in it. With erms and fsrm kernel and libc copy by
/// `rep movsb`, which it does byte by byte; la57 lengthens walks of the page table, smap stands around
/// every access of the kernel to a program's memory.
const PROCESSOR: &str = "max,-erms,-fsrm,-smap,-la57";
/// There is nobody in these machines to keep out; a return in the place of every indirect call is slow.
/// With the processor above, copying through a pipe takes less than half the time, 8 bytes to and fro over
/// verbs three quarters.
const NO_HARDENING: &str = "mitigations=off init_on_alloc=0";

/// A machine, running or not. Its files in the lab's directory: `NAME.pid`, `NAME.port` (where ssh
/// is reached on loopback), `NAME.console` and `NAME.qemu`, what kernel and emulator have to say.
pub(super) struct Machine {
    pub name: String,
    /// The last byte of its addresses.
    pub number: u8,
    dir: PathBuf,
}

impl Machine {
    pub fn new(dir: &Path, name: &str, number: u8) -> Machine {
        Machine {
            name: name.to_owned(),
            number,
            dir: dir.to_owned(),
        }
    }

    pub fn start(&self, kernel: &Path) -> Result<()> {
        let port = free_port()?;
        fs::write(self.file("port"), port.to_string())?;
        let (name, number) = (&self.name, self.number);
        let lab = self.dir.display();
        let modules = kernel.join("modules");
        let words = format!(
            "console=ttyS0 quiet panic=-1 {NO_HARDENING} lab={lab} node={name} number={number} modules={}",
            modules.display()
        );
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-cpu", PROCESSOR, "-m", MEMORY])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .arg("-serial")
            .arg(format!("file:{}", self.file("console").display()))
            .arg("-kernel")
            .arg(kernel.join("vmlinuz"))
            .arg("-initrd")
            .arg(kernel.join("initramfs"))
            .args(["-append", &words, "-device", "virtio-rng-pci", "-virtfs"])
            .arg("local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap");
        let host = format!(
            "user,id=host,restrict=on,net=10.78.{}.0/24,hostfwd=tcp:127.0.0.1:{port}-:22",
            100 + number
        );
        let mut card = |netdev: String, id: &str, mac: String| {
            let device = format!("virtio-net-pci,netdev={id},mac={mac}");
            qemu.args(["-netdev", &netdev, "-device", &device]);
        };
        card(host, "host", format!("52:54:00:00:00:{number:02x}"));
        for (network, byte) in hub::NETWORKS.iter().zip(1..) {
            let socket = hub::socket(&self.dir, network);
            let netdev = format!(
                "stream,id={network},server=off,addr.type=unix,addr.path={}",
                socket.display()
            );
            card(
                netdev,
                network,
                format!("52:54:00:00:{byte:02x}:{number:02x}"),
            );
        }
        let errors = File::create(self.file("qemu"))?;
        let started = qemu
            .stdin(Stdio::null())
            .stdout(errors.try_clone()?)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .context("cannot run qemu-system-x86_64 (Debian: qemu-system-x86)")?;
        Incarnation::of(started.id())?.save(&self.file("pid"))
    }

    /// Whether it has booted; an error when it never will.
    pub fn answers(&self) -> Option<Result<()>> {
        let tried = self.ssh().and_then(|mut ssh| {
            let quiet = ssh.arg("true").stdin(Stdio::null()).stderr(Stdio::null());
            Ok(quiet.status()?)
        });
        match tried {
            Ok(status) if status.success() => Some(Ok(())),
            Err(error) => Some(Err(error)),
            Ok(_) => self.last_words().map(|words| Err(anyhow!(words))),
        }
    }

    /// A remote shell there, that takes the command line as its last argument.
    pub fn ssh(&self) -> Result<Command> {
        let port = fs::read_to_string(self.file("port"))
            .with_context(|| format!("{} was not started", self.name))?;
        let mut ssh = Command::new("dbclient");
        // There it finds the host keys it may trust.
        ssh.env("HOME", self.dir.join("guest"))
            .arg("-i")
            .arg(self.dir.join("guest/key"))
            .args(["-p", port.trim(), "root@127.0.0.1"]);
        Ok(ssh)
    }

    fn has_ended(&self) -> bool {
        let Some(process) = Incarnation::load(&self.file("pid")) else {
            return true;
        };
        // A child of ours that has ended stays, as a zombie, until it is waited for.
        if let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        !process.alive()
    }

    /// What it said last, if it has ended.
    pub fn last_words(&self) -> Option<String> {
        if !self.has_ended() {
            return None;
        }
        let said = |what| fs::read_to_string(self.file(what)).unwrap_or_default();
        let text = said("console") + &said("qemu");
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(15)..].join("\n");
        Some(format!("machine {} has ended:\n{last}", self.name))
    }

    fn file(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", self.name))
    }
}

/// A port of loopback that nobody listens at now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

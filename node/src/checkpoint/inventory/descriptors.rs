//! What the open descriptors of a process say of whether it can move.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;

use super::{Findings, Obstacle, PathKind, others, proc};
use crate::checkpoint::limits::GHOST_BYTES_MAX;
use proc::Descriptor;

/// Kernel objects without a name that CRIU carries.
const CARRIED: [&str; 4] = ["[eventfd]", "[eventpoll]", "[timerfd]", "[signalfd]"];
/// Kernel objects that a port may own while it is on the fabric.
const OF_A_PORT: [&str; 2] = ["[userfaultfd]", "[infinibandevent]"];
/// Character devices without state.
const PLAIN_DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

pub(super) fn look(pid: Pid, open: &[Descriptor], findings: &mut Findings) {
    for descriptor in open {
        if descriptor.locked {
            let what = format!("a file lock on {}", descriptor.target);
            findings.obstacles.push(obstacle(descriptor, what));
        }
        look_at(pid, descriptor, findings);
    }
}

fn look_at(pid: Pid, descriptor: &Descriptor, findings: &mut Findings) {
    let target = descriptor.target.as_str();
    if target.starts_with("pipe:[") || target.starts_with("/dev/pts/") {
        return; // see `Channels`
    }
    if target.starts_with("socket:[") {
        let what = socket(pid, target);
        findings.until_suspended.push(obstacle(descriptor, what));
    } else if let Some(kind) = target.strip_prefix("anon_inode:") {
        if OF_A_PORT.contains(&kind) {
            findings
                .until_suspended
                .push(obstacle(descriptor, format!("a {kind} object")));
        } else if !CARRIED.contains(&kind) {
            findings
                .obstacles
                .push(obstacle(descriptor, named_object(kind)));
        }
    } else if target.starts_with("/dev/infiniband/") {
        let what = format!("the verbs device {target}");
        findings.until_suspended.push(obstacle(descriptor, what));
    } else if target.starts_with('/') {
        file(pid, descriptor, findings);
    } else {
        findings.obstacles.push(obstacle(
            descriptor,
            format!("{target}, which can't be carried"),
        ));
    }
}

fn named_object(kind: &str) -> String {
    match kind {
        "inotify" | "[inotify]" | "[fanotify]" => "a watch on files (inotify, fanotify)".to_owned(),
        "[pidfd]" => "a handle of another process (pidfd)".to_owned(),
        other => format!("a kernel object {other}, which can't be carried"),
    }
}

fn file(pid: Pid, descriptor: &Descriptor, findings: &mut Findings) {
    let target = descriptor.target.as_str();
    let link = descriptor.link(pid);
    let Ok(metadata) = fs::metadata(&link) else {
        return;
    };
    let kind = metadata.file_type();
    let path = PathBuf::from(target);
    if kind.is_char_device() || kind.is_block_device() {
        match PLAIN_DEVICES.contains(&target) {
            true => findings.need(path, PathKind::Device),
            false => findings
                .obstacles
                .push(obstacle(descriptor, device(target))),
        }
    } else if kind.is_fifo() {
        let what = format!("the named pipe {target}, whose other end stays here");
        findings.obstacles.push(obstacle(descriptor, what));
    } else if kind.is_dir() {
        findings.need(path, PathKind::Directory);
    } else if let Some(name) = target.strip_suffix(" (deleted)") {
        deleted(pid, descriptor, name, metadata.len(), findings);
    } else if is_on_tmpfs(&link) {
        let what = format!("{target}, a file in this node's memory (node-local path)");
        findings.obstacles.push(obstacle(descriptor, what));
    } else {
        let kind = match descriptor.writes() {
            true => PathKind::Output {
                inode: metadata.ino(),
            },
            false => PathKind::Input {
                size_bytes: metadata.len(),
            },
        };
        findings.need(path, kind);
    }
}

/// A file without a name lives on in the image, where nobody else has it and it is not too big.
fn deleted(
    pid: Pid,
    descriptor: &Descriptor,
    name: &str,
    size_bytes: u64,
    findings: &mut Findings,
) {
    let identity = |path: &Path| fs::metadata(path).ok().map(|data| (data.dev(), data.ino()));
    let wanted = identity(&descriptor.link(pid));
    let sharers = others(pid, |other| {
        let open = proc::descriptors(other).unwrap_or_default();
        let same = open.iter().filter(|one| one.target == descriptor.target);
        same.map(|one| identity(&one.link(other)))
            .any(|found| found == wanted)
    });
    if !sharers.is_empty() {
        let what = format!(
            "the deleted file {name}, shared with process {}",
            sharers[0]
        );
        findings.obstacles.push(obstacle(descriptor, what));
    } else if size_bytes > GHOST_BYTES_MAX && !name.starts_with("/memfd:") {
        let what = format!("the deleted file {name} of {size_bytes} bytes, too big to carry");
        findings.obstacles.push(obstacle(descriptor, what));
    }
}

fn device(path: &str) -> String {
    let gpu = ["/dev/nvidia", "/dev/dri/", "/dev/kfd"];
    match gpu.iter().any(|prefix| path.starts_with(prefix)) {
        true => format!("the GPU device {path}"),
        false => format!("the device {path}"),
    }
}

fn is_on_tmpfs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// What kind of socket it is.
fn socket(pid: Pid, target: &str) -> String {
    let inode = target.trim_start_matches("socket:[").trim_end_matches(']');
    for (table, kind) in [
        ("tcp", "a TCP socket"),
        ("tcp6", "a TCP socket"),
        ("udp", "a UDP socket"),
        ("udp6", "a UDP socket"),
        ("unix", "a Unix socket"),
        ("netlink", "a netlink socket"),
    ] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.split_whitespace().any(|word| word == inode));
        if let Some(line) = line {
            let words: Vec<&str> = line.split_whitespace().collect();
            let path = words
                .get(7)
                .filter(|_| table == "unix")
                .map(|path| format!(" {path}"));
            return format!("{kind} of its own{}", path.unwrap_or_default());
        }
    }
    "a socket of its own".to_owned()
}

fn obstacle(descriptor: &Descriptor, what: String) -> Obstacle {
    Obstacle::Descriptor {
        fd: descriptor.fd,
        what,
    }
}

//! Taking a lab down: its processes, its mounts, its files, and nothing else's.
//!
//! A process belongs to the lab when it is in one of the network namespaces that the lab's mounts
//! hold. That also finds what an agent restored into a pid namespace of its own, and what outlived
//! a crash; and it cannot name a stranger, since the mount keeps the namespace's number from being used again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long killed processes may take to go.
const DEATH_LIMIT: Duration = Duration::from_secs(20);
/// `f_type` of a namespace file (statfs(2)).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Takes down the lab whose state is in `dir`; nothing to do where there is none.
pub fn lab_down(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let pins = pins(dir);
    end_processes(&pins)?;
    for mount in mounts_under(dir)? {
        let status = Command::new("umount").arg("-l").arg(&mount).status();
        status.with_context(|| format!("cannot unmount {}", mount.display()))?;
    }
    let left = mounts_under(dir)?;
    if !left.is_empty() {
        bail!("still mounted: {left:?}");
    }
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

/// The pids of every process in the lab whose state is in `dir`.
pub fn members(dir: &Path) -> Vec<u32> {
    members_of(&pins(dir))
}

/// What the threads of the lab's processes wait for, a line each, for whoever looks into a hang.
pub fn what_they_do(dir: &Path) -> String {
    let mut text = String::from("the lab's threads (program, pid, thread, where in the kernel):");
    for pid in members(dir) {
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
            let (name, place) = (read("comm"), read("wchan"));
            let number = thread.file_name().to_string_lossy().into_owned();
            text += &format!("\n  {} {pid} {number} {place}", name.trim());
        }
    }
    text
}

/// A namespace: device and inode of its file.
type Namespace = (u64, u64);

fn pins(dir: &Path) -> Vec<Namespace> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let candidates = entries
        .map(|entry| entry.path().join("net"))
        .chain([dir.join("hub.net")]);
    candidates.filter_map(|path| pinned(&path)).collect()
}

fn pinned(path: &Path) -> Option<Namespace> {
    // After a reboot the file is there, but no namespace is mounted on it.
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    let meta = fs::metadata(path).ok()?;
    (kind as u64 == NSFS_MAGIC).then(|| (meta.dev(), meta.ino()))
}

fn members_of(pins: &[Namespace]) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|meta| pins.contains(&(meta.dev(), meta.ino())))
    })
    .collect()
}

fn end_processes(pins: &[Namespace]) -> Result<()> {
    let start = Instant::now();
    let mut cgroups = BTreeSet::new();
    loop {
        let pids = members_of(pins);
        if pids.is_empty() {
            break;
        }
        for &pid in &pids {
            // A frozen process does not die before it is thawed.
            let frozen = freezers(pid);
            if let Some(pid) = Pid::from_raw(pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
            frozen.iter().for_each(|cgroup| thaw(cgroup));
            cgroups.extend(frozen);
        }
        if start.elapsed() > DEATH_LIMIT {
            bail!("processes that do not die: {pids:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Deepest first; one that others still use stays.
    for cgroup in cgroups.iter().rev().filter(|cgroup| is_ours(cgroup)) {
        let _ = fs::remove_dir(cgroup);
    }
    Ok(())
}

/// The freezer cgroups that a process is in, and their parents, below the root.
fn freezers(pid: u32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut all = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let root = match controllers {
            "" => unified_root(),
            list if list.split(',').any(|name| name == "freezer") => {
                "/sys/fs/cgroup/freezer".into()
            }
            _ => continue,
        };
        let relative = Path::new(path.trim_start_matches('/'));
        let below = relative
            .ancestors()
            .filter(|part| !part.as_os_str().is_empty());
        all.extend(below.map(|part| root.join(part)));
    }
    all.retain(|cgroup| is_ours(cgroup));
    all
}

fn unified_root() -> PathBuf {
    let hybrid = PathBuf::from("/sys/fs/cgroup/unified");
    if hybrid.exists() {
        hybrid
    } else {
        "/sys/fs/cgroup".into()
    }
}

fn is_ours(cgroup: &Path) -> bool {
    cgroup.to_string_lossy().contains("meander")
}

fn thaw(cgroup: &Path) {
    let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
    let _ = fs::write(cgroup.join("cgroup.freeze"), "0");
}

/// Mounts of this mount namespace at or under `dir`, the innermost first.
fn mounts_under(dir: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mount table")?;
    let targets = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from);
    let mut found: Vec<PathBuf> = targets.filter(|target| target.starts_with(dir)).collect();
    found.sort();
    found.reverse();
    Ok(found)
}

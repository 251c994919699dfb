//! What the memory map of a process says of whether it can move.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use nix::unistd::Pid;

use super::needs::code_identity;
use super::{Findings, Obstacle, PathKind, others, proc};
use proc::Mapping;

pub(super) fn look(pid: Pid, maps: &[Mapping], findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for mapping in maps {
        if !mapping.name.starts_with('/') && !mapping.name.starts_with("anon_inode:") {
            continue; // anonymous memory, the stack, the vDSO
        }
        // Several pieces of one file count once, the shared ones apart.
        if !seen.insert((mapping.identity.clone(), mapping.is_shared())) {
            continue;
        }
        match mapping.is_shared() {
            true => shared(pid, mapping, findings),
            false => private(pid, mapping, maps, findings),
        }
    }
}

fn shared(pid: Pid, mapping: &Mapping, findings: &mut Findings) {
    let name = mapping.name.as_str();
    let maps = |what: String| Obstacle::Mapping { what };
    if name.starts_with("/dev/zero") || name.starts_with("/memfd:CRIUMFD") {
        // Shared anonymous memory, and what a failed dump left.
    } else if name.starts_with("/SYSV") {
        findings
            .obstacles
            .push(maps(format!("the System V segment {name}")));
    } else if name.starts_with("anon_inode:") {
        findings
            .obstacles
            .push(maps(format!("{name}, which can't be carried")));
    } else if name.starts_with("/dev/infiniband/") {
        findings
            .until_suspended
            .push(maps(format!("the verbs device {name}")));
    } else if name.starts_with("/dev/nvidia") || name.starts_with("/dev/dri/") {
        findings
            .obstacles
            .push(maps(format!("the GPU device {name}")));
    } else if name.starts_with("/memfd:")
        || name.ends_with(" (deleted)")
        || name.starts_with("/dev/shm/")
    {
        segment(pid, mapping, findings);
    } else if name.starts_with("/dev/") {
        findings.obstacles.push(maps(format!("the device {name}")));
    } else if mapping.permissions.contains('w') {
        let what = format!("the file {name}, shared and writable (a foreign shared mapping)");
        findings.obstacles.push(maps(what));
    } else {
        private(pid, mapping, &[], findings);
    }
}

/// Memory shared by name or by inheritance: carried where nobody else maps it and it has no name.
fn segment(pid: Pid, mapping: &Mapping, findings: &mut Findings) {
    let name = mapping.name.as_str();
    let sharers = others(pid, |other| {
        let maps = proc::mappings(other).unwrap_or_default();
        maps.iter()
            .any(|one| one.identity == mapping.identity && one.name == mapping.name)
    });
    let sharer = sharers
        .first()
        .map(|pid| format!(", shared with process {pid}"));
    let has_name = !name.ends_with(" (deleted)");
    if sharer.is_some() || has_name {
        let what = format!(
            "the shared segment {name} (a foreign shared mapping{})",
            sharer.unwrap_or_default()
        );
        // A port's own segment looks like this too.
        findings.until_suspended.push(Obstacle::Mapping { what });
    }
}

/// A program, a library or a file that is read.
fn private(pid: Pid, mapping: &Mapping, maps: &[Mapping], findings: &mut Findings) {
    if let Some(name) = mapping.name.strip_suffix(" (deleted)") {
        let what = format!("{name}, which was deleted or replaced since it was started");
        findings.obstacles.push(Obstacle::Mapping { what });
        return;
    }
    if !findings.identify {
        return;
    }
    let path = PathBuf::from(&mapping.name);
    let here = PathBuf::from(format!("/proc/{pid}/root{}", mapping.name));
    let Ok(metadata) = fs::metadata(&here) else {
        return;
    };
    let size_bytes = metadata.len();
    let is_code = maps
        .iter()
        .any(|one| one.identity == mapping.identity && one.is_executable());
    match code_identity(&here).filter(|_| is_code) {
        Some(identity) => findings.need(
            path,
            PathKind::Code {
                size_bytes,
                identity,
            },
        ),
        None => findings.need(path, PathKind::Input { size_bytes }),
    }
}

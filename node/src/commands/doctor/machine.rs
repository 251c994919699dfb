//! What the machine brings: CRIU, kernel, limits, MPI, RDMA.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, getrlimit, getuid};

use super::Finding;
use crate::checkpoint;

/// Locked memory that RDMA wants at least, in bytes.
const MEMLOCK_BYTES: u64 = 1 << 30;
/// Descriptors that a rank with many peers wants.
const DESCRIPTORS: u64 = 4096;

/// Every check of the machine.
pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![
        user(),
        criu(),
        kernel(),
        freezer(),
        pidfd(),
        userfaultfd(),
        ptrace(),
        session(),
    ];
    findings.extend([
        image_space(),
        memlock(),
        descriptors(),
        mpi(),
        shim(),
        rdma(),
    ]);
    findings
}

fn user() -> Finding {
    match getuid().as_raw() {
        0 => Finding::ok("user", "root"),
        uid => Finding::warn(
            "user",
            format!("user {uid}; some checks need root"),
            "run `meander doctor` as root for a full answer; the agent itself must run as root",
        ),
    }
}

fn criu() -> Finding {
    let mend = "make one with ci/criu-tree.sh (`cargo xtask setup` runs it), or set MEANDER_CRIU; \
                CRIU 3.17 of Debian 12 fails on kernels newer than Debian 12's";
    let program = match checkpoint::criu_program() {
        Ok(program) => program,
        Err(error) => return Finding::fail("criu", error.to_string(), mend),
    };
    let version = match said(Command::new(&program).arg("--version")) {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(why) => return Finding::fail("criu", format!("{}: {why}", program.display()), mend),
    };
    let found = format!("{version} ({})", program.display());
    if !getuid().is_root() {
        return Finding::warn(
            "criu",
            found,
            "root can check that it works with this kernel",
        );
    }
    match said(Command::new(&program).arg("check")) {
        Ok(_) => Finding::ok("criu", found),
        Err(why) => Finding::fail("criu", format!("{found}: `criu check` says: {why}"), mend),
    }
}

fn kernel() -> Finding {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|word| word.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("Linux {release}");
    if version < (5, 9) {
        return Finding::fail("kernel", found, "Meander wants Linux 5.9 or newer");
    }
    Finding::ok("kernel", found)
}

fn freezer() -> Finding {
    let mend = "mount cgroup v2 at /sys/fs/cgroup, or cgroup v1's freezer at \
                /sys/fs/cgroup/freezer";
    let v1 = Path::new("/sys/fs/cgroup/freezer");
    let v2 = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let found = if v1.join("cgroup.procs").exists() {
        (v1.to_owned(), "cgroup v1 freezer")
    } else if let Some(path) = v2
        .into_iter()
        .find(|path| path.join("cgroup.controllers").exists())
    {
        (path, "cgroup v2")
    } else {
        return Finding::fail("freezer", "no control group can hold a process", mend);
    };
    let (path, kind) = found;
    if getuid().is_root() {
        let probe = path.join(format!("meander-doctor-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&probe) {
            let found = format!("{kind} at {}: {error}", path.display());
            return Finding::fail(
                "freezer",
                found,
                "the agent must be able to make groups there",
            );
        }
        let _ = fs::remove_dir(&probe);
    }
    Finding::ok("freezer", format!("{kind} at {}", path.display()))
}

fn pidfd() -> Finding {
    match crate::process::Process::find(std::process::id()) {
        Some(_) => Finding::ok("pidfd", "the end of a rank can be waited for"),
        None => Finding::fail(
            "pidfd",
            "pidfd_open does not work",
            "Linux 5.3 has it; a container's seccomp profile may forbid it",
        ),
    }
}

fn userfaultfd() -> Finding {
    match meander::registrations_kept_here() {
        Ok(()) => Finding::ok("userfault", "userfaultfd tells of unmapped memory"),
        Err(error) => Finding::warn(
            "userfault",
            format!("userfaultfd: {error}"),
            "without it RDMA registers memory anew for each large message: Linux 5.19 has it; a container's \
             seccomp profile may forbid it",
        ),
    }
}

fn ptrace() -> Finding {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    match scope.as_deref().map(str::trim) {
        Ok("3") => Finding::fail(
            "ptrace",
            "kernel.yama.ptrace_scope is 3: nobody may trace",
            "boot with kernel.yama.ptrace_scope=1; the shadow is made by ptrace",
        ),
        Ok(scope) => Finding::ok("ptrace", format!("kernel.yama.ptrace_scope is {scope}")),
        Err(_) => Finding::ok("ptrace", "not restricted by yama"),
    }
}

fn session() -> Finding {
    match nix::unistd::getsid(None) {
        Ok(leader) if leader.as_raw() != 0 => {
            Finding::ok("session", "it began in this pid namespace")
        }
        _ => Finding::warn(
            "session",
            "it began outside this pid namespace; CRIU can't dump what runs in it",
            "start jobs with `setsid --wait mpirun ...`, or enter the container with a session",
        ),
    }
}

fn image_space() -> Finding {
    let directory = std::env::var("MEANDER_IMAGE_DIR").unwrap_or_else(|_| "/dev/shm".into());
    let mend = "images lie there during a move: it should be a tmpfs about as large as the \
                largest rank; MEANDER_IMAGE_DIR names another directory";
    match rustix::fs::statvfs(directory.as_str()) {
        Ok(space) => {
            let free = space.f_bavail * space.f_frsize;
            let found = format!("{directory} has {} MiB free", free >> 20);
            match free >> 20 {
                0..256 => Finding::warn("images", found, mend),
                _ => Finding::ok("images", found),
            }
        }
        Err(error) => Finding::fail("images", format!("{directory}: {error}"), mend),
    }
}

fn memlock() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    match limit {
        None => Finding::ok("memlock", "unlimited"),
        Some(bytes) if bytes >= MEMLOCK_BYTES => {
            Finding::ok("memlock", format!("{} MiB", bytes >> 20))
        }
        Some(bytes) => Finding::warn(
            "memlock",
            format!("{} KiB may be locked", bytes >> 10),
            "only RDMA needs more: `ulimit -l unlimited`, or `* - memlock unlimited` in \
             /etc/security/limits.conf; LimitMEMLOCK=infinity for systemd and slurmd",
        ),
    }
}

fn descriptors() -> Finding {
    match getrlimit(Resource::Nofile).current {
        Some(count) if count < DESCRIPTORS => Finding::warn(
            "files",
            format!("{count} descriptors a process"),
            "a rank has one for each peer: `ulimit -n 65536`",
        ),
        Some(count) => Finding::ok("files", format!("{count} descriptors a process")),
        None => Finding::ok("files", "unlimited descriptors"),
    }
}

fn mpi() -> Finding {
    match said(Command::new("mpirun").arg("--version")) {
        Ok(text) => Finding::ok("mpi", text.lines().next().unwrap_or_default()),
        Err(why) => Finding::warn(
            "mpi",
            format!("mpirun: {why}"),
            "install an MPI to run MPI programs: apt-get install openmpi-bin libopenmpi-dev",
        ),
    }
}

fn shim() -> Finding {
    let exe = std::env::current_exe().unwrap_or_default();
    let beside = exe.parent().map(PathBuf::from).unwrap_or_default();
    let places = [
        beside.clone(),
        beside.join("../lib"),
        beside.join("../lib/meander"),
    ];
    let shim = places
        .map(|place| place.join("libmeander_mpi.so"))
        .into_iter()
        .find(|p| p.exists());
    match shim {
        Some(path) => Finding::ok("shim", path.display().to_string()),
        None => Finding::warn(
            "shim",
            format!("no libmeander_mpi.so beside {}", exe.display()),
            "MPI programs need it in LD_PRELOAD: cargo build --release -p meander-mpi",
        ),
    }
}

fn rdma() -> Finding {
    let devices: Vec<String> = fs::read_dir("/sys/class/infiniband")
        .map(|list| {
            let names = list
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.collect()
        })
        .unwrap_or_default();
    if devices.is_empty() {
        return Finding::ok("rdma", "no RDMA device: TCP and shared memory are used");
    }
    // As a rank would open it: with its environment, which is not the agent's.
    match meander::verbs_here(&meander::VerbsConfig::default()) {
        Ok(found) => Finding::ok("rdma", found),
        Err(error) => Finding::warn(
            "rdma",
            format!("{}: {error}", devices.join(", ")),
            "without it streams go over TCP; another device, port or address can be named: \
             MEANDER_VERBS_DEVICE, MEANDER_VERBS_PORT, MEANDER_VERBS_GID_INDEX",
        ),
    }
}

/// What a program says; or why it could not be asked, with its own last words.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let last = text
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default();
    Err(format!("{} ({last})", output.status))
}

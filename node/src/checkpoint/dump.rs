//! From a held process to an image in a directory.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Redirect};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};

use super::inventory::inspect_held;
use super::limits::{DUMP_ATTEMPTS, DUMP_PAUSE, GHOST_BYTES_MAX};
use super::{Error, Hold, Inventory, Obstacle, StdioPlan, criu, images, proc};
use crate::hidden;

const LOG: &str = "dump.log";

/// A process's image.
#[derive(Debug)]
pub struct Dump {
    /// The files to carry to the destination: all in one directory, no sub-directories.
    pub directory: PathBuf,
    /// What the destination must know beside them.
    pub manifest: Manifest,
    /// Their size.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// What the destination must know of an image beside its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The pid that the process sees, and keeps.
    pub pid: i32,
    /// The ids of its threads; they must be free in the copy's pid namespace.
    pub threads: Vec<i32>,
    /// Its owner.
    pub uid: u32,
    /// Its owner's group.
    pub gid: u32,
    /// Its standard streams.
    pub stdio: StdioPlan,
    /// Signals that were pending and are not in the image; they are sent to the copy.
    pub signals: Vec<i32>,
}

/// Writes the image of a held process into `directory` (best on a tmpfs) and leaves it held.
///
/// Something that can't move is an error here too, should it have appeared, or not have been given
/// up, since [`super::inspect`]. A SIGCONT that arrives while CRIU is at work spoils an attempt, after
/// which the process may run for an instant before it is held again: at the end it is held as it
/// is in the image.
pub fn dump(hold: &Hold, directory: &Path) -> Result<Dump, Error> {
    let start = Instant::now();
    let pid = hold.pid();
    let mut attempt = 0;
    let mut manifest = loop {
        let inventory = inspect_held(pid)?;
        refuse_obstacles(&inventory)?;
        let ids = proc::Status::of(pid)?.ns_pids();
        let manifest = Manifest {
            pid: ids.last().copied().unwrap_or(pid.as_raw()),
            threads: proc::inner_threads(pid)?,
            uid: inventory.uid,
            gid: inventory.gid,
            stdio: inventory.stdio,
            signals: Vec::new(),
        };
        attempt += 1;
        match run(hold, directory, &manifest, ids.len() > 1) {
            Ok(()) if hold.is_frozen()? => break manifest,
            Ok(()) => return Err(not_held(directory)),
            Err(Failure::BySignal(why)) if attempt < DUMP_ATTEMPTS => {
                tracing::debug!(%pid, attempt, why, "a signal spoiled the dump; once more");
                sleep(DUMP_PAUSE * attempt);
                hold.freeze_again()?;
                empty(directory)?;
            }
            Err(Failure::BySignal(why)) => {
                hold.freeze_again()?;
                let why = format!("signals (SIGCONT?) spoiled {attempt} attempts, the last: {why}");
                return Err(Error::Criu {
                    what: "dump",
                    why,
                    log: directory.join(LOG),
                });
            }
            Err(Failure::Other(error)) => {
                hold.freeze_again()?;
                return Err(error);
            }
        }
    };
    images::drop_sizes_of_open_files(directory)?;
    manifest.signals = images::take_job_control_signals(directory)?;
    if hold.was_stopped() {
        manifest.signals.push(nix::libc::SIGSTOP);
    }
    for superfluous in [LOG, "stats-dump"] {
        let _ = fs::remove_file(directory.join(superfluous));
    }
    let bytes = size(directory)?;
    Ok(Dump {
        directory: directory.to_owned(),
        manifest,
        bytes,
        took: start.elapsed(),
    })
}

enum Failure {
    BySignal(String),
    Other(Error),
}

fn run(hold: &Hold, images: &Path, manifest: &Manifest, inside: bool) -> Result<(), Failure> {
    let program = criu::program().map_err(Failure::Other)?;
    // The copy's mount namespace need not show `images`: hand over the directory itself.
    let directory = fs::File::open(images)
        .map_err(Error::os(format!("open {}", images.display())))
        .map_err(Failure::Other)?;
    fcntl_setfd(&directory, FdFlags::empty())
        .map_err(|errno| Failure::Other(Error::os("pass a directory on")(errno.into())))?;
    let mut command = match inside {
        true => {
            let mut command = hidden::command(hidden::ENTER).map_err(Failure::Other)?;
            command.arg(hold.pid().to_string()).arg(program);
            command
        }
        false => Command::new(program),
    };
    command
        .arg("dump")
        .args(["--tree", &manifest.pid.to_string()]);
    command.args([
        "--images-dir",
        &format!("/proc/self/fd/{}", directory.as_raw_fd()),
    ]);
    command.args(["--log-file", LOG, "-v4", "--leave-running", "--shell-job"]);
    command.arg("--freeze-cgroup").arg(hold.directory());
    command.args([
        "--manage-cgroups=ignore",
        "--ghost-limit",
        &GHOST_BYTES_MAX.to_string(),
    ]);
    for external in &manifest.stdio.externals {
        command.args(["--external", &external.key]);
    }
    command
        .stdin(Redirect::null())
        .stdout(Redirect::null())
        .stderr(Redirect::null());
    let status = command
        .status()
        .map_err(|source| Error::NoCriu {
            tried: format!("{command:?}: {source}"),
        })
        .map_err(Failure::Other)?;
    if status.success() {
        return Ok(());
    }
    let log = images.join(LOG);
    let complaint = criu::complaint(&log, &status.to_string());
    match complaint.by_signal {
        true => Err(Failure::BySignal(complaint.text)),
        false => Err(Failure::Other(Error::Criu {
            what: "dump",
            why: complaint.text,
            log,
        })),
    }
}

fn refuse_obstacles(inventory: &Inventory) -> Result<(), Error> {
    let all: Vec<Obstacle> = inventory
        .obstacles
        .iter()
        .chain(&inventory.until_suspended)
        .cloned()
        .collect();
    match all.is_empty() {
        true => Ok(()),
        false => Err(Error::Obstacles {
            pid: inventory.pid.as_raw(),
            obstacles: all,
        }),
    }
}

fn not_held(directory: &Path) -> Error {
    let why = "it ended well but left the process running; this CRIU can't be used".to_owned();
    Error::Criu {
        what: "dump",
        why,
        log: directory.join(LOG),
    }
}

fn empty(directory: &Path) -> Result<(), Error> {
    let entries =
        fs::read_dir(directory).map_err(Error::os(format!("read {}", directory.display())))?;
    for entry in entries.flatten() {
        let _ = fs::remove_file(entry.path());
    }
    Ok(())
}

fn size(directory: &Path) -> Result<u64, Error> {
    let entries =
        fs::read_dir(directory).map_err(Error::os(format!("read {}", directory.display())))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|data| data.len())
        .sum())
}

//! Holding a process with the control groups' freezer, version 1 or 2.
//!
//! A held process sits in a group of its own *below* the one it was in, so that whoever finds it
//! knows where it belongs, and a killed owner of a move leaves nothing that needs a record.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Error, proc};

/// How long a process may take to freeze, and a killed one to go.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// How the group of a held process is called.
const HOLD_PREFIX: &str = "meander-hold-";
/// An empty group below that of a held process, where the process was stopped.
const WAS_STOPPED: &str = "was-stopped";
/// How the group of a restored process is called.
const COPY_PREFIX: &str = "meander-copy-";

/// A process that is held: frozen, whatever signal it gets.
#[must_use = "a held process stays frozen until it is released or killed"]
#[derive(Debug)]
pub struct Hold {
    pid: Pid,
    group: Group,
}

impl Hold {
    /// Freezes a running process with all its threads and waits until it is.
    pub fn freeze(pid: Pid) -> Result<Hold, Error> {
        if let Some(hold) = Hold::find(pid)? {
            hold.group.freeze(pid)?;
            return Ok(hold);
        }
        if proc::Status::of(pid)?.is_dead() {
            return Err(Error::Gone { pid: pid.as_raw() });
        }
        let group = Group::of(pid)?.below(&format!("{HOLD_PREFIX}{pid}"))?;
        let hold = Hold { pid, group };
        match hold.take() {
            Ok(()) => Ok(hold),
            Err(error) => {
                hold.release()?;
                Err(error)
            }
        }
    }

    /// Freezes it. One that was stopped (by SIGSTOP) is woken while it is frozen, and stopped again at
    /// the release: it can't be traced as long as it is both (PTRACE_SEIZE waits for ever), and so
    /// CRIU can't dump it.
    fn take(&self) -> Result<(), Error> {
        let stopped = proc::Status::of(self.pid)?.is_stopped();
        self.group.add(self.pid)?;
        self.group.freeze(self.pid)?;
        if stopped || proc::stands_in_stop(self.pid) {
            self.group.below(WAS_STOPPED)?;
            let _ = kill(self.pid, Signal::SIGCONT);
        }
        Ok(())
    }

    /// Whether it was stopped when it was frozen.
    pub(crate) fn was_stopped(&self) -> bool {
        self.group.directory.join(WAS_STOPPED).exists()
    }

    /// The hold of a process that is held, where its owner died. `None` where it is not held.
    pub fn find(pid: Pid) -> Result<Option<Hold>, Error> {
        let group = Group::of(pid)?;
        let held = group.name().starts_with(HOLD_PREFIX);
        Ok(held.then_some(Hold { pid, group }))
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it is frozen now.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        self.group.is_frozen()
    }

    /// Freezes it again, should something have let it run.
    pub(crate) fn freeze_again(&self) -> Result<(), Error> {
        self.group.freeze(self.pid)
    }

    pub(crate) fn thaw(&self) -> Result<(), Error> {
        self.group.thaw()
    }

    /// The directory of its control group.
    pub(crate) fn directory(&self) -> &Path {
        &self.group.directory
    }

    /// Lets it run on.
    pub fn release(self) -> Result<(), Error> {
        if self.was_stopped() {
            let _ = kill(self.pid, Signal::SIGSTOP);
        }
        self.dissolve()
    }

    /// Lets what has become of it run.
    pub(crate) fn dissolve(self) -> Result<(), Error> {
        self.group.thaw()?;
        self.group.dissolve()
    }

    /// Kills it: it runs no further instruction.
    pub fn kill(self) -> Result<(), Error> {
        self.group.kill()?;
        self.group.remove()
    }
}

/// A control group that can freeze.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    directory: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Group {
    /// A group for a restored process, outside everybody else's: it outlives the agent's.
    pub fn for_copy(name: &str) -> Result<Group, Error> {
        let (root, version) = mounted()?;
        sweep(&root);
        Group {
            directory: root,
            version,
        }
        .below(&format!("{COPY_PREFIX}{name}"))
    }

    /// The group that has this directory, made by [`Group::for_copy`].
    pub fn at(directory: &Path) -> Group {
        let version = match directory.join("freezer.state").exists() {
            true => Version::One,
            false => Version::Two,
        };
        Group {
            directory: directory.to_owned(),
            version,
        }
    }

    /// The group that a process is in.
    fn of(pid: Pid) -> Result<Group, Error> {
        let (root, version) = mounted()?;
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = fs::read_to_string(&path).map_err(|_| Error::Gone { pid: pid.as_raw() })?;
        let inner = text.lines().find_map(|line| {
            let mut words = line.splitn(3, ':').skip(1);
            let (controllers, path) = (words.next()?, words.next()?);
            let this = match version {
                Version::One => controllers.split(',').any(|name| name == "freezer"),
                Version::Two => controllers.is_empty(),
            };
            this.then_some(path)
        });
        let inner = inner.unwrap_or("/").trim_start_matches('/');
        Ok(Group {
            directory: root.join(inner),
            version,
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn name(&self) -> String {
        let name = self.directory.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The groups of held processes below this one.
    fn holds(&self) -> Vec<Group> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let held = entries.filter(|entry| {
            let is_hold = entry.file_name().to_string_lossy().starts_with(HOLD_PREFIX);
            is_hold && entry.path().is_dir()
        });
        held.map(|entry| Group {
            directory: entry.path(),
            version: self.version,
        })
        .collect()
    }

    fn above(&self) -> Option<Group> {
        let directory = self.directory.parent()?.to_owned();
        Some(Group {
            directory,
            version: self.version,
        })
    }

    fn below(&self, name: &str) -> Result<Group, Error> {
        let directory = self.directory.join(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::os(
                format!("make control group {}", directory.display()),
            )(
                error
            )),
            _ => Ok(Group {
                directory,
                version: self.version,
            }),
        }
    }

    /// Puts a process with all its threads into the group.
    pub fn add(&self, pid: Pid) -> Result<(), Error> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Its processes, as the caller's pid namespace numbers them.
    pub fn processes(&self) -> Result<Vec<Pid>, Error> {
        let text = self.read("cgroup.procs")?;
        let pids = text.lines().filter_map(|line| line.parse().ok());
        Ok(pids.filter(|pid| *pid != 0).map(Pid::from_raw).collect())
    }

    /// Freezes the group and waits until it is frozen. `pid` is for the error.
    pub fn freeze(&self, pid: Pid) -> Result<(), Error> {
        match self.version {
            Version::One => self.write("freezer.state", "FROZEN")?,
            Version::Two => self.write("cgroup.freeze", "1")?,
        }
        let start = Instant::now();
        while !self.is_frozen()? {
            if start.elapsed() > FREEZE_TIMEOUT {
                let waited_ms = FREEZE_TIMEOUT.as_millis() as u64;
                return Err(Error::NotFrozen {
                    pid: pid.as_raw(),
                    waited_ms,
                });
            }
            sleep(Duration::from_micros(200));
        }
        // A group without processes counts as frozen; a dead process holds nothing.
        match self.processes()?.is_empty() {
            true => Err(Error::Gone { pid: pid.as_raw() }),
            false => Ok(()),
        }
    }

    pub fn thaw(&self) -> Result<(), Error> {
        match self.version {
            Version::One => self.write("freezer.state", "THAWED"),
            Version::Two => self.write("cgroup.freeze", "0"),
        }
    }

    pub fn is_frozen(&self) -> Result<bool, Error> {
        Ok(match self.version {
            Version::One => self.read("freezer.state")?.trim() == "FROZEN",
            Version::Two => self
                .read("cgroup.events")?
                .lines()
                .any(|line| line == "frozen 1"),
        })
    }

    /// Kills all its processes, also those held below it, and waits until they are gone. SIGKILL
    /// comes before the thaw, so that they run no further instruction.
    pub fn kill(&self) -> Result<(), Error> {
        for held in self.holds() {
            held.kill()?;
            held.remove()?;
        }
        let start = Instant::now();
        loop {
            let processes = self.processes()?;
            for pid in &processes {
                let _ = kill(*pid, Signal::SIGKILL);
            }
            self.thaw()?;
            if processes.is_empty() {
                return Ok(());
            }
            if start.elapsed() > FREEZE_TIMEOUT {
                let source = std::io::Error::from_raw_os_error(nix::libc::ETIMEDOUT);
                return Err(Error::os(format!("kill {processes:?}"))(source));
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// Moves its processes up and removes it.
    fn dissolve(&self) -> Result<(), Error> {
        self.remove_after(|| {
            let processes = self.processes().unwrap_or_default();
            for pid in processes {
                // One that ended meanwhile need not be moved; one that it forked comes next time.
                if let Some(above) = self.above() {
                    let _ = above.add(pid);
                }
            }
        })
    }

    /// Removes the empty group. Its last process may still be on its way out.
    pub fn remove(&self) -> Result<(), Error> {
        self.remove_after(|| ())
    }

    fn remove_after(&self, prepare: impl Fn()) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            prepare();
            let _ = fs::remove_dir(self.directory.join(WAS_STOPPED));
            match fs::remove_dir(&self.directory) {
                Err(error)
                    if error.raw_os_error() == Some(nix::libc::EBUSY)
                        && start.elapsed() < FREEZE_TIMEOUT =>
                {
                    sleep(Duration::from_millis(1));
                }
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let what = format!("remove control group {}", self.directory.display());
                    return Err(Error::os(what)(error));
                }
                _ => return Ok(()),
            }
        }
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.directory.join(file);
        fs::write(&path, text).map_err(Error::os(format!("write {text} to {}", path.display())))
    }

    fn read(&self, file: &str) -> Result<String, Error> {
        let path = self.directory.join(file);
        fs::read_to_string(&path).map_err(Error::os(format!("read {}", path.display())))
    }
}

/// Removes empty groups of processes that are gone: a guardian and its init that were killed together
/// leave one.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = name
            .strip_prefix(COPY_PREFIX)
            .or_else(|| name.strip_prefix(HOLD_PREFIX));
        let owner = rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // It fails, as it should, where there are processes in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Where the freezer is mounted: version 1 where there is one, else version 2.
/// `MEANDER_FREEZER=v2` asks for version 2.
fn mounted() -> Result<(PathBuf, Version), Error> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .map_err(Error::os("read /proc/self/mountinfo"))?;
    let mounts = || {
        table.lines().filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?;
            let mut right = right.split(' ');
            Some((point, right.next()?, right.nth(1)?))
        })
    };
    let one = mounts().find(|(_, kind, options)| {
        *kind == "cgroup" && options.split(',').any(|option| option == "freezer")
    });
    let two = mounts().find(|(_, kind, _)| *kind == "cgroup2");
    let prefer_two = std::env::var_os("MEANDER_FREEZER").is_some_and(|value| value == "v2");
    let chosen = match (one, two) {
        (Some((point, ..)), _) if !prefer_two => (point, Version::One),
        (_, Some((point, ..))) => (point, Version::Two),
        _ => {
            return Err(Error::NoFreezer {
                looked: "/proc/self/mountinfo".into(),
            });
        }
    };
    Ok((PathBuf::from(chosen.0), chosen.1))
}

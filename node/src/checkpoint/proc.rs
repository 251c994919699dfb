//! What `/proc` says of a process.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use super::Error;

/// The status file of a process.
pub(crate) struct Status {
    text: String,
}

impl Status {
    pub fn of(pid: Pid) -> Result<Status, Error> {
        Status::at(&PathBuf::from(format!("/proc/{pid}/status")), pid)
    }

    fn at(path: &Path, pid: Pid) -> Result<Status, Error> {
        Ok(Status {
            text: read(pid, path)?,
        })
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let line = self
            .text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    }

    fn numbers(&self, name: &str) -> Vec<i64> {
        let words = self.field(name).unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    }

    /// The effective user and group.
    pub fn owner(&self) -> (u32, u32) {
        let second = |name| self.numbers(name).get(1).copied().unwrap_or(0) as u32;
        (second("Uid"), second("Gid"))
    }

    /// Whether the process is a zombie or dead.
    pub fn is_dead(&self) -> bool {
        self.field("State")
            .is_some_and(|state| state.starts_with(['Z', 'X']))
    }

    /// Whether job control has stopped the process.
    pub fn is_stopped(&self) -> bool {
        self.field("State")
            .is_some_and(|state| state.starts_with('T'))
    }

    /// The tracer's pid, 0 where there is none.
    pub fn tracer(&self) -> i64 {
        self.numbers("TracerPid").first().copied().unwrap_or(0)
    }

    /// Whether it has the capability of this number (capabilities(7)).
    pub fn is_capable(&self, capability: u32) -> bool {
        let mask = self.field("CapEff").unwrap_or_default();
        u64::from_str_radix(mask, 16).is_ok_and(|mask| mask >> capability & 1 == 1)
    }

    /// Whether the leader of its session or of its process group can't be named in its pid namespace.
    pub fn is_led_from_outside(&self) -> bool {
        ["NSsid", "NSpgid"]
            .iter()
            .any(|field| self.numbers(field).last() == Some(&0))
    }

    /// Its pid in every pid namespace it is in, the innermost last.
    pub fn ns_pids(&self) -> Vec<i32> {
        self.numbers("NSpid")
            .into_iter()
            .map(|pid| pid as i32)
            .collect()
    }
}

/// The threads of a process, as this node numbers them.
pub(crate) fn threads(pid: Pid) -> Result<Vec<Pid>, Error> {
    let mut threads = numbers_in(pid, &PathBuf::from(format!("/proc/{pid}/task")))?;
    threads.sort_unstable();
    Ok(threads.into_iter().map(Pid::from_raw).collect())
}

/// The threads of a process, as the process sees them.
pub(crate) fn inner_threads(pid: Pid) -> Result<Vec<i32>, Error> {
    let mut inner = Vec::new();
    for thread in threads(pid)? {
        let path = PathBuf::from(format!("/proc/{pid}/task/{thread}/status"));
        inner.extend(Status::at(&path, pid)?.ns_pids().last());
    }
    Ok(inner)
}

/// Whether a frozen process was stopped by job control: its state does not show it then.
pub(crate) fn stands_in_stop(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|place| place == "do_signal_stop")
}

/// The children of all threads of a process.
pub(crate) fn children(pid: Pid) -> Result<Vec<i32>, Error> {
    let mut children = Vec::new();
    for thread in threads(pid)? {
        let path = PathBuf::from(format!("/proc/{pid}/task/{thread}/children"));
        let text = fs::read_to_string(path).unwrap_or_default();
        children.extend(
            text.split_whitespace()
                .filter_map(|word| word.parse::<i32>().ok()),
        );
    }
    Ok(children)
}

/// An open descriptor.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    pub fd: i32,
    /// What the link says: a path or `pipe:[1]`, `anon_inode:[eventfd]` and so on.
    pub target: String,
    /// Open flags.
    pub flags: i32,
    /// Whether a file lock is held through it.
    pub locked: bool,
}

impl Descriptor {
    /// Whether it can be written.
    pub fn writes(&self) -> bool {
        self.flags & nix::libc::O_ACCMODE != nix::libc::O_RDONLY
    }

    /// The link through which the file itself can be looked at.
    pub fn link(&self, pid: Pid) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}/fd/{}", self.fd))
    }
}

/// The open descriptors of a process, in order.
pub(crate) fn descriptors(pid: Pid) -> Result<Vec<Descriptor>, Error> {
    let mut fds = numbers_in(pid, &PathBuf::from(format!("/proc/{pid}/fd")))?;
    fds.sort_unstable();
    let mut found = Vec::new();
    for fd in fds {
        // One that was closed meanwhile is none.
        let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{fd}")) else {
            continue;
        };
        let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) else {
            continue;
        };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        found.push(Descriptor {
            fd,
            target: target.to_string_lossy().into_owned(),
            flags: flags
                .and_then(|text| i32::from_str_radix(text.trim(), 8).ok())
                .unwrap_or(0),
            locked: info.lines().any(|line| line.starts_with("lock:")),
        });
    }
    Ok(found)
}

/// A line of the memory map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub start: u64,
    pub end: u64,
    /// `rwxp`, or `s` at the end for shared.
    pub permissions: String,
    /// Device and inode, as text: the identity of what is mapped.
    pub identity: String,
    /// A path, `[stack]` and the like, or nothing.
    pub name: String,
}

impl Mapping {
    pub fn is_shared(&self) -> bool {
        self.permissions.ends_with('s')
    }

    pub fn is_executable(&self) -> bool {
        self.permissions.contains('x')
    }

    fn parse(line: &str) -> Option<Mapping> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let permissions = words.next()?.to_owned();
        let _offset = words.next()?;
        let identity = format!("{} {}", words.next()?, words.next()?);
        Some(Mapping {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            permissions,
            identity,
            name: words.next().unwrap_or_default().trim().to_owned(),
        })
    }
}

/// The memory map of a process.
pub(crate) fn mappings(pid: Pid) -> Result<Vec<Mapping>, Error> {
    let text = read(pid, &PathBuf::from(format!("/proc/{pid}/maps")))?;
    Ok(text.lines().filter_map(Mapping::parse).collect())
}

/// Memory that is the process's own, in bytes: what its image will be about as big as.
pub(crate) fn own_memory_bytes(pid: Pid) -> Result<u64, Error> {
    let text = read(pid, &PathBuf::from(format!("/proc/{pid}/smaps_rollup")))?;
    let kib = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.unwrap_or(0)
    };
    Ok((kib("Anonymous:") + kib("Swap:") + kib("Pss_Shmem:")) * 1024)
}

/// All processes of this node.
pub(crate) fn all() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    names.map(Pid::from_raw).collect()
}

/// Reads a file of `/proc`, and tells a process that is gone from other errors.
fn read(pid: Pid, path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| gone_or(pid, path, source))
}

fn numbers_in(pid: Pid, directory: &Path) -> Result<Vec<i32>, Error> {
    let entries = fs::read_dir(directory).map_err(|source| gone_or(pid, directory, source))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect())
}

fn gone_or(pid: Pid, path: &Path, source: std::io::Error) -> Error {
    let gone = source.kind() == std::io::ErrorKind::NotFound
        || source.raw_os_error() == Some(nix::libc::ESRCH);
    if gone {
        return Error::Gone { pid: pid.as_raw() };
    }
    Error::Os {
        operation: format!("read {}", path.display()),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_memory_map() {
        let line = "7f24-7f25 r-xs 00000000 00:01 98                         /memfd:A b (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end), (0x7f24, 0x7f25));
        assert!(mapping.is_shared() && mapping.is_executable());
        assert_eq!(mapping.identity, "00:01 98");
        assert_eq!(mapping.name, "/memfd:A b (deleted)");
        assert_eq!(Mapping::parse("1-2 rw-p 0 00:00 0 ").unwrap().name, "");
    }

    #[test]
    fn oneself() {
        let me = nix::unistd::getpid();
        let status = Status::of(me).unwrap();
        assert!(!status.is_dead());
        assert_eq!(status.ns_pids().last(), Some(&me.as_raw()));
        assert!(threads(me).unwrap().contains(&nix::unistd::gettid()));
        assert!(
            mappings(me)
                .unwrap()
                .iter()
                .any(|mapping| mapping.name == "[stack]")
        );
        assert!(own_memory_bytes(me).unwrap() > 0);
    }

    #[test]
    fn a_process_that_is_gone() {
        assert!(matches!(
            Status::of(Pid::from_raw(1 << 29)),
            Err(Error::Gone { .. })
        ));
    }
}

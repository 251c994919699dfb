//! Where a lab keeps its state: `/run/meander-lab/NAME/`.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `owner` | pid and start time of the process that drops the lab; absent for a lab kept by hand |
//! | `nodes` | a line for each node: name, address |
//! | `hosts` | what the nodes see as `/etc/hosts` |
//! | `rsh-agent` | the remote shell for `mpirun` |
//! | `cluster.toml`, `cluster.key` | the agents' configuration |
//! | `hub.net`, `NODE/net` | network namespaces, held by a mount |
//! | `NODE/pid` | the process that holds the node's other namespaces open |
//! | `NODE/setup.sh` | how the node was furnished |
//! | `NODE/*.log` | what the node's set-up and its agent wrote |

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Where every lab of the machine has its directory.
pub const LABS_DIR: &str = "/run/meander-lab";
/// Longest name of a lab: it is part of socket paths, which the kernel limits to 107 bytes.
pub const LAB_NAME_BYTES_MAX: usize = 32;

/// The directory of the lab `name`.
pub fn lab_dir(name: &str) -> PathBuf {
    Path::new(LABS_DIR).join(name)
}

/// Refuses names that could not be a directory of ours or a host name.
pub fn check_name(kind: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > LAB_NAME_BYTES_MAX || !name.chars().all(plain) {
        bail!(
            "{kind} name {name:?}: use 1 to {LAB_NAME_BYTES_MAX} of the characters a-z, 0-9 and '-'"
        );
    }
    Ok(())
}

/// A process named so that a later one with the same pid is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// The process id.
    pub pid: u32,
    /// Clock ticks between boot and the start of the process (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
}

impl Incarnation {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Result<Incarnation> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("no process {pid}"))?;
        // The second field is the program's name in parentheses, and may hold anything.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let start = after_name.split_whitespace().nth(19).unwrap_or("0");
        Ok(Incarnation {
            pid,
            start_ticks: start.parse().unwrap_or(0),
        })
    }

    /// Whether that very process still runs.
    pub fn alive(self) -> bool {
        Incarnation::of(self.pid).is_ok_and(|now| now == self)
    }

    /// Reads what [`Incarnation::save`] wrote.
    pub fn load(path: &Path) -> Option<Incarnation> {
        let text = fs::read_to_string(path).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Incarnation {
            pid: pid.parse().ok()?,
            start_ticks: start.parse().ok()?,
        })
    }

    /// Writes it to a file.
    pub fn save(self, path: &Path) -> Result<()> {
        fs::write(path, format!("{} {}\n", self.pid, self.start_ticks))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Asks `ready` again and again until it gives something, at most for `limit`.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {:.1} s for {what}", limit.as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_pid() {
        let me = Incarnation::of(std::process::id()).unwrap();
        assert!(me.start_ticks > 0);
        assert!(me.alive());
        assert!(
            !Incarnation {
                start_ticks: me.start_ticks + 1,
                ..me
            }
            .alive()
        );
    }

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for bad in ["", "..", "a/b", "A", "x y", &"x".repeat(33)] {
            assert!(check_name("lab", bad).is_err(), "{bad:?}");
        }
        check_name("lab", "t-12").unwrap();
    }

    #[test]
    fn waiting_ends_with_the_reason() {
        let error = wait_until("nothing", Duration::ZERO, || None::<()>).unwrap_err();
        assert!(error.to_string().contains("nothing"));
    }
}

//! The `meander` command as a user of a lab's node types it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::Lab;
use crate::state::wait_until;

/// A rank as `meander ps` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankPlace {
    /// The job's short id.
    pub job: String,
    /// The rank.
    pub rank: u32,
    /// The node it is on.
    pub node: String,
    /// Its process id there.
    pub pid: u32,
    /// How often it was moved.
    pub epoch: u64,
    /// The program's name.
    pub program: String,
}

/// What `meander ps --json` has printed, by job and rank.
pub fn places(json: &[u8]) -> Result<Vec<RankPlace>> {
    let json = serde_json::from_slice(json).context("meander ps --json")?;
    let mut ranks = Vec::new();
    collect_ranks(&json, "", "", &mut ranks);
    ranks.sort_by(|one, other| (&one.job, one.rank).cmp(&(&other.job, other.rank)));
    Ok(ranks)
}

impl Lab {
    /// Runs `meander ARGS` on a node and waits for its end.
    pub fn meander(&self, node: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(node, self.artifacts().meander());
        command
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("cannot run meander")
    }

    /// What `meander ps --json` on a node lists, by job and rank.
    pub fn ps(&self, node: &str) -> Result<Vec<RankPlace>> {
        let output = self.meander(node, &["ps", "--json"])?;
        if !output.status.success() {
            bail!(
                "meander ps: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        places(&output.stdout)
    }

    /// Waits until `count` ranks are listed, and gives them.
    pub fn wait_for_ranks(&self, count: usize, limit: Duration) -> Result<Vec<RankPlace>> {
        let node = &self.nodes().first().context("a lab has a node")?.name;
        let mut last = Ok(Vec::new());
        let found = wait_until(&format!("{count} ranks in meander ps"), limit, || {
            last = self.ps(node);
            last.as_ref()
                .is_ok_and(|ranks| ranks.len() == count)
                .then_some(())
        });
        match found {
            Ok(()) => last,
            Err(error) => Err(error.context(format!("meander ps said {last:?}"))),
        }
    }

    /// Moves `rank` (`JOB/RANK`) to a node, as typed on node `at`, and waits for the end of the command.
    pub fn migrate(&self, at: &str, rank: &str, to: &str) -> Result<Migration> {
        self.start_migrate(at, rank, to)?.wait(MIGRATE_LIMIT)
    }

    /// Starts a move and returns at once.
    pub fn start_migrate(&self, at: &str, rank: &str, to: &str) -> Result<Migrating> {
        let mut command = self.command(at, self.artifacts().meander());
        command.args(["migrate", rank, to]).stdin(Stdio::null());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let text = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| follow(pipe, text.clone())));
        readers.extend(child.stderr.take().map(|pipe| follow(pipe, text.clone())));
        Ok(Migrating {
            child,
            text,
            readers,
            started: Instant::now(),
        })
    }
}

/// How long a move may take in a lab.
pub const MIGRATE_LIMIT: Duration = Duration::from_secs(60);

/// A `meander migrate` that runs.
pub struct Migrating {
    child: Child,
    text: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    started: Instant,
}

impl Migrating {
    /// What it has printed so far.
    pub fn text(&self) -> String {
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub fn wait(mut self, limit: Duration) -> Result<Migration> {
        let status = wait_until("meander migrate to end", limit, || {
            self.child.try_wait().ok()?
        });
        let Ok(status) = status else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            bail!(
                "meander migrate did not end in {} s; it said:\n{}",
                limit.as_secs(),
                self.text()
            );
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(Migration {
            code: status.code(),
            text: self.text(),
            took: self.started.elapsed(),
        })
    }
}

/// A `meander migrate` that ended.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// All it printed, on both its outputs.
    pub text: String,
    /// How long the command ran.
    pub took: Duration,
}

impl Migration {
    /// Fails with what it printed, unless the rank was moved.
    pub fn moved(self) -> Result<Migration> {
        if self.code != Some(0) {
            bail!(
                "meander migrate exited {:?}:\n{}",
                self.code,
                self.text.trim()
            );
        }
        Ok(self)
    }

    /// Fails unless it was refused or rolled back, with a message that has every one of `words`.
    pub fn refused(self, words: &[&str]) -> Result<Migration> {
        if matches!(self.code, Some(0) | None) {
            bail!(
                "meander migrate exited {:?}, which it should not:\n{}",
                self.code,
                self.text
            );
        }
        let text = self.text.to_lowercase();
        for word in words {
            if !text.contains(&word.to_lowercase()) {
                bail!(
                    "meander migrate does not say {word:?}:\n{}",
                    self.text.trim()
                );
            }
        }
        Ok(self)
    }

    /// The downtime it reports, in milliseconds.
    pub fn downtime_ms(&self) -> Option<f64> {
        let line = self
            .text
            .lines()
            .find(|line| line.to_lowercase().contains("downtime"))?;
        let lower = line.to_lowercase();
        let after = lower.split("downtime").nth(1)?;
        number_with_unit(after)
    }
}

/// The first number of a text, in milliseconds whatever its unit.
fn number_with_unit(text: &str) -> Option<f64> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let rest = &text[start..];
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let number: f64 = rest[..end].parse().ok()?;
    let unit = rest[end..].trim_start();
    let scale = match unit {
        unit if unit.starts_with("ms") => 1.0,
        unit if unit.starts_with("us") || unit.starts_with("µs") => 1e-3,
        unit if unit.starts_with('s') => 1e3,
        _ => 1.0,
    };
    Some(number * scale)
}

/// Every object with a `rank` and a `node` is a rank; its job may be named by an object around it.
fn collect_ranks(value: &Value, job: &str, program: &str, into: &mut Vec<RankPlace>) {
    match value {
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_ranks(item, job, program, into)),
        Value::Object(fields) => {
            let text = |key: &str| fields.get(key).and_then(Value::as_str);
            let number = |key: &str| fields.get(key).and_then(Value::as_u64);
            let job = text("job").or(text("id")).unwrap_or(job);
            let program = text("program").unwrap_or(program);
            if let (Some(rank), Some(node)) = (number("rank"), text("node")) {
                into.push(RankPlace {
                    job: job.into(),
                    rank: rank as u32,
                    node: node.into(),
                    pid: number("pid").unwrap_or(0) as u32,
                    epoch: number("epoch").unwrap_or(0),
                    program: program.into(),
                });
                return;
            }
            fields
                .values()
                .for_each(|field| collect_ranks(field, job, program, into));
        }
        _ => {}
    }
}

fn follow(pipe: impl Read + Send + 'static, text: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while pipe
            .read_until(b'\n', &mut bytes)
            .is_ok_and(|count| count > 0)
        {
            let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(&String::from_utf8_lossy(&bytes));
            bytes.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downtime_is_read_in_any_unit() {
        let said = |text: &str| Migration {
            code: Some(0),
            text: text.into(),
            took: Duration::ZERO,
        };
        assert_eq!(
            said("moved\nDowntime: 83.5 ms (seen by a peer)\n").downtime_ms(),
            Some(83.5)
        );
        assert_eq!(said("downtime 1.2 s").downtime_ms(), Some(1200.0));
        assert_eq!(said("downtime_ms=17").downtime_ms(), Some(17.0));
        assert_eq!(said("moved").downtime_ms(), None);
    }

    #[test]
    fn ranks_are_found_at_any_depth() {
        let json = serde_json::json!({"jobs": [{"id": "j1", "program": "x", "ranks": [
            {"rank": 1, "node": "b", "pid": 7, "epoch": 2}]}]});
        let mut ranks = Vec::new();
        collect_ranks(&json, "", "", &mut ranks);
        let expected = RankPlace {
            job: "j1".into(),
            rank: 1,
            node: "b".into(),
            pid: 7,
            epoch: 2,
            program: "x".into(),
        };
        assert_eq!(ranks, [expected]);
    }
}

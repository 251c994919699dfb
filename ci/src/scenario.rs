//! What scenarios share: a lab with agents, and a steady job in it whose ranks are moved about.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::Lab;
use crate::artifacts;
use crate::meander::{Migrating, Migration, RankPlace};
use crate::mpirun::{Ended, Mpirun, Running};
use crate::state::wait_until;
use crate::teardown;

/// How long a job may take from mpirun to its first step, and from its stop to its end.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The nodes of a scenario's lab. Jobs start on the first two; the third is where ranks go.
pub const NODES: [&str; 3] = ["a", "b", "c"];

/// Two labs at once would only make each other slow on a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A lab with an agent on each of [`NODES`], and a directory that all nodes see.
pub struct Scenario {
    /// The lab.
    pub lab: Lab,
    files: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Scenario {
    /// Brings up the lab of this name, with agents.
    pub fn start(name: &str) -> Result<Scenario> {
        let scenario = Scenario::without_agents(name)?;
        scenario.lab.start_agents()?;
        Ok(scenario)
    }

    /// Brings up the lab of this name; agents come later, or never.
    pub fn without_agents(name: &str) -> Result<Scenario> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::up(name, &NODES)?;
        lab.artifacts().check()?;
        let files = std::env::temp_dir().join(format!("meander-lab-{name}"));
        let _ = fs::remove_dir_all(&files);
        fs::create_dir_all(&files).with_context(|| format!("cannot make {}", files.display()))?;
        Ok(Scenario {
            lab,
            files,
            _turn: turn,
        })
    }

    /// A path in a directory that every node sees, empty at the start.
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }

    /// `ranks` ranks of `ci/programs/steady.c`, dealt out to nodes a and b.
    pub fn steady(&self, ranks: u32) -> SteadyOptions<'_> {
        let slots = ranks.div_ceil(2);
        let mpirun = self.lab.mpirun(&NODES[..2], slots).ranks(ranks);
        let mut arguments: Vec<OsString> = vec!["--until".into(), self.file("stop").into()];
        arguments.extend(["--log".into(), self.files.clone().into()]);
        SteadyOptions {
            scenario: self,
            mpirun,
            arguments,
            ranks,
        }
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        self.save_logs();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.files);
        }
    }
}

impl Scenario {
    /// Keeps what the agents wrote in `target/lab-logs/LAB/`, as the lab itself is about to go.
    fn save_logs(&self) {
        let kept = artifacts::target_dir()
            .join("lab-logs")
            .join(self.lab.name());
        let _ = fs::create_dir_all(&kept);
        for node in self.lab.nodes() {
            let name = &node.name;
            let _ = fs::write(
                kept.join(format!("{name}.agent.log")),
                self.lab.agent_log(name),
            );
            let run = fs::read_dir(node.path_from_outside("/run/meander"));
            for entry in run.into_iter().flatten().flatten() {
                let file = entry.file_name().to_string_lossy().into_owned();
                if file.ends_with(".log") {
                    let _ = fs::copy(entry.path(), kept.join(format!("{name}.{file}")));
                }
            }
        }
    }
}

/// A steady job about to be started. The options are those of `steady.c`.
pub struct SteadyOptions<'s> {
    scenario: &'s Scenario,
    mpirun: Mpirun<'s>,
    arguments: Vec<OsString>,
    ranks: u32,
}

impl<'s> SteadyOptions<'s> {
    /// Adds options of the program: `with(&["--say", "100"])`.
    pub fn with(mut self, options: &[&str]) -> Self {
        self.arguments.extend(options.iter().map(OsString::from));
        self
    }

    /// Sets mpirun up further.
    pub fn mpirun(mut self, set: impl FnOnce(Mpirun<'s>) -> Mpirun<'s>) -> Self {
        self.mpirun = set(self.mpirun);
        self
    }

    /// Starts it, and waits until its ranks compute and are listed.
    pub fn start(self) -> Result<Steady<'s>> {
        let mut steady = self.start_unlisted()?;
        let ranks = steady
            .scenario
            .lab
            .wait_for_ranks(steady.ranks as usize, PATIENCE)?;
        steady
            .job
            .clone_from(&ranks.first().context("a job has ranks")?.job);
        Ok(steady)
    }

    /// Starts it, and waits until its ranks compute; for labs without agents.
    pub fn start_unlisted(self) -> Result<Steady<'s>> {
        let program = artifacts::program("steady")?;
        let _ = fs::remove_file(self.scenario.file("stop"));
        for rank in 0..self.ranks {
            let _ = fs::remove_file(self.scenario.file(&format!("log.{rank}")));
        }
        let running = self.mpirun.start(&program, &self.arguments)?;
        let begun = |line: &str| line == "steady: started";
        running
            .wait_for("the job's first step", PATIENCE, begun)
            .with_context(|| teardown::what_they_do(self.scenario.lab.dir()))?;
        Ok(Steady {
            scenario: self.scenario,
            running,
            job: String::new(),
            ranks: self.ranks,
        })
    }
}

/// A steady job that runs.
pub struct Steady<'s> {
    scenario: &'s Scenario,
    /// The `mpirun`.
    pub running: Running,
    /// Its short id.
    pub job: String,
    ranks: u32,
}

impl Steady<'_> {
    /// The rank's name for `meander migrate`.
    pub fn name(&self, rank: u32) -> String {
        format!("{}/{rank}", self.job)
    }

    /// Where `meander ps` shows the rank.
    pub fn place(&self, rank: u32) -> Result<RankPlace> {
        let all = self.scenario.lab.ps("a")?;
        let job = &self.job;
        let found = all
            .into_iter()
            .find(|place| &place.job == job && place.rank == rank);
        found.with_context(|| format!("meander ps does not list {}", self.name(rank)))
    }

    /// Moves a rank, and checks that it goes on at its new place.
    pub fn moves(&self, rank: u32, to: &str) -> Result<Migration> {
        let before = self.place(rank)?;
        let migration = self
            .scenario
            .lab
            .migrate(&before.node, &self.name(rank), to)?
            .moved()?;
        self.expect_at(rank, to)?;
        let after = self.place(rank)?;
        ensure!(
            after.epoch > before.epoch,
            "the epoch stayed at {}",
            before.epoch
        );
        self.expect_progress()?;
        Ok(migration)
    }

    /// Starts a move.
    pub fn start_move(&self, rank: u32, to: &str) -> Result<Migrating> {
        let node = self.place(rank)?.node;
        self.scenario.lab.start_migrate(&node, &self.name(rank), to)
    }

    /// Tries a move that must not happen: the command says all of `words`, and the rank goes on where it was.
    pub fn refuses(&self, rank: u32, to: &str, words: &[&str]) -> Result<Migration> {
        let before = self.place(rank)?;
        let migration = self
            .scenario
            .lab
            .migrate(&before.node, &self.name(rank), to)?
            .refused(words)?;
        self.expect_at(rank, &before.node)?;
        self.expect_progress()?;
        Ok(migration)
    }

    /// Waits until the rank is listed on that node.
    pub fn expect_at(&self, rank: u32, node: &str) -> Result<()> {
        let mut last = String::new();
        let listed = wait_until("the new place in meander ps", PATIENCE, || {
            match self.place(rank) {
                Ok(place) => {
                    last.clone_from(&place.node);
                    (place.node == node).then_some(())
                }
                Err(error) => {
                    last = format!("{error:#}");
                    None
                }
            }
        });
        listed.with_context(|| format!("{} should be on {node}: {last}", self.name(rank)))
    }

    /// Waits until every rank has made another step.
    pub fn expect_progress(&self) -> Result<()> {
        for rank in 0..self.ranks {
            // A step takes the whole ring; two more lines cannot both have been under way.
            let before = self.log(rank).len();
            wait_until(&format!("rank {rank} to go on"), PATIENCE, || {
                (self.log(rank).len() > before + 1).then_some(())
            })?;
        }
        Ok(())
    }

    /// Makes the file that the job looks for.
    pub fn stop(&self) -> Result<()> {
        fs::write(self.scenario.file("stop"), "").context("cannot write the stop file")
    }

    /// Stops the job, and checks that it ended well with nothing lost or doubled.
    pub fn finish(self) -> Result<Ended> {
        let ended = self.end()?.success()?;
        ensure!(
            ended.stdout().contains("steady: ok"),
            "no final word in:\n{}",
            ended.stdout()
        );
        Ok(ended)
    }

    /// Stops the job, and checks its logs, but not how it ended.
    pub fn end(self) -> Result<Ended> {
        self.stop()?;
        let Steady {
            scenario,
            running,
            ranks,
            ..
        } = self;
        let ended = running.wait(PATIENCE)?;
        for rank in 0..ranks {
            check_log(&scenario.file(&format!("log.{rank}")))?;
        }
        Ok(ended)
    }

    fn log(&self, rank: u32) -> Vec<u8> {
        let text = fs::read(self.scenario.file(&format!("log.{rank}"))).unwrap_or_default();
        text.into_iter().filter(|byte| *byte == b'\n').collect()
    }
}

/// A rank's log counts up from 0 without a gap. Two live copies would both have written to it.
pub fn check_log(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("no {}", path.display()))?;
    for (expected, line) in text.lines().enumerate() {
        if line.parse() != Ok(expected) {
            bail!("{}: line {} says {line:?}", path.display(), expected + 1);
        }
    }
    ensure!(!text.is_empty(), "{} is empty", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_with_a_gap_or_a_second_writer_is_found() {
        let path = std::env::temp_dir().join(format!("meander-log-{}", std::process::id()));
        for (text, good) in [
            ("0\n1\n2\n", true),
            ("0\n2\n", false),
            ("0\n1\n1\n", false),
            ("", false),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(check_log(&path).is_ok(), good, "{text:?}");
        }
        fs::remove_file(&path).unwrap();
    }
}

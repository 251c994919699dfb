//! `mpirun` across the nodes of a lab, and what it wrote.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::Lab;
use crate::state::wait_until;

/// How long mpirun gets to end by itself after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// An `mpirun` about to be started.
#[derive(Clone)]
pub struct Mpirun<'lab> {
    lab: &'lab Lab,
    hosts: Vec<String>,
    slots: u32,
    ranks: Option<u32>,
    shim: bool,
    stdin: bool,
    environment: Vec<(String, String)>,
    options: Vec<OsString>,
    watch: bool,
}

impl<'lab> Mpirun<'lab> {
    pub(crate) fn new(lab: &'lab Lab, hosts: &[&str], slots: u32) -> Mpirun<'lab> {
        Mpirun {
            lab,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            slots,
            ranks: None,
            shim: true,
            stdin: false,
            environment: Vec::new(),
            options: Vec::new(),
            watch: false,
        }
    }

    /// This many ranks, instead of one for each slot.
    pub fn ranks(mut self, ranks: u32) -> Self {
        self.ranks = Some(ranks);
        self
    }

    /// Without the shim: the native MPI library alone.
    pub fn native(mut self) -> Self {
        self.shim = false;
        self
    }

    /// Gives rank 0 a standard input.
    pub fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Sets a variable in every rank.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A further option of mpirun.
    pub fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Also prints what the ranks write, as it comes.
    pub fn watch(mut self) -> Self {
        self.watch = true;
        self
    }

    /// Starts it with this program and arguments.
    pub fn start<A: AsRef<OsStr>>(
        self,
        program: impl AsRef<OsStr>,
        arguments: &[A],
    ) -> Result<Running> {
        if self.shim {
            self.lab.artifacts().check()?;
        }
        let ranks = self.ranks.unwrap_or(self.slots * self.hosts.len() as u32);
        let hosts: Vec<String> = self
            .hosts
            .iter()
            .map(|host| format!("{host}:{}", self.slots))
            .collect();
        let first = self.hosts.first().context("mpirun wants a host")?;
        let mut command = self.lab.command(first, "mpirun");
        command.args(["-np", &ranks.to_string(), "--host", &hosts.join(",")]);
        if self.shim {
            command.arg("-x").arg(format!(
                "LD_PRELOAD={}",
                self.lab.artifacts().shim().display()
            ));
        }
        for (name, value) in &self.environment {
            command.arg("-x").arg(format!("{name}={value}"));
        }
        command
            .args(&self.options)
            .arg(program.as_ref())
            .args(arguments);
        command.stdin(if self.stdin {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start mpirun")?;
        let written = Arc::new(Written::default());
        let mut readers = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            readers.push(written.clone().follow(pipe, Channel::Stdout, self.watch));
        }
        if let Some(pipe) = child.stderr.take() {
            readers.push(written.clone().follow(pipe, Channel::Stderr, self.watch));
        }
        let stdin = child.stdin.take();
        Ok(Running {
            child,
            stdin,
            written,
            readers,
            started: Instant::now(),
        })
    }

    /// Starts it and waits for its end.
    pub fn run<A: AsRef<OsStr>>(
        self,
        program: impl AsRef<OsStr>,
        arguments: &[A],
        limit: Duration,
    ) -> Result<Ended> {
        self.start(program, arguments)?.wait(limit)
    }
}

/// Which of its outputs a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that mpirun passed on.
#[derive(Clone, Debug)]
pub struct Line {
    /// Where it was written.
    pub channel: Channel,
    /// When it came.
    pub at: Instant,
    /// The line without its end.
    pub text: String,
}

/// An `mpirun` that runs. Dropping it ends it.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    written: Arc<Written>,
    readers: Vec<JoinHandle<()>>,
    started: Instant,
}

impl Running {
    /// The process id of mpirun.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that `wanted` takes, among those written already too.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Line> {
        let found = self.written.wait_for(limit, &wanted);
        found.with_context(|| {
            let all = self
                .written
                .lines()
                .iter()
                .map(|line| line.text.clone())
                .collect::<Vec<_>>();
            let from = all.len().saturating_sub(30);
            format!(
                "waited {:.0} s for {what}; last lines:\n{}",
                limit.as_secs_f64(),
                all[from..].join("\n")
            )
        })
    }

    /// Every line so far.
    pub fn lines(&self) -> Vec<Line> {
        self.written.lines().clone()
    }

    /// Writes to the standard input of rank 0.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        let stdin = self
            .stdin
            .as_mut()
            .context("it was started without a standard input")?;
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .context("mpirun's stdin")
    }

    /// Ends the standard input of rank 0.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end. One that has not ended in time is an error, and is ended.
    pub fn wait(mut self, limit: Duration) -> Result<Ended> {
        self.stdin = None;
        let what = "mpirun to end";
        let status = wait_until(what, limit, || self.child.try_wait().ok().flatten());
        let status = status.with_context(|| {
            let lines = self.written.lines();
            let from = lines.len().saturating_sub(30);
            let tail: Vec<&str> = lines[from..]
                .iter()
                .map(|line| line.text.as_str())
                .collect();
            format!("last lines:\n{}", tail.join("\n"))
        })?;
        let took = self.started.elapsed();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let lines = self.written.lines().clone();
        Ok(Ended {
            status,
            lines,
            started: self.started,
            took,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = wait_until("mpirun to end", TERM_GRACE, || {
            self.child.try_wait().ok().flatten()
        });
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An `mpirun` that ended.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// All it passed on.
    pub lines: Vec<Line>,
    /// When it was started.
    pub started: Instant,
    /// How long it ran.
    pub took: Duration,
}

impl Ended {
    /// Standard output, whole.
    pub fn stdout(&self) -> String {
        self.text(Channel::Stdout)
    }

    /// Standard error, whole.
    pub fn stderr(&self) -> String {
        self.text(Channel::Stderr)
    }

    /// Its exit code; as a shell counts, where a signal ended it.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Fails with all it wrote, unless it exited with 0.
    pub fn success(self) -> Result<Ended> {
        if self.code() != 0 {
            bail!(
                "mpirun exited {}:\n{}\n{}",
                self.code(),
                self.stdout(),
                self.stderr()
            );
        }
        Ok(self)
    }

    /// What follows `key=` on the last line that has it.
    pub fn value(&self, key: &str) -> Option<String> {
        let marker = format!("{key}=");
        let found = self
            .lines
            .iter()
            .rev()
            .find_map(|line| line.text.split_once(&marker));
        found
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .map(str::to_owned)
    }

    fn text(&self, channel: Channel) -> String {
        let lines = self.lines.iter().filter(|line| line.channel == channel);
        lines.map(|line| format!("{}\n", line.text)).collect()
    }
}

#[derive(Default)]
struct Written {
    lines: Mutex<Vec<Line>>,
    news: Condvar,
}

impl Written {
    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(
        self: Arc<Self>,
        pipe: impl Read + Send + 'static,
        channel: Channel,
        watch: bool,
    ) -> JoinHandle<()> {
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while pipe
                .read_until(b'\n', &mut bytes)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&bytes);
                let text = text.trim_end_matches(['\n', '\r']).to_owned();
                if watch {
                    println!("    {text}");
                }
                self.lines().push(Line {
                    channel,
                    at: Instant::now(),
                    text,
                });
                self.news.notify_all();
                bytes.clear();
            }
        })
    }

    fn wait_for(&self, limit: Duration, wanted: &impl Fn(&str) -> bool) -> Option<Line> {
        let end = Instant::now() + limit;
        let mut seen = 0;
        let mut lines = self.lines();
        loop {
            if let Some(line) = lines[seen..].iter().find(|line| wanted(&line.text)) {
                return Some(line.clone());
            }
            seen = lines.len();
            let left = end.checked_duration_since(Instant::now())?;
            lines = self
                .news
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

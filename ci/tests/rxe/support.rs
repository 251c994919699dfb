//! What the scenarios share: programs that run beside them, jobs, where ranks are, and by what
//! their peers are linked.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meander_lab::artifacts::target_dir;
use meander_lab::rxe::Site;
use meander_lab::state::wait_until;

/// Everything is slow in emulation, the more on a busy host.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A program whose output is read at its end; it is ended when this is dropped.
pub struct Started {
    child: Child,
    /// Where its standard error goes.
    errors: PathBuf,
}

impl Started {
    pub fn new(name: &str, mut command: Command) -> Result<Started> {
        let errors = target_dir().join(format!("rxe-{name}.err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .spawn()?;
        Ok(Started { child, errors })
    }

    /// What it has said on its standard error so far.
    pub fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Its standard output, once it has ended well.
    pub fn output(mut self) -> Result<String> {
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().context("it is piped")?;
        stdout.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}\n{text}{}", self.errors());
        Ok(text)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A job of two ranks, on a and b, that says by what its ranks are linked.
pub struct Job<'a> {
    site: &'a Site,
    running: Started,
}

impl<'a> Job<'a> {
    /// Starts it under the shim, with these transports; `None` leaves the choice to the ranks.
    pub fn start(
        site: &'a Site,
        name: &str,
        transports: Option<&str>,
        program: &[&str],
    ) -> Result<Job<'a>> {
        let transports = transports.map(|names| format!("MEANDER_TRANSPORT={names}"));
        let mut options = vec!["-x", "MEANDER_LOG=info"];
        options.extend(transports.iter().flat_map(|it| ["-x", it]));
        let command = site.mpirun(&["a", "b"], true, &options, program)?;
        let running = Started::new(name, command)?;
        let job = Job { site, running };
        wait_until("both ranks to be listed", PATIENCE, || job.nodes().ok())
            .with_context(|| job.running.errors())?;
        Ok(job)
    }

    /// The nodes of rank 0 and 1.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let text = self.site.run("a", &["meander", "ps", "--json"])?;
        let places = meander_lab::meander::places(text.as_bytes())?;
        ensure!(places.len() == 2, "{} ranks are listed", places.len());
        Ok(places.into_iter().map(|it| it.node).collect())
    }

    /// Moves rank 1.
    pub fn migrate(&self, to: &str) -> Result<()> {
        let text = self.site.run("a", &["meander", "ps", "--json"])?;
        let places = meander_lab::meander::places(text.as_bytes())?;
        let rank = places.iter().find(|it| it.rank == 1).context("no rank 1")?;
        let rank = format!("{}/1", rank.job);
        let moved = self.site.run("a", &["meander", "migrate", &rank, to])?;
        ensure!(moved.contains("downtime"), "{moved}");
        ensure!(self.nodes()?[1] == to, "rank 1 is not listed on {to}");
        Ok(())
    }

    /// How often a rank has said that it is linked by this transport.
    pub fn linked_by(&self, transport: &str) -> usize {
        let wanted = format!("by={transport}");
        let errors = self.running.errors();
        errors.lines().filter(|line| line.contains(&wanted)).count()
    }

    /// Waits until the ranks have said so more often than `before`.
    pub fn wait_linked_by(&self, transport: &str, before: usize) -> Result<()> {
        let what = format!("a link by {transport}");
        wait_until(&what, PATIENCE, || {
            (self.linked_by(transport) > before).then_some(())
        })
        .with_context(|| self.running.errors())
    }

    /// Its standard output, once it has ended well.
    pub fn output(self) -> Result<String> {
        self.running.output()
    }

    /// The same, and what it said on its standard error.
    pub fn output_and_errors(self, errors: &mut String) -> Result<String> {
        let path = self.running.errors.clone();
        let output = self.running.output()?;
        *errors = std::fs::read_to_string(path)?;
        Ok(output)
    }
}

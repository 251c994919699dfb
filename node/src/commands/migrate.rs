//! `meander migrate JOB/RANK NODE`: moves a rank, shows how it goes and how long it took.

use std::io::IsTerminal;
use std::str::FromStr;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use meander::NodeName;
use meander_core::moves::{Phase, SourceEnd, Times, Trouble};

use super::ps::code;
use super::{exit, say};
use crate::Error;
use crate::user::{self, FromUser, Moving, Progress, ToUser};

/// How long to look for a rank whose move is out of sight.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// Pause between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// A rank, as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankName {
    /// The job, or a beginning of its name.
    pub job: String,
    /// The rank.
    pub rank: u32,
}

impl FromStr for RankName {
    type Err = String;
    fn from_str(text: &str) -> Result<RankName, String> {
        let wrong =
            || "a rank is named JOB/RANK, as `meander ps` shows them: 0a1b2c3d/3".to_owned();
        let (job, rank) = text.split_once('/').ok_or_else(wrong)?;
        if job.is_empty() {
            return Err(wrong());
        }
        let rank = rank.parse().map_err(|_| wrong())?;
        Ok(RankName {
            job: job.into(),
            rank,
        })
    }
}

/// Moves a rank. Returns the exit code.
pub fn run(name: RankName, to: String) -> Result<u8, Error> {
    let RankName { job, rank } = name;
    let mut stream = user::ask(&FromUser::Migrate {
        job,
        rank,
        to: NodeName(to),
    })?;
    let mut display = Display::start();
    let mut moving = None;
    loop {
        match user::hear(&mut stream) {
            Ok(Some(ToUser::Moving(what))) => {
                display.begin(&what);
                moving = Some(what);
            }
            Ok(Some(ToUser::Progress(progress))) => display.show(&progress),
            Ok(Some(ToUser::Ended(end))) => {
                display.close();
                return Ok(report(moving.as_ref(), &end));
            }
            Ok(Some(ToUser::Refused { reason, why })) => {
                display.close();
                say(&why.what, &why.mend);
                return Ok(code(reason));
            }
            Ok(Some(other)) => {
                let why = format!("answered {other:?}");
                return Err(Error::Protocol {
                    peer: "the agent".into(),
                    why,
                });
            }
            Ok(None) | Err(_) => {
                display.close();
                return Ok(look_where(moving.as_ref()));
            }
        }
    }
}

/// Whoever reported the move has ended, and the move goes on without: looks where the rank is.
/// Returns the exit code.
fn look_where(moving: Option<&Moving>) -> u8 {
    let what = "lost sight of the move: the process that reported it has ended";
    let Some(moving) = moving else {
        say(what, "`meander ps` shows where the rank is");
        return exit::UNREACHABLE;
    };
    let started = Instant::now();
    while started.elapsed() < LOOK_LIMIT {
        std::thread::sleep(LOOK_PERIOD);
        if let Some(node) = settled_on(&moving.name) {
            say(
                what,
                &format!("rank {} is on {node} now, and runs", moving.name),
            );
            return exit::UNREACHABLE;
        }
    }
    say(
        what,
        "the rank runs at one place or the other; `meander ps` shows where",
    );
    exit::UNREACHABLE
}

/// The node where a rank runs; `None` while it is between two, or nobody can tell.
fn settled_on(name: &str) -> Option<NodeName> {
    let mut stream = user::ask(&FromUser::List).ok()?;
    while let Ok(Some(ToUser::Ranks(ranks))) = user::hear(&mut stream) {
        for (_, entry) in ranks {
            let listed = format!("{}/{}", entry.identity.job, entry.identity.rank);
            if listed == name && !entry.location.cards.is_empty() {
                return Some(entry.location.node);
            }
        }
    }
    None
}

/// Prints how the move ended. Returns the exit code.
fn report(moving: Option<&Moving>, end: &SourceEnd) -> u8 {
    let (name, from, to) = match moving {
        Some(moving) => (
            moving.name.as_str(),
            moving.from.0.as_str(),
            moving.to.0.as_str(),
        ),
        None => ("?", "?", "?"),
    };
    match end {
        SourceEnd::Moved {
            epoch,
            times,
            warnings,
        } => {
            println!("rank {name} moved from {from} to {to} (move {epoch})");
            print!("{}", table(times));
            if let Some(downtime) = times.downtime() {
                println!(
                    "downtime {} (frozen on {from} until running on {to})",
                    show(downtime)
                );
            }
            for Trouble { what, mend } in warnings {
                say(&format!("warning: {what}"), mend);
            }
            exit::DONE
        }
        SourceEnd::RolledBack { phase, why, times } => {
            say(
                &format!("rank {name} was not moved: {phase} failed: {}", why.what),
                &why.mend,
            );
            let stood = times
                .downtime()
                .map_or("it never stood still".into(), |downtime| {
                    format!("it stood still for {}", show(downtime))
                });
            eprintln!("  the rank goes on at {from}, nothing is lost; {stood}");
            exit::ROLLED_BACK
        }
        SourceEnd::Ended { .. } => {
            say(
                &format!("rank {name} ended by itself before it was moved"),
                "",
            );
            exit::ENDED
        }
        SourceEnd::Fenced { why, .. } => {
            say(
                &format!("rank {name} is held on {from}: {}", why.what),
                &why.mend,
            );
            exit::FAILED
        }
    }
}

fn table(times: &Times) -> String {
    let lines = times
        .phases()
        .iter()
        .map(|(phase, length)| format!("  {:<8}{:>12}\n", phase.name(), show(*length)));
    lines.collect()
}

fn show(length: Duration) -> String {
    format!("{:.1} ms", length.as_secs_f64() * 1e3)
}

/// What is shown while the move goes on: a line that changes on a terminal, else a line a phase.
struct Display {
    bar: Option<ProgressBar>,
    last: Option<(Phase, bool)>,
}

impl Display {
    fn start() -> Display {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix} {msg} {elapsed}");
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Display { bar, last: None }
    }

    fn begin(&mut self, moving: &Moving) {
        let text = format!(
            "rank {} from {} to {}:",
            moving.name, moving.from, moving.to
        );
        match &self.bar {
            Some(bar) => bar.set_prefix(text),
            None => eprintln!("{text}"),
        }
    }

    fn show(&mut self, progress: &Progress) {
        let Progress {
            phase,
            rolling_back,
            copied_bytes,
            image_bytes,
        } = *progress;
        let back = if rolling_back { ", rolling back" } else { "" };
        match &self.bar {
            Some(bar) if image_bytes > 0 => bar.set_message(format!(
                "{phase}: {} of {}",
                HumanBytes(copied_bytes),
                HumanBytes(image_bytes)
            )),
            Some(bar) => bar.set_message(format!("{phase}{back}")),
            None if self.last != Some((phase, rolling_back)) => eprintln!("  {phase}{back}"),
            None => {}
        }
        self.last = Some((phase, rolling_back));
    }

    fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_named_by_job_and_number() {
        let name = |job: &str, rank| {
            Ok(RankName {
                job: job.into(),
                rank,
            })
        };
        assert_eq!("0a1b2c3d/3".parse(), name("0a1b2c3d", 3));
        for wrong in ["", "3", "/3", "job/", "job/x", "job/-1"] {
            assert!(wrong.parse::<RankName>().is_err(), "{wrong}");
        }
    }
}

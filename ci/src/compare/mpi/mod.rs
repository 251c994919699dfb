//! An MPI program under the shim beside the same program under native libraries, UCX, NetPIPE and raw
//! baselines, by shared memory and by TCP on this machine: `cargo xtask compare`.

mod cases;
mod page;
mod tools;
mod values;

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use self::cases::Case;
pub use self::cases::{Metric, Path, Selection};
use self::tools::{Launch, Programs, Tool};
use super::pair;
use super::rows::{self, Row};
use super::turns::{self, Contender};
use crate::artifacts::target_dir;

/// What to compare.
pub struct Options {
    /// The cases.
    pub selection: Selection,
    /// Rounds of each contender in each case.
    pub rounds: usize,
    /// Names of those who are compared with; all if it is empty.
    pub others: Vec<String>,
}

/// Seconds that a program may take; it takes about one.
const RUN_LIMIT_S: u32 = 60;
/// Seconds that it then has to end what it started.
const END_LIMIT_S: u32 = 5;
/// One that has told its value by then, but has not ended, is ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether it has ended.
const POLL: Duration = Duration::from_millis(10);
/// The file with the results, in the target directory.
const RESULTS: &str = "compare.json";
/// Open MPI's launcher refuses root's programs without these.
const AS_ROOT: [&str; 2] = ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"];

/// Compares, writes the results and prints them as a page has them. Fails when a row is missing or a run
/// failed, after all others.
pub fn run(options: &Options) -> Result<()> {
    let others = turns::named(&options.others, &Tool::OTHERS, Tool::name)?;
    let cases = options.selection.cases()?;
    let expected = expected(&cases, &others);
    ensure!(
        !expected.is_empty(),
        "nothing of that can be compared: those that --with names do not measure it"
    );
    let programs = Programs::ready()?;
    let results = target_dir().join(RESULTS);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    let mut progress = Progress::new(&cases, &others, options.rounds);
    rows::print_head();
    for case in &cases {
        let mut contenders: Vec<_> = taking_part(case, &others).map(Contender::new).collect();
        turns::take(
            &mut contenders,
            options.rounds,
            &mut failures,
            |tool| format!("{}: {}", case.name(), tool.name()),
            |&tool, _| {
                progress.next(case, tool);
                let value = one_run(tool, case, &programs);
                progress.clear();
                value
            },
        );
        let fresh = compare(case, &contenders);
        fresh.iter().for_each(rows::print);
        found.extend(fresh);
        // Kept up to date: a comparison takes long.
        rows::write(&results, &found)?;
    }
    println!("{} rows in {}\n", found.len(), results.display());
    println!("{}", page::markdown(&found, options.rounds.max(1)));
    complain(&missing(&expected, &found), &failures)
}

/// One run of one contender, in fresh processes.
fn one_run(tool: Tool, case: &Case, programs: &Programs) -> Result<f64> {
    let said = match tool.launch(case, programs)? {
        // MPICH over TCP often stays in MPI_Finalize where ranks outnumber processors. We must not.
        Launch::One(words) => alone(&words, |said| {
            !tool.is_ours() && tool.value(case, said).is_ok()
        })?,
        Launch::Pair(commands) => pair::run(&commands, RUN_LIMIT_S, |_, words| command(words))?,
    };
    tool.value(case, &said)
}

/// What the command printed, both ways: NetPIPE writes to its standard error. If it does not end though
/// its value is there, it is ended.
fn alone(words: &[String], has_value: impl Fn(&str) -> bool) -> Result<String> {
    let (limit, end) = (RUN_LIMIT_S.to_string(), END_LIMIT_S.to_string());
    let limit = ["timeout", "--kill-after", &end, &limit];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = NamedTempFile::new().context("no temporary file")?;
    let said = || fs::read(output.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let appending = || File::options().append(true).open(output.path());
    let mut child = command(&[&limit[..], &words].concat())?
        .stdin(Stdio::null())
        .stdout(appending()?)
        .stderr(appending()?)
        .spawn()?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(POLL);
        if started.elapsed() > PATIENCE && has_value(&said()?) {
            end_soon(&mut child)?;
            return Ok(said()?);
        }
    };
    let said = said()?;
    match status.code() {
        Some(0) => Ok(said),
        Some(TIMED_OUT) => bail!("no end within {RUN_LIMIT_S} s:\n{said}"),
        Some(NOT_FOUND) => bail!("{said}`cargo xtask setup` installs what is missing"),
        _ => bail!("{status}: {}\n{said}", words.join(" ")),
    }
}

/// timeout(1) passes the signal on, and kills what does not heed it.
fn end_soon(child: &mut Child) -> Result<()> {
    if let Some(pid) = Pid::from_raw(child.id() as i32) {
        let _ = kill_process(pid, Signal::TERM);
    }
    child.wait()?;
    Ok(())
}

/// Exit codes of timeout(1): of its own, and where there is no such program.
const TIMED_OUT: i32 = 124;
const NOT_FOUND: i32 = 127;

fn command(words: &[&str]) -> Result<Command> {
    let (program, rest) = words.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(rest).envs(AS_ROOT.map(|name| (name, "1")));
    Ok(command)
}

/// Ours first, then the others, of those who measure that.
fn taking_part<'a>(case: &'a Case, others: &'a [Tool]) -> impl Iterator<Item = Tool> + 'a {
    let wanted = move |ours: Tool| {
        let mut measuring = others.iter().filter(|tool| tool.measures(case));
        measuring.any(|tool| tool.counterpart() == ours)
    };
    let ours = [Tool::Ours, Tool::NetpipeOurs].into_iter();
    let others = others.iter().copied().filter(|tool| tool.measures(case));
    ours.filter(move |&tool| wanted(tool)).chain(others)
}

fn compare(case: &Case, contenders: &[Contender<Tool>]) -> Vec<Row> {
    let median = |tool: Tool| {
        let mut contenders = contenders.iter();
        contenders
            .find(|contender| contender.tool == tool)?
            .median()
    };
    let others = contenders.iter().map(|contender| contender.tool);
    let rows = others.filter(|tool| !tool.is_ours()).filter_map(|tool| {
        let (ours, other) = (median(tool.counterpart())?, median(tool)?);
        Some(Row {
            path: case.path.name().to_owned(),
            metric: case.metric.with_unit(),
            bytes: case.bytes,
            ranks: Some(case.ranks),
            ours,
            other,
            other_name: tool.name(),
            ratio: rows::ratio(ours, other, case.metric.less_is_better()),
        })
    });
    rows.collect()
}

/// Every row there must be at the end.
fn expected(cases: &[Case], others: &[Tool]) -> Vec<(Case, Tool)> {
    let of_case = |&case: &Case| {
        let others = others.iter().filter(move |tool| tool.measures(&case));
        others.map(move |&tool| (case, tool))
    };
    cases.iter().flat_map(of_case).collect()
}

/// Names of those that are not there.
fn missing(expected: &[(Case, Tool)], found: &[Row]) -> Vec<String> {
    let is_there = |case: &Case, tool: Tool| {
        found.iter().any(|row| {
            (row.path.as_str(), row.metric, row.bytes)
                == (case.path.name(), case.metric.with_unit(), case.bytes)
                && row.ranks == Some(case.ranks)
                && row.other_name == tool.name()
        })
    };
    let expected = expected.iter();
    let missing = expected.filter(|(case, tool)| !is_there(case, *tool));
    missing
        .map(|(case, tool)| format!("{}, beside {}", case.name(), tool.name()))
        .collect()
}

fn complain(missing: &[String], failures: &[String]) -> Result<()> {
    let mut complaints = Vec::new();
    if !failures.is_empty() {
        complaints.push(format!(
            "runs that failed ({}):\n  {}",
            failures.len(),
            failures.join("\n  ")
        ));
    }
    if !missing.is_empty() {
        let rows = missing.join("\n  ");
        complaints.push(format!("missing rows ({}):\n  {rows}", missing.len()));
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// A line that says where it is, on a terminal.
struct Progress {
    run: usize,
    runs: usize,
    shown: bool,
}

impl Progress {
    fn new(cases: &[Case], others: &[Tool], rounds: usize) -> Progress {
        let of_case = |case| taking_part(case, others).count();
        Progress {
            run: 0,
            runs: cases.iter().map(of_case).sum::<usize>() * rounds.max(1),
            shown: std::io::stderr().is_terminal(),
        }
    }

    fn next(&mut self, case: &Case, tool: Tool) {
        self.run += 1;
        let Progress { run, runs, .. } = *self;
        self.put(&format!("{run}/{runs} {}: {}", case.name(), tool.name()));
    }

    fn clear(&self) {
        self.put("");
    }

    fn put(&self, text: &str) {
        if self.shown {
            eprint!("\r\x1b[2K{text}");
            let _ = std::io::stderr().flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(metrics: &[Metric]) -> Vec<Case> {
        let selection = Selection {
            paths: vec![Path::Tcp],
            metrics: metrics.to_vec(),
            ranks: vec![4],
            ..Selection::default()
        };
        selection.cases().unwrap()
    }

    fn row(case: &Case, tool: Tool) -> Row {
        Row {
            path: case.path.name().to_owned(),
            metric: case.metric.with_unit(),
            bytes: case.bytes,
            ranks: Some(case.ranks),
            ours: 1.0,
            other: 2.0,
            other_name: tool.name(),
            ratio: 2.0,
        }
    }

    #[test]
    fn a_missing_row_is_named() {
        let cases = selected(&[Metric::Latency, Metric::Barrier]);
        let expected = expected(&cases, &Tool::OTHERS);
        let mut found: Vec<_> = expected
            .iter()
            .map(|(case, tool)| row(case, *tool))
            .collect();
        assert_eq!(found.len(), 6 + 2);
        assert!(complain(&missing(&expected, &found), &[]).is_ok());
        found.retain(|row| (row.metric, row.other_name) != ("barrier_us", "mpich"));
        // Another number of ranks is another row.
        let eight = Case {
            ranks: 8,
            ..cases[1]
        };
        found.push(row(&eight, Tool::Mpich));
        let missing = missing(&expected, &found);
        assert_eq!(missing, ["tcp barrier, 0 bytes, 4 ranks, beside mpich"]);
        let error = complain(&missing, &[]).unwrap_err().to_string();
        assert!(error.contains("missing rows (1)"), "{error}");
        assert!(complain(&[], &["a run".to_owned()]).is_err());
    }

    #[test]
    fn each_is_compared_with_its_own_kind() {
        let case = selected(&[Metric::Latency])[0];
        let tools: Vec<_> = taking_part(&case, &[Tool::OpenMpi, Tool::NetpipeTcp]).collect();
        let all = [
            Tool::Ours,
            Tool::NetpipeOurs,
            Tool::OpenMpi,
            Tool::NetpipeTcp,
        ];
        assert_eq!(tools, all);
        let tools: Vec<_> = taking_part(&case, &[Tool::NetpipeOpenMpi]).collect();
        assert_eq!(tools, [Tool::NetpipeOurs, Tool::NetpipeOpenMpi]);

        let mut contenders: Vec<_> = all.map(Contender::new).into();
        let value = |&tool: &Tool, _| match tool {
            Tool::Ours => Ok(1.0),
            Tool::NetpipeOurs => Ok(2.0),
            Tool::OpenMpi => bail!("it does not run"),
            _ => Ok(4.0),
        };
        turns::take(
            &mut contenders,
            1,
            &mut Vec::new(),
            |_| String::new(),
            value,
        );
        let rows = compare(&case, &contenders);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].ours, rows[0].ratio), (2.0, 2.0));
        let whole = serde_json::to_value(&rows[0]).unwrap();
        let fields = whole.as_object().unwrap().keys();
        let mut fields: Vec<_> = fields.map(String::as_str).collect();
        fields.sort_unstable();
        let wanted = [
            "bytes",
            "metric",
            "other",
            "other_name",
            "ours",
            "path",
            "ranks",
            "ratio",
        ];
        assert_eq!(fields, wanted);
    }

    #[test]
    fn a_program_that_fails_says_what_it_was() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let failure = |text| alone(&words(text), |_| false).unwrap_err();
        let error = failure("ls /nowhere").to_string();
        assert!(error.contains("ls /nowhere"), "{error}");
        let error = failure("no-such-program").to_string();
        assert!(error.contains("cargo xtask setup"), "{error}");
    }
}

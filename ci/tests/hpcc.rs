//! The HPC Challenge benchmark (Debian's `hpcc`), which verifies its own results.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use meander_lab::scenario::{PATIENCE, Scenario};

/// The example that comes with it; a slim Debian leaves documentation out.
const EXAMPLE_INPUT: &str = include_str!("../programs/hpccinf.txt");
/// How long a run must last for a move to be inside it, in seconds.
const LASTS_S: u64 = 20;
const LIMIT: Duration = Duration::from_secs(420);
/// What its verified parts say at their end: five of PTRANS, and the solver. (PTRANS has a line for each time that is long
/// enough to be one, so those can't be counted.)
const VERDICTS: [&str; 2] = [
    "    5 tests completed and passed residual checks.",
    "              1 tests completed and passed residual checks,",
];

fn write_input(dir: &Path, n: u32, nb: u32) -> Result<()> {
    let mut lines: Vec<String> = EXAMPLE_INPUT.lines().map(str::to_owned).collect();
    lines[5] = format!("{n} Ns");
    lines[7] = format!("{nb} NBs");
    fs::create_dir_all(dir)?;
    fs::write(dir.join("hpccinf.txt"), lines.join("\n") + "\n").context("cannot write hpcc's input")
}

fn check_output(dir: &Path) -> Result<String> {
    let text = fs::read_to_string(dir.join("hpccoutf.txt")).context("hpcc wrote no results")?;
    for verdict in VERDICTS {
        ensure!(
            text.lines().any(|line| line == verdict),
            "not verified ({}):\n{text}",
            verdict.trim()
        );
    }
    ensure!(
        !text.contains("FAILED") && !text.contains("(failed)"),
        "failed:\n{text}"
    );
    ensure!(
        text.lines().any(|line| line == "Success=1"),
        "no success:\n{text}"
    );
    for line in text.lines().filter(|line| line.contains("_Errors=")) {
        ensure!(line.ends_with("=0"), "{line}");
    }
    ensure!(
        text.contains("End of HPC Challenge tests."),
        "cut short:\n{text}"
    );
    Ok(text)
}

/// The times that hpcc writes at its start and at its end, in seconds since 1970.
fn times(text: &str) -> Result<(u64, u64)> {
    let marks = text
        .lines()
        .filter_map(|line| line.strip_prefix("Current time ("));
    let marks: Vec<u64> = marks
        .filter_map(|rest| rest.split(')').next()?.parse().ok())
        .collect();
    Ok((
        *marks.first().context("no start time")?,
        *marks.last().context("no end time")?,
    ))
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

#[test]
fn four_ranks_un_moved() -> Result<()> {
    let scenario = Scenario::without_agents("h-small")?;
    let dir = scenario.file("hpcc");
    write_input(&dir, 200, 40)?;
    let mpirun = scenario
        .lab
        .mpirun(&["a", "b"], 2)
        .option("--wdir")
        .option(&dir);
    mpirun.run("hpcc", &[""; 0], LIMIT)?.success()?;
    check_output(&dir)?;
    Ok(())
}

#[test]
fn four_ranks_one_of_them_moved_in_the_middle() -> Result<()> {
    let scenario = Scenario::start("h-moved")?;
    // How long a size lasts depends on the machine: the first that lasts long enough is looked at.
    for size in [1600, 2400, 3600] {
        let (lasted, moves) = run_with_moves(&scenario, size)?;
        let (start, end) = lasted;
        if end - start < LASTS_S {
            println!("hpcc ran {} s only with N={size}", end - start);
            continue;
        }
        for (begin, done) in moves {
            ensure!(
                start < begin && done < end,
                "a move {begin}..{done} not inside {start}..{end}"
            );
        }
        return Ok(());
    }
    bail!("hpcc never ran {LASTS_S} s: give it a larger N")
}

/// When a run began and ended, and its moves.
type Lasted = (u64, u64);

fn run_with_moves(scenario: &Scenario, size: u32) -> Result<(Lasted, Vec<Lasted>)> {
    let dir = scenario.file(&format!("hpcc-{size}"));
    write_input(&dir, size, 40)?;
    let lab = &scenario.lab;
    let mpirun = lab.mpirun(&["a", "b"], 2).option("--wdir").option(&dir);
    let running = mpirun.start("hpcc", &[""; 0])?;
    let job = lab.wait_for_ranks(4, PATIENCE)?[0].job.clone();
    std::thread::sleep(Duration::from_secs(2));
    let mut moves = Vec::new();
    for (at, to) in [("b", "c"), ("c", "a")] {
        let begin = now()?;
        lab.migrate(at, &format!("{job}/2"), to)?.moved()?;
        moves.push((begin, now()?));
        std::thread::sleep(Duration::from_secs(2));
    }
    running.wait(LIMIT)?.success()?;
    Ok((times(&check_output(&dir)?)?, moves))
}

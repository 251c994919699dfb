//! Standard input and output of a rank that moves.

use anyhow::{Result, ensure};
use meander_lab::scenario::{PATIENCE, Scenario};

#[test]
fn output_arrives_whole_on_both_channels() -> Result<()> {
    let scenario = Scenario::start("s-output")?;
    let job = scenario
        .steady(4)
        .with(&["--say", "1", "--pause-us", "2000"])
        .start()?;
    for (rank, to) in [(2, "c"), (0, "c"), (2, "b")] {
        job.moves(rank, to)?;
    }
    let ended = job.finish()?;
    let last: usize = ended
        .value("steps")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    for (text, channel) in [(ended.stdout(), "out"), (ended.stderr(), "err")] {
        for rank in 0..4 {
            let start = format!("{channel}: rank {rank} step ");
            let steps = text.lines().filter_map(|line| line.strip_prefix(&start));
            let steps: Vec<usize> = steps.filter_map(|step| step.parse().ok()).collect();
            let whole = steps.iter().copied().eq(0..last);
            ensure!(
                whole,
                "{channel} of rank {rank}: {} of {last} lines, or out of order",
                steps.len()
            );
        }
    }
    Ok(())
}

#[test]
fn input_of_rank_0_goes_on_after_its_move() -> Result<()> {
    let scenario = Scenario::start("s-input")?;
    let steady = scenario.steady(2).with(&["--echo", "--pause-us", "1000"]);
    let mut job = steady.mpirun(|mpirun| mpirun.with_stdin()).start()?;
    let mut number = 0;
    let mut say = |job: &mut meander_lab::scenario::Steady<'_>| -> Result<()> {
        number += 1;
        job.running.type_in(&format!("line {number}\n"))?;
        let answer = format!("echo: line {number}");
        job.running
            .wait_for(&answer, PATIENCE, |line| line == answer)?;
        Ok(())
    };
    say(&mut job)?;
    for to in ["c", "b", "a"] {
        job.moves(0, to)?;
        say(&mut job)?;
        say(&mut job)?;
    }
    // Typed while it is on its way.
    let migrating = job.start_move(0, "c")?;
    say(&mut job)?;
    migrating.wait(PATIENCE)?.moved()?;
    job.running.close_stdin();
    job.running
        .wait_for("the end of its input", PATIENCE, |line| line == "echo: end")?;
    job.finish()?;
    Ok(())
}

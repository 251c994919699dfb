//! mpirun sees the end of a moved rank as if it had stayed.

use anyhow::{Result, ensure};
use meander_lab::scenario::Scenario;

/// Moves rank 1, lets it end that way, and gives the exit code of mpirun.
fn code_after_a_move(scenario: &Scenario, how: &str) -> Result<i32> {
    let options = ["--pause-us", "500", "--who", "1", "--end", how];
    let job = scenario.steady(2).with(&options).start()?;
    job.moves(1, "c")?;
    Ok(job.end()?.code())
}

/// The same without a move.
fn code_in_place(scenario: &Scenario, how: &str) -> Result<i32> {
    let options = ["--pause-us", "500", "--who", "1", "--end", how];
    Ok(scenario.steady(2).with(&options).start()?.end()?.code())
}

#[test]
fn a_moved_rank_that_returns_0_or_3() -> Result<()> {
    let scenario = Scenario::start("e-return")?;
    for (how, expected) in [("return:0", 0), ("return:3", 3)] {
        let code = code_after_a_move(&scenario, how)?;
        ensure!(code == expected, "{how}: {code}");
    }
    Ok(())
}

#[test]
fn a_moved_rank_that_is_killed() -> Result<()> {
    let scenario = Scenario::start("e-kill")?;
    for (how, expected) in [("kill:9", 137), ("kill:15", 143), ("kill:11", 139)] {
        let code = code_after_a_move(&scenario, how)?;
        ensure!(code == expected, "{how}: {code}");
    }
    Ok(())
}

#[test]
fn a_moved_rank_that_aborts() -> Result<()> {
    let scenario = Scenario::start("e-abort")?;
    let code = code_after_a_move(&scenario, "abort:7")?;
    ensure!(code == 7, "{code}");
    Ok(())
}

#[test]
fn leaving_without_finalize_ends_the_job_moved_or_not() -> Result<()> {
    let scenario = Scenario::start("e-leave")?;
    for how in ["exit:3", "exit:0"] {
        let (moved, stayed) = (
            code_after_a_move(&scenario, how)?,
            code_in_place(&scenario, how)?,
        );
        ensure!(moved == stayed, "{how}: moved {moved}, in place {stayed}");
        ensure!(how == "exit:0" || moved == 3, "{how}: {moved}");
    }
    Ok(())
}

#[test]
fn a_signal_to_mpirun_reaches_the_moved_rank() -> Result<()> {
    let scenario = Scenario::start("e-term")?;
    let job = scenario.steady(2).with(&["--pause-us", "500"]).start()?;
    job.moves(1, "c")?;
    let pid = job.place(1)?.pid;
    // Dropping it sends SIGTERM to mpirun, which passes it on to its children; one of them is the shadow.
    drop(job);
    let gone = || !std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
    let limit = std::time::Duration::from_secs(20);
    meander_lab::state::wait_until("the moved rank to end", limit, || gone().then_some(()))
}

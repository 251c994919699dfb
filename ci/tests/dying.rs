//! Ranks that end while they are being moved: mpirun sees the end that they had, and nothing of them stays.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meander_lab::pause::Point;
use meander_lab::scenario::{PATIENCE, Scenario};
use rustix::process::{Pid, Signal, kill_process};

/// Whatever is still in the lab but holders and agents: nothing, once a job has ended.
fn expect_no_programs(scenario: &Scenario, program: &str) -> Result<()> {
    let running = || {
        let members = meander_lab::teardown::members(scenario.lab.dir());
        let names = members
            .iter()
            .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        names.filter(|name| name.trim() == program).count()
    };
    meander_lab::state::wait_until("the ranks to be gone", PATIENCE, || {
        (running() == 0).then_some(())
    })
}

#[test]
fn a_rank_that_exits_during_its_own_move() -> Result<()> {
    let scenario = Scenario::start("d-exit")?;
    // The file is made as the move begins, or a little later, so that the exit falls into each part of it.
    for delay_ms in [0, 20, 50, 100, 200] {
        let _ = fs::remove_file(scenario.file("stop.now"));
        let options = ["--who", "1", "--end", "last", "--pause-us", "200"];
        let job = scenario.steady(2).with(&options).start()?;
        let migrating = job.start_move(1, "c")?;
        std::thread::sleep(Duration::from_millis(delay_ms));
        fs::write(scenario.file("stop.now"), "")?;
        let migration = migrating.wait(PATIENCE)?;
        let ended = job
            .running
            .wait(PATIENCE)
            .with_context(|| migration.text.clone())?;
        ensure!(
            ended.code() == 3,
            "delay {delay_ms}: exit code {}\n{}",
            ended.code(),
            migration.text
        );
        expect_no_programs(&scenario, "steady")?;
    }
    Ok(())
}

#[test]
fn a_rank_that_is_killed_at_each_point_of_its_move() -> Result<()> {
    for point in Point::ALL {
        let scenario = Scenario::without_agents("d-killed")?;
        scenario.lab.start_agents_pausing_at(point)?;
        let job = scenario.steady(2).with(&["--pause-us", "500"]).start()?;
        let pid = Pid::from_raw(job.place(1)?.pid as i32).context("no pid")?;
        let migrating = job.start_move(1, "c")?;
        let paused = scenario.lab.wait_for_pause(point.node("b", "c"), point)?;
        kill_process(pid, Signal::KILL)?;
        std::thread::sleep(Duration::from_millis(100));
        paused.go_on()?;
        let migration = migrating.wait(PATIENCE)?;
        let ended = job.running.wait(PATIENCE);
        let ended = ended.with_context(|| format!("killed at {point:?}: {}", migration.text))?;
        ensure!(
            ended.code() == 137,
            "{point:?}: exit code {}\n{}",
            ended.code(),
            migration.text
        );
        expect_no_programs(&scenario, "steady")?;
    }
    Ok(())
}

#[test]
fn a_shadow_that_is_killed_takes_its_rank_along() -> Result<()> {
    let scenario = Scenario::start("d-shadow")?;
    let job = scenario.steady(2).with(&["--pause-us", "500"]).start()?;
    let original = Pid::from_raw(job.place(1)?.pid as i32).context("no pid")?;
    job.moves(1, "c")?;
    kill_process(original, Signal::KILL)?;
    let ended = job.running.wait(PATIENCE)?;
    ensure!(ended.code() == 137, "exit code {}", ended.code());
    expect_no_programs(&scenario, "steady")
}

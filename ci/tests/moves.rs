//! Ranks that move: there, on, back, together, and out of every kind of work.

use std::time::Duration;

use anyhow::{Result, ensure};
use meander_lab::artifacts;
use meander_lab::scenario::{PATIENCE, Scenario};

#[test]
fn a_rank_moves_again_and_back() -> Result<()> {
    let scenario = Scenario::start("m-back")?;
    let job = scenario.steady(4).with(&["--pause-us", "500"]).start()?;
    for to in ["c", "a", "c", "b"] {
        job.moves(2, to)?;
    }
    job.finish()?;
    Ok(())
}

#[test]
fn every_rank_moves_one_after_the_other() -> Result<()> {
    let scenario = Scenario::start("m-every")?;
    let job = scenario
        .steady(4)
        .with(&["--pause-us", "500", "--bytes", "100000"])
        .start()?;
    for (rank, to) in [(0, "c"), (1, "b"), (2, "a"), (3, "c")] {
        job.moves(rank, to)?;
    }
    job.finish()?;
    Ok(())
}

#[test]
fn several_ranks_move_at_once() -> Result<()> {
    let scenario = Scenario::start("m-several")?;
    let job = scenario.steady(4).with(&["--pause-us", "500"]).start()?;
    for round in [["c", "a", "c"], ["b", "c", "a"]] {
        let moves = [1, 2, 3].map(|rank| job.start_move(rank, round[rank as usize - 1]));
        for (migrating, to) in moves.into_iter().zip(round) {
            let place = migrating?.wait(PATIENCE)?.moved();
            place.map_err(|error| error.context(format!("to {to}")))?;
        }
        for (rank, to) in (1..).zip(round) {
            job.expect_at(rank, to)?;
        }
        job.expect_progress()?;
    }
    job.finish()?;
    Ok(())
}

#[test]
fn large_messages_cross_a_move() -> Result<()> {
    let scenario = Scenario::start("m-large")?;
    let job = scenario.steady(4).with(&["--bytes", "8000000"]).start()?;
    job.moves(2, "c")?;
    job.moves(2, "a")?;
    job.finish()?;
    Ok(())
}

#[test]
fn a_rank_that_computes_is_moved() -> Result<()> {
    let scenario = Scenario::start("m-spin")?;
    let job = scenario.steady(2).with(&["--spin-us", "300000"]).start()?;
    job.moves(1, "c")?;
    job.finish()?;
    Ok(())
}

#[test]
fn a_rank_with_memory_brings_it_along() -> Result<()> {
    let scenario = Scenario::start("m-memory")?;
    let options = ["--pause-us", "500", "--who", "3", "--memory-mb", "200"];
    let job = scenario.steady(4).with(&options).start()?;
    job.moves(3, "c")?;
    job.finish()?;
    Ok(())
}

#[test]
fn heat2d_moved_gives_the_native_checksum() -> Result<()> {
    let scenario = Scenario::start("m-heat")?;
    let heat = artifacts::example("heat2d")?;
    let arguments = ["256", "12000", "500"];
    let lab = &scenario.lab;
    let native = lab
        .mpirun(&["a"], 2)
        .native()
        .run(&heat, &arguments, PATIENCE * 3)?
        .success()?;
    let running = lab.mpirun(&["a", "b"], 2).start(&heat, &arguments)?;
    let job = lab.wait_for_ranks(4, PATIENCE)?[0].job.clone();
    let first = running.wait_for("a first step", PATIENCE, |line| line.starts_with("step"))?;
    lab.migrate("b", &format!("{job}/3"), "c")?.moved()?;
    let after = running.lines().len();
    lab.migrate("c", &format!("{job}/3"), "b")?.moved()?;
    let ended = running.wait(PATIENCE * 3)?.success()?;
    ensure!(
        ended.lines.len() > after,
        "it ended before the rank was back; make it longer"
    );
    ensure!(first.at.elapsed() > Duration::ZERO);
    ensure!(
        ended.value("checksum").is_some() && ended.value("checksum") == native.value("checksum")
    );
    Ok(())
}

//! Agents come late, go, and come back; ranks do not mind.

use anyhow::{Result, ensure};
use meander_lab::scenario::{NODES, PATIENCE, Scenario};
use rustix::process::Signal;

#[test]
fn an_agent_restarts_under_a_moved_rank() -> Result<()> {
    let scenario = Scenario::start("a-restart")?;
    let job = scenario.steady(4).with(&["--pause-us", "500"]).start()?;
    job.moves(2, "c")?;
    for (node, signal) in [
        ("c", Signal::TERM),
        ("c", Signal::KILL),
        ("b", Signal::KILL),
        ("a", Signal::KILL),
    ] {
        scenario.lab.stop_agent(node, signal)?;
        job.expect_progress()?;
        scenario.lab.start_agent(node, &[], &[])?;
        scenario.lab.wait_for_ranks(4, PATIENCE)?;
        job.expect_at(2, "c")?;
    }
    job.moves(2, "b")?;
    job.finish()?;
    Ok(())
}

#[test]
fn a_rank_finds_an_agent_that_is_started_after_it() -> Result<()> {
    let scenario = Scenario::without_agents("a-late")?;
    let mut job = scenario
        .steady(2)
        .with(&["--pause-us", "500"])
        .start_unlisted()?;
    job.expect_progress()?;
    scenario.lab.start_agents()?;
    let ranks = scenario.lab.wait_for_ranks(2, PATIENCE)?;
    job.job.clone_from(&ranks[0].job);
    job.moves(1, "c")?;
    job.finish()?;
    Ok(())
}

#[test]
fn ps_shows_the_same_on_every_node_and_nothing_after_the_end() -> Result<()> {
    let scenario = Scenario::start("a-ps")?;
    let job = scenario.steady(4).with(&["--pause-us", "500"]).start()?;
    job.moves(3, "c")?;
    let first = scenario.lab.ps("a")?;
    ensure!(first.len() == 4);
    for node in NODES {
        ensure!(
            scenario.lab.ps(node)? == first,
            "{node} lists something else"
        );
    }
    job.finish()?;
    scenario.lab.wait_for_ranks(0, PATIENCE)?;
    Ok(())
}

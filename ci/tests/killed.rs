//! An agent is killed with SIGKILL at each phase of a move. The rank is lost by nobody and doubled
//! by nobody: it goes on at its old place or at its new one, without anyone starting an agent again.

use anyhow::{Context, Result, ensure};
use meander_lab::scenario::{PATIENCE, Scenario};
use meander_lab::state::wait_until;
use rustix::process::Signal;

/// The phases as `meander migrate` names them.
const PHASES: [&str; 8] = [
    "check", "suspend", "freeze", "copy", "confirm", "commit", "attach", "shadow",
];
/// Makes every phase last this long after it was announced.
const SLOW: (&str, &str) = ("MEANDER_SLOW_PHASES_MS", "250");

fn killed_at(phase: &str, victim: &str) -> Result<()> {
    let scenario = Scenario::without_agents("k-agent")?;
    let lab = &scenario.lab;
    for node in meander_lab::scenario::NODES {
        lab.start_agent(node, &[], &[SLOW])?;
    }
    let job = scenario.steady(4).with(&["--pause-us", "500"]).start()?;
    let mut migrating = job.start_move(2, "c")?;
    wait_until(&format!("phase {phase}"), PATIENCE, || {
        (migrating.text().contains(phase) || migrating.ended()).then_some(())
    })?;
    ensure!(
        migrating.text().contains(phase),
        "no phase {phase}:\n{}",
        migrating.text()
    );
    lab.stop_agent(victim, Signal::KILL)?;
    // The command may have lost its agent, and says so, or may see the move through.
    migrating.wait(PATIENCE)?;
    job.expect_progress().context("with the agent dead")?;
    lab.start_agent(victim, &[], &[])?;
    let place = lab
        .wait_for_ranks(4, PATIENCE)?
        .into_iter()
        .find(|place| place.rank == 2);
    let node = place.context("rank 2 is not listed")?.node;
    ensure!(node == "b" || node == "c", "rank 2 is on {node}");
    job.moves(2, if node == "c" { "b" } else { "c" })?;
    job.finish()?;
    Ok(())
}

#[test]
fn the_source_agent() -> Result<()> {
    PHASES
        .iter()
        .try_for_each(|phase| killed_at(phase, "b").with_context(|| format!("at {phase}")))
}

#[test]
fn the_destination_agent() -> Result<()> {
    PHASES
        .iter()
        .try_for_each(|phase| killed_at(phase, "c").with_context(|| format!("at {phase}")))
}

#[test]
fn the_agent_of_the_directorys_node() -> Result<()> {
    let phases = ["freeze", "copy", "commit"];
    phases
        .iter()
        .try_for_each(|phase| killed_at(phase, "a").with_context(|| format!("at {phase}")))
}

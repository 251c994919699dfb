//! An agent is killed with SIGKILL at each point of a move. The rank is lost by nobody and doubled
//! by nobody: it goes on at its old place or at its new one, without anyone starting an agent again.

use anyhow::{Context, Result, ensure};
use meander_lab::pause::Point;
use meander_lab::scenario::{PATIENCE, Scenario};
use rustix::process::{Pid, Signal, kill_process};

/// Where rank 2 starts, and where it is sent.
const SOURCE: &str = "b";
const DESTINATION: &str = "c";

fn killed_at(point: Point, victim: &str) -> Result<()> {
    let scenario = Scenario::without_agents("k-agent")?;
    let lab = &scenario.lab;
    lab.start_agents_pausing_at(point)?;
    let job = scenario.steady(4).with(&["--pause-us", "500"]).start()?;
    let migrating = job.start_move(2, DESTINATION)?;
    let paused = lab.wait_for_pause(point.node(SOURCE, DESTINATION), point)?;
    lab.stop_agent(victim, Signal::KILL)?;
    paused.go_on()?;
    // The command may have lost its agent, and says so, or may see the move through.
    let migration = migrating.wait(PATIENCE)?;
    job.expect_progress()
        .with_context(|| format!("with the agent dead; {}", migration.text))?;

    // Whatever became of the move, the cluster agrees on it, and the rank can be moved again.
    lab.start_agent(victim, &[], &[])?;
    let place = lab
        .wait_for_ranks(4, PATIENCE)?
        .into_iter()
        .find(|place| place.rank == 2);
    let node = place.context("rank 2 is not listed")?.node;
    ensure!(node == SOURCE || node == DESTINATION, "rank 2 is on {node}");
    for node in meander_lab::scenario::NODES
        .iter()
        .filter(|node| **node != victim)
    {
        lab.stop_agent(node, Signal::KILL)?;
        lab.start_agent(node, &[], &[])?;
    }
    lab.wait_for_ranks(4, PATIENCE)?;
    job.moves(2, if node == SOURCE { DESTINATION } else { SOURCE })?;
    job.finish()?;
    Ok(())
}

fn killed_at_each(points: &[Point], victim: &str) -> Result<()> {
    for &point in points {
        killed_at(point, victim)
            .with_context(|| format!("agent of {victim} killed at {point:?}"))?;
    }
    Ok(())
}

#[test]
fn the_source_agent() -> Result<()> {
    killed_at_each(&Point::ALL, SOURCE)
}

#[test]
fn the_destination_agent() -> Result<()> {
    killed_at_each(&Point::ALL, DESTINATION)
}

#[test]
fn the_agent_of_the_directorys_node() -> Result<()> {
    killed_at_each(&[Point::Source("copy"), Point::Source("commit")], "a")
}

/// The process that owns the move is killed. Another takes over, asks the directory, and brings the
/// move to the end that was decided.
fn owner_killed_at(point: Point) -> Result<()> {
    let scenario = Scenario::without_agents("k-owner")?;
    let lab = &scenario.lab;
    lab.start_agents_pausing_at(point)?;
    let job = scenario.steady(4).with(&["--pause-us", "500"]).start()?;
    let migrating = job.start_move(2, DESTINATION)?;
    let paused = lab.wait_for_pause(SOURCE, point)?;
    let inside = format!("/run/meander/paused-{}", point.name());
    let file = lab.node(SOURCE).path_from_outside(&inside);
    let owner = std::fs::read_to_string(file)?.trim().parse()?;
    kill_process(Pid::from_raw(owner).context("no pid")?, Signal::KILL)?;
    // Whoever takes over does not pause.
    paused.go_on()?;
    migrating.wait(PATIENCE)?;
    job.expect_progress()?;
    for node in meander_lab::scenario::NODES {
        lab.stop_agent(node, Signal::KILL)?;
        lab.start_agent(node, &[], &[])?;
    }
    let places = lab.wait_for_ranks(4, PATIENCE)?;
    let place = places.into_iter().find(|place| place.rank == 2);
    let node = place.context("rank 2 is not listed")?.node;
    let committed = ["attach", "shadow"].contains(&point.name());
    ensure!(
        node == if committed { DESTINATION } else { SOURCE },
        "rank 2 is on {node}"
    );
    job.moves(2, if committed { SOURCE } else { DESTINATION })?;
    job.finish()?;
    Ok(())
}

#[test]
fn the_owner_of_the_move() -> Result<()> {
    for name in ["suspend", "copy", "commit", "attach", "shadow"] {
        let point = Point::Source(name);
        owner_killed_at(point).with_context(|| format!("owner killed at {point:?}"))?;
    }
    Ok(())
}

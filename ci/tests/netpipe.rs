//! NetPIPE (Debian's `netpipe-openmpi`) between two nodes, one of its ranks moved in the middle.

use std::time::Duration;

use anyhow::{Result, ensure};
use meander_lab::mpirun::{Ended, Running};
use meander_lab::scenario::{PATIENCE, Scenario};

const LIMIT: Duration = Duration::from_secs(240);

fn start(scenario: &Scenario, options: &[&str]) -> Result<Running> {
    let output = scenario.file("np.out");
    let mpirun = scenario
        .lab
        .mpirun(&["a", "b"], 1)
        .option("--wdir")
        .option(scenario.file(""));
    let output = output.to_string_lossy().into_owned();
    mpirun.start("NPopenmpi", &[&["-o", output.as_str()], options].concat())
}

/// Moves rank 1 away and back while it runs.
fn move_about(scenario: &Scenario, mut running: Running) -> Result<Ended> {
    let job = scenario.lab.wait_for_ranks(2, PATIENCE)?[0].job.clone();
    running.wait_for("a first measurement", PATIENCE, |line| {
        line.contains("bytes")
    })?;
    for (at, to) in [("b", "c"), ("c", "b")] {
        std::thread::sleep(Duration::from_millis(500));
        scenario.lab.migrate(at, &format!("{job}/1"), to)?.moved()?;
    }
    ensure!(
        running.is_running(),
        "NetPIPE ended before the rank was back; make it longer"
    );
    running.wait(LIMIT)?.success()
}

#[test]
fn integrity_mode() -> Result<()> {
    let scenario = Scenario::start("n-integrity")?;
    let ended = move_about(&scenario, start(&scenario, &["-i", "-u", "8000000"])?)?;
    let text = ended.stdout() + &ended.stderr();
    let checked = text
        .lines()
        .filter(|line| line.contains("Integrity check passed"))
        .count();
    ensure!(checked > 35, "{checked} sizes checked:\n{text}");
    ensure!(!text.contains("failed"), "{text}");
    Ok(())
}

#[test]
fn timing_mode() -> Result<()> {
    let scenario = Scenario::start("n-timing")?;
    let ended = move_about(&scenario, start(&scenario, &["-u", "200000"])?)?;
    let text = ended.stdout() + &ended.stderr();
    let measured = text.lines().filter(|line| line.contains("Mbps")).count();
    ensure!(measured > 50, "{measured} sizes measured:\n{text}");
    Ok(())
}

//! Moves that cannot be made: the command says which and why, and the rank goes on where it was.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use meander_lab::artifacts;
use meander_lab::scenario::{NODES, PATIENCE, Scenario, Steady};

const PAUSE: [&str; 2] = ["--pause-us", "500"];

/// After whatever was refused, a move that can be made is made.
fn still_moves(job: Steady<'_>) -> Result<()> {
    job.moves(1, "c")?;
    job.finish()?;
    Ok(())
}

#[test]
fn ranks_jobs_and_nodes_that_are_not_there() -> Result<()> {
    let scenario = Scenario::start("r-unknown")?;
    let lab = &scenario.lab;
    let job = scenario.steady(2).with(&PAUSE).start()?;
    let first = job.name(0);
    for (rank, to, word) in [
        (format!("{}/7", job.job), "c", "7"),
        ("nosuchjob/0".into(), "c", "nosuchjob"),
        ("nonsense".into(), "c", "nonsense"),
        (first.clone(), "nowhere", "nowhere"),
        (first, "a", "already"),
    ] {
        let refused = lab.migrate("a", &rank, to)?.refused(&[word]);
        refused.with_context(|| format!("{rank} to {to}"))?;
    }
    job.expect_progress()?;
    still_moves(job)
}

#[test]
fn a_node_without_an_agent() -> Result<()> {
    let scenario = Scenario::without_agents("r-noagent")?;
    for node in &NODES[..2] {
        scenario.lab.start_agent(node, &[], &[])?;
    }
    let job = scenario.steady(2).with(&PAUSE).start()?;
    job.refuses(1, "c", &["c", "agent"])?;
    let unheard = scenario.lab.meander("c", &["ps"])?;
    ensure!(!unheard.status.success(), "meander ps where no agent is");
    let said = String::from_utf8_lossy(&unheard.stderr).to_lowercase();
    ensure!(said.contains("agent"), "it says only {said:?}");
    scenario.lab.start_agent("c", &[], &[])?;
    still_moves(job)
}

#[test]
fn a_destination_that_is_down() -> Result<()> {
    let scenario = Scenario::start("r-down")?;
    let job = scenario.steady(2).with(&PAUSE).start()?;
    scenario.lab.set_link("c", false)?;
    job.refuses(1, "c", &["c"])?;
    scenario.lab.set_link("c", true)?;
    still_moves(job)
}

#[test]
fn a_destination_that_goes_down_while_the_image_is_copied() -> Result<()> {
    let scenario = Scenario::start("r-cut")?;
    // At this rate the image takes many seconds.
    scenario.lab.shape("c", Some("50mbit"))?;
    let options = ["--pause-us", "500", "--who", "1", "--memory-mb", "100"];
    let job = scenario.steady(2).with(&options).start()?;
    let mut migrating = job.start_move(1, "c")?;
    std::thread::sleep(std::time::Duration::from_secs(4));
    ensure!(
        !migrating.ended(),
        "it was over before the cut:\n{}",
        migrating.text()
    );
    scenario.lab.set_link("c", false)?;
    migrating.wait(PATIENCE * 5)?.refused(&["c"])?;
    job.expect_at(1, "b")?;
    job.expect_progress()?;
    scenario.lab.shape("c", None)?;
    scenario.lab.set_link("c", true)?;
    still_moves(job)
}

#[test]
fn an_image_over_the_memory_limit() -> Result<()> {
    let scenario = Scenario::without_agents("r-memory")?;
    for node in &NODES[..2] {
        scenario.lab.start_agent(node, &[], &[])?;
    }
    scenario
        .lab
        .start_agent("c", &["--memory-limit", "64MiB"], &[])?;
    let options = ["--pause-us", "500", "--who", "0", "--memory-mb", "150"];
    let job = scenario.steady(2).with(&options).start()?;
    job.refuses(0, "c", &["memory", "c"])?;
    still_moves(job)
}

#[test]
fn a_program_that_is_missing_there() -> Result<()> {
    let scenario = Scenario::start("r-binary")?;
    let lab = &scenario.lab;
    // The directory of the program is there on every node, but on c it is another, empty one.
    let empty = scenario.file("empty");
    fs::create_dir(&empty)?;
    let programs = artifacts::program("steady")?
        .parent()
        .map(PathBuf::from)
        .context("a directory")?;
    let mounted = lab
        .command("c", "mount")
        .args(["-n", "--bind"])
        .arg(&empty)
        .arg(&programs)
        .status()?;
    ensure!(mounted.success());
    let job = scenario.steady(2).with(&PAUSE).start()?;
    job.refuses(1, "c", &["steady", "c"])?;
    ensure!(
        lab.command("c", "umount")
            .arg("-n")
            .arg(&programs)
            .status()?
            .success()
    );
    still_moves(job)
}

/// A CRIU that fails at `what` (`dump` or `restore`), and does everything else.
fn failing_criu(scenario: &Scenario, what: &str) -> Result<PathBuf> {
    let real = std::env::var("MEANDER_CRIU").unwrap_or("/var/cache/meander/criu/criu".into());
    let path = scenario.file("failing-criu");
    let script = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" = {what} ] && {{ echo 'Error: made to fail' >&2; exit 1; }}; done\n\
         exec {real} \"$@\"\n"
    );
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn a_criu_that_fails_to_dump_or_to_restore() -> Result<()> {
    for (what, node) in [("dump", "b"), ("restore", "c")] {
        let scenario = Scenario::without_agents("r-criu")?;
        let criu = failing_criu(&scenario, what)?;
        for name in NODES {
            let criu = criu.to_string_lossy();
            let environment = [("MEANDER_CRIU", &*criu)];
            let chosen = if name == node { &environment[..] } else { &[] };
            scenario.lab.start_agent(name, &[], chosen)?;
        }
        let job = scenario.steady(2).with(&PAUSE).start()?;
        job.refuses(1, "c", &["criu", what])?;
        job.moves(0, if what == "dump" { "c" } else { "b" })?;
        job.finish()?;
    }
    Ok(())
}

#[test]
fn things_that_cannot_move_are_named() -> Result<()> {
    let scenario = Scenario::start("r-holds")?;
    for (what, words) in [
        ("child", &["child"][..]),
        ("socket", &["socket"]),
        ("shared", &["/dev/shm/steady"]),
        ("local-file", &["/run/steady.local"]),
        ("device", &["/dev/"]),
    ] {
        let job = scenario
            .steady(2)
            .with(&[&PAUSE[..], &["--who", "1", "--hold", what]].concat());
        let job = job.start()?;
        job.refuses(1, "c", words)
            .with_context(|| format!("holding a {what}"))?;
        // Its neighbour holds nothing of the kind.
        job.moves(0, "c")?;
        job.finish()?;
    }
    Ok(())
}

#[test]
fn another_users_rank() -> Result<()> {
    let scenario = Scenario::start("r-user")?;
    let job = scenario.steady(2).with(&PAUSE).start()?;
    let mut command = scenario.lab.command("b", "setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command
        .arg(scenario.lab.artifacts().meander())
        .args(["migrate", &job.name(1), "c"]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "anybody may move it");
    ensure!(
        !said.trim().is_empty() && !said.contains("panicked"),
        "it says {said:?}"
    );
    job.expect_at(1, "b")?;
    job.expect_progress()?;
    still_moves(job)
}

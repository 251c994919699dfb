//! MPI programs under the shim, across nodes, without any move: nothing but speed may differ.

use std::time::Duration;

use anyhow::{Result, ensure};
use meander_lab::artifacts;
use meander_lab::scenario::Scenario;

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn heat2d_gives_the_native_checksum_without_any_agent() -> Result<()> {
    let scenario = Scenario::without_agents("u-heat")?;
    let heat = artifacts::example("heat2d")?;
    let arguments = ["128", "400", "100"];
    let lab = &scenario.lab;
    let native = lab
        .mpirun(&["a", "b"], 2)
        .native()
        .run(&heat, &arguments, LIMIT)?
        .success()?;
    for (hosts, slots) in [
        (&["a", "b"][..], 2),
        (&["a", "b", "c"], 1),
        (&["a"], 4),
        (&["c"], 1),
    ] {
        let ours = lab
            .mpirun(hosts, slots)
            .run(&heat, &arguments, LIMIT)?
            .success()?;
        ensure!(
            ours.value("checksum").is_some(),
            "no checksum:\n{}",
            ours.stdout()
        );
        ensure!(
            ours.value("checksum") == native.value("checksum"),
            "differs on {hosts:?}"
        );
    }
    Ok(())
}

#[test]
fn a_steady_job_needs_no_agent() -> Result<()> {
    let scenario = Scenario::without_agents("u-steady")?;
    let job = scenario
        .steady(4)
        .with(&["--say", "50", "--pause-us", "1000"])
        .start_unlisted()?;
    job.expect_progress()?;
    job.finish()?;
    Ok(())
}

#[test]
fn a_shell_script_and_a_program_without_mpi_run_as_ever() -> Result<()> {
    let scenario = Scenario::without_agents("u-plain")?;
    let lab = &scenario.lab;
    let script = scenario.file("script.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\necho rank $OMPI_COMM_WORLD_RANK of $(echo $OMPI_COMM_WORLD_SIZE)\n",
    )?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let ended = lab
        .mpirun(&["a", "b"], 2)
        .run(&script, &[""; 0], LIMIT)?
        .success()?;
    let text = ended.stdout();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    ensure!(
        lines == ["rank 0 of 4", "rank 1 of 4", "rank 2 of 4", "rank 3 of 4"],
        "{lines:?}"
    );
    let ended = lab
        .mpirun(&["a", "b"], 1)
        .run("cat", &["/etc/hosts"], LIMIT)?
        .success()?;
    ensure!(ended.stdout().lines().count() == 8, "{}", ended.stdout());
    let ended = lab
        .mpirun(&["a", "b"], 1)
        .run("sh", &["-c", "exit 5"], LIMIT)?;
    ensure!(ended.code() == 5, "exit code {}", ended.code());
    Ok(())
}

#[test]
fn a_script_may_start_the_mpi_program() -> Result<()> {
    let scenario = Scenario::without_agents("u-script")?;
    let heat = artifacts::example("heat2d")?;
    let command = format!("cd /; {} 64 50 50 | cat; exit 0", heat.display());
    let ended = scenario
        .lab
        .mpirun(&["a", "b"], 1)
        .run("sh", &["-c", &command], LIMIT)?
        .success()?;
    ensure!(ended.value("checksum").is_some(), "{}", ended.stdout());
    Ok(())
}

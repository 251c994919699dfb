//! The lab itself: nodes are apart where they should be, and nothing is left of them.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meander_lab::{Lab, artifacts, state, teardown};

const LIMIT: Duration = Duration::from_secs(60);

fn output(lab: &Lab, node: &str, script: &str) -> Result<String> {
    let output = lab
        .command(node, "sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn nodes_have_a_name_an_uptime_and_places_of_their_own() -> Result<()> {
    let lab = Lab::up("t-nodes", &["a", "b"])?;
    for node in ["a", "b"] {
        ensure!(output(&lab, node, "hostname")? == node);
        ensure!(output(&lab, node, "touch /run/mine /dev/shm/mine; ls /dev/shm")? == "mine");
    }
    output(&lab, "a", "touch /run/only-a")?;
    ensure!(output(&lab, "b", "ls /run/only-a")?.is_empty());
    let uptime = |node: &str| -> Result<f64> {
        let text = output(&lab, node, "cat /proc/uptime")?;
        text.split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .context("no uptime")
    };
    let apart = uptime("b")? - uptime("a")?;
    ensure!(
        (99_000.0..101_000.0).contains(&apart),
        "uptimes are {apart} s apart"
    );
    lab.down()
}

#[test]
fn mpirun_spans_the_nodes() -> Result<()> {
    let lab = Lab::up("t-mpirun", &["a", "b", "c"])?;
    let heat = artifacts::example("heat2d")?;
    let three = lab
        .mpirun(&["a", "b", "c"], 1)
        .native()
        .run(&heat, &["64", "100"], LIMIT)?
        .success()?;
    let one = lab
        .mpirun(&["b"], 1)
        .native()
        .run(&heat, &["64", "100"], LIMIT)?
        .success()?;
    ensure!(three.value("checksum").is_some() && three.value("checksum") == one.value("checksum"));
    let names = lab
        .mpirun(&["a", "b", "c"], 1)
        .native()
        .run("hostname", &[""; 0], LIMIT)?
        .success()?;
    let mut names: Vec<String> = names.lines.iter().map(|line| line.text.clone()).collect();
    names.sort();
    ensure!(names == ["a", "b", "c"], "{names:?}");
    lab.down()
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let name = "t-rest";
    let lab = Lab::up(name, &["a", "b"])?;
    // A session of its own, as an agent's children have, in a pid namespace, as a moved rank is.
    output(
        &lab,
        "a",
        "setsid unshare --pid --fork sleep 1000 >/dev/null 2>&1 &",
    )?;
    let pids = state::wait_until("the sleeper", LIMIT, || {
        let pids = teardown::members(lab.dir());
        (pids.len() >= 6).then_some(pids)
    })?;
    lab.down()?;
    ensure!(!state::lab_dir(name).exists());
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains(name), "{mounts}");
    for pid in pids {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        ensure!(
            state.is_empty() || state.contains(") Z "),
            "still there: {state}"
        );
    }
    Ok(())
}

#[test]
fn a_lab_left_by_a_crash_is_cleared_away() -> Result<()> {
    let name = "t-crash";
    let lab = Lab::up(name, &["a"])?;
    output(&lab, "a", "touch /run/old")?;
    // As if this process had died: nobody drops the lab, and its owner is no more.
    let old = teardown::members(lab.dir());
    fs::write(lab.dir().join("owner"), "1 0\n")?;
    std::mem::forget(lab);
    let lab = Lab::up(name, &["a"])?;
    ensure!(output(&lab, "a", "ls /run/old")?.is_empty());
    ensure!(
        teardown::members(lab.dir())
            .iter()
            .all(|pid| !old.contains(pid))
    );
    lab.down()
}

#[test]
fn labs_live_side_by_side_with_the_same_addresses() -> Result<()> {
    let one = Lab::up("t-one", &["a", "b"])?;
    let other = Lab::up("t-two", &["a", "b"])?;
    other.set_link("b", false)?;
    let reach = |lab: &Lab| output(lab, "a", "bash -c 'echo >/dev/tcp/10.77.0.2/9' 2>&1");
    reach(&one)?;
    ensure!(
        output(&one, "a", "ip neigh")?.contains("lladdr"),
        "b is on the bridge of its lab"
    );
    other.down()?;
    ensure!(output(&one, "b", "hostname")? == "b");
    one.down()
}

#[test]
fn a_link_is_cut_mended_and_slowed() -> Result<()> {
    let lab = Lab::up("t-link", &["a", "b"])?;
    let carrier = |lab: &Lab| output(lab, "b", "ip -br link show eth0");
    ensure!(carrier(&lab)?.contains("UP"));
    lab.set_link("b", false)?;
    ensure!(carrier(&lab)?.contains("DOWN"));
    lab.set_link("b", true)?;
    ensure!(carrier(&lab)?.contains("UP"));
    lab.shape("b", Some("100mbit"))?;
    ensure!(output(&lab, "b", "tc qdisc show dev eth0")?.contains("rate 100Mbit"));
    lab.shape("b", None)?;
    ensure!(!output(&lab, "b", "tc qdisc show dev eth0")?.contains("rate"));
    lab.down()
}

//! The verbs themselves, and what their counters say.

use anyhow::{Context, Result, ensure};
use meander_lab::rxe::Site;
use meander_lab::state::wait_until;

use crate::support::{PATIENCE, Started};

/// The lab's devices work at all.
pub fn pingpong(site: &Site) -> Result<()> {
    let of_device = ["-d", site.device(), "-g", site.gid_index()];
    let pingpong = [&["ibv_rc_pingpong"], &of_device[..], &["-n", "100"]].concat();
    let server = Started::new("pingpong", site.command("a", &pingpong)?)?;
    let client = [&pingpong[..], &["a"]].concat();
    let said = wait_until("the pingpong to answer", PATIENCE, || {
        site.run("b", &client).ok()
    })?;
    ensure!(said.contains("100 iters in"), "{said}");
    let said = server.output()?;
    ensure!(said.contains("100 iters in"), "{said}");
    Ok(())
}

/// Names the programs of the `verbs` crate's own tests, separated by colons.
const PROGRAMS_VARIABLE: &str = "MEANDER_DEVICE_TESTS";
/// Fewer than there are, so that a program that runs none of its tests is found out.
const LEAST_TESTS: u64 = 30;

/// The tests of the `verbs` crate that need a device, the conformance suite of transports among them.
pub fn tests_on_a_device(site: &Site) -> Result<()> {
    let programs = std::env::var(PROGRAMS_VARIABLE).with_context(|| {
        format!("`cargo xtask rxe test` builds them and sets {PROGRAMS_VARIABLE}")
    })?;
    let mut passed = 0;
    for program in programs.split(':') {
        let words = [
            "timeout",
            "300",
            program,
            "--ignored",
            "--test-threads=1",
            "--skip",
            PART,
        ];
        let said = site.run("a", &words)?;
        let result = said.split("test result: ok. ").nth(1);
        let count = result.and_then(|rest| rest.split_once(" passed; 0 failed;"));
        let count: u64 = count
            .with_context(|| format!("no result:\n{said}"))?
            .0
            .parse()?;
        passed += count;
    }
    ensure!(passed >= LEAST_TESTS, "only {passed} tests were run");
    Ok(())
}

/// A process that one of these tests starts; its entry is listed among them.
const PART: &str = "another_process";

/// In all that ran before, nothing was sent to a receiver that had no room for it.
pub fn never_not_ready(site: &Site) -> Result<()> {
    let script = format!(
        "cd /sys/class/infiniband/{}/ports/1/hw_counters && grep -H . *rnr* retry_rnr_exceeded_err",
        site.device()
    );
    for node in ["a", "b"] {
        let counters = site.run(node, &["sh", "-c", &script])?;
        ensure!(counters.lines().count() >= 2, "which counters? {counters}");
        for line in counters.lines() {
            ensure!(line.ends_with(":0"), "{node}: {line}\n{counters}");
        }
    }
    Ok(())
}

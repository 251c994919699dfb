//! The verbs themselves, and what their counters say.

use anyhow::{Result, ensure};
use meander_lab::Rxe;
use meander_lab::state::wait_until;

use crate::support::{PATIENCE, Started};

/// The lab's devices work at all.
pub fn pingpong(lab: &Rxe) -> Result<()> {
    let pingpong = ["ibv_rc_pingpong", "-d", "rxe0", "-g", "1", "-n", "100"];
    let server = Started::new("pingpong", lab.command("a", &pingpong)?)?;
    let client = [&pingpong[..], &["a-rdma"]].concat();
    let said = wait_until("the pingpong to answer", PATIENCE, || {
        lab.run("b", &client).ok()
    })?;
    ensure!(said.contains("100 iters in"), "{said}");
    let said = server.output()?;
    ensure!(said.contains("100 iters in"), "{said}");
    Ok(())
}

/// In all that ran before, nothing was sent to a receiver that had no room for it.
pub fn never_not_ready(lab: &Rxe) -> Result<()> {
    let script = "cd /sys/class/infiniband/rxe0/ports/1/hw_counters && grep -H . *rnr* retry_rnr_exceeded_err";
    for node in ["a", "b"] {
        let counters = lab.run(node, &["sh", "-c", script])?;
        ensure!(counters.lines().count() >= 2, "which counters? {counters}");
        for line in counters.lines() {
            ensure!(line.ends_with(":0"), "{node}: {line}\n{counters}");
        }
    }
    Ok(())
}

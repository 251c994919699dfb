//! SIGCONT reaches the original at every phase of its move, and still only one copy ever runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meander_lab::scenario::Scenario;
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn a_held_original_stays_held() -> Result<()> {
    let scenario = Scenario::start("c-sigcont")?;
    // Rank 2 holds some memory, so that each phase takes long enough to be hit many times.
    let options = ["--pause-us", "200", "--who", "2", "--memory-mb", "100"];
    let job = scenario.steady(4).with(&options).start()?;
    for to in ["c", "b"] {
        let pid = Pid::from_raw(job.place(2)?.pid as i32).context("no pid")?;
        let over = AtomicBool::new(false);
        let sent = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) && kill_process(pid, Signal::CONT).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(500));
                }
            });
            let moved = job.moves(2, to);
            over.store(true, Ordering::Relaxed);
            moved
        })?;
        ensure!(
            sent.load(Ordering::Relaxed) > 50,
            "only {sent:?} signals fell into the move"
        );
    }
    // Each rank's log counts up without a gap: that is checked here.
    job.finish()?;
    Ok(())
}

//! SIGCONT reaches the original at every point of its move, and still only one copy ever runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meander_lab::pause::Point;
use meander_lab::scenario::{PATIENCE, Scenario, Steady};
use rustix::process::{Pid, Signal, kill_process};

const PAUSE: [&str; 2] = ["--pause-us", "200"];

fn pid_of(job: &Steady<'_>, rank: u32) -> Result<Pid> {
    Pid::from_raw(job.place(rank)?.pid as i32).context("no pid")
}

#[test]
fn at_every_point_of_a_move() -> Result<()> {
    for point in Point::ALL {
        let scenario = Scenario::without_agents("c-points")?;
        scenario.lab.start_agents_pausing_at(point)?;
        let job = scenario.steady(4).with(&PAUSE).start()?;
        let pid = pid_of(&job, 2)?;
        let migrating = job.start_move(2, "c")?;
        let paused = scenario.lab.wait_for_pause(point.node("b", "c"), point)?;
        for _ in 0..20 {
            // Its parent may be the first to see it go, at the end of the move.
            let _ = kill_process(pid, Signal::CONT);
            std::thread::sleep(Duration::from_millis(5));
        }
        paused.go_on()?;
        migrating
            .wait(PATIENCE)?
            .moved()
            .with_context(|| format!("at {point:?}"))?;
        job.expect_at(2, "c")?;
        job.expect_progress()?;
        // Each rank's log counts up without a gap: that is checked here.
        job.finish().with_context(|| format!("at {point:?}"))?;
    }
    Ok(())
}

#[test]
fn all_the_time() -> Result<()> {
    let scenario = Scenario::start("c-always")?;
    // Rank 2 holds some memory, so that a move takes long enough to be hit many times.
    let options = [&PAUSE[..], &["--who", "2", "--memory-mb", "100"]].concat();
    let job = scenario.steady(4).with(&options).start()?;
    for to in ["c", "b"] {
        let pid = pid_of(&job, 2)?;
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
    job.finish()?;
    Ok(())
}

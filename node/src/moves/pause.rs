//! Stopping a move at a chosen point, for tests only.
//!
//! `MEANDER_TEST_PAUSE=commit` in the environment of the agents makes every move wait as it enters
//! its commit phase: the file `paused-commit` appears in the run directory, and the move goes on
//! when a test removes it, or after [`LONGEST`]. Several points are separated by commas. The source
//! knows the names of the phases; the guardian `receive`, `restore`, `held` and `release`; the
//! directory's process the steps of a hand-over: `directory-giving`, `directory-taken`, `directory-gone`.

use std::fs;
use std::time::{Duration, Instant};

use meander::control::run_dir;

/// Longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// Pauses here if the environment says so.
pub fn at(point: &str) {
    let wanted = std::env::var("MEANDER_TEST_PAUSE").unwrap_or_default();
    if !wanted.split(',').any(|word| word == point) {
        return;
    }
    let file = run_dir().join(format!("paused-{point}"));
    tracing::warn!(
        "a test pauses this move at `{point}` until {} is removed",
        file.display()
    );
    let started = Instant::now();
    if fs::write(&file, std::process::id().to_string()).is_ok() {
        while file.exists() && started.elapsed() < LONGEST {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

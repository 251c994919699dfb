//! Where the processes that outlive an agent write: `log/` in the run directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use meander::control::run_dir;

/// The log of this name.
pub fn path(name: &str) -> PathBuf {
    run_dir().join("log").join(format!("{name}.log"))
}

/// The log of this name, opened to be appended to. Nothing is written where that fails: no move
/// shall fail for its log.
pub fn open(name: &str) -> Stdio {
    let path = path(name);
    let _ = path.parent().map(std::fs::create_dir_all);
    match File::options().append(true).create(true).open(&path) {
        Ok(file) => file.into(),
        Err(error) => {
            tracing::warn!("{}: {error}", path.display());
            Stdio::null()
        }
    }
}

/// Keeps the logs that a failing tool left in a directory which is about to go, and names them anew
/// where `text` speaks of them.
pub fn keep(directory: &Path, text: &str) -> String {
    let mut text = text.to_owned();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let from = entry.path();
        if from.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let to = path(&format!("failed-{}", name.trim_end_matches(".log")));
        let _ = to.parent().map(fs::create_dir_all);
        if fs::copy(&from, &to).is_ok() {
            text = text.replace(&*from.to_string_lossy(), &to.to_string_lossy());
        }
    }
    text
}

/// Sets up what this process writes to its standard error: `MEANDER_LOG` says how much
/// (`info` without it).
pub fn start() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MEANDER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}

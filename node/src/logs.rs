//! Where the processes that outlive an agent write: `log/` in the run directory.

use std::fs::File;
use std::path::PathBuf;
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

//! What a rank says of its streams on its standard error, for whoever asks: `MEANDER_LOG`.

use std::env;

use tracing_subscriber::EnvFilter;

use crate::errors::Error;

/// How much is said: `warn`, `info`, `debug`; nothing without it.
pub const VARIABLE: &str = "MEANDER_LOG";

/// Sets it up, at `MPI_Init`. A program that has its own way to take these events keeps it.
pub fn start() -> Result<(), Error> {
    let Ok(text) = env::var(VARIABLE) else {
        return Ok(());
    };
    let filter = EnvFilter::try_new(&text)
        .map_err(|error| Error::Setup(format!("{VARIABLE}: `{text}`: {error}")))?;
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
    Ok(())
}

//! Hidden subcommands: the parts of a move that must be processes of their own.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the hidden subcommand that the command line names, if it names one: `main` calls this
/// before it reads its options.
pub fn run() -> Option<ExitCode> {
    let name: OsString = std::env::args_os().nth(1)?;
    match name.to_str()? {
        // "shadow" => Some(crate::shadow::main()), and the guardian's helpers
        _ => None,
    }
}

//! What a user types: each command in a module of its own.

pub mod directory;
pub mod doctor;
pub mod key;
pub mod migrate;
pub mod ps;

use crate::Error;

/// Exit codes of the `meander` command; `meander --help` lists them. 2 is clap's, for wrong usage.
pub mod exit {
    /// Done as asked.
    pub const DONE: u8 = 0;
    /// It failed, for a reason that has no code of its own.
    pub const FAILED: u8 = 1;
    /// No agent, no directory, or another node can't be reached.
    pub const UNREACHABLE: u8 = 3;
    /// There is no such rank or node, or it is not yours to move.
    pub const NOT_POSSIBLE: u8 = 4;
    /// The move was rolled back: the rank runs where it was.
    pub const ROLLED_BACK: u8 = 5;
    /// The rank ended during its move.
    pub const ENDED: u8 = 6;
}

/// Says on standard error what failed and how to mend it, and gives the exit code.
pub fn complain(error: &Error) -> u8 {
    say(&error.to_string(), &error.mend());
    match error {
        Error::NoAgent { .. } | Error::Unreachable { .. } | Error::NoDirectory { .. } => {
            exit::UNREACHABLE
        }
        Error::UnknownNode { .. } => exit::NOT_POSSIBLE,
        _ => exit::FAILED,
    }
}

/// What failed, and how to mend it, on standard error.
fn say(what: &str, mend: &str) {
    eprintln!("meander: {what}");
    if !mend.is_empty() {
        eprintln!("  {mend}");
    }
}

//! The shadow's child, which has its port.

/// The hidden subcommand.
pub(crate) fn main() -> std::process::ExitCode {
    todo!()
}

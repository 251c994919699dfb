//! The `meander` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = meander_node::hidden::run() {
        return code;
    }
    ExitCode::SUCCESS
}

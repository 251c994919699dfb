//! The release build.

use std::process::Stdio;

use crate::process::{Failure, cargo, must};

/// What a lab and a user need: the command, the shim with its helper, the bench with the provider that it
/// counts instructions above, the lab.
const SHIPPED: &[&str] = &[
    "meander-node",
    "meander-mpi",
    "meander-wireup",
    "meander-bench",
    "meander-verbs-stub",
    "meander-lab",
];

/// Builds all that a lab needs.
pub fn release() -> Result<(), Failure> {
    release_of(SHIPPED)
}

/// Builds these packages.
pub fn release_of(packages: &[&str]) -> Result<(), Failure> {
    let mut build = cargo();
    build.args(["build", "--release", "--quiet"]);
    for package in packages {
        build.args(["--package", package]);
    }
    must(&mut build, "the release build")
}

/// Builds the tests that need an RDMA device, and gives the programs' paths. The lab runs them on one of
/// its machines.
pub fn device_tests() -> Result<Vec<String>, Failure> {
    let mut build = cargo();
    build.args(["test", "--package", "meander-verbs", "--no-run", "--quiet"]);
    build.args(["--lib", "--test", "conformance", "--test", "links"]);
    build.arg("--message-format=json");
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::new(format!("cannot run cargo: {error}")))?;
    let programs = executables(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() || programs.len() != DEVICE_TESTS {
        return Err(Failure::new("the tests of verbs were not built"));
    }
    Ok(programs)
}

/// Programs of the tests that need an RDMA device.
const DEVICE_TESTS: usize = 3;

/// The programs that cargo says, a message a line, it has built.
fn executables(messages: &str) -> Vec<String> {
    let paths = messages.lines().filter_map(|message| {
        let (_, rest) = message.split_once("\"executable\":\"")?;
        Some(rest.split_once('"')?.0.to_owned())
    });
    paths.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargo_s_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null,\"fresh\":true}\n\
            {\"reason\":\"compiler-artifact\",\"executable\":\"/a/b-1\",\"fresh\":true}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executables(messages), ["/a/b-1"]);
    }
}

//! The release build.

use crate::process::{Failure, cargo, must};

/// What a lab and a user need: the command, the shim with its helper, the bench, the lab.
const SHIPPED: &[&str] = &[
    "meander-node",
    "meander-mpi",
    "meander-wireup",
    "meander-bench",
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

//! What our binaries need of the machine they run on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use meander_lab::artifacts::Artifacts;

/// libibverbs is loaded by whoever finds a use for it: everything runs without.
#[test]
fn no_binary_needs_the_libraries_of_verbs() -> Result<()> {
    let artifacts = Artifacts::locate();
    artifacts.check()?;
    let names = ["meander-bench", "meander-lab"];
    let others = names.map(|name| artifacts.dir().join(name));
    let binaries = [artifacts.meander(), artifacts.shim()]
        .into_iter()
        .chain(others);
    for binary in binaries.collect::<Vec<PathBuf>>() {
        let needed = needed(&binary)?;
        ensure!(
            needed.iter().any(|name| name.starts_with("libc.so")),
            "{}: {needed:?}",
            binary.display()
        );
        let verbs = ["libibverbs", "librdmacm", "libmlx"];
        let found = needed
            .iter()
            .find(|name| verbs.iter().any(|it| name.starts_with(it)));
        ensure!(found.is_none(), "{} needs {found:?}", binary.display());
    }
    Ok(())
}

/// The libraries that the loader must find for a binary.
fn needed(binary: &Path) -> Result<Vec<String>> {
    let output = Command::new("readelf").arg("-dW").arg(binary).output();
    let output = output.context("cannot run readelf (Debian: binutils)")?;
    ensure!(
        output.status.success(),
        "readelf -d {} failed",
        binary.display()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter(|line| line.contains("(NEEDED)"));
    Ok(names
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
        .collect())
}

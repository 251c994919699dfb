//! What a lab runs: our own build, and the C programs of the scenarios.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

/// Names another directory with `meander` and `libmeander_mpi.so` in it than `target/release`.
pub const ARTIFACTS_VARIABLE: &str = "MEANDER_ARTIFACTS";

/// The directory of our build.
#[derive(Clone, Debug)]
pub struct Artifacts {
    dir: PathBuf,
}

impl Artifacts {
    /// `$MEANDER_ARTIFACTS`, or `target/release` of this source tree.
    pub fn locate() -> Artifacts {
        let named = std::env::var_os(ARTIFACTS_VARIABLE).map(PathBuf::from);
        Artifacts {
            dir: named.unwrap_or_else(|| target_dir().join("release")),
        }
    }

    /// Where the build is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The `meander` command.
    pub fn meander(&self) -> PathBuf {
        self.dir.join("meander")
    }

    /// The MPI shim.
    pub fn shim(&self) -> PathBuf {
        self.dir.join("libmeander_mpi.so")
    }

    /// Fails, saying what to do, unless everything a move needs was built.
    pub fn check(&self) -> Result<()> {
        for path in [self.meander(), self.shim()] {
            if !path.exists() {
                bail!(
                    "{} is missing: `cargo xtask build` makes it",
                    path.display()
                );
            }
        }
        Ok(())
    }
}

/// The root of the source tree.
pub fn source_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// Cargo's target directory.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| source_root().join("target"), PathBuf::from)
}

/// Compiles `ci/programs/NAME.c` with `mpicc`, once, and gives the program.
pub fn program(name: &str) -> Result<PathBuf> {
    compile(&lab_source(name), name, "mpicc")
}

/// The same with the compiler of a certain library, such as `mpicc.mpich`: a program for each.
pub fn program_by(name: &str, compiler: &str) -> Result<PathBuf> {
    compile(&lab_source(name), &format!("{name}.{compiler}"), compiler)
}

/// Compiles `examples/NAME.c` with `mpicc`, once, and gives the program.
pub fn example(name: &str) -> Result<PathBuf> {
    let source = source_root().join("examples").join(format!("{name}.c"));
    compile(&source, name, "mpicc")
}

fn lab_source(name: &str) -> PathBuf {
    source_root().join("ci/programs").join(format!("{name}.c"))
}

fn compile(source: &Path, name: &str, compiler: &str) -> Result<PathBuf> {
    let dir = target_dir().join("lab-programs");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let program = dir.join(name);
    if newer(&program, source) {
        return Ok(program);
    }
    // Compiled aside and renamed, so that a program which runs is never written over.
    let fresh = dir.join(format!("{name}.{}", std::process::id()));
    let output = Command::new(compiler)
        .args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-o"])
        .arg(&fresh)
        .arg(source)
        .arg("-lm")
        .output()
        .with_context(|| format!("cannot run {compiler}: `cargo xtask setup` installs it"))?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            source.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    fs::rename(&fresh, &program)?;
    Ok(program)
}

fn newer(program: &Path, source: &Path) -> bool {
    let when = |path: &Path| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    matches!((when(program), when(source)), (Some(built), Some(written)) if built > written)
}

//! From a held process to an image in a directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, Hold, StdioPlan};

/// A process's image.
#[derive(Debug)]
pub struct Dump {
    /// The files to carry to the destination: all in one directory, no sub-directories.
    pub directory: PathBuf,
    /// What the destination must know beside them.
    pub manifest: Manifest,
    /// Their size.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// What the destination must know of an image beside its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The pid that the process sees, and keeps.
    pub pid: i32,
    /// The ids of its threads; they must be free in the copy's pid namespace.
    pub threads: Vec<i32>,
    /// Its owner.
    pub uid: u32,
    /// Its owner's group.
    pub gid: u32,
    /// Its standard streams.
    pub stdio: StdioPlan,
}

/// Writes the image of a held process into `directory` (best on a tmpfs) and leaves it held.
/// Something that can't move is an error here too, should it have appeared since [`super::inspect`].
pub fn dump(hold: &Hold, directory: &Path) -> Result<Dump, Error> {
    let _ = (hold, directory);
    todo!()
}

//! `meander key`: makes the cluster key, or shows the fingerprint of the one there is.

use std::path::Path;

use crate::{Error, keyfile};

/// Makes a key where there is none; prints its fingerprint, never the key.
pub fn run(path: &Path) -> Result<(), Error> {
    let (key, word) = match keyfile::read(path) {
        Ok(key) => (key, "is"),
        Err(Error::NoKey { .. }) => (keyfile::make(path)?, "was made"),
        Err(error) => return Err(error),
    };
    println!(
        "the cluster key {} {word}: fingerprint {}",
        path.display(),
        keyfile::fingerprint(&key)
    );
    if word == "was made" {
        println!("copy it to every node of the cluster, owner root, mode 0600");
    }
    Ok(())
}

//! The cluster key: 32 random bytes as 64 hexadecimal digits in a file only root can read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use meander::Key;
use sha2::{Digest, Sha256};

use crate::Error;

/// Where the cluster key is looked for.
pub const DEFAULT_PATH: &str = "/etc/meander/cluster.key";

/// Reads the key, and refuses one that others than its owner can read.
pub fn read(path: &Path) -> Result<Key, Error> {
    let bad = |why: &str| Error::BadKey {
        path: path.into(),
        why: why.into(),
    };
    let not_found = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => Error::NoKey { path: path.into() },
        _ => Error::Io {
            operation: format!("reading {}", path.display()),
            source,
        },
    };
    let mode = fs::metadata(path).map_err(not_found)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(bad("others than its owner can read it (chmod 0600)"));
    }
    let text = fs::read_to_string(path).map_err(not_found)?;
    parse(text.trim()).ok_or_else(|| bad("it is not 64 hexadecimal digits"))
}

/// Makes a key. A file that is there already is left alone, and is an error.
pub fn make(path: &Path) -> Result<Key, Error> {
    let key = random();
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        fs::create_dir_all(directory)
            .map_err(Error::io(format!("making {}", directory.display())))?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io(format!("making {}", path.display())))?;
    let digits: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(file, "{digits}")
        .and_then(|()| file.sync_all())
        .map_err(Error::io(format!("writing {}", path.display())))?;
    Ok(key)
}

/// A key that nobody has had before.
pub fn random() -> Key {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    Key(bytes)
}

/// A number that nobody has had before.
pub fn random_id() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    u128::from_le_bytes(bytes)
}

/// What tells two keys apart, and may be shown to anyone.
pub fn fingerprint(key: &Key) -> String {
    let digest = Sha256::new()
        .chain_update(b"meander key fingerprint")
        .chain_update(key.0);
    let digest = digest.finalize();
    let groups = digest[..8]
        .chunks(2)
        .map(|pair| format!("{:02x}{:02x}", pair[0], pair[1]));
    groups.collect::<Vec<_>>().join("-")
}

fn parse(digits: &str) -> Option<Key> {
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(Key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_can_be_read_and_only_by_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/cluster.key");
        let key = make(&path).unwrap();
        assert_eq!(read(&path).unwrap(), key);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(make(&path).is_err(), "made over an old key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("chmod 0600"));
    }

    #[test]
    fn a_fingerprint_tells_keys_apart_and_not_what_they_are() {
        let (a, b) = (random(), random());
        assert_ne!(fingerprint(&a), fingerprint(&b));
        assert_eq!(fingerprint(&a).len(), 19);
    }

    #[test]
    fn nonsense_is_no_key() {
        for text in ["", "zz", &"g".repeat(64), &"é".repeat(32)] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}

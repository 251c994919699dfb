//! Running CRIU, and reading its complaints.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::Error;

/// Where `ci/criu-tree.sh` puts a CRIU that works.
const MADE: &str = "/var/cache/meander/criu/criu";
/// How many lines of its log an error quotes.
const QUOTED_LINES: usize = 3;

/// CRIU: `$MEANDER_CRIU`, else the one made by `ci/criu-tree.sh`, else the one in `PATH`.
pub fn program() -> Result<PathBuf, Error> {
    let chosen = std::env::var_os("MEANDER_CRIU").map(PathBuf::from);
    let made = || Some(PathBuf::from(MADE)).filter(|path| path.exists());
    let installed = || {
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin"));
        let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        places
            .map(|place| place.join("criu"))
            .find(|path| path.is_file())
    };
    let program = chosen.or_else(made).or_else(installed);
    let program = program.ok_or_else(|| Error::NoCriu {
        tried: format!("{MADE}, PATH"),
    })?;
    match program.is_file() {
        true => Ok(program),
        false => Err(Error::NoCriu {
            tried: program.display().to_string(),
        }),
    }
}

/// Why CRIU failed, from its log.
#[derive(Debug)]
pub(super) struct Complaint {
    pub text: String,
    /// A signal came at an instant when CRIU can't take one; the same again may succeed.
    pub by_signal: bool,
}

/// Reads CRIU's log.
pub(super) fn complaint(log: &Path, status: &str) -> Complaint {
    let text = fs::read(log).unwrap_or_default();
    complaint_in(&String::from_utf8_lossy(&text), status)
}

fn complaint_in(log: &str, status: &str) -> Complaint {
    let errors: Vec<&str> = log.lines().filter_map(error_of).collect();
    // SIGCONT stops a seized task whether it is blocked or not, so CRIU sees stops it did not ask for.
    let by_signal = errors.iter().any(|line| {
        line.contains("task interruption")
            || line.contains("unexpectedly")
            || line.contains("si_code=5")
            || line.contains("stopped by signal 5")
    });
    let telling: Vec<&str> = errors
        .iter()
        .copied()
        .filter(|line| !is_noise(line))
        .collect();
    let first = telling.len().saturating_sub(QUOTED_LINES);
    let text = match telling.is_empty() {
        true => format!("it ended with {status} and left no error in its log"),
        false => telling[first..].join("; "),
    };
    Complaint { text, by_signal }
}

/// The text of an error line: `(00.1) 4711: Error (criu/files.c:12): text`.
fn error_of(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("Error (")?;
    Some(rest.split_once("): ")?.1.trim())
}

/// Errors that say nothing, or are harmless.
fn is_noise(line: &str) -> bool {
    line.contains("RLIMIT_NOFILE")
        || line.starts_with("Dumping FAILED")
        || line.starts_with("Restoring FAILED")
        || line.contains("cgroupd: recv req")
        || line.contains("killed by signal 9")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_telling_errors() {
        let log = "(00.0) Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self\n\
                   (00.1) info\n\
                   (00.2)  17: Error (criu/files-reg.c:1): File out has bad size 5 (expect 3)\n\
                   (00.3) Error (criu/cr-restore.c:2): Restoring FAILED.\n";
        let complaint = complaint_in(log, "exit status: 1");
        assert_eq!(complaint.text, "File out has bad size 5 (expect 3)");
        assert!(!complaint.by_signal);
        assert!(
            complaint_in("", "exit status: 1")
                .text
                .contains("exit status: 1")
        );
    }

    #[test]
    fn a_signal_in_the_wrong_instant() {
        let log = "(0.05) Error (compel/src/lib/infect.c:609): Unexpected 157 task interruption, aborting\n";
        assert!(complaint_in(log, "").by_signal);
    }
}

//! `meander doctor`: whether this node can do what Meander needs, and how to mend what it can't.

mod cluster;
mod machine;

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::exit;
use crate::Error;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    /// All is well.
    Ok,
    /// It works without, but less well, or not for everybody.
    Warn,
    /// It does not work without.
    Fail,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        })
    }
}

/// One check's outcome.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    /// What was checked.
    check: &'static str,
    grade: Grade,
    /// What was found.
    found: String,
    /// What to do about it; empty where nothing need be done.
    mend: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            check,
            grade: Grade::Ok,
            found: found.into(),
            mend: String::new(),
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding {
            check,
            grade: Grade::Warn,
            found: found.into(),
            mend: mend.into(),
        }
    }

    fn fail(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding {
            check,
            grade: Grade::Fail,
            found: found.into(),
            mend: mend.into(),
        }
    }
}

/// Checks everything and prints it. Returns the exit code: 0 unless a check failed.
pub fn run(cluster: &Path, key: &Path, as_json: bool) -> Result<u8, Error> {
    let mut findings = machine::findings();
    findings.extend(cluster::findings(cluster, key));
    if as_json {
        println!("{:#}", serde_json::json!({ "checks": findings }));
    } else {
        findings.iter().for_each(print);
    }
    let failed = findings.iter().any(|finding| finding.grade == Grade::Fail);
    Ok(if failed { exit::FAILED } else { exit::DONE })
}

fn print(finding: &Finding) {
    println!(
        "{:<4}  {:<10} {}",
        finding.grade, finding.check, finding.found
    );
    for line in finding.mend.lines() {
        println!("      {:<10} -> {line}", "");
    }
}

//! `cargo xtask rules`: the rules of `docs/protocol.md` and the places that cite them agree.
//!
//! A rule is a paragraph of the document that begins with its number in bold. Code and tests cite
//! it by its number in square brackets. Every rule must be cited by code that keeps it and by a
//! test that would fail without it, and nothing may cite a rule that there is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::process::Failure;

/// Where the rules are.
const DOCUMENT: &str = "docs/protocol.md";
/// Directories without citations: builds, and this check with its samples.
const LEFT_OUT: &[&str] = &["target", "xtask"];

/// Checks the source tree, whose root is the working directory. Prints what is wrong, or counts.
/// Returns whether all is well.
pub fn check() -> Result<bool, Failure> {
    let rules = rules(&read(Path::new(DOCUMENT))?);
    let mut citations = Vec::new();
    for path in sources(Path::new("."))? {
        citations.extend(citations_in(&path, &read(&path)?));
    }
    let faults = faults(&rules, &citations);
    for fault in &faults {
        eprintln!("{fault}");
    }
    println!(
        "rules: {} with {} citations, {} faults",
        rules.len(),
        citations.len(),
        faults.len()
    );
    Ok(faults.is_empty())
}

/// A number of a rule in a source file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Citation {
    rule: u32,
    place: String,
    in_test: bool,
}

/// The numbers of the document's rules, each as often as it is defined.
fn rules(document: &str) -> Vec<u32> {
    let numbers = document.lines().filter_map(|line| {
        let rest = line.strip_prefix("**R")?;
        rest.split_once("**")?.0.parse().ok()
    });
    numbers.collect()
}

fn faults(rules: &[u32], citations: &[Citation]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut known = BTreeSet::new();
    for rule in rules {
        if !known.insert(*rule) {
            faults.push(format!("{DOCUMENT}: R{rule} is defined twice"));
        }
    }
    // Of each rule: whether code cites it, whether a test does.
    let mut cited: BTreeMap<u32, [bool; 2]> = BTreeMap::new();
    for Citation {
        rule,
        place,
        in_test,
    } in citations
    {
        if !known.contains(rule) {
            faults.push(format!("{place}: there is no rule R{rule}"));
        }
        cited.entry(*rule).or_default()[usize::from(*in_test)] = true;
    }
    for rule in known {
        let by = cited.get(&rule).copied().unwrap_or_default();
        for (is_cited, who) in by.into_iter().zip(["code", "test"]) {
            if !is_cited {
                faults.push(format!("{DOCUMENT}: no {who} cites R{rule}"));
            }
        }
    }
    faults
}

/// The citations of one source file. What follows the first `#[cfg(test)]` with a body is a test,
/// as is a whole file of tests and the simulator, planted faults included: it must find them.
fn citations_in(path: &Path, text: &str) -> Vec<Citation> {
    let mut in_test = is_test(path);
    let mut citations = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        let next = lines.peek().map_or("", |(_, next)| next.trim());
        in_test |= line.trim() == "#[cfg(test)]" && next.starts_with("mod") && next.ends_with('{');
        for rule in numbers_in(line) {
            citations.push(Citation {
                rule,
                place: format!("{}:{}", path.display(), at + 1),
                in_test,
            });
        }
    }
    citations
}

fn numbers_in(line: &str) -> impl Iterator<Item = u32> {
    let after = line.split("[R").skip(1);
    after.filter_map(|rest| rest.split_once(']')?.0.parse().ok())
}

fn is_test(path: &Path) -> bool {
    let has = |name: &str| path.components().any(|part| part.as_os_str() == name);
    let is = |name: &str| path.file_name().is_some_and(|file| file == name);
    has("tests") || has("sim") || has("fuzz") || is("tests.rs") || is("planted.rs")
}

/// Every Rust source file below a directory.
fn sources(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", directory.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        if is_directory && !name.starts_with('.') && !LEFT_OUT.contains(&&*name) {
            found.extend(sources(&path)?);
        } else if !is_directory && name.ends_with(".rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "core/src/port.rs";
    const TEST: &str = "core/tests/port.rs";

    fn check(document: &str, files: &[(&str, &str)]) -> Vec<String> {
        let citations: Vec<Citation> = files
            .iter()
            .flat_map(|(path, text)| citations_in(Path::new(path), text))
            .collect();
        faults(&rules(document), &citations)
    }

    #[test]
    fn a_rule_that_code_and_a_test_cite_is_well() {
        let document = "# Rules\n\n**R1** Be whole.\n\nAs R1 says.\n**R12** Be\nsound.\n";
        let code = "/// Does it. `[R1]` `[R12]`";
        assert_eq!(check(document, &[(CODE, code), (TEST, code)]), [""; 0]);
    }

    #[test]
    fn a_rule_that_nothing_cites_is_a_fault_twice() {
        let found = check("**R7** Be cited.", &[]);
        assert_eq!(
            found,
            [
                "docs/protocol.md: no code cites R7",
                "docs/protocol.md: no test cites R7"
            ]
        );
    }

    #[test]
    fn code_alone_and_tests_alone_do_not_do() {
        let document = "**R7** Be cited.";
        let found = check(document, &[(CODE, "// [R7]")]);
        assert_eq!(found, ["docs/protocol.md: no test cites R7"]);
        let found = check(document, &[(TEST, "// [R7]")]);
        assert_eq!(found, ["docs/protocol.md: no code cites R7"]);
    }

    #[test]
    fn a_citation_of_no_rule_is_told_with_its_place() {
        let found = check("", &[(CODE, "fn a() {}\n// [R99]")]);
        assert_eq!(found, ["core/src/port.rs:2: there is no rule R99"]);
    }

    #[test]
    fn a_rule_defined_twice_is_a_fault() {
        let files = [(CODE, "// [R1]"), (TEST, "// [R1]")];
        let found = check("**R1** One.\n**R1** Another.", &files);
        assert_eq!(found, ["docs/protocol.md: R1 is defined twice"]);
    }

    #[test]
    fn what_is_a_test_is_told_by_its_place() {
        let is_test = |path: &str, text: &str| citations_in(Path::new(path), text)[0].in_test;
        assert!(!is_test(CODE, "// [R1]"));
        assert!(is_test(CODE, "#[cfg(test)]\nmod tests {\n// [R1]\n}"));
        assert!(!is_test(CODE, "#[cfg(test)]\nmod tests;\n// [R1]"));
        assert!(!is_test(CODE, "// [R1]\n#[cfg(test)]\nmod tests {\n}"));
        for path in [
            TEST,
            "core/src/port/tests.rs",
            "core/src/port/tests/setup.rs",
            "sim/src/checker.rs",
            "fuzz/fuzz_targets/wire.rs",
        ] {
            assert!(is_test(path, "// [R1]"), "{path}");
        }
    }

    #[test]
    fn only_numbers_are_citations() {
        let found: Vec<u32> = numbers_in("[R1] [Rule] [R] `[R20]`[R3], array[R4").collect();
        assert_eq!(found, [1, 20, 3]);
    }
}

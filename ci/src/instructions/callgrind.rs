//! What callgrind writes: costs by function, and calls with what they cost in all.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

/// Instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All that were counted.
    pub all: u64,
    /// Those of calls into some objects, with all that these called.
    pub inside: u64,
}

/// Adds up an output file. `is_inside` tells of an object, by its path, whether it is one of those.
pub fn totals(text: &str, is_inside: impl Fn(&str) -> bool) -> Result<Totals> {
    let mut totals = Totals::default();
    let mut names = HashMap::new();
    // Of the function whose lines these are, and of the one that the next call is of.
    let (mut inside, mut callee) = (false, None);
    let mut called = false;
    for line in text.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            inside = is_inside(&name(&mut names, object)?);
        } else if let Some(object) = line.strip_prefix("cob=") {
            callee = Some(is_inside(&name(&mut names, object)?));
        } else if line.starts_with("calls=") {
            called = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split_ascii_whitespace().last();
            let cost: u64 = cost
                .and_then(|cost| cost.parse().ok())
                .context(line.to_owned())?;
            if !std::mem::take(&mut called) {
                totals.all += cost;
            } else if callee.take().unwrap_or(inside) && !inside {
                totals.inside += cost;
            }
        }
    }
    ensure!(totals.all > 0, "callgrind has counted nothing");
    Ok(totals)
}

/// A name, which is written out the first time: `(3) /lib/a.so`, then `(3)`.
fn name(names: &mut HashMap<String, String>, said: &str) -> Result<String> {
    let (number, full) = said.split_once(' ').unwrap_or((said, ""));
    if full.is_empty() {
        return names
            .get(number)
            .cloned()
            .with_context(|| format!("no object {number}"));
    }
    names.insert(number.to_owned(), full.to_owned());
    Ok(full.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
# callgrind format
events: Ir

ob=(1) /bin/a
fl=(1) a.rs
fn=(1) main
16 3
cfn=(2) helper
calls=1 20
+1 50
cob=(2) /lib/b.so
cfi=(2) b.c
cfn=(3) post
calls=2 7
* 40

fn=(2)
20 10

ob=(2)
fl=(2)
fn=(3)
7 25
cob=(1)
cfn=(4) back
calls=1 30
+2 15

ob=(1)
fn=(4)
30 15

summary: 93
";

    #[test]
    fn calls_into_an_object_are_told_from_the_rest() {
        let totals = totals(OUTPUT, |object| object == "/lib/b.so").unwrap();
        assert_eq!(
            totals,
            Totals {
                all: 53,
                inside: 40
            }
        );
    }

    #[test]
    fn nothing_counted_is_an_error() {
        assert!(totals("events: Ir\nsummary: 0\n", |_| false).is_err());
    }
}

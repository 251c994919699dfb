//! Who takes part, and the rounds.

use anyhow::{Context, Result};

/// One that failed so often at one thing takes no further part in it: each try may take all of its time.
const FAILURES_MAX: usize = 2;

/// One who takes part, and what was measured of it.
pub struct Contender<T> {
    pub tool: T,
    values: Vec<f64>,
    failures: usize,
}

impl<T> Contender<T> {
    pub fn new(tool: T) -> Contender<T> {
        Contender {
            tool,
            values: Vec::new(),
            failures: 0,
        }
    }

    /// The median of its rounds, if one went well.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

/// Those of `all` that are named so, or all where no name is given.
pub fn named<T: Copy>(
    names: &[String],
    all: &[T],
    name_of: fn(T) -> &'static str,
) -> Result<Vec<T>> {
    if names.is_empty() {
        return Ok(all.to_vec());
    }
    let known = |name: &String| {
        let found = all.iter().find(|tool| name_of(**tool) == name);
        found.copied().with_context(|| {
            let names: Vec<_> = all.iter().map(|tool| name_of(*tool)).collect();
            format!(
                "--with: {name} is not compared; these are: {}",
                names.join(" ")
            )
        })
    };
    names.iter().map(known).collect()
}

/// All take turns, `rounds` times. What fails is told at once, by this name, and put with the other failures.
pub fn take<T>(
    contenders: &mut [Contender<T>],
    rounds: usize,
    failures: &mut Vec<String>,
    name: impl Fn(&T) -> String,
    mut measure: impl FnMut(&T, usize) -> Result<f64>,
) {
    for round in 0..rounds.max(1) {
        for contender in &mut *contenders {
            if contender.failures == FAILURES_MAX {
                continue;
            }
            match measure(&contender.tool, round) {
                Ok(value) => contender.values.push(value),
                Err(error) => {
                    let error = format!("{error:#}");
                    let failure = format!("{}: {}", name(&contender.tool), error.trim_end());
                    eprintln!("{failure}");
                    failures.push(failure);
                    contender.failures += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_name_that_is_not_known_is_refused_with_those_that_are() {
        let all = ["mpich", "raw-ring"];
        let chosen = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            named(&names, &all, |name| name)
        };
        assert_eq!(chosen(&[]).unwrap(), all);
        assert_eq!(chosen(&["raw-ring"]).unwrap(), ["raw-ring"]);
        let error = chosen(&["mpich", "vader"]).unwrap_err().to_string();
        assert!(
            error.contains("vader") && error.contains("raw-ring"),
            "{error}"
        );
    }

    #[test]
    fn all_take_turns_and_who_fails_twice_is_left_out() {
        let mut contenders = ["good", "bad"].map(Contender::new);
        let (mut failures, mut turns) = (Vec::new(), Vec::new());
        take(
            &mut contenders,
            4,
            &mut failures,
            |tool| (*tool).to_owned(),
            |tool, round| {
                turns.push((*tool, round));
                if *tool == "bad" {
                    bail!("no luck");
                }
                Ok([3.0, 1.0, 2.0, 9.0][round])
            },
        );
        let first = [("good", 0), ("bad", 0), ("good", 1), ("bad", 1)];
        assert_eq!(turns, [&first[..], &[("good", 2), ("good", 3)]].concat());
        assert_eq!(failures, ["bad: no luck", "bad: no luck"]);
        assert_eq!(contenders[0].median(), Some(3.0));
        assert_eq!(contenders[1].median(), None);
    }
}

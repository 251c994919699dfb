//! Who takes part, and the rounds.

use anyhow::Result;

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

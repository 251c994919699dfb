//! On which processors the two processes run.

use std::fs;
use std::str::FromStr;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// What `--pin` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Where the scheduler likes.
    Free,
    /// This process, and the other.
    To(usize, usize),
}

impl Pin {
    /// Two cores that this process may use; nowhere if there is only one.
    pub fn usual() -> Pin {
        let Ok(allowed) = sched_getaffinity(None) else {
            return Pin::Free;
        };
        let mut cores =
            (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu) && is_first_of_core(cpu));
        match (cores.next(), cores.next()) {
            (Some(first), Some(second)) => Pin::To(first, second),
            _ => Pin::Free,
        }
    }

    pub fn this(self) -> Option<usize> {
        match self {
            Pin::Free => None,
            Pin::To(this, _) => Some(this),
        }
    }

    pub fn other(self) -> Option<usize> {
        match self {
            Pin::Free => None,
            Pin::To(_, other) => Some(other),
        }
    }
}

impl FromStr for Pin {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Pin> {
        if text == "none" {
            return Ok(Pin::Free);
        }
        let numbers = text.split_once(',').and_then(|(this, other)| {
            Some(Pin::To(
                this.trim().parse().ok()?,
                other.trim().parse().ok()?,
            ))
        });
        numbers.context("two processors, such as 0,1, or none")
    }
}

/// Keeps the calling thread, which measures or answers, on a processor.
pub fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    anyhow::ensure!(cpu < CpuSet::MAX_CPU, "there is no processor {cpu}");
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("running on processor {cpu}"))
}

/// Two threads of one core would take turns.
fn is_first_of_core(cpu: usize) -> bool {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    let Ok(siblings) = fs::read_to_string(path) else {
        return true;
    };
    let first = siblings
        .split(['-', ','])
        .next()
        .and_then(|it| it.trim().parse().ok());
    first.is_none_or(|first: usize| first == cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processors_or_none() {
        assert_eq!("0,1".parse::<Pin>().unwrap(), Pin::To(0, 1));
        assert_eq!("none".parse::<Pin>().unwrap(), Pin::Free);
        for text in ["", "0", "0,", "a,b", "-1,2"] {
            assert!(text.parse::<Pin>().is_err(), "{text:?}");
        }
    }
}

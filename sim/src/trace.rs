//! What happened in a run: a hash of it always, its text where somebody wants to read it.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::Hasher;

use meander_core::Time;

/// Follows a run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
    printing: bool,
}

impl Trace {
    pub fn new(printing: bool) -> Trace {
        Trace {
            hasher: DefaultHasher::new(),
            printing,
        }
    }

    /// Notes an event. The text is made only if it is to be read.
    pub fn note(
        &mut self,
        now: Time,
        what: &'static str,
        numbers: &[u64],
        text: impl fmt::Display,
    ) {
        self.hasher.write_u64(now.0);
        self.hasher.write(what.as_bytes());
        for number in numbers {
            self.hasher.write_u64(*number);
        }
        if self.printing {
            println!("{:>12.3} ms  {what:<18} {text}", now.0 as f64 / 1e6);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}

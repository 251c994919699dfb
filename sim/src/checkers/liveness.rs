//! Once everything is healed, everything comes about.

use super::{Checker, Fault};

impl Checker {
    /// Whether every message between living ranks has come, or at least its envelope.
    pub fn has_all_arrived(&self) -> bool {
        self.incomplete().next().is_none()
    }

    /// Healed, and still not as it should be.
    pub fn stuck(&mut self, what: String) {
        self.fault(Fault::Stuck(what));
    }

    /// In the end every message must have arrived.
    pub fn finish(&mut self) {
        let stuck: Vec<String> = self
            .incomplete()
            .map(|(stream, arrived, sent)| {
                format!("stream {stream:?}: {arrived} of {sent} messages arrived")
            })
            .collect();
        for what in stuck {
            self.stuck(what);
        }
    }
}

//! How long each phase of a move took.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Phase;
use crate::time::Time;

/// The time spent in each phase, and how long the rank stood still.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    phases: Vec<(Phase, Duration)>,
    downtime: Option<Duration>,
}

impl Times {
    /// The phases that were entered, in order, each with its length.
    pub fn phases(&self) -> &[(Phase, Duration)] {
        &self.phases
    }

    /// From the moment the rank's port was told to suspend until the rank ran again, here or
    /// there, as the source saw it; `None` where it was never stopped.
    pub fn downtime(&self) -> Option<Duration> {
        self.downtime
    }
}

/// Makes [`Times`] while a move goes on.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    times: Times,
    entered: Time,
    stopped: Option<Time>,
}

impl Watch {
    pub(super) fn start(now: Time) -> Watch {
        let times = Times {
            phases: vec![(Phase::Check, Duration::ZERO)],
            downtime: None,
        };
        Watch {
            times,
            entered: now,
            stopped: None,
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, now: Time) {
        self.leave(now);
        self.times.phases.push((phase, Duration::ZERO));
    }

    pub(super) fn leave(&mut self, now: Time) {
        if let Some((_, length)) = self.times.phases.last_mut() {
            *length = now.since(self.entered);
        }
        self.entered = now;
    }

    /// The rank stands still from now on.
    pub(super) fn stopped(&mut self, now: Time) {
        self.stopped.get_or_insert(now);
    }

    /// The rank runs again.
    pub(super) fn running(&mut self, now: Time) {
        if let (Some(stopped), None) = (self.stopped, self.times.downtime) {
            self.times.downtime = Some(now.since(stopped));
        }
    }

    pub(super) fn times(&self) -> Times {
        self.times.clone()
    }
}

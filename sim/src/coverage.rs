//! How often a run, or many, came by each thing that must be come by.

use std::collections::BTreeMap;

use meander_core::wire::FrameKind;

/// Counts of faults, frames, phases and endings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<String, u64>,
}

/// What many runs together must have come by at least once, besides every kind of frame.
pub const REQUIRED: &[&str] = &[
    "fault: link cut",
    "fault: link cut, one side learns late",
    "fault: frame torn",
    "fault: one-way dead link",
    "fault: partition",
    "fault: directory not reached",
    "fault: directory's answer lost",
    "fault: mover and guardian part",
    "fault: step of a move fails",
    "fault: held copy killed",
    "fault: old copy wakes up",
    "window filled",
    "stream accepted",
    "stream refused",
    "stream finished",
    "message declined",
    "both ends move at once",
    "rank moves again at once",
    "move: committed",
    "move: rolled back in check",
    "move: rolled back in suspend",
    "move: rolled back in freeze",
    "move: rolled back in copy",
    "move: rolled back in confirm",
    "move: rolled back in commit",
    "move: taken back after commit",
];

impl Coverage {
    /// Counts one.
    pub fn hit(&mut self, what: &str) {
        match self.counts.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.counts.insert(what.to_owned(), 1)),
        }
    }

    pub(crate) fn frame(&mut self, kind: FrameKind) {
        self.hit(&frame_name(kind));
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Coverage) {
        for (what, count) in &other.counts {
            *self.counts.entry(what.clone()).or_default() += count;
        }
    }

    /// What was never come by.
    pub fn missing(&self) -> Vec<String> {
        let frames = FrameKind::ALL.iter().map(|kind| frame_name(*kind));
        let required = REQUIRED.iter().map(|what| (*what).to_owned());
        frames
            .chain(required)
            .filter(|what| !self.counts.contains_key(what))
            .collect()
    }

    /// All counts, by name.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts
            .iter()
            .map(|(what, count)| (what.as_str(), *count))
    }
}

fn frame_name(kind: FrameKind) -> String {
    format!("frame: {kind:?}")
}

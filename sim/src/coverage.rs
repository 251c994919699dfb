//! How often a run, or many, came by each thing that must be come by.

use std::collections::BTreeMap;

use meander_core::moves::Phase;
use meander_core::wire::FrameKind;

use crate::crash::Victim;

/// Counts of faults, frames, phases and endings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<String, u64>,
}

/// What many runs together must have come by at least once, besides every kind of frame and every
/// crash in every phase of a move.
pub const REQUIRED: &[&str] = &[
    "better link dialled",
    "fault: link cut",
    "fault: link cut, one side learns late",
    "fault: frame torn",
    "fault: one-way dead link",
    "fault: link dead for a while",
    "fault: old link comes back to life",
    "frame on a link after a later one was made",
    "fault: partition",
    "fault: directory not reached",
    "fault: directory's answer lost",
    "fault: directory's answer stale",
    "fault: mover and guardian part",
    "fault: step of a move fails",
    "fault: held copy killed",
    "fault: old copy wakes up",
    "fault: question comes late",
    "fault: rank dies while it is listed",
    "crash: mover on the way back",
    "crash: directory after mover",
    "window filled",
    "no room for a copy",
    "message sent at once",
    "message sent at once, and not taken",
    "message taken at once",
    "small message sent at once",
    "stream of bytes opened",
    "stream of messages opened",
    "stream accepted",
    "stream refused",
    "stream finished",
    "stream half closed",
    "message declined",
    "peer reported dead",
    "both ends of a stream move at once",
    "rank moves again before its peers have caught up",
    "phase: check to suspend",
    "phase: suspend to freeze",
    "phase: freeze to copy",
    "phase: copy to confirm",
    "phase: confirm to commit",
    "phase: commit to attach",
    "phase: attach to shadow",
    "move: committed",
    "move: rolled back in check",
    "move: rolled back in suspend",
    "move: rolled back in freeze",
    "move: rolled back in copy",
    "move: rolled back in confirm",
    "move: rolled back in commit",
    "move: taken back after commit",
    "move: ended, moved",
    "move: ended with its rank",
    "move taken over from its journal",
    "guardian: its rank runs",
    "guardian: nothing is left",
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
        let crashes = Victim::ALL
            .into_iter()
            .flat_map(|victim| Phase::ALL.map(|phase| victim.counted(phase)));
        frames
            .chain(required)
            .chain(crashes)
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

//! What the directory keeps of one port: its entry, and what became of its moves.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Commit, Ending, Entry, Refusal};
use crate::ids::{Epoch, MoveId};
use crate::limits;
use crate::location::Location;
use crate::planted::{PlantedFault, is_planted};

/// An entry with the moves that led to it and those that were called off; both bounded, oldest
/// forgotten first ([`limits::DIRECTORY_MOVES`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// What is told to those who ask.
    pub entry: Entry,
    committed: VecDeque<(MoveId, Epoch)>,
    called_off: VecDeque<MoveId>,
    ended: Option<Ending>,
}

impl Record {
    /// A port that has never been moved under this directory's eyes.
    pub(super) fn new(entry: Entry) -> Record {
        Record {
            entry,
            committed: VecDeque::new(),
            called_off: VecDeque::new(),
            ended: None,
        }
    }

    /// The process has introduced itself again, on the node where it is known to be.
    pub(super) fn register(&mut self, entry: Entry) -> Result<(), Refusal> {
        if entry.uid != self.entry.uid {
            return Err(Refusal::NotYours);
        }
        if is_planted(PlantedFault::ListTheDead) {
            self.ended = None;
        }
        if self.ended.is_some() {
            return Err(Refusal::Ended);
        }
        if entry.epoch < self.entry.epoch {
            return Err(Refusal::Stale {
                current: self.entry.epoch,
            });
        }
        // A higher epoch than ours means that this directory was restored from an old copy: the
        // port has attached with a proof since, so it knows better.
        if entry.epoch == self.entry.epoch && entry.location.node != self.entry.location.node {
            return Err(Refusal::Elsewhere {
                node: self.entry.location.node.clone(),
            });
        }
        let shadow = self.entry.shadow.take().or(entry.shadow);
        self.entry = Entry { shadow, ..entry };
        Ok(())
    }

    /// The port has new cards.
    pub(super) fn locate(&mut self, epoch: Epoch, location: Location) -> Result<(), Refusal> {
        if epoch != self.entry.epoch {
            return Err(Refusal::Stale {
                current: self.entry.epoch,
            });
        }
        if location.node != self.entry.location.node {
            return Err(Refusal::Elsewhere {
                node: self.entry.location.node.clone(),
            });
        }
        self.entry.location = location;
        Ok(())
    }

    /// The compare-and-set, for an attempt that was not committed before.
    pub(super) fn commit(&mut self, commit: Commit) -> Result<Epoch, Refusal> {
        let compare = !is_planted(PlantedFault::CommitWithoutCompare);
        if compare && self.called_off.contains(&commit.move_id) {
            return Err(Refusal::CalledOff);
        }
        if compare && self.entry.epoch != commit.from {
            return Err(Refusal::Stale {
                current: self.entry.epoch,
            });
        }
        let raise = !is_planted(PlantedFault::ForgetToRaiseEpoch);
        let epoch = if raise {
            commit.from.next()
        } else {
            commit.from
        };
        self.entry.epoch = epoch;
        self.entry.location = Location {
            node: commit.node,
            cards: Vec::new(),
        };
        self.entry.host_pid = commit.host_pid;
        self.entry.shadow = commit.shadow;
        push_bounded(&mut self.committed, (commit.move_id, epoch));
        Ok(epoch)
    }

    /// How the process has ended, if it has. `[R31]`
    pub(super) fn ended(&self) -> Option<Ending> {
        self.ended
    }

    /// The process has ended, if it was at this epoch. Returns whether that is news. `[R26]`
    pub(super) fn end(&mut self, epoch: Epoch, ending: Ending) -> Result<bool, Refusal> {
        let current = self.entry.epoch;
        if current != epoch && !is_planted(PlantedFault::RemoveWithoutCompare) {
            return Err(Refusal::Stale { current });
        }
        self.entry.location.cards.clear();
        let news = self.ended.is_none();
        self.ended.get_or_insert(ending);
        Ok(news)
    }

    /// The epoch that a move led to, if it was committed.
    pub(super) fn committed(&self, move_id: MoveId) -> Option<Epoch> {
        self.committed
            .iter()
            .find(|(id, _)| *id == move_id)
            .map(|(_, epoch)| *epoch)
    }

    /// Forbids a move. Returns whether that is news.
    pub(super) fn call_off(&mut self, move_id: MoveId) -> bool {
        let news = !self.called_off.contains(&move_id);
        if news {
            push_bounded(&mut self.called_off, move_id);
        }
        news
    }
}

fn push_bounded<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == limits::DIRECTORY_MOVES {
        list.pop_front();
    }
    list.push_back(item);
}

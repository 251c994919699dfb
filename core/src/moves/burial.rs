//! What an agent does about ports that the directory places on its node and that nobody there holds.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::Asked;
use crate::directory::{Ending, Entry, Reply, Request};
use crate::ids::{Epoch, NodeName, PortId};
use crate::planted::{PlantedFault, is_planted};
use crate::time::Time;

/// What the agent has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BurialEffect {
    /// Ask the directory; [`Burial::handle_directory`] follows.
    Ask(Request),
    /// The port is dead for certain: tell its peers.
    Report(PortId),
    /// All that is dead is buried. Nothing follows.
    Finish,
}

/// One pass over the ports of a node. `[R32]`
///
/// An agent makes one when it starts: what ended while it was away, with its node or without, was
/// seen by nobody. The directory decides between a death and what a move left behind. A port that was
/// never listed on this node may be a copy that did not come to run, and on its way back: it is left
/// alone for a while.
#[derive(Clone, Debug)]
pub struct Burial {
    node: NodeName,
    retry: Duration,
    patience: Duration,
    state: State,
    /// What is to be removed, and then the rest of the list to look at.
    dead: VecDeque<(PortId, Epoch)>,
    rest: Option<PortId>,
    /// What may be on its way back: as it was when it was seen last, and as it is now.
    suspects: BTreeMap<PortId, Epoch>,
    still_suspect: BTreeMap<PortId, Epoch>,
    effects: VecDeque<BurialEffect>,
    deadline: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Listing,
    Removing,
    Waiting,
    Finished,
}

impl Burial {
    /// A pass for this node; an unanswered question is asked again after `retry`, and what may be on
    /// its way back has `patience` for it.
    pub fn new(node: NodeName, retry: Duration, patience: Duration) -> Burial {
        let mut burial = Burial {
            node,
            retry,
            patience,
            state: State::Listing,
            dead: VecDeque::new(),
            rest: None,
            suspects: BTreeMap::new(),
            still_suspect: BTreeMap::new(),
            effects: VecDeque::new(),
            deadline: None,
        };
        burial.ask();
        burial
    }

    /// What to do next; `None`: wait for an answer, or for [`Burial::poll_timeout`].
    pub fn poll_effect(&mut self) -> Option<BurialEffect> {
        self.effects.pop_front()
    }

    /// When [`Burial::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.deadline
    }

    /// How the question ended. `is_held` says whether a process of this node holds a port: the rank
    /// itself, its held copy, or the guardian that takes it in.
    pub fn handle_directory(
        &mut self,
        now: Time,
        asked: Asked,
        is_held: impl Fn(PortId, &Entry) -> bool,
    ) {
        match (self.state, asked) {
            (State::Listing, Asked::Answered(Reply::Listed { ports, more })) => {
                self.rest = ports.last().map(|(port, _)| *port).filter(|_| more);
                let here = ports.iter().filter(|(_, it)| it.location.node == self.node);
                for (port, entry) in here.filter(|(port, entry)| !is_held(*port, entry)) {
                    let was_listed = !entry.location.cards.is_empty();
                    if was_listed || self.suspects.get(port) == Some(&entry.epoch) {
                        self.dead.push_back((*port, entry.epoch));
                    } else {
                        self.still_suspect.insert(*port, entry.epoch);
                    }
                }
                self.go_on(now);
            }
            (State::Removing, Asked::Answered(reply)) => {
                let dead = self.dead.pop_front();
                let granted = reply == Reply::Done || is_planted(PlantedFault::ReportTheMoved);
                if let (Some((port, _)), true) = (dead, granted) {
                    self.effects.push_back(BurialEffect::Report(port));
                }
                self.go_on(now);
            }
            (State::Finished | State::Waiting, _) => {}
            _ => self.deadline = Some(now + self.retry),
        }
    }

    /// The time of [`Burial::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.deadline = None;
            if self.state == State::Waiting {
                self.state = State::Listing;
            }
            self.ask();
        }
    }

    /// Hashes all that its further course depends on, for those who enumerate states.
    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        debug_assert!(self.effects.is_empty(), "effects are carried out first");
        (self.state, &self.dead, self.rest, self.deadline.is_some()).hash(hasher);
        (&self.suspects, &self.still_suspect).hash(hasher);
    }

    fn go_on(&mut self, now: Time) {
        self.state = match (self.dead.is_empty(), self.rest) {
            (false, _) => State::Removing,
            (true, Some(_)) => State::Listing,
            (true, None) => {
                self.suspects = std::mem::take(&mut self.still_suspect);
                if self.suspects.is_empty() {
                    State::Finished
                } else {
                    self.deadline = Some(now + self.patience);
                    return self.state = State::Waiting;
                }
            }
        };
        self.ask();
    }

    fn ask(&mut self) {
        let request = match (self.state, self.dead.front()) {
            (State::Removing, Some(&(port, epoch))) => Request::Remove {
                port,
                epoch,
                ending: Ending::Died,
            },
            (State::Listing, _) => Request::List { after: self.rest },
            _ => return self.effects.push_back(BurialEffect::Finish),
        };
        self.effects.push_back(BurialEffect::Ask(request));
    }
}

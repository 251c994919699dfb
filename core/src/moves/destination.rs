//! The move, as the rank's guardian sees it where the rank goes to.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::mem;

use super::{Asked, FromGuardian, MoveLimits, ToGuardian, Trouble};
use crate::directory::{Reply, Request};
use crate::ids::{Epoch, MoveId, PortId};
use crate::planted::{PlantedFault, is_planted};
use crate::time::Time;

/// What the guardian has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationEffect {
    /// Receive the image; [`Destination::handle_received`] follows.
    Receive,
    /// Restore it, held; [`Destination::handle_restored`] follows.
    Restore,
    /// Tell the source.
    Tell(FromGuardian),
    /// Ask the directory; [`Destination::handle_directory`] follows.
    Ask(Request),
    /// Thaw the copy and serve it the verdict to attach with this epoch;
    /// [`Destination::handle_released`] follows as soon as it is thawed.
    Release {
        /// The epoch of the rank's port.
        epoch: Epoch,
    },
    /// Kill the copy, as far as there is one, and forget the image.
    Discard,
    /// The move is over here. Nothing follows.
    Finish(DestinationEnd),
}

/// How a move ended at its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationEnd {
    /// The rank runs here.
    Running {
        /// Its epoch.
        epoch: Epoch,
    },
    /// Nothing of it is left here.
    Discarded {
        /// Why.
        why: Trouble,
    },
}

/// The guardian's part in a move.
#[derive(Clone, Debug)]
pub struct Destination {
    port: PortId,
    move_id: MoveId,
    limits: MoveLimits,
    state: State,
    effects: VecDeque<DestinationEffect>,
    deadline: Option<Time>,
}

#[derive(Clone, Debug)]
enum State {
    Receiving,
    Restoring,
    Held,
    Settling { why: Trouble },
    Releasing { epoch: Epoch },
    Finished,
}

impl Destination {
    /// Takes part in a move.
    pub fn new(port: PortId, move_id: MoveId, limits: MoveLimits) -> Destination {
        Destination {
            port,
            move_id,
            limits,
            state: State::Receiving,
            effects: VecDeque::from([DestinationEffect::Receive]),
            deadline: None,
        }
    }

    /// What to do next; `None`: wait for something to happen, or for
    /// [`Destination::poll_timeout`].
    pub fn poll_effect(&mut self) -> Option<DestinationEffect> {
        self.effects.pop_front()
    }

    /// When [`Destination::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.deadline
    }

    /// The image is here, or will not come.
    pub fn handle_received(&mut self, result: Result<(), Trouble>) {
        let State::Receiving = self.state else { return };
        match result {
            Ok(()) => {
                self.state = State::Restoring;
                self.effects.push_back(DestinationEffect::Restore);
            }
            Err(why) => self.fail(why),
        }
    }

    /// The copy is restored and held (its process as this node sees it, and what the source's
    /// node needs to make the shadow), or not.
    pub fn handle_restored(&mut self, result: Result<(u32, Vec<u8>), Trouble>) {
        let State::Restoring = self.state else { return };
        match result {
            Ok((host_pid, shadow)) => {
                self.state = State::Held;
                let message = FromGuardian::Confirmed { host_pid, shadow };
                self.effects.push_back(DestinationEffect::Tell(message));
            }
            Err(why) => self.fail(why),
        }
    }

    /// The source has said something.
    pub fn handle_source(&mut self, message: ToGuardian) {
        match (message, &self.state) {
            (ToGuardian::Committed { epoch }, State::Held | State::Settling { .. }) => {
                self.release(epoch);
            }
            // Once the copy is being released the move is committed: nothing calls it off.
            (ToGuardian::Abort { .. }, State::Releasing { .. } | State::Finished) => {}
            (ToGuardian::Abort { why }, _) => self.discard(why),
            (ToGuardian::Committed { .. }, _) => {}
        }
    }

    /// The source can't be reached any more.
    pub fn handle_source_lost(&mut self, why: Trouble) {
        match self.state {
            // Nothing was confirmed, so nothing can be committed.
            State::Receiving | State::Restoring => self.discard(why),
            State::Held if is_planted(PlantedFault::ReleaseWithoutCommit) => {
                self.release(Epoch(1 << 20));
            }
            State::Held if is_planted(PlantedFault::DiscardWithoutAsking) => self.discard(why),
            State::Held => {
                self.state = State::Settling { why };
                self.ask_settle();
            }
            State::Settling { .. } | State::Releasing { .. } | State::Finished => {}
        }
    }

    /// The copy ended although it is held: something has killed it.
    pub fn handle_copy_ended(&mut self, why: Trouble) {
        if !matches!(self.state, State::Releasing { .. } | State::Finished) {
            self.fail(why);
        }
    }

    /// How a question to the directory ended.
    pub fn handle_directory(&mut self, now: Time, asked: Asked) {
        let State::Settling { why } = &self.state else {
            return;
        };
        match asked {
            Asked::Answered(Reply::Committed { epoch }) => self.release(epoch),
            Asked::Answered(Reply::Aborted) => {
                let why = why.clone();
                self.discard(why);
            }
            _ => self.deadline = Some(now + self.limits.retry),
        }
    }

    /// The copy runs, or could not be thawed.
    pub fn handle_released(&mut self, result: Result<(), Trouble>) {
        let State::Releasing { epoch } = self.state else {
            return;
        };
        match result {
            Ok(()) => {
                self.effects
                    .push_back(DestinationEffect::Tell(FromGuardian::Released));
                self.finish(DestinationEnd::Running { epoch });
            }
            Err(why) => self.fail(why),
        }
    }

    /// The time of [`Destination::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.deadline = None;
            if let State::Settling { .. } = self.state {
                self.ask_settle();
            }
        }
    }

    /// Hashes all that its further behaviour depends on, for those who enumerate states.
    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        debug_assert!(self.effects.is_empty(), "effects are carried out first");
        (mem::discriminant(&self.state), self.deadline.is_some()).hash(hasher);
        if let State::Releasing { epoch } = &self.state {
            epoch.hash(hasher);
        }
    }

    fn ask_settle(&mut self) {
        let (port, move_id) = (self.port, self.move_id);
        self.effects
            .push_back(DestinationEffect::Ask(Request::Settle { port, move_id }));
    }

    fn release(&mut self, epoch: Epoch) {
        self.state = State::Releasing { epoch };
        self.deadline = None;
        self.effects.push_back(DestinationEffect::Release { epoch });
    }

    /// There is no copy; the source hears of it only once that is so.
    fn fail(&mut self, why: Trouble) {
        self.effects.clear();
        self.effects.push_back(DestinationEffect::Discard);
        let told = FromGuardian::Failed { why: why.clone() };
        self.effects.push_back(DestinationEffect::Tell(told));
        self.finish(DestinationEnd::Discarded { why });
    }

    fn discard(&mut self, why: Trouble) {
        self.effects.clear();
        self.effects.push_back(DestinationEffect::Discard);
        self.finish(DestinationEnd::Discarded { why });
    }

    fn finish(&mut self, end: DestinationEnd) {
        self.state = State::Finished;
        self.deadline = None;
        self.effects.push_back(DestinationEffect::Finish(end));
    }
}

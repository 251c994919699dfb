//! The move, as its owner sees it where the rank is.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::mem;

use super::effect::{SourceEffect, SourceEnd, Verdict};
use super::plan::Plan;
use super::watch::Watch;
use super::{Asked, FromGuardian, MoveLimits, Phase, Trouble, refused};
use crate::directory::{Refusal, Reply};
use crate::ids::Epoch;
use crate::planted::{PlantedFault, is_planted};
use crate::time::Time;

/// The owner of a move.
#[derive(Clone, Debug)]
pub struct Source {
    plan: Plan,
    limits: MoveLimits,
    state: State,
    phase: Phase,
    watch: Watch,
    effects: VecDeque<SourceEffect>,
    deadline: Option<Time>,
    /// Whether the port may be suspended.
    suspended: bool,
    /// Whether the original is held.
    held: bool,
    /// Whether a request to commit may have reached the directory; answers settle it.
    unsure: bool,
    /// Whether a request to commit is with the node, unanswered.
    asking: bool,
    /// The copy's process, once the guardian has confirmed it.
    confirmed: Option<u32>,
    warnings: Vec<Trouble>,
}

#[derive(Clone, Debug)]
enum State {
    Checking,
    Suspending,
    Freezing,
    Copying,
    Confirming,
    Committing { since: Time },
    Recovering { why: Trouble },
    Settling { why: Trouble, copy_gone: bool },
    Attaching { epoch: Epoch },
    Reclaiming { why: Trouble, from: Epoch },
    Shadowing { epoch: Epoch },
    RollingBack { why: Trouble },
    Finished,
}

impl Source {
    /// Starts a move.
    pub fn new(plan: Plan, limits: MoveLimits, now: Time) -> Source {
        Source {
            plan,
            limits,
            state: State::Checking,
            phase: Phase::Check,
            watch: Watch::start(now),
            effects: VecDeque::from([SourceEffect::Check]),
            deadline: None,
            suspended: false,
            held: false,
            unsure: false,
            asking: false,
            confirmed: None,
            warnings: Vec::new(),
        }
    }

    /// Takes over a move whose owner was killed, at whatever point: nothing is done before the
    /// directory has said, for good, whether it was committed.
    pub fn recover(plan: Plan, limits: MoveLimits, now: Time) -> Source {
        let why = Trouble::new("the process that owned the move was killed");
        let mut source = Source::new(plan, limits, now);
        source.effects.clear();
        source.enter(Phase::Commit, State::Recovering { why }, now);
        (source.suspended, source.held, source.unsure) = (true, true, true);
        if is_planted(PlantedFault::ResumeFromJournal) {
            source.resume(Trouble::new("the owner was killed"), Verdict::Resume);
        } else if is_planted(PlantedFault::RecoverWithoutReclaim) {
            source.settle(now, Trouble::new("the owner was killed"), false);
        } else {
            source.ask_reclaimed();
        }
        source
    }

    /// The phase it is in; while rolling back, the one that failed.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the move is being rolled back.
    pub fn is_rolling_back(&self) -> bool {
        matches!(
            self.state,
            State::RollingBack { .. } | State::Reclaiming { .. }
        )
    }

    /// Whether it may still look at what the directory answers.
    pub fn is_asking(&self) -> bool {
        !matches!(
            self.state,
            State::RollingBack { .. } | State::Shadowing { .. } | State::Finished
        )
    }

    /// What to do next; `None`: wait for something to happen, or for [`Source::poll_timeout`].
    pub fn poll_effect(&mut self) -> Option<SourceEffect> {
        self.effects.pop_front()
    }

    /// When [`Source::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.deadline
    }

    /// The rank can leave and the destination has taken the offer, or not.
    pub fn handle_checked(&mut self, now: Time, result: Result<(), Trouble>) {
        let State::Checking = self.state else { return };
        match result {
            Ok(()) => {
                self.enter(Phase::Suspend, State::Suspending, now);
                self.suspended = true;
                self.deadline = Some(now + self.limits.suspend);
                self.effects.push_back(SourceEffect::Suspend);
            }
            Err(why) => self.roll_back(now, why),
        }
    }

    /// The rank has taken its port off the fabric, or said that it will not.
    pub fn handle_suspended(&mut self, now: Time, result: Result<(), Trouble>) {
        let State::Suspending = self.state else {
            return;
        };
        match result {
            Ok(()) => {
                self.enter(Phase::Freeze, State::Freezing, now);
                self.watch.stopped(now);
                self.held = true;
                self.effects.push_back(SourceEffect::Freeze);
            }
            Err(why) => {
                self.suspended = false;
                self.roll_back(now, why);
            }
        }
    }

    /// The rank is held and its image is taken, or not.
    pub fn handle_frozen(&mut self, now: Time, result: Result<(), Trouble>) {
        let State::Freezing = self.state else { return };
        match result {
            Ok(()) => {
                self.enter(Phase::Copy, State::Copying, now);
                self.effects.push_back(SourceEffect::Copy);
            }
            Err(why) => self.roll_back(now, why),
        }
    }

    /// The image is at the destination, or can't get there.
    pub fn handle_copied(&mut self, now: Time, result: Result<(), Trouble>) {
        let State::Copying = self.state else { return };
        match result {
            Ok(()) => {
                self.enter(Phase::Confirm, State::Confirming, now);
                self.deadline = Some(now + self.limits.confirm);
                self.commit_if_confirmed(now);
            }
            Err(why) => self.roll_back(now, why),
        }
    }

    /// The guardian has said something.
    pub fn handle_guardian(&mut self, now: Time, message: FromGuardian) {
        match (message, &self.state) {
            (FromGuardian::Confirmed { host_pid, .. }, state) if state.is_before_commit() => {
                self.confirmed = Some(host_pid);
                self.commit_if_confirmed(now);
            }
            (FromGuardian::Released, State::Attaching { epoch }) => {
                let epoch = *epoch;
                self.watch.running(now);
                self.shadow(now, epoch);
            }
            (FromGuardian::Failed { why }, _) => self.copy_is_gone(now, why),
            // Anything else is late or out of turn; the state does not depend on it.
            _ => {}
        }
    }

    /// The guardian can't be reached any more. Whether its copy exists is not known.
    pub fn handle_guardian_lost(&mut self, now: Time, why: Trouble) {
        match &self.state {
            State::Committing { .. } => self.settle(now, why, false),
            State::Attaching { epoch } => {
                let epoch = *epoch;
                self.warnings.push(why);
                self.shadow(now, epoch);
            }
            state if state.is_before_commit() => self.roll_back(now, why),
            _ => {}
        }
    }

    /// The rank's process has ended, by itself or by a signal; or it will as soon as it is thawed.
    pub fn handle_ended(&mut self, now: Time) {
        match &self.state {
            State::Committing { .. } => {
                let why = Trouble::new("the rank was killed");
                self.settle(now, why, false);
            }
            state if !state.is_before_commit() && !self.is_rolling_back() => return,
            _ => self.abort(Trouble::new("the rank ended by itself")),
        }
        if !matches!(self.state, State::Settling { .. }) {
            self.watch.leave(now);
            self.effects
                .retain(|effect| !matches!(effect, SourceEffect::Resume { .. }));
            self.finish(SourceEnd::Ended {
                times: self.watch.times(),
            });
        }
    }

    /// How a question to the directory ended.
    pub fn handle_directory(&mut self, now: Time, asked: Asked) {
        match &self.state {
            State::Committing { since } => {
                let since = *since;
                self.asking = false;
                self.commit_asked(now, since, asked);
            }
            State::Recovering { why } => {
                let why = why.clone();
                self.recovering_asked(now, why, asked);
            }
            State::Settling { why, copy_gone } => {
                let (why, copy_gone) = (why.clone(), *copy_gone);
                self.settling_asked(now, why, copy_gone, asked);
            }
            State::Reclaiming { why, from } => {
                let (why, from) = (why.clone(), *from);
                self.reclaim_asked(now, why, from, asked);
            }
            _ => {}
        }
    }

    /// The original runs again, or could not be told so.
    pub fn handle_resumed(&mut self, now: Time, result: Result<(), Trouble>) {
        let State::RollingBack { why } = &self.state else {
            return;
        };
        let mut why = why.clone();
        if let Err(more) = result {
            why.what = format!("{}; and as the rank was resumed: {}", why.what, more.what);
        }
        self.watch.running(now);
        self.watch.leave(now);
        let (phase, times) = (self.phase, self.watch.times());
        self.finish(SourceEnd::RolledBack { phase, why, times });
    }

    /// The original has become the shadow, or could not.
    pub fn handle_shadowed(&mut self, now: Time, result: Result<(), Trouble>) {
        let State::Shadowing { epoch } = self.state else {
            return;
        };
        self.warnings.extend(result.err());
        self.watch.leave(now);
        let (times, warnings) = (self.watch.times(), std::mem::take(&mut self.warnings));
        self.finish(SourceEnd::Moved {
            epoch,
            times,
            warnings,
        });
    }

    /// The time of [`Source::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        match &self.state {
            State::Suspending => {
                let limit = self.limits.suspend;
                let why = format!("the rank did not leave the fabric within {limit:?}");
                self.roll_back(now, Trouble::new(why));
            }
            State::Confirming => {
                let (there, limit) = (&self.plan.there, self.limits.confirm);
                let why = format!("{there} did not restore the image within {limit:?}");
                self.roll_back(now, Trouble::new(why));
            }
            State::Attaching { epoch } => {
                let (epoch, there) = (*epoch, &self.plan.there);
                let why = format!("{there} has not said that the rank runs there");
                self.warnings.push(Trouble::new(why));
                self.shadow(now, epoch);
            }
            State::Committing { .. } => self.ask_commit(),
            State::Recovering { .. } => self.ask_reclaimed(),
            State::Settling { .. } => self.ask_settle(),
            State::Reclaiming { from, .. } => {
                let from = *from;
                self.ask_reclaim(from);
            }
            _ => {}
        }
    }

    /// Hashes all that its further behaviour depends on, for those who enumerate states: not what it
    /// says to people, nor when anything was, but whether a deadline is set.
    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        debug_assert!(self.effects.is_empty(), "effects are carried out first");
        (mem::discriminant(&self.state), self.deadline.is_some()).hash(hasher);
        match &self.state {
            // How it came to this has no say any more.
            State::RollingBack { .. } | State::Shadowing { .. } | State::Finished => return,
            State::Settling { copy_gone, .. } => copy_gone.hash(hasher),
            State::Attaching { epoch } | State::Reclaiming { from: epoch, .. } => {
                epoch.hash(hasher);
            }
            _ => {}
        }
        (self.suspended, self.held, self.confirmed).hash(hasher);
        (self.unsure, self.asking).hash(hasher);
    }

    // --- steps

    fn enter(&mut self, phase: Phase, state: State, now: Time) {
        self.watch.enter(phase, now);
        self.phase = phase;
        self.state = state;
        self.deadline = None;
    }

    /// The guardian may be faster than this side's own end of the copying.
    fn commit_if_confirmed(&mut self, now: Time) {
        let confirmed =
            self.confirmed.is_some() || is_planted(PlantedFault::CommitWithoutConfirmation);
        if let (State::Confirming, true) = (&self.state, confirmed) {
            self.enter(Phase::Commit, State::Committing { since: now }, now);
            self.ask_commit();
        }
    }

    fn copy_is_gone(&mut self, now: Time, why: Trouble) {
        match &self.state {
            State::Committing { .. } => self.settle(now, why, true),
            State::Settling { why, .. } => {
                self.state = State::Settling {
                    why: why.clone(),
                    copy_gone: true,
                };
            }
            State::Attaching { epoch } => self.reclaim(*epoch, why),
            state if state.is_before_commit() => self.roll_back(now, why),
            _ => {}
        }
    }

    fn commit_asked(&mut self, now: Time, since: Time, asked: Asked) {
        match asked {
            Asked::Answered(Reply::Committed { epoch }) => self.attach(now, epoch),
            Asked::Answered(Reply::Refused(Refusal::Stale { current }))
                if current > self.plan.from =>
            {
                let why = format!(
                    "another move of this rank was committed meanwhile (epoch {current}); \
                     the process {} stays held",
                    self.plan.host_pid
                );
                let mend = "see `meander ps` for where the rank is; kill this process";
                self.abort(Trouble::new(why.clone()));
                self.watch.leave(now);
                let times = self.watch.times();
                self.finish(SourceEnd::Fenced {
                    why: Trouble::new(why).mend(mend),
                    times,
                });
            }
            Asked::Answered(Reply::Refused(refusal)) => self.roll_back(now, refused(&refusal)),
            Asked::NotSent(why) if !self.unsure && now.since(since) >= self.limits.directory => {
                let why = Trouble::new(format!("the directory can't be reached: {why}"));
                let mend = "start the agent on the directory's node; `meander doctor` checks it";
                self.roll_back(now, why.mend(mend));
            }
            Asked::NotSent(_) => self.retry(now),
            Asked::Unknown(why) if is_planted(PlantedFault::RollBackWithoutAsking) => {
                self.roll_back(now, Trouble::new(why));
            }
            Asked::Unknown(_) | Asked::Answered(_) => {
                self.unsure = true;
                self.retry(now);
            }
        }
    }

    /// The copy may be lost while the commit is under way: have it decided for good.
    fn settle(&mut self, now: Time, why: Trouble, copy_gone: bool) {
        let waiting = self.effects.len();
        self.effects
            .retain(|effect| !matches!(effect, SourceEffect::Ask(_)));
        let never_asked = self.effects.len() < waiting || !self.asking;
        if never_asked && !self.unsure {
            return self.roll_back(now, why);
        }
        self.state = State::Settling { why, copy_gone };
        self.deadline = None;
        self.ask_settle();
    }

    /// First whether the rank was taken back, then whether it had gone.
    fn recovering_asked(&mut self, now: Time, why: Trouble, asked: Asked) {
        match asked {
            Asked::Answered(Reply::Committed { epoch }) => {
                self.resume(why, Verdict::Attach(epoch));
            }
            Asked::Answered(Reply::Aborted) => {
                self.state = State::Settling {
                    why,
                    copy_gone: false,
                };
                self.ask_settle();
            }
            _ => self.retry(now),
        }
    }

    fn settling_asked(&mut self, now: Time, why: Trouble, copy_gone: bool, asked: Asked) {
        match asked {
            Asked::Answered(Reply::Aborted) => self.roll_back(now, why),
            Asked::Answered(Reply::Committed { epoch }) if copy_gone => self.reclaim(epoch, why),
            Asked::Answered(Reply::Committed { epoch }) => {
                // A guardian that can't be told asks the same question and gets the same answer; it was
                // perhaps not it that was lost.
                self.warnings.push(why);
                self.enter(Phase::Attach, State::Attaching { epoch }, now);
                self.effects.push_back(SourceEffect::TellCommitted(epoch));
                self.shadow(now, epoch);
            }
            _ => self.retry(now),
        }
    }

    fn attach(&mut self, now: Time, epoch: Epoch) {
        self.enter(Phase::Attach, State::Attaching { epoch }, now);
        self.deadline = Some(now + self.limits.attach);
        self.effects.push_back(SourceEffect::TellCommitted(epoch));
        if is_planted(PlantedFault::ResumeAfterCommit) {
            let verdict = Some(Verdict::Attach(epoch));
            self.effects.push_back(SourceEffect::Resume {
                thaw: true,
                verdict,
            });
        }
    }

    /// Committed, but the copy is gone without having run: move the rank back to its original. `[R29]`
    fn reclaim(&mut self, from: Epoch, why: Trouble) {
        self.state = State::Reclaiming { why, from };
        self.deadline = None;
        self.ask_reclaim(from);
    }

    fn reclaim_asked(&mut self, now: Time, why: Trouble, from: Epoch, asked: Asked) {
        match asked {
            Asked::Answered(Reply::Committed { epoch }) if epoch > from => {
                self.resume(why, Verdict::Attach(epoch));
            }
            // A late answer about the move itself; the one to this question is still to come.
            Asked::Answered(Reply::Committed { .. }) => {}
            Asked::Answered(Reply::Refused(refusal)) => {
                let why = format!("{}; taking the rank back: {}", why.what, refused(&refusal));
                self.watch.leave(now);
                let times = self.watch.times();
                self.finish(SourceEnd::Fenced {
                    why: Trouble::new(why),
                    times,
                });
            }
            _ => self.retry(now),
        }
    }

    fn shadow(&mut self, now: Time, epoch: Epoch) {
        self.enter(Phase::Shadow, State::Shadowing { epoch }, now);
        self.effects.push_back(SourceEffect::Shadow);
    }

    fn roll_back(&mut self, now: Time, why: Trouble) {
        self.watch.leave(now);
        self.abort(why.clone());
        self.resume(why, Verdict::Resume);
    }

    fn abort(&mut self, why: Trouble) {
        self.effects.clear();
        self.effects.push_back(SourceEffect::TellAbort(why));
    }

    fn resume(&mut self, why: Trouble, verdict: Verdict) {
        self.state = State::RollingBack { why };
        self.deadline = None;
        let verdict = self.suspended.then_some(verdict);
        self.effects.push_back(SourceEffect::Resume {
            thaw: self.held,
            verdict,
        });
    }

    fn finish(&mut self, end: SourceEnd) {
        self.state = State::Finished;
        self.deadline = None;
        self.effects.push_back(SourceEffect::Finish(end));
    }

    // --- questions

    fn retry(&mut self, now: Time) {
        self.deadline = Some(now + self.limits.retry);
    }

    fn ask_commit(&mut self) {
        self.asking = true;
        let request = self.plan.commit(self.confirmed.unwrap_or_default());
        self.effects.push_back(SourceEffect::Ask(request));
    }

    fn ask_settle(&mut self) {
        self.effects
            .push_back(SourceEffect::Ask(self.plan.settle()));
    }

    fn ask_reclaimed(&mut self) {
        self.effects
            .push_back(SourceEffect::Ask(self.plan.settle_reclaim()));
    }

    fn ask_reclaim(&mut self, from: Epoch) {
        self.effects
            .push_back(SourceEffect::Ask(self.plan.reclaim(from)));
    }
}

impl State {
    fn is_before_commit(&self) -> bool {
        matches!(
            self,
            State::Checking
                | State::Suspending
                | State::Freezing
                | State::Copying
                | State::Confirming
        )
    }
}

//! What movers, guardians and agents of the small world have done, step by step.

use std::sync::Arc;
use std::time::Duration;

use meander_core::moves::{
    Asked, Burial, BurialEffect, Destination, DestinationEffect, FromGuardian, Source,
    SourceEffect, SourceEnd, ToGuardian, Trouble, Verdict,
};
use meander_core::port::Port;

use super::process::Life;
use super::world::{
    Asker, COPY, DESTINATION, Doing, Line, MOVED, NOW, ORIGINAL, World, limits, plan,
};
use crate::checkers::Fault;
use crate::host::node_name;

/// Why anything went wrong: the states do not depend on it.
pub(super) fn why() -> Trouble {
    Trouble::new("")
}

impl World {
    /// Begins what mover and guardian want done. Returns whether there was anything.
    pub(super) fn settle_moves(&mut self) -> bool {
        let mut worked = false;
        loop {
            if let Some(effect) = self.source.as_mut().and_then(Source::poll_effect) {
                self.source_effect(effect);
            } else if let Some(effect) = self.guardian.as_mut().and_then(Destination::poll_effect) {
                self.guardian_effect(effect);
            } else {
                return worked;
            }
            worked = true;
        }
    }

    fn source_effect(&mut self, effect: SourceEffect) {
        let killed = self.is(ORIGINAL, Life::Killed);
        match effect {
            SourceEffect::Check => self.source_doing.push_back(Doing::Checking),
            SourceEffect::Suspend => {
                if !killed {
                    self.process(ORIGINAL).port.suspend();
                    self.close_links(ORIGINAL);
                }
                self.source_doing.push_back(Doing::Suspending);
            }
            SourceEffect::Freeze => {
                if !killed {
                    let original = self.process(ORIGINAL);
                    original.life = Life::Held;
                    self.image = Some(Arc::new(original.clone()));
                }
                self.source_doing.push_back(Doing::Freezing);
            }
            SourceEffect::Copy => self.source_doing.push_back(Doing::Copying),
            SourceEffect::Ask(question) => self.ask(Asker::Mover, question),
            SourceEffect::TellCommitted(epoch) => {
                self.tell_guardian(ToGuardian::Committed { epoch });
            }
            SourceEffect::TellAbort(_) => self.tell_guardian(ToGuardian::Abort { why: why() }),
            SourceEffect::Resume { thaw, verdict } => {
                if !killed {
                    self.resume(thaw, verdict);
                }
                self.source_doing.push_back(Doing::Resuming);
            }
            SourceEffect::Shadow => {
                if !killed {
                    self.process(ORIGINAL).life = Life::Ended;
                }
                self.source_doing.push_back(Doing::Shadowing);
            }
            SourceEffect::Finish(end) => {
                self.source = None;
                self.source_doing.clear();
                self.line.up = false;
                let with_rank = matches!(end, SourceEnd::Ended { .. } | SourceEnd::Fenced { .. });
                if with_rank && !self.killed[ORIGINAL] && !self.killed[COPY] {
                    self.fault.get_or_insert(Fault::Lost(0));
                }
                if with_rank {
                    self.process(ORIGINAL).life = Life::Killed;
                }
            }
        }
    }

    fn tell_guardian(&mut self, message: ToGuardian) {
        if self.line.up {
            self.line.to_guardian.push_back(message);
        }
    }

    fn resume(&mut self, thaw: bool, verdict: Option<Verdict>) {
        let original = self.process(ORIGINAL);
        if thaw {
            original.life = Life::Running;
        }
        let epoch = original.port.epoch();
        match verdict {
            _ if original.port.is_attached() => {}
            Some(Verdict::Resume) => original.attach(epoch),
            Some(Verdict::Attach(epoch)) => original.attach(epoch),
            None => {}
        }
    }

    /// What the mover was doing is done, or has failed.
    pub(super) fn source_done(&mut self, fails: bool) {
        let Some(doing) = self.source_doing.pop_front() else {
            return;
        };
        let killed = self.is(ORIGINAL, Life::Killed);
        let Some(source) = &mut self.source else {
            return;
        };
        let result = if fails { Err(why()) } else { Ok(()) };
        match doing {
            Doing::Checking if result.is_ok() && self.agents[DESTINATION].up => {
                source.handle_checked(NOW, result);
                self.guardian = Some(Destination::new(MOVED, plan().move_id, limits()));
                self.line = Line {
                    up: true,
                    told: [false; 2],
                    ..Line::none()
                };
            }
            Doing::Checking => source.handle_checked(NOW, Err(why())),
            Doing::Suspending | Doing::Freezing | Doing::Resuming if killed => {
                self.noticed[0] = true;
                source.handle_ended(NOW);
            }
            Doing::Suspending => {
                source.handle_suspended(NOW, result);
                // It will not leave, and is back by itself.
                let original = self.process(ORIGINAL);
                if fails && !original.port.is_attached() {
                    let epoch = original.port.epoch();
                    original.attach(epoch);
                }
            }
            Doing::Freezing => source.handle_frozen(NOW, result),
            Doing::Copying => {
                let sent = self.line.up && result.is_ok();
                self.line.image |= sent;
                source.handle_copied(NOW, if sent { Ok(()) } else { Err(why()) });
            }
            Doing::Resuming => source.handle_resumed(NOW, Ok(())),
            Doing::Shadowing => source.handle_shadowed(NOW, result),
            Doing::Restoring | Doing::Releasing { .. } => {}
        }
    }

    fn guardian_effect(&mut self, effect: DestinationEffect) {
        match effect {
            DestinationEffect::Receive => {}
            DestinationEffect::Restore => self.guardian_doing.push_back(Doing::Restoring),
            DestinationEffect::Tell(message) => {
                self.confirmed |= matches!(message, FromGuardian::Confirmed { .. });
                if self.line.up {
                    self.line.to_source.push_back(message);
                }
            }
            DestinationEffect::Ask(question) => self.ask(Asker::Guardian, question),
            DestinationEffect::Release { epoch } => {
                // Whether it could be thawed is decided here: one that ends later has run.
                let held = self.is(COPY, Life::Held);
                if held {
                    let copy = self.process(COPY);
                    copy.life = Life::Running;
                    copy.attach(epoch);
                }
                self.guardian_doing.push_back(Doing::Releasing { held });
            }
            DestinationEffect::Discard => {
                if self.is(COPY, Life::Running) {
                    self.fault.get_or_insert(Fault::Lost(0));
                }
                if self.is(COPY, Life::Held) {
                    self.process(COPY).life = Life::Ended;
                }
            }
            DestinationEffect::Finish(_) => self.guardian_ends(),
        }
    }

    pub(super) fn guardian_ends(&mut self) {
        self.guardian = None;
        self.guardian_doing.clear();
        self.image = None;
        self.line.up = false;
    }

    /// What the guardian was doing is done, or has failed.
    pub(super) fn guardian_done(&mut self, fails: bool) {
        let Some(doing) = self.guardian_doing.pop_front() else {
            return;
        };
        match doing {
            Doing::Restoring => {
                let image = self.image.take().filter(|_| !fails);
                let copy = image.map(|image| image.copy(COPY, DESTINATION));
                let restored = copy.is_some();
                if restored {
                    self.processes[COPY] = copy.map(Arc::new);
                    self.process(COPY).listed = false;
                }
                if let Some(guardian) = &mut self.guardian {
                    let result = if restored {
                        Ok((1, Vec::new()))
                    } else {
                        Err(why())
                    };
                    guardian.handle_restored(result);
                }
            }
            Doing::Releasing { held } => {
                if let Some(guardian) = &mut self.guardian {
                    guardian.handle_released(if held { Ok(()) } else { Err(why()) });
                }
            }
            _ => {}
        }
    }

    /// The image is there.
    pub(super) fn image_arrives(&mut self) {
        self.line.image = false;
        if let Some(guardian) = &mut self.guardian {
            guardian.handle_received(Ok(()));
        }
    }

    pub(super) fn recover(&mut self) {
        self.orphaned = false;
        self.noticed[0] = false;
        self.source = Some(Source::recover(plan(), limits(), NOW));
    }

    // --- agents

    /// Begins what agents want done. Returns whether there was anything.
    pub(super) fn settle_burials(&mut self) -> bool {
        let mut worked = false;
        for node in 0..self.agents.len() {
            while let Some(burial) = &mut self.agents[node].burial
                && let Some(effect) = burial.poll_effect()
            {
                worked = true;
                match effect {
                    BurialEffect::Ask(question) => {
                        self.ask(Asker::Agent(node), question);
                    }
                    BurialEffect::Report(port) => {
                        if !self.has_ended(port) {
                            self.fault
                                .get_or_insert(Fault::BuriedAlive(usize::from(port != MOVED)));
                        }
                    }
                    BurialEffect::Finish => self.agents[node].burial = None,
                }
            }
        }
        worked
    }

    pub(super) fn begin_burial(&mut self, node: usize) {
        self.agents[node].fresh = false;
        let burial = Burial::new(node_name(node), Duration::ZERO, Duration::ZERO);
        self.agents[node].burial = Some(burial);
    }

    pub(super) fn burial_answered(&mut self, node: usize, asked: Asked) {
        if let Some(mut burial) = self.agents[node].burial.take() {
            burial.handle_directory(NOW, asked, |port, _| self.is_held(node, port));
            self.agents[node].burial = Some(burial);
        }
    }

    /// A process ends that has links.
    pub(super) fn close_links(&mut self, name: usize) {
        self.wires().close_all(name);
        let drained = |port: &mut Port| while port.poll_effect().is_some() {};
        drained(&mut self.process(name).port);
    }
}

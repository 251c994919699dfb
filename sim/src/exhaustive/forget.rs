//! What cannot matter any more is dropped, so that states that differ in nothing else are one.

use std::hash::{Hash, Hasher};
use std::mem;

use meander_core::directory::{Directory, Request};
use meander_core::moves::{FromGuardian, Source, ToGuardian};

use super::process::Life;
use super::world::{Asker, Call, Doing, Line, ORIGINAL, World};

impl World {
    /// After every step.
    pub(super) fn forget(&mut self) {
        if self.source.is_none() {
            self.line.to_source.clear();
            self.line.told[0] = true;
            self.noticed[0] = false;
        }
        if !self.source.as_ref().is_some_and(Source::is_asking) {
            self.abandon(Asker::Mover);
        }
        if self.guardian.is_none() {
            self.line.to_guardian.clear();
            self.line.image = false;
            self.line.told[1] = true;
            self.noticed[1] = false;
            self.abandon(Asker::Guardian);
        }
        let restoring = self.guardian_doing.contains(&Doing::Restoring);
        if self.guardian.is_none() || !(self.line.up || self.line.image || restoring) {
            self.image = None;
        }
        for node in 0..self.agents.len() {
            if self.agents[node].burial.is_none() {
                self.abandon(Asker::Agent(node));
            }
        }
        for name in 0..self.processes.len() {
            let is_gone = self.is(name, Life::Killed) || self.is(name, Life::Ended);
            if is_gone {
                self.abandon(Asker::Port(name));
            }
        }
        if !self.is(ORIGINAL, Life::Killed) {
            self.noticed[0] = false;
        }
        self.forget_vain_questions();
        // Only a crash looks at it.
        self.confirmed &= self.mishaps > 0;
    }

    /// What nobody waits for and changes nothing now never will: a move that is committed or called off
    /// stays so, an epoch that is left is not come back to, and who has ended has ended.
    fn forget_vain_questions(&mut self) {
        if self.calls.iter().all(|(asker, _)| *asker != Asker::Nobody) {
            return;
        }
        let directory = self.directory.clone();
        self.calls.retain(|(asker, call)| match (call, &directory) {
            _ if *asker != Asker::Nobody => true,
            (Call::Question(question), Some(directory)) => {
                let mut directory = Directory::clone(directory);
                directory.handle(question.clone()).1.is_some()
            }
            _ => false,
        });
    }

    /// Nobody waits for these answers. Only a question that changes what the directory has still
    /// makes a difference.
    pub(super) fn abandon(&mut self, gone: Asker) {
        if self.calls.iter().all(|(asker, _)| *asker != gone) {
            return;
        }
        let calls = mem::take(&mut self.calls).into_iter();
        let calls = calls.filter_map(|(asker, call)| match call {
            _ if asker != gone => Some((asker, call)),
            Call::Question(Request::Lookup { .. } | Request::List { .. }) | Call::Answer(_) => None,
            Call::Question(_) => Some((Asker::Nobody, call)),
        });
        self.calls = calls.collect();
        self.calls.sort_by_key(|(asker, _)| *asker);
    }
}

impl Line {
    /// There is none, and nobody is to be told so.
    pub(super) fn none() -> Line {
        Line {
            up: false,
            to_guardian: Default::default(),
            to_source: Default::default(),
            image: false,
            told: [true; 2],
        }
    }

    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        (self.up, self.image, self.told).hash(hasher);
        (self.to_guardian.len(), self.to_source.len()).hash(hasher);
        for message in &self.to_guardian {
            mem::discriminant(message).hash(hasher);
            if let ToGuardian::Committed { epoch } = message {
                epoch.hash(hasher);
            }
        }
        for message in &self.to_source {
            mem::discriminant::<FromGuardian>(message).hash(hasher);
        }
    }
}

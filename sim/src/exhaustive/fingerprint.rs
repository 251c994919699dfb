//! What two worlds must agree in to go on alike.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::world::{Asker, World};

impl World {
    /// What of it the ports look at or change, and everything of the rest that they notice.
    pub(super) fn ports_face(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let ports = self.processes.iter().zip(self.prints);
        for (process, print) in ports {
            let is_on = process.as_ref().is_some_and(|process| process.is_on());
            is_on.then_some(print).hash(&mut hasher);
        }
        (
            self.wires_print,
            self.directory.is_some(),
            self.directory_print,
        )
            .hash(&mut hasher);
        let asked = self.calls.iter();
        for call in asked.filter(|(asker, _)| matches!(asker, Asker::Port(_))) {
            call.hash(&mut hasher);
        }
        self.agents
            .each_ref()
            .map(|agent| agent.up)
            .hash(&mut hasher);
        hasher.finish()
    }

    /// Two worlds that agree in this go on alike.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.prints.hash(&mut hasher);
        if let Some(image) = &self.image {
            image.fingerprint(&mut hasher);
        }
        self.wires_print.hash(&mut hasher);
        self.source.is_some().hash(&mut hasher);
        if let Some(source) = &self.source {
            source.fingerprint(&mut hasher);
        }
        self.guardian.is_some().hash(&mut hasher);
        if let Some(guardian) = &self.guardian {
            guardian.fingerprint(&mut hasher);
        }
        (&self.source_doing, self.orphaned).hash(&mut hasher);
        (&self.guardian_doing, self.confirmed, self.noticed).hash(&mut hasher);
        (self.mishaps, self.killed, self.fault.is_some()).hash(&mut hasher);
        (self.directory_print, &self.calls).hash(&mut hasher);
        self.line.fingerprint(&mut hasher);
        for agent in &self.agents {
            (agent.up, agent.fresh, agent.burial.is_some()).hash(&mut hasher);
            if let Some(burial) = &agent.burial {
                burial.fingerprint(&mut hasher);
            }
        }
        hasher.finish()
    }
}

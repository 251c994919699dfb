//! What can happen next in the small world, and what comes of it.

use std::sync::Arc;

use meander_core::PortId;
use meander_core::directory::{Directory, Ending, Reply};
use meander_core::moves::{Asked, Burial, Destination, Phase, Source};

use super::moving::why;
use super::process::Life;
use super::wires::{Due, End};
use super::world::{
    Asker, COPY, Call, DESTINATION, MOVED, NOW, ORIGINAL, OTHER, PEER, SOURCE, World,
};
use crate::host::node_name;

/// Something that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// What the mover is doing is done.
    SourceDone,
    GuardianDone,
    ImageArrives,
    SourceHears,
    GuardianHears,
    SourceLosesLine,
    GuardianLosesLine,
    SourceSeesEnd,
    GuardianSeesEnd,
    SourceTimer,
    GuardianTimer,
    Recover,
    AgentStarts(usize),
    BurialBegins(usize),
    BurialTimer(usize),
    Listed(usize),
    ToldDead(usize),
    DirectoryStarts,
    /// A question reaches the directory, or an answer whoever asked.
    Called(usize),
    Delivered(End, Due),
    PortTimer(usize),
    Mishap(Mishap),
}

/// What may go wrong, as often as the world allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    MoverKilled,
    GuardianKilled,
    AgentKilled(usize),
    NodeKilled(usize),
    ProcessKilled(usize),
    DirectoryKilled,
    SourceStepFails,
    GuardianStepFails,
    /// Something takes longer than it may.
    PatienceEnds,
    LineLost,
    AnswerLost(usize),
    LinkCut(End),
}

impl World {
    /// All that may happen now.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        self.moves(&mut actions);
        self.lookouts(&mut actions);
        actions.extend((0..self.calls.len()).map(Action::Called));
        let due = self.wires.due().into_iter();
        let due = due.filter(|(end, _)| self.is(end.process, Life::Running));
        actions.extend(due.map(|(end, due)| Action::Delivered(end, due)));
        actions.extend(
            (0..3)
                .filter(|name| self.has_timer(*name))
                .map(Action::PortTimer),
        );
        if self.mishaps > 0 {
            self.mishaps(&mut actions);
        }
        actions
    }

    /// Whether it is something that a port does, or that is done to it.
    pub(super) fn is_ports(&self, action: Action) -> bool {
        match action {
            Action::Delivered(..) | Action::PortTimer(_) | Action::ToldDead(_) => true,
            Action::Called(place) => matches!(self.calls[place].0, Asker::Port(_)),
            _ => false,
        }
    }

    fn moves(&self, actions: &mut Vec<Action>) {
        let line = &self.line;
        let mut add = |may: bool, action| {
            if may {
                actions.push(action);
            }
        };
        let killed = |name| self.is(name, Life::Killed);
        if let Some(source) = &self.source {
            add(!self.source_doing.is_empty(), Action::SourceDone);
            add(!line.to_source.is_empty(), Action::SourceHears);
            let lost = !line.up && line.to_source.is_empty() && !line.told[0];
            add(lost, Action::SourceLosesLine);
            add(killed(ORIGINAL) && !self.noticed[0], Action::SourceSeesEnd);
            let due = source.poll_timeout().is_some();
            add(due && !self.is_patience(source), Action::SourceTimer);
        }
        if let Some(guardian) = &self.guardian {
            add(!self.guardian_doing.is_empty(), Action::GuardianDone);
            add(line.image, Action::ImageArrives);
            let waits = !line.image && !line.to_guardian.is_empty();
            add(waits, Action::GuardianHears);
            let lost = !line.up && !line.image && line.to_guardian.is_empty() && !line.told[1];
            add(lost, Action::GuardianLosesLine);
            add(killed(COPY) && !self.noticed[1], Action::GuardianSeesEnd);
            add(guardian.poll_timeout().is_some(), Action::GuardianTimer);
        }
        add(self.orphaned && self.agents[SOURCE].up, Action::Recover);
    }

    fn lookouts(&self, actions: &mut Vec<Action>) {
        for (node, agent) in self.agents.iter().enumerate() {
            if !agent.up {
                actions.push(Action::AgentStarts(node));
            } else if let Some(burial) = &agent.burial {
                if burial.poll_timeout().is_some() {
                    actions.push(Action::BurialTimer(node));
                }
            } else if agent.fresh || self.has_orphans(node) {
                actions.push(Action::BurialBegins(node));
            }
        }
        if self.directory.is_none() {
            actions.push(Action::DirectoryStarts);
            return;
        }
        for (name, process) in self.processes.iter().enumerate() {
            let Some(process) = process else { continue };
            if !process.is_on() || !self.agents[process.node].up {
                continue;
            }
            if !process.listed {
                actions.push(Action::Listed(name));
            }
            if !process.app.knows_dead && self.has_ended(other(name)) {
                actions.push(Action::ToldDead(name));
            }
        }
    }

    /// Whether the mover's deadline bounds the work of others, which comes to an end by itself; not a
    /// pause before it asks again.
    fn is_patience(&self, source: &Source) -> bool {
        matches!(
            source.phase(),
            Phase::Suspend | Phase::Confirm | Phase::Attach
        ) && !source.is_rolling_back()
    }

    /// Whether the directory places a port on a node where nobody holds it.
    fn has_orphans(&self, node: usize) -> bool {
        let mut here = self
            .disk
            .iter()
            .filter(|(_, record)| record.entry.location.node == node_name(node));
        here.any(|(port, _)| !self.has_ended(*port) && !self.is_held(node, *port))
    }

    fn mishaps(&self, actions: &mut Vec<Action>) {
        let lives = |name: usize| self.is(name, Life::Running) || self.is(name, Life::Held);
        let mut add = |may: bool, mishap| {
            if may {
                actions.push(Action::Mishap(mishap));
            }
        };
        add(self.source.is_some(), Mishap::MoverKilled);
        add(self.guardian.is_some(), Mishap::GuardianKilled);
        for node in [SOURCE, DESTINATION] {
            add(self.agents[node].up, Mishap::AgentKilled(node));
            // These, and what is below, are looked at where the move is alone.
            let alone = self.processes[PEER].is_none();
            add(alone && self.agents[node].up, Mishap::NodeKilled(node));
        }
        for name in [ORIGINAL, COPY, PEER] {
            add(lives(name), Mishap::ProcessKilled(name));
        }
        add(self.directory.is_some(), Mishap::DirectoryKilled);
        if self.processes[PEER].is_some() {
            return;
        }
        add(!self.source_doing.is_empty(), Mishap::SourceStepFails);
        add(!self.guardian_doing.is_empty(), Mishap::GuardianStepFails);
        let patience = self
            .source
            .as_ref()
            .filter(|source| self.is_patience(source));
        let due = patience.is_some_and(|source| source.poll_timeout().is_some());
        add(due, Mishap::PatienceEnds);
        add(self.line.up, Mishap::LineLost);
        for (place, (_, call)) in self.calls.iter().enumerate() {
            add(matches!(call, Call::Answer(_)), Mishap::AnswerLost(place));
        }
        for end in self.wires.whole() {
            add(true, Mishap::LinkCut(end));
        }
    }

    /// The world after that.
    pub(super) fn after(&self, action: Action) -> World {
        let mut world = self.clone();
        world.happen(action);
        world.settle();
        world
    }

    fn happen(&mut self, action: Action) {
        match action {
            Action::SourceDone => self.source_done(false),
            Action::GuardianDone => self.guardian_done(false),
            Action::ImageArrives => self.image_arrives(),
            Action::SourceHears => {
                let message = self.line.to_source.pop_front();
                if let (Some(source), Some(message)) = (&mut self.source, message) {
                    source.handle_guardian(NOW, message);
                }
            }
            Action::GuardianHears => {
                let message = self.line.to_guardian.pop_front();
                if let (Some(guardian), Some(message)) = (&mut self.guardian, message) {
                    guardian.handle_source(message);
                }
            }
            Action::SourceLosesLine => {
                self.line.told[0] = true;
                self.with_source(|source| source.handle_guardian_lost(NOW, why()));
            }
            Action::GuardianLosesLine => {
                self.line.told[1] = true;
                self.with_guardian(|guardian| guardian.handle_source_lost(why()));
            }
            Action::SourceSeesEnd => {
                self.noticed[0] = true;
                self.with_source(|source| source.handle_ended(NOW));
            }
            Action::GuardianSeesEnd => {
                self.noticed[1] = true;
                self.with_guardian(|guardian| guardian.handle_copy_ended(why()));
            }
            Action::SourceTimer => self.with_source(|source| source.handle_timeout(NOW)),
            Action::GuardianTimer => self.with_guardian(|guardian| guardian.handle_timeout(NOW)),
            Action::Recover => self.recover(),
            Action::AgentStarts(node) => {
                self.agents[node].up = true;
                self.agents[node].fresh = true;
            }
            Action::BurialBegins(node) => self.begin_burial(node),
            Action::BurialTimer(node) => {
                if let Some(burial) = &mut self.agents[node].burial {
                    Burial::handle_timeout(burial, NOW);
                }
            }
            Action::Listed(name) => self.list(name),
            Action::ToldDead(name) => self.process(name).port.declare_dead(other(name)),
            Action::DirectoryStarts => {
                let records = self.disk.as_ref().clone();
                self.directory = Some(Arc::new(Directory::from_records(records)));
                self.print_directory();
            }
            Action::Called(place) => self.called(place),
            Action::Delivered(end, _) => self.deliver(end),
            Action::PortTimer(name) => self.port_timer(name),
            Action::Mishap(mishap) => {
                self.mishaps -= 1;
                self.go_wrong(mishap);
            }
        }
    }

    fn with_source(&mut self, then: impl FnOnce(&mut Source)) {
        if let Some(source) = &mut self.source {
            then(source);
        }
    }

    fn with_guardian(&mut self, then: impl FnOnce(&mut Destination)) {
        if let Some(guardian) = &mut self.guardian {
            then(guardian);
        }
    }

    fn called(&mut self, place: usize) {
        let asked = match &self.calls[place].1 {
            Call::Question(question) => {
                let answer = self.answer(question.clone());
                self.calls[place].1 = Call::Answer(answer);
                return;
            }
            Call::Answer(asked) => asked.clone(),
        };
        match self.calls.remove(place).0 {
            Asker::Mover => self.with_source(|it| it.handle_directory(NOW, asked)),
            Asker::Guardian => self.with_guardian(|it| it.handle_directory(NOW, asked)),
            Asker::Agent(node) => self.burial_answered(node, asked),
            Asker::Port(name) if self.is(name, Life::Running) => self.told_where(name, asked),
            _ => {}
        }
    }

    fn told_where(&mut self, name: usize, asked: Asked) {
        let process = self.process(name);
        if !process.port.is_attached() {
            return;
        }
        match asked {
            Asked::Answered(Reply::Found(Some(entry))) => {
                process.port.learn(process.now, &entry.contact(other(name)));
            }
            Asked::Answered(Reply::Ended(Ending::Died)) => process.port.declare_dead(other(name)),
            _ => {}
        }
    }

    fn go_wrong(&mut self, mishap: Mishap) {
        match mishap {
            Mishap::MoverKilled => self.kill_mover(true),
            Mishap::GuardianKilled => self.kill_guardian(),
            Mishap::AgentKilled(node) => self.kill_agent(node),
            Mishap::NodeKilled(node) => {
                self.kill_agent(node);
                if node == SOURCE {
                    self.kill_mover(false);
                    self.kill(ORIGINAL);
                } else {
                    self.kill_guardian();
                    self.kill(COPY);
                }
            }
            Mishap::ProcessKilled(name) => self.kill(name),
            Mishap::DirectoryKilled => {
                self.directory = None;
                self.print_directory();
                for (_, call) in &mut self.calls {
                    if let Call::Question(_) = call {
                        *call = Call::Answer(Asked::Unknown(String::new()));
                    }
                }
            }
            Mishap::SourceStepFails => self.source_done(true),
            Mishap::GuardianStepFails => self.guardian_done(true),
            Mishap::PatienceEnds => self.with_source(|source| source.handle_timeout(NOW)),
            Mishap::LineLost => self.line.up = false,
            Mishap::AnswerLost(place) => {
                self.calls[place].1 = Call::Answer(Asked::Unknown(String::new()));
            }
            Mishap::LinkCut(end) => self.wires().cut(end),
        }
    }

    fn kill_mover(&mut self, journal: bool) {
        self.orphaned = journal && (self.source.is_some() || self.orphaned);
        self.source = None;
        self.source_doing.clear();
        self.line.up = false;
        self.abandon(Asker::Mover);
    }

    fn kill_guardian(&mut self) {
        if self.guardian.is_some() {
            self.guardian_ends();
            self.abandon(Asker::Guardian);
            self.kill(COPY);
        }
    }

    fn kill_agent(&mut self, node: usize) {
        let agent = &mut self.agents[node];
        agent.up = false;
        agent.burial = None;
        self.abandon(Asker::Agent(node));
        // It passes on what the processes of its node ask.
        for name in [ORIGINAL, COPY, PEER] {
            let process = self.processes[name].as_ref();
            if process.is_some_and(|process| process.node == node) {
                self.abandon(Asker::Port(name));
            }
        }
    }

    fn kill(&mut self, name: usize) {
        if !self.is(name, Life::Running) && !self.is(name, Life::Held) {
            return;
        }
        self.close_links(name);
        self.process(name).life = Life::Killed;
        self.killed[name] = name != COPY || self.confirmed;
    }
}

fn other(name: usize) -> PortId {
    if name == PEER { MOVED } else { OTHER }
}

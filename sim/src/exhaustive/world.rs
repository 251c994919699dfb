//! The small world: two ports that owe each other a message, and one move of one of them.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use meander_core::directory::{Directory, Ending, Record, Reply, Request};
use meander_core::limits::REDIAL_MAX;
use meander_core::moves::{
    Asked, Burial, Destination, FromGuardian, MoveLimits, Plan, Source, ToGuardian,
};
use meander_core::{Epoch, MoveId, PortId, Time};

use super::process::{Life, Process, Wish};
use super::wires::{Due, End, Wires};
use crate::checkers::{Checker, Fault};
use crate::directory::entry;
use crate::host::node_name;

/// The processes, by their place in the world.
pub(super) const ORIGINAL: usize = 0;
pub(super) const COPY: usize = 1;
pub(super) const PEER: usize = 2;
/// The nodes; the directory's process is on none of them.
pub(super) const SOURCE: usize = 0;
pub(super) const DESTINATION: usize = 1;
/// The port that is moved, and the other.
pub(super) const MOVED: PortId = PortId(1);
pub(super) const OTHER: PortId = PortId(3);

/// Time stands still for movers and agents: whether a deadline has passed is left open.
pub(super) const NOW: Time = Time(0);

/// Who has asked the directory. An answer to a process that was killed reaches nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Asker {
    Mover,
    Guardian,
    Agent(usize),
    Port(usize),
    /// Whoever asked is gone; the question may still change what the directory has.
    Nobody,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Question(Request),
    Answer(Asked),
}

/// What the owner of the move, or the guardian, is about to have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Doing {
    Checking,
    Suspending,
    Freezing,
    Copying,
    Resuming,
    Shadowing,
    Restoring,
    /// `held`: there was a copy to release.
    Releasing {
        held: bool,
    },
}

/// The line between mover and guardian.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub up: bool,
    pub to_guardian: VecDeque<ToGuardian>,
    pub to_source: VecDeque<FromGuardian>,
    /// The image is on its way.
    pub image: bool,
    /// Which sides have been told that it is gone.
    pub told: [bool; 2],
}

#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub up: bool,
    /// It was started and has not looked after its node yet.
    pub fresh: bool,
    pub burial: Option<Burial>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    /// Shared with the worlds before, until they change.
    pub processes: [Option<Arc<Process>>; 3],
    /// What of each process goes into a fingerprint, made again where it changes.
    pub prints: [u64; 3],
    touched: [bool; 3],
    pub wires: Arc<Wires>,
    rewired: bool,
    /// The same of the wires.
    pub wires_print: u64,
    /// What of it all the ports look at or change, and everything of the rest that they notice.
    pub face: u64,
    pub source: Option<Source>,
    pub source_doing: VecDeque<Doing>,
    /// The owner was killed, and the journal is there.
    pub orphaned: bool,
    pub guardian: Option<Destination>,
    pub guardian_doing: VecDeque<Doing>,
    /// The guardian has said that the copy is there.
    pub confirmed: bool,
    /// Whether mover and guardian have noticed the end of the process they look after.
    pub noticed: [bool; 2],
    pub line: Line,
    pub image: Option<Arc<Process>>,
    pub directory: Option<Arc<Directory>>,
    pub disk: Arc<BTreeMap<PortId, Record>>,
    /// Of what the directory and its disk have.
    pub directory_print: u64,
    /// Which ports the disk has as dead.
    ended: [bool; 2],
    pub calls: Vec<(Asker, Call)>,
    pub agents: [Agent; 3],
    /// Mishaps that may still happen.
    pub mishaps: u8,
    /// Processes that were killed; a copy only if it may have been all there was.
    pub killed: [bool; 3],
    pub fault: Option<Fault>,
}

pub(super) fn plan() -> Plan {
    Plan {
        port: MOVED,
        from: Epoch(0),
        move_id: MoveId(1),
        reclaim_id: MoveId(2),
        here: node_name(SOURCE),
        host_pid: 1,
        there: node_name(DESTINATION),
        shadow: None,
    }
}

pub(super) fn limits() -> MoveLimits {
    MoveLimits {
        suspend: Duration::ZERO,
        confirm: Duration::ZERO,
        attach: Duration::ZERO,
        directory: Duration::ZERO,
        retry: Duration::ZERO,
    }
}

impl World {
    /// Two ports with a link between them, a message on its way each way, and a move about to begin.
    /// `talking`: else there is no other port, and only the move is looked at.
    pub fn new(mishaps: u8, talking: bool) -> World {
        let agent = Agent {
            up: true,
            fresh: false,
            burial: None,
        };
        let peer = talking.then(|| Process::new(PEER, PEER));
        let mut world = World {
            processes: [Some(Process::new(ORIGINAL, SOURCE)), None, peer]
                .map(|it| it.map(Arc::new)),
            prints: [0; 3],
            touched: [true; 3],
            wires: Arc::default(),
            rewired: true,
            wires_print: 0,
            face: 0,
            source: None,
            source_doing: VecDeque::new(),
            orphaned: false,
            guardian: None,
            guardian_doing: VecDeque::new(),
            confirmed: false,
            noticed: [false; 2],
            line: Line::none(),
            image: None,
            directory: Some(Arc::default()),
            disk: Arc::default(),
            directory_print: 0,
            ended: [false; 2],
            calls: Vec::new(),
            agents: [agent.clone(), agent.clone(), agent],
            mishaps,
            killed: [false; 3],
            fault: None,
        };
        for name in [ORIGINAL, PEER] {
            if world.processes[name].is_some() {
                world.process(name).attach(Epoch(0));
                world.list(name);
            }
        }
        if talking {
            world.connect_ports();
        }
        world.source = Some(Source::new(plan(), limits(), NOW));
        world.settle();
        world
    }

    /// Brings a link up and lets both send.
    fn connect_ports(&mut self) {
        let contacts = [PEER, ORIGINAL].map(|other| self.process(other).port.contact());
        for (name, contact) in [ORIGINAL, PEER].into_iter().zip(contacts) {
            self.process(name).port.learn(NOW, &contact);
        }
        // A first message makes the link, and is forgotten with what it was sent by.
        self.process(ORIGINAL).send_first(OTHER);
        self.settle();
        while let Some((end, _)) = self.wires.due().into_iter().next() {
            self.deliver(end);
            self.settle();
        }
        while let Some(name) = [ORIGINAL, PEER]
            .into_iter()
            .find(|name| self.has_timer(*name))
        {
            self.port_timer(name);
            self.settle();
            while let Some((end, _)) = self.wires.due().into_iter().next() {
                self.deliver(end);
                self.settle();
            }
        }
        self.process(ORIGINAL).app.received = 0;
        self.process(PEER).app.received = 0;
        self.process(ORIGINAL).send(OTHER);
        self.process(PEER).send(MOVED);
    }

    pub fn process(&mut self, name: usize) -> &mut Process {
        self.touched[name] = true;
        Arc::make_mut(self.processes[name].as_mut().expect("it is there"))
    }

    pub fn wires(&mut self) -> &mut Wires {
        self.rewired = true;
        Arc::make_mut(&mut self.wires)
    }

    pub fn is(&self, name: usize, life: Life) -> bool {
        self.processes[name]
            .as_ref()
            .is_some_and(|it| it.life == life)
    }

    /// Everything that nobody can come between is done at once.
    pub fn settle(&mut self) {
        let mut checker = Checker::default();
        let mut changed = [false; 3];
        loop {
            let moved = self.settle_moves() | self.settle_burials();
            let touched = std::mem::take(&mut self.touched);
            let mut talked = false;
            for name in (0..3).filter(|name| touched[*name]) {
                changed[name] = true;
                talked |= self.drive(name, &mut checker);
            }
            talked |= self.touched != [false; 3];
            if !moved && !talked && !self.strangers_leave() {
                break;
            }
        }
        self.found(checker);
        self.check();
        self.forget();
        for name in (0..3).filter(|name| changed[*name]) {
            self.prints[name] = self.processes[name].as_ref().map_or(0, |process| {
                let mut hasher = DefaultHasher::new();
                process.fingerprint(&mut hasher);
                hasher.finish()
            });
        }
        if std::mem::take(&mut self.rewired) {
            let mut hasher = DefaultHasher::new();
            self.wires.fingerprint(&mut hasher);
            self.wires_print = hasher.finish();
        }
        self.face = self.ports_face();
    }

    /// The end of a link that a process makes nothing of comes at once: nothing depends on when.
    fn strangers_leave(&mut self) -> bool {
        let mut due = self
            .wires
            .due()
            .into_iter()
            .filter(|(_, due)| *due == Due::TheEnd);
        let leaves = due.find(|(end, _)| {
            let process = self.processes[end.process].as_ref();
            process.is_some_and(|process| process.port.is_stranger(end.link))
        });
        if let Some((end, _)) = leaves {
            self.deliver(end);
        }
        leaves.is_some()
    }

    pub fn found(&mut self, checker: Checker) {
        if let Some(fault) = checker.into_faults().into_iter().next() {
            self.fault.get_or_insert(fault);
        }
    }

    fn drive(&mut self, name: usize, checker: &mut Checker) -> bool {
        let Some(process) = &mut self.processes[name] else {
            return false;
        };
        if process.life != Life::Running {
            return false;
        }
        let process = Arc::make_mut(process);
        let (wishes, frames) = process.drive(checker);
        let worked = !wishes.is_empty() || !frames.is_empty();
        for (link, sent) in frames {
            let process = name;
            self.wires().send(End { process, link }, sent);
        }
        for wish in wishes {
            match wish {
                Wish::Close(link) => self.wires().close(End {
                    process: name,
                    link,
                }),
                Wish::Dial(peer, card) => self.dial(name, peer, card.bytes[0] as usize),
                Wish::Ask(port) => self.ask_where(name, port),
                Wish::Told(port) => {
                    if !self.has_ended(port) {
                        self.fault
                            .get_or_insert(Fault::Stuck(format!("{port} is not dead")));
                    }
                }
            }
        }
        worked
    }

    fn dial(&mut self, from: usize, peer: PortId, to: usize) {
        let there = self.processes[to].as_deref();
        if !there.is_some_and(|there| there.is_on() && there.port.id() == peer) {
            let process = self.process(from);
            return process.port.dial_failed(process.now, peer);
        }
        let [near, far] = self.wires().connect(from, to);
        let process = self.process(from);
        process.port.dialled(process.now, peer, near.link);
        process.port.connected(near.link);
        let there = self.process(to);
        there.port.accepted(there.now, far.link);
    }

    /// A frame, or the end of its link, comes to a process.
    pub fn deliver(&mut self, end: End) {
        let mut checker = Checker::default();
        match self.wires().take(end) {
            Some(sent) => {
                let process = self.process(end.process);
                if !process.receive(end.link, &sent, &mut checker) {
                    process.port.broken(process.now, end.link);
                    self.wires().close(end);
                }
            }
            None => {
                let process = self.process(end.process);
                process.port.broken(process.now, end.link);
                self.wires().close(end);
            }
        }
        self.found(checker);
    }

    /// Whether a port has a deadline that passes by itself. The set-up of a link does not take long:
    /// here every frame comes, or the end of its link.
    pub fn has_timer(&self, name: usize) -> bool {
        self.processes[name].as_ref().is_some_and(|process| {
            let at = process.port.poll_timeout().filter(|_| process.is_on());
            at.is_some_and(|at| at.since(process.now) <= REDIAL_MAX)
        })
    }

    /// The next deadline of a port passes.
    pub fn port_timer(&mut self, name: usize) {
        let process = self.process(name);
        if let Some(at) = process.port.poll_timeout() {
            process.now = process.now.max(at);
            process.port.handle_timeout(process.now);
        }
    }

    // --- the directory

    pub fn ask(&mut self, asker: Asker, question: Request) {
        let call = if self.directory.is_some() {
            Call::Question(question)
        } else {
            Call::Answer(Asked::NotSent(String::new()))
        };
        self.calls.push((asker, call));
        self.calls.sort_by_key(|(asker, _)| *asker);
    }

    /// Through the agent of its node; one question at a time.
    fn ask_where(&mut self, name: usize, port: PortId) {
        let node = self.process(name).node;
        let asker = Asker::Port(name);
        if self.agents[node].up && self.calls.iter().all(|(other, _)| *other != asker) {
            self.ask(asker, Request::Lookup { port });
        }
    }

    /// The directory answers what has reached it.
    pub fn answer(&mut self, question: Request) -> Asked {
        let Some(directory) = &mut self.directory else {
            return Asked::Unknown(String::new());
        };
        let (reply, change) = Arc::make_mut(directory).handle(question);
        if let Some(change) = change {
            let disk = Arc::make_mut(&mut self.disk);
            disk.insert(change.port, *change.record);
            if let Some(forget) = change.forget {
                disk.remove(&forget);
            }
        }
        self.print_directory();
        Asked::Answered(reply)
    }

    /// After every change of what the directory has.
    pub fn print_directory(&mut self) {
        let mut hasher = DefaultHasher::new();
        (&self.directory, &self.disk).hash(&mut hasher);
        self.directory_print = hasher.finish();
        self.ended = [MOVED, OTHER].map(|port| self.is_buried(port));
    }

    /// What the disk has of a port.
    pub fn on_disk(&self, port: PortId) -> Option<&Record> {
        self.disk.get(&port)
    }

    pub fn has_ended(&self, port: PortId) -> bool {
        self.ended[usize::from(port != MOVED)]
    }

    fn is_buried(&self, port: PortId) -> bool {
        let record = self.on_disk(port).cloned().map(|record| (port, record));
        let (reply, _) = Directory::from_records(record).handle(Request::Lookup { port });
        matches!(reply, Reply::Ended(Ending::Died))
    }

    /// An agent has a process listed where it is.
    pub fn list(&mut self, name: usize) {
        let process = self.process(name);
        let contact = process.port.contact();
        let (port, entry) = (contact.port, entry(0, contact.epoch, contact.location));
        match self.answer(Request::Register { port, entry }) {
            Asked::Answered(Reply::Done) => self.process(name).listed = true,
            other => {
                let fault = Fault::Stuck(format!("{port} is not listed: {other:?}"));
                self.fault.get_or_insert(fault);
            }
        }
    }

    /// Whether a process on a node holds a port.
    pub fn is_held(&self, node: usize, port: PortId) -> bool {
        let holds = |process: &Process| {
            let lives = matches!(process.life, Life::Running | Life::Held);
            process.node == node && process.port.id() == port && lives
        };
        let taken_in = node == DESTINATION && port == MOVED && self.guardian.is_some();
        taken_in
            || self
                .processes
                .iter()
                .flatten()
                .any(|process| holds(process))
    }

    // --- what must be so

    fn check(&mut self) {
        let runs = |name: usize| self.is(name, Life::Running);
        let epoch = Epoch(0);
        let fault = if runs(ORIGINAL) && runs(COPY) {
            Some(Fault::TwoOwners { rank: 0, epoch })
        } else {
            let ranks = [(MOVED, runs(ORIGINAL) || runs(COPY)), (OTHER, runs(PEER))];
            ranks
                .into_iter()
                .enumerate()
                .find_map(|(rank, (port, runs))| {
                    let ended = self.has_ended(port);
                    (ended && runs)
                        .then_some(Fault::BuriedAlive(rank))
                        .or((ended && !self.may_be_dead(port)).then_some(Fault::Lost(rank)))
                })
        };
        self.fault = self.fault.take().or(fault);
    }

    /// Whether what was killed was the process that the directory has of the port.
    fn may_be_dead(&self, port: PortId) -> bool {
        let Some(record) = self.on_disk(port) else {
            return false;
        };
        let node = &record.entry.location.node;
        let names = [ORIGINAL, COPY, PEER].into_iter();
        names
            .filter(|name| *node == node_name(*name))
            .any(|name| self.killed[name])
    }

    /// Whether all has come to a good end: everybody who was killed is there again or known to be dead,
    /// the move is over, and whoever lives has what he is owed.
    pub fn is_good(&self) -> bool {
        let over = self.source.is_none() && !self.orphaned && self.guardian.is_none();
        let up = self.directory.is_some() && self.agents.iter().all(|agent| agent.up);
        let moved = self.living([ORIGINAL, COPY]);
        let other = self.living([PEER, PEER]);
        let ends_well = |me: Option<&Process>, you: Option<&Process>, port| match (me, you) {
            (Some(me), Some(_)) => self.is_listed(me) && me.is_done(),
            (Some(me), None) if self.processes[PEER].is_none() => self.is_listed(me),
            (Some(me), None) => self.is_listed(me) && me.app.knows_dead && me.has_all_back(),
            (None, _) => self.has_ended(port) || self.processes[PEER].is_none() && port == OTHER,
        };
        over && up && ends_well(moved, other, MOVED) && ends_well(other, moved, OTHER)
    }

    fn living(&self, names: [usize; 2]) -> Option<&Process> {
        let found = names
            .into_iter()
            .filter_map(|name| self.processes[name].as_deref());
        found.into_iter().find(|process| process.is_on())
    }

    fn is_listed(&self, process: &Process) -> bool {
        let record = self.on_disk(process.port.id());
        record.is_some_and(|record| {
            let entry = &record.entry;
            entry.epoch == process.port.epoch() && entry.location.node == node_name(process.node)
        })
    }
}

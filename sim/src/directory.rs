//! The directory's process: it answers when its disk has what it answers, and comes back with that.

use std::collections::BTreeMap;

use meander_core::directory::{Change, Directory, Entry, Identity, Record, Reply, Request};
use meander_core::{Contact, Epoch, JobId, Location, PortId};

/// Where, in the answering of one question, the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    BeforeTheDisk,
    BeforeTheAnswer,
}

#[derive(Debug)]
pub(crate) struct DirectoryHost {
    /// `None` while no process of it runs.
    machine: Option<Directory>,
    disk: BTreeMap<PortId, Record>,
    /// What it said of each port before it said what it says now.
    earlier: BTreeMap<PortId, Contact>,
    /// The next question kills it.
    doomed: Option<Moment>,
}

impl DirectoryHost {
    pub fn new() -> DirectoryHost {
        DirectoryHost {
            machine: Some(Directory::default()),
            disk: BTreeMap::new(),
            earlier: BTreeMap::new(),
            doomed: None,
        }
    }

    pub fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    /// The answer; `None` where the process is not there, or is killed before it answers.
    pub fn ask(&mut self, question: Request) -> Option<Reply> {
        let machine = self.machine.as_mut()?;
        let (reply, change) = machine.handle(question);
        if self.doomed == Some(Moment::BeforeTheDisk) {
            self.crash();
            return None;
        }
        if let Some(change) = change {
            self.write(change);
        }
        if self.doomed == Some(Moment::BeforeTheAnswer) {
            self.crash();
            return None;
        }
        Some(reply)
    }

    fn write(&mut self, change: Change) {
        let Change {
            port,
            record,
            forget,
        } = change;
        if let Some(forget) = forget {
            self.disk.remove(&forget);
        }
        if let Some(old) = self.disk.insert(port, *record) {
            self.earlier.insert(port, old.entry.contact(port));
        }
    }

    /// An answer that was right once.
    pub fn stale(&self, port: PortId) -> Option<Contact> {
        self.earlier.get(&port).cloned()
    }

    /// Whether the disk has it that the port's process has ended.
    pub fn has_ended(&self, port: PortId) -> bool {
        let mut disk = Directory::from_records(self.disk.get(&port).cloned().map(|it| (port, it)));
        let (reply, _) = disk.handle(Request::Lookup { port });
        matches!(reply, Reply::Ended(_))
    }

    /// The node where the disk has a port.
    pub fn node_of(&self, port: PortId) -> usize {
        let name = &self.disk[&port].entry.location.node.0;
        name[1..].parse().expect("nodes are numbered")
    }

    pub fn crash(&mut self) {
        self.machine = None;
        self.doomed = None;
    }

    /// The next question that comes is the last.
    pub fn doom(&mut self, moment: Moment) {
        self.doomed = Some(moment);
    }

    /// It comes back with what the disk has.
    pub fn restart(&mut self) {
        self.doomed = None;
        if self.machine.is_none() {
            let records = self.disk.clone();
            self.machine = Some(Directory::from_records(records));
        }
    }
}

/// What the directory is told of a rank; only where it is and its epoch matter here.
pub(crate) fn entry(rank: usize, epoch: Epoch, location: Location) -> Entry {
    let identity = Identity {
        job: JobId("51m00000".to_owned()),
        rank: rank as u32,
        size: 16,
        program: "sim".to_owned(),
    };
    Entry {
        identity,
        epoch,
        location,
        uid: 0,
        pid: 1,
        host_pid: 1,
        shadow: None,
    }
}

//! The directory: for every port its epoch, its location and who it is.
//!
//! A sans-I/O state machine: [`Directory::handle`] takes a request and gives the answer together
//! with the [`Change`] that must be durable *before* the answer is sent. One rule carries the
//! safety of a move: an epoch is left only by a compare-and-set ([`Request::Commit`]), and of all
//! moves that start at one epoch exactly one can win it. `[R18]`
//!
//! A reply may be lost. Whoever waits for it asks again: a commit that has happened answers
//! [`Reply::Committed`] every time, and [`Request::Settle`] answers for good — it either finds the
//! move committed or forbids it, so that "no" cannot become "yes" later. `[R24]` `[R25]`

mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

pub use record::Record;

use crate::ids::{Epoch, JobId, MoveId, NodeName, PortId};
use crate::limits;
use crate::location::{Contact, Location};
use crate::planted::{PlantedFault, is_planted};

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The job.
    pub job: JobId,
    /// Its number in the job.
    pub rank: u32,
    /// How many there are in the job.
    pub size: u32,
    /// What runs, for people: the program's name.
    pub program: String,
}

/// What the directory knows of a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Who it is.
    pub identity: Identity,
    /// How often it has moved.
    pub epoch: Epoch,
    /// The node it is on, and its cards there; none while it is suspended.
    pub location: Location,
    /// The user whose process it is.
    pub uid: u32,
    /// Its process, as it sees itself; the same after every move.
    pub pid: u32,
    /// Its process, as its node sees it.
    pub host_pid: u32,
    /// What stays where its launcher started it, once it has moved.
    pub shadow: Option<Shadow>,
}

/// What stays of a moved process where its launcher started it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shadow {
    /// The node.
    pub node: NodeName,
    /// The process, as that node sees it.
    pub host_pid: u32,
}

impl Entry {
    /// What a stranger needs to reach the port.
    pub fn contact(&self, port: PortId) -> Contact {
        Contact {
            port,
            epoch: self.epoch,
            location: self.location.clone(),
        }
    }
}

/// A move, as it is put to the directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Commit {
    /// Which attempt this is.
    pub move_id: MoveId,
    /// The epoch it starts from; it ends at the next one.
    pub from: Epoch,
    /// The node it ends on.
    pub node: NodeName,
    /// The process there.
    pub host_pid: u32,
    /// The shadow, from now on.
    pub shadow: Option<Shadow>,
}

/// What can be asked of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Request {
    /// A process has introduced itself to an agent, for the first time or again.
    Register {
        /// Its port.
        port: PortId,
        /// What it says, and what its socket says of it.
        entry: Entry,
    },
    /// A port has new cards, at the epoch it had.
    Locate {
        /// The port.
        port: PortId,
        /// The epoch for which `location` holds.
        epoch: Epoch,
        /// Where it is.
        location: Location,
    },
    /// The compare-and-set: this move, if the port is still at the epoch it starts from.
    Commit {
        /// The port.
        port: PortId,
        /// The move.
        commit: Commit,
    },
    /// Did this move happen? If it did not, it never will.
    Settle {
        /// The port.
        port: PortId,
        /// Which attempt.
        move_id: MoveId,
    },
    /// What is known of a port.
    Lookup {
        /// The port.
        port: PortId,
    },
    /// Every port, a page at a time.
    List {
        /// The last port of the page before.
        after: Option<PortId>,
    },
    /// The process ended. Only the epoch it ended at can be removed: what an agent saw end may
    /// be what a move left behind. Asked again, it is answered as before. `[R26]` `[R31]`
    Remove {
        /// The port.
        port: PortId,
        /// Its epoch.
        epoch: Epoch,
        /// How it ended.
        ending: Ending,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ending {
    /// It had said that it leaves: its peers have all that it owed them.
    Left,
    /// It had not: it is dead to its peers.
    Died,
}

/// The directory's answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reply {
    /// It is as asked.
    Done,
    /// To a commit, or to a settling: the move happened, and this is the epoch it led to.
    Committed {
        /// The epoch after the move.
        epoch: Epoch,
    },
    /// To a settling: the move did not happen and now cannot.
    Aborted,
    /// What is known of a port; `None` if nothing.
    Found(Option<Entry>),
    /// The port's process has ended. No other ever has its address. `[R31]`
    Ended(Ending),
    /// A page of ports, and whether there are more after it.
    Listed {
        /// In the order of their addresses.
        ports: Vec<(PortId, Entry)>,
        /// Whether to ask for the next page.
        more: bool,
    },
    /// It is not as asked.
    Refused(Refusal),
}

/// Why the directory refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No such port.
    #[error("the directory does not know this port")]
    Unknown,
    /// The port's process has ended.
    #[error("the process of this port has ended")]
    Ended,
    /// The port is at another epoch.
    #[error("the port is at epoch {current} by now")]
    Stale {
        /// The epoch it is at.
        current: Epoch,
    },
    /// The same epoch of the port is registered on another node.
    #[error("this epoch of the port is registered on node {node}")]
    Elsewhere {
        /// That node.
        node: NodeName,
    },
    /// The port belongs to another user.
    #[error("the port belongs to another user")]
    NotYours,
    /// The move was settled as aborted before it asked to be committed.
    #[error("the move was called off before it was committed")]
    CalledOff,
    /// The directory holds as many ports as it takes ([`limits::DIRECTORY_PORTS`]).
    #[error("the directory is full")]
    Full,
    /// A field is longer than its bound.
    #[error("a field of the entry is longer than allowed")]
    TooLong,
}

/// What must be made durable, in one step, before the answer is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Keep the record under this address, instead of any other.
    pub port: PortId,
    /// What to keep.
    pub record: Box<Record>,
    /// Another address, to be forgotten for good.
    pub forget: Option<PortId>,
}

impl Change {
    fn put(port: PortId, record: &Record) -> Change {
        Change {
            port,
            record: Box::new(record.clone()),
            forget: None,
        }
    }
}

/// The directory itself.
#[derive(Clone, Debug, Default, Hash)]
pub struct Directory {
    records: BTreeMap<PortId, Record>,
    /// Which of them have ended, the first first.
    ended: VecDeque<PortId>,
}

impl Directory {
    /// The directory as it was made durable.
    pub fn from_records(records: impl IntoIterator<Item = (PortId, Record)>) -> Directory {
        let records: BTreeMap<_, Record> = records.into_iter().collect();
        let ended = records
            .iter()
            .filter(|(_, record)| record.ended().is_some());
        let ended = ended.map(|(port, _)| *port).collect();
        Directory { records, ended }
    }

    /// Answers a request. The change has already been made here; the caller makes it durable and
    /// sends the answer after that, or, where it can't, stops without answering.
    pub fn handle(&mut self, request: Request) -> (Reply, Option<Change>) {
        let answer = match request {
            Request::Register { port, entry } => self.register(port, entry),
            Request::Locate {
                port,
                epoch,
                location,
            } => self.locate(port, epoch, location),
            Request::Commit { port, commit } => self.commit(port, commit),
            Request::Settle { port, move_id } => self.settle(port, move_id),
            Request::Lookup { port } => return (self.look_up(port), None),
            Request::List { after } => return (self.list(after), None),
            Request::Remove {
                port,
                epoch,
                ending,
            } => self.remove(port, epoch, ending),
        };
        answer.unwrap_or_else(|refusal| (Reply::Refused(refusal), None))
    }

    fn register(&mut self, port: PortId, entry: Entry) -> Answer {
        check_lengths(&entry)?;
        if let Some(record) = self.records.get_mut(&port) {
            record.register(entry)?;
            return Ok((Reply::Done, Some(Change::put(port, record))));
        }
        if self.records.len() >= limits::DIRECTORY_PORTS {
            return Err(Refusal::Full);
        }
        let record = Record::new(entry);
        let change = Change::put(port, &record);
        self.records.insert(port, record);
        Ok((Reply::Done, Some(change)))
    }

    fn locate(&mut self, port: PortId, epoch: Epoch, location: Location) -> Answer {
        check_location(&location)?;
        let record = self.living(port)?;
        record.locate(epoch, location)?;
        Ok((Reply::Done, Some(Change::put(port, record))))
    }

    fn commit(&mut self, port: PortId, commit: Commit) -> Answer {
        let names = [
            Some(&commit.node),
            commit.shadow.as_ref().map(|shadow| &shadow.node),
        ];
        if names
            .iter()
            .flatten()
            .any(|name| name.0.len() > limits::NAME_BYTES)
        {
            return Err(Refusal::TooLong);
        }
        // Asked again it answers as before, whatever has become of the rank since. `[R24]`
        let earlier = self
            .records
            .get(&port)
            .and_then(|it| it.committed(commit.move_id));
        if let Some(epoch) = earlier {
            return Ok((Reply::Committed { epoch }, None));
        }
        let record = self.living(port)?;
        let epoch = record.commit(commit)?;
        let durable = !is_planted(PlantedFault::ForgetCommit);
        let change = durable.then(|| Change::put(port, record));
        Ok((Reply::Committed { epoch }, change))
    }

    fn look_up(&self, port: PortId) -> Reply {
        match self.records.get(&port) {
            None => Reply::Found(None),
            Some(record) => match record.ended() {
                Some(ending) => Reply::Ended(ending),
                None => Reply::Found(Some(record.entry.clone())),
            },
        }
    }

    fn settle(&mut self, port: PortId, move_id: MoveId) -> Answer {
        let Some(record) = self.records.get_mut(&port) else {
            // A port that is gone can't be committed either: a commit of it is refused.
            return Ok((Reply::Aborted, None));
        };
        if let Some(epoch) = record.committed(move_id) {
            return Ok((Reply::Committed { epoch }, None));
        }
        let news = record.call_off(move_id) && !is_planted(PlantedFault::ForgetCallingOff);
        let change = news.then(|| Change::put(port, record));
        Ok((Reply::Aborted, change))
    }

    fn list(&self, after: Option<PortId>) -> Reply {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.records.range((from, Bound::Unbounded));
        let ports = rest
            .by_ref()
            .filter(|(_, record)| record.ended().is_none())
            .take(limits::DIRECTORY_PAGE)
            .map(|(port, record)| (*port, record.entry.clone()))
            .collect();
        Reply::Listed {
            ports,
            more: rest.next().is_some(),
        }
    }

    fn remove(&mut self, port: PortId, epoch: Epoch, ending: Ending) -> Answer {
        let record = self.records.get_mut(&port).ok_or(Refusal::Unknown)?;
        if !record.end(epoch, ending)? {
            return Ok((Reply::Done, None));
        }
        let mut change = Change::put(port, record);
        self.ended.push_back(port);
        let full = self.ended.len() > limits::DIRECTORY_ENDED;
        change.forget = self.ended.pop_front_if(|_| full);
        if let Some(forget) = &change.forget {
            self.records.remove(forget);
        }
        Ok((Reply::Done, Some(change)))
    }

    fn living(&mut self, port: PortId) -> Result<&mut Record, Refusal> {
        match self.records.get_mut(&port) {
            Some(record) if record.ended().is_some() => Err(Refusal::Ended),
            record => record.ok_or(Refusal::Unknown),
        }
    }
}

type Answer = Result<(Reply, Option<Change>), Refusal>;

fn check_lengths(entry: &Entry) -> Result<(), Refusal> {
    let names = [&entry.identity.job.0, &entry.identity.program];
    if names.iter().any(|name| name.len() > limits::NAME_BYTES) {
        return Err(Refusal::TooLong);
    }
    check_location(&entry.location)
}

fn check_location(location: &Location) -> Result<(), Refusal> {
    let fits = location.node.0.len() <= limits::NAME_BYTES
        && location.cards.len() <= limits::CARDS
        && location
            .cards
            .iter()
            .all(|card| card.bytes.len() <= limits::CARD_BYTES);
    if fits { Ok(()) } else { Err(Refusal::TooLong) }
}

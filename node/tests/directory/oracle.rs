//! Writers that go on whatever happens to the directory, and know what they were told.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use meander::{Epoch, PortId};
use meander_core::MoveId;
use meander_core::directory::{Refusal, Reply, Request};
use meander_core::moves::Asked;
use meander_node::directory::Client;

use crate::support::wait_until;
use crate::{commit, entry, new_move, new_port};

/// Moves of each port that are asked about again at the end: the directory remembers 64.
const REMEMBERED: usize = 60;

/// Ports that rivals move all the time, and what became of every attempt.
pub struct Oracle {
    ports: Vec<PortId>,
    told: Mutex<BTreeMap<PortId, Told>>,
    stop: AtomicBool,
}

/// See [`Oracle::stop_at_the_end`].
pub struct Stop<'a>(&'a Oracle);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Told {
    /// The move that led to each epoch.
    committed: BTreeMap<Epoch, MoveId>,
    /// Moves that did not happen: they never arrived, or were settled so.
    never: Vec<MoveId>,
    /// Commits whose answer was lost.
    lost: usize,
}

/// What the writers went through.
#[derive(Debug)]
pub struct Count {
    pub committed: usize,
    pub never: usize,
    pub lost: usize,
}

impl Oracle {
    /// Registers so many ports.
    pub fn start(client: &Client, ports: usize) -> Oracle {
        let ports: Vec<PortId> = (0..ports).map(|_| new_port()).collect();
        for port in &ports {
            let entry = entry(0, "a");
            let register = Request::Register { port: *port, entry };
            assert_eq!(client.request(&register).unwrap(), Reply::Done);
        }
        Oracle {
            ports,
            told: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// The writers end after what they are at, once this is dropped: also if a test fails.
    pub fn stop_at_the_end(&self) -> Stop<'_> {
        Stop(self)
    }

    /// How many commits are known to have happened.
    pub fn committed(&self) -> usize {
        let told = self.told.lock().unwrap();
        told.values().map(|told| told.committed.len()).sum()
    }

    /// Moves one port after the other until told to stop. Several may do so at once.
    pub fn write(&self, client: &Client) {
        'moves: for port in self.ports.iter().cycle() {
            let move_id = new_move();
            let from = loop {
                if self.stop.load(Ordering::Relaxed) {
                    break 'moves;
                }
                match client.lookup(*port) {
                    Ok(entry) => break entry.expect("a registered port is there").epoch,
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
                }
            };
            let commit = commit(move_id, from.0, "b");
            let request = Request::Commit {
                port: *port,
                commit,
            };
            match client.ask(&request) {
                Asked::Answered(Reply::Committed { epoch }) => {
                    assert_eq!(epoch, from.next());
                    self.won(*port, epoch, move_id);
                }
                Asked::Answered(Reply::Refused(Refusal::Stale { current })) => {
                    assert!(current > from);
                    self.told(*port, |told| told.never.push(move_id));
                }
                Asked::Answered(other) => panic!("{other:?}"),
                Asked::NotSent(_) => self.told(*port, |told| told.never.push(move_id)),
                Asked::Unknown(_) => {
                    self.told(*port, |told| told.lost += 1);
                    self.settle(client, *port, move_id, from);
                }
            }
        }
    }

    /// Checks that everything that was told is so, and that nothing else happened.
    pub fn check(&self, client: &Client) -> Count {
        let told = self.told.lock().unwrap();
        let mut count = Count {
            committed: 0,
            never: 0,
            lost: 0,
        };
        for port in &self.ports {
            let now = client.lookup(*port).unwrap().unwrap().epoch;
            let Some(told) = told.get(port) else {
                assert_eq!(now, Epoch(0));
                continue;
            };
            let epochs: Vec<u64> = told.committed.keys().map(|epoch| epoch.0).collect();
            let all: Vec<u64> = (1..=now.0).collect();
            assert_eq!(epochs, all, "each epoch was told to one mover");
            let settle = |move_id| {
                let request = Request::Settle {
                    port: *port,
                    move_id,
                };
                client.request(&request).unwrap()
            };
            for (epoch, move_id) in told.committed.iter().rev().take(REMEMBERED) {
                assert_eq!(settle(*move_id), Reply::Committed { epoch: *epoch });
            }
            for move_id in &told.never {
                assert_eq!(settle(*move_id), Reply::Aborted);
            }
            count.committed += told.committed.len();
            count.never += told.never.len();
            count.lost += told.lost;
        }
        count
    }

    fn settle(&self, client: &Client, port: PortId, move_id: MoveId, from: Epoch) {
        let request = Request::Settle { port, move_id };
        let mut reply = None;
        wait_until("the directory to settle a move", || {
            reply = client.request(&request).ok();
            reply.is_some()
        });
        match reply.unwrap() {
            Reply::Committed { epoch } => {
                assert_eq!(epoch, from.next());
                self.won(port, epoch, move_id);
            }
            Reply::Aborted => self.told(port, |told| told.never.push(move_id)),
            other => panic!("{other:?}"),
        }
    }

    fn won(&self, port: PortId, epoch: Epoch, move_id: MoveId) {
        self.told(port, |told| {
            let other = told.committed.insert(epoch, move_id);
            assert_eq!(other, None, "two moves were told that they led to {epoch}");
        });
    }

    fn told(&self, port: PortId, tell: impl FnOnce(&mut Told)) {
        tell(self.told.lock().unwrap().entry(port).or_default());
    }
}

//! The directory beside a naive model, and its promises one by one.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::location::{Card, TransportKind};

fn entry(epoch: u64, node: &str) -> Entry {
    Entry {
        identity: Identity {
            job: JobId("0a1b2c3d".into()),
            rank: 3,
            size: 4,
            program: "heat2d".into(),
        },
        epoch: Epoch(epoch),
        location: Location {
            node: NodeName(node.into()),
            cards: vec![card(0)],
        },
        uid: 1000,
        pid: 77,
        host_pid: 77,
        shadow: None,
    }
}

fn shadow() -> Shadow {
    Shadow {
        node: NodeName("a".into()),
        host_pid: 77,
    }
}

fn card(byte: u8) -> Card {
    Card {
        transport: TransportKind::Sim,
        bytes: vec![byte],
    }
}

fn commit(id: u128, from: u64, node: &str) -> Request {
    let commit = Commit {
        move_id: MoveId(id),
        from: Epoch(from),
        node: NodeName(node.into()),
        host_pid: 900,
        shadow: Some(shadow()),
    };
    Request::Commit { port: PORT, commit }
}

const PORT: PortId = PortId(7);

fn with_one() -> Directory {
    let mut directory = Directory::default();
    let (reply, change) = directory.handle(Request::Register {
        port: PORT,
        entry: entry(0, "a"),
    });
    assert_eq!(reply, Reply::Done);
    assert!(matches!(
        change,
        Some(Change {
            port: PORT,
            forget: None,
            ..
        })
    ));
    directory
}

fn ask(directory: &mut Directory, request: Request) -> Reply {
    directory.handle(request).0
}

fn found(directory: &mut Directory) -> Entry {
    match ask(directory, Request::Lookup { port: PORT }) {
        Reply::Found(Some(entry)) => entry,
        other => panic!("{other:?}"),
    }
}

/// `[R24]`
#[test]
fn a_commit_asked_twice_happens_once() {
    let mut directory = with_one();
    assert_eq!(
        ask(&mut directory, commit(1, 0, "b")),
        Reply::Committed { epoch: Epoch(1) }
    );
    let (reply, change) = directory.handle(commit(1, 0, "b"));
    assert_eq!(reply, Reply::Committed { epoch: Epoch(1) });
    assert_eq!(change, None);
    let entry = found(&mut directory);
    assert_eq!((entry.epoch, entry.host_pid), (Epoch(1), 900));
    assert_eq!(
        entry.location,
        Location {
            node: NodeName("b".into()),
            cards: vec![]
        }
    );
}

#[test]
fn a_move_is_still_known_after_the_next_one() {
    let mut directory = with_one();
    ask(&mut directory, commit(1, 0, "b"));
    ask(&mut directory, commit(2, 1, "c"));
    let settle = Request::Settle {
        port: PORT,
        move_id: MoveId(1),
    };
    assert_eq!(
        ask(&mut directory, settle),
        Reply::Committed { epoch: Epoch(1) }
    );
}

/// `[R18]`
#[test]
fn of_two_moves_from_one_epoch_one_wins() {
    let mut directory = with_one();
    assert_eq!(
        ask(&mut directory, commit(1, 0, "b")),
        Reply::Committed { epoch: Epoch(1) }
    );
    let stale = Reply::Refused(Refusal::Stale { current: Epoch(1) });
    assert_eq!(ask(&mut directory, commit(2, 0, "c")), stale);
    assert_eq!(found(&mut directory).location.node.0, "b");
}

/// `[R25]`
#[test]
fn a_settled_move_can_not_be_committed_later() {
    let mut directory = with_one();
    let settle = Request::Settle {
        port: PORT,
        move_id: MoveId(1),
    };
    assert_eq!(ask(&mut directory, settle.clone()), Reply::Aborted);
    assert_eq!(
        ask(&mut directory, commit(1, 0, "b")),
        Reply::Refused(Refusal::CalledOff)
    );
    assert_eq!(ask(&mut directory, settle), Reply::Aborted);
    assert_eq!(
        ask(&mut directory, commit(2, 0, "b")),
        Reply::Committed { epoch: Epoch(1) }
    );
}

/// `[R26]`
#[test]
fn the_source_can_not_remove_what_has_moved_on() {
    let mut directory = with_one();
    ask(&mut directory, commit(1, 0, "b"));
    let gone = Request::Remove {
        port: PORT,
        epoch: Epoch(0),
        ending: Ending::Died,
    };
    let stale = Reply::Refused(Refusal::Stale { current: Epoch(1) });
    assert_eq!(ask(&mut directory, gone), stale);
    let gone = Request::Remove {
        port: PORT,
        epoch: Epoch(1),
        ending: Ending::Died,
    };
    assert_eq!(ask(&mut directory, gone.clone()), Reply::Done);
    assert_eq!(ask(&mut directory, gone), Reply::Done, "[R31] asked again");
}

#[test]
fn what_has_ended_stays_so() {
    let mut directory = with_one();
    let (port, epoch) = (PORT, Epoch(0));
    let ending = Ending::Left;
    ask(
        &mut directory,
        Request::Remove {
            port,
            epoch,
            ending,
        },
    );
    assert_eq!(
        ask(&mut directory, Request::Lookup { port }),
        Reply::Ended(Ending::Left)
    );
    let ended = Reply::Refused(Refusal::Ended);
    // [R31]: its agent may have been slow to list it, its mover to commit.
    let entry = entry(0, "a");
    assert_eq!(
        ask(&mut directory, Request::Register { port, entry }),
        ended
    );
    assert_eq!(ask(&mut directory, commit(1, 0, "b")), ended);
    // [R24]: a commit that had happened still has.
    let mut directory = with_one();
    let done = Reply::Committed { epoch: Epoch(1) };
    assert_eq!(ask(&mut directory, commit(1, 0, "b")), done);
    let (epoch, ending) = (Epoch(1), Ending::Died);
    ask(
        &mut directory,
        Request::Remove {
            port,
            epoch,
            ending,
        },
    );
    assert_eq!(ask(&mut directory, commit(1, 0, "b")), done);
    let list = ask(&mut directory, Request::List { after: None });
    let none = Reply::Listed {
        ports: vec![],
        more: false,
    };
    assert_eq!(list, none);
}

#[test]
fn of_very_many_that_have_ended_the_first_are_forgotten() {
    let mut directory = Directory::default();
    let ending = Ending::Died;
    for port in 0..=limits::DIRECTORY_ENDED as u128 {
        let (port, epoch) = (PortId(port), Epoch(0));
        let entry = entry(0, "a");
        directory.handle(Request::Register { port, entry });
        let (_, change) = directory.handle(Request::Remove {
            port,
            epoch,
            ending,
        });
        let forgets = matches!(
            change,
            Some(Change {
                forget: Some(PortId(0)),
                ..
            })
        );
        assert_eq!(forgets, port.0 == limits::DIRECTORY_ENDED as u128);
    }
    let lookup = |port| Request::Lookup { port: PortId(port) };
    assert_eq!(ask(&mut directory, lookup(0)), Reply::Found(None));
    assert_eq!(ask(&mut directory, lookup(1)), Reply::Ended(ending));
}

#[test]
fn a_copy_left_behind_can_not_register() {
    let mut directory = with_one();
    ask(&mut directory, commit(1, 0, "b"));
    let stale = Reply::Refused(Refusal::Stale { current: Epoch(1) });
    let old = Request::Register {
        port: PORT,
        entry: entry(0, "a"),
    };
    assert_eq!(ask(&mut directory, old), stale);
    let elsewhere = Reply::Refused(Refusal::Elsewhere {
        node: NodeName("b".into()),
    });
    let double = Request::Register {
        port: PORT,
        entry: entry(1, "a"),
    };
    assert_eq!(ask(&mut directory, double), elsewhere);
    let right = Request::Register {
        port: PORT,
        entry: entry(1, "b"),
    };
    assert_eq!(ask(&mut directory, right), Reply::Done);
    let entry = found(&mut directory);
    assert_eq!(entry.shadow, Some(shadow()), "the shadow stays known");
}

#[test]
fn nobody_registers_over_another_users_port() {
    let mut directory = with_one();
    let theirs = Entry {
        uid: 0,
        ..entry(0, "a")
    };
    let request = Request::Register {
        port: PORT,
        entry: theirs,
    };
    assert_eq!(
        ask(&mut directory, request),
        Reply::Refused(Refusal::NotYours)
    );
}

#[test]
fn fields_are_bounded() {
    let mut directory = with_one();
    let cards = vec![card(0); limits::CARDS + 1];
    let location = Location {
        node: NodeName("a".into()),
        cards,
    };
    let request = Request::Locate {
        port: PORT,
        epoch: Epoch(0),
        location,
    };
    assert_eq!(
        ask(&mut directory, request),
        Reply::Refused(Refusal::TooLong)
    );
}

#[test]
fn the_list_comes_in_pages() {
    let mut directory = Directory::default();
    let count = limits::DIRECTORY_PAGE as u128 * 2 + 3;
    for port in 0..count {
        ask(
            &mut directory,
            Request::Register {
                port: PortId(port),
                entry: entry(0, "a"),
            },
        );
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let Reply::Listed { ports, more } = ask(&mut directory, Request::List { after }) else {
            panic!("no list");
        };
        seen.extend(ports.into_iter().map(|(port, _)| port.0));
        after = seen.last().copied().map(PortId);
        if !more {
            break;
        }
    }
    assert_eq!(seen, (0..count).collect::<Vec<_>>());
}

/// Requests over two ports, a few moves, a few epochs and three nodes.
fn any_request() -> impl Strategy<Value = Request> {
    let port = (0..2u128).prop_map(PortId);
    let node = prop_oneof![Just("a"), Just("b"), Just("c")];
    (0..6u8, port, 0..4u64, 0..5u128, node).prop_map(|(kind, port, epoch, id, node)| {
        let location = Location {
            node: NodeName(node.into()),
            cards: vec![card(id as u8)],
        };
        let epoch = Epoch(epoch);
        match kind {
            0 => Request::Register {
                port,
                entry: entry(epoch.0, node),
            },
            1 => Request::Locate {
                port,
                epoch,
                location,
            },
            2 => {
                // One attempt starts from one epoch: its number says which.
                let from = Epoch(id as u64 % 3);
                let commit = Commit {
                    move_id: MoveId(id),
                    from,
                    node: location.node,
                    host_pid: 1,
                    shadow: None,
                };
                Request::Commit { port, commit }
            }
            3 => Request::Settle {
                port,
                move_id: MoveId(id),
            },
            4 => Request::Lookup { port },
            _ => Request::Remove {
                port,
                epoch,
                ending: Ending::Died,
            },
        }
    })
}

/// All that a directory should remember, written down without a thought for bounds.
#[derive(Default)]
struct Model {
    ports: HashMap<PortId, (Epoch, Location)>,
    won: HashMap<(PortId, MoveId), Epoch>,
    forbidden: HashSet<(PortId, MoveId)>,
    ended: HashMap<PortId, Epoch>,
}

impl Model {
    /// Whether the request changes anything but the history, and how.
    fn step(&mut self, request: &Request) -> bool {
        match request {
            Request::Register { port, .. } if self.ended.contains_key(port) => false,
            Request::Register { port, entry } => match self.ports.get(port) {
                Some((epoch, at)) if entry.epoch == *epoch && at.node != entry.location.node => {
                    false
                }
                Some((epoch, _)) if entry.epoch < *epoch => false,
                _ => {
                    self.ports
                        .insert(*port, (entry.epoch, entry.location.clone()));
                    true
                }
            },
            Request::Locate {
                port,
                epoch,
                location,
            } => match self.ports.get_mut(port) {
                Some((at, place)) if at == epoch && place.node == location.node => {
                    *place = location.clone();
                    true
                }
                _ => false,
            },
            Request::Commit { port, commit } => {
                let key = (*port, commit.move_id);
                if self.won.contains_key(&key) {
                    return true;
                }
                if !self.ports.contains_key(port) {
                    return false;
                }
                let (at, place) = self.ports.get_mut(port).expect("just seen");
                if self.forbidden.contains(&key) || *at != commit.from {
                    return false;
                }
                *at = at.next();
                *place = Location {
                    node: commit.node.clone(),
                    cards: vec![],
                };
                self.won.insert(key, *at);
                true
            }
            Request::Settle { port, move_id } => {
                let known = self.ports.contains_key(port) || self.ended.contains_key(port);
                let won = self.won.contains_key(&(*port, *move_id));
                if known && !won {
                    self.forbidden.insert((*port, *move_id));
                }
                known && won
            }
            Request::Remove { port, epoch, .. } => match self.ports.get(port) {
                Some((at, _)) if at == epoch => {
                    self.ports.remove(port);
                    self.ended.insert(*port, *epoch);
                    true
                }
                _ => self.ended.get(port) == Some(epoch),
            },
            Request::Lookup { .. } | Request::List { .. } => true,
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_the_model_and_survives_a_restart_at_any_point(
        requests in proptest::collection::vec((any_request(), any::<bool>()), 1..200)
    ) {
        let mut directory = Directory::default();
        let mut model = Model::default();
        let mut durable: HashMap<PortId, Record> = HashMap::new();
        for (request, restart) in requests {
            let granted = model.step(&request);
            let settles = matches!(request, Request::Settle { .. });
            let (reply, change) = directory.handle(request);
            match change {
                Some(Change { port, record, forget: None }) => { durable.insert(port, *record); }
                Some(_) => panic!("two ports are not too many"),
                None => {}
            }
            let refused = matches!(reply, Reply::Refused(_) | Reply::Aborted);
            prop_assert_eq!(granted, !refused, "{:?} (settling: {})", reply, settles);
            if restart {
                directory = Directory::from_records(durable.clone());
            }
            for (port, (epoch, location)) in &model.ports {
                let Reply::Found(Some(entry)) = ask(&mut directory, Request::Lookup { port: *port })
                else { panic!("lost {port}") };
                prop_assert_eq!((entry.epoch, &entry.location), (*epoch, location));
            }
        }
    }
}

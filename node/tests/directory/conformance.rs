//! What every backend must do.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use meander::{Epoch, NodeName, PortId};
use meander_core::directory::{Directory, Ending, Refusal, Reply, Request};
use meander_core::limits::DIRECTORY_PAGE;
use meander_core::moves::Asked;
use meander_node::directory::Client;

use crate::{commit, entry, new_move, new_port};

/// Runs all of it; `open` gives clients of one directory.
pub fn all(open: &(dyn Fn() -> Client + Sync)) {
    what_is_registered_is_found_until_it_ends(open);
    a_commit_asked_twice_happens_once(open);
    of_the_moves_from_one_epoch_one_wins(open);
    what_is_settled_stays_so(open);
    it_answers_as_core_does(open);
    the_list_has_all_that_live(open);
    who_waits_for_a_change_is_told(open);
    a_lease_that_is_not_renewed_runs_out(open);
}

fn ask(client: &Client, request: Request) -> Reply {
    match client.ask(&request) {
        Asked::Answered(reply) => reply,
        other => panic!("{request:?}: {other:?}"),
    }
}

fn register(client: &Client, epoch: u64, node: &str) -> PortId {
    let port = new_port();
    let entry = entry(epoch, node);
    assert_eq!(ask(client, Request::Register { port, entry }), Reply::Done);
    port
}

fn what_is_registered_is_found_until_it_ends(open: &dyn Fn() -> Client) {
    let (one, other) = (open(), open());
    assert_eq!(other.lookup(new_port()).unwrap(), None);
    let port = register(&one, 3, "a");
    assert_eq!(other.lookup(port).unwrap(), Some(entry(3, "a")));
    let remove = |epoch| Request::Remove {
        port,
        epoch: Epoch(epoch),
        ending: Ending::Died,
    };
    let stale = Reply::Refused(Refusal::Stale { current: Epoch(3) });
    assert_eq!(ask(&one, remove(2)), stale);
    assert_eq!(ask(&one, remove(3)), Reply::Done);
    let lookup = Request::Lookup { port };
    assert_eq!(ask(&other, lookup), Reply::Ended(Ending::Died));
    assert_eq!(other.lookup(port).unwrap(), None);
}

/// `[R24]`
fn a_commit_asked_twice_happens_once(open: &dyn Fn() -> Client) {
    let client = open();
    let port = register(&client, 0, "a");
    let request = |commit| Request::Commit { port, commit };
    let first = commit(new_move(), 0, "b");
    let yes = Reply::Committed { epoch: Epoch(1) };
    assert_eq!(ask(&client, request(first.clone())), yes);
    assert_eq!(
        ask(&client, request(commit(new_move(), 1, "c"))),
        Reply::Committed { epoch: Epoch(2) }
    );
    assert_eq!(ask(&open(), request(first)), yes);
    assert_eq!(client.lookup(port).unwrap().unwrap().epoch, Epoch(2));
}

/// `[R18]`
fn of_the_moves_from_one_epoch_one_wins(open: &(dyn Fn() -> Client + Sync)) {
    const RIVALS: usize = 4;
    const EPOCHS: u64 = 12;
    let port = register(&open(), 0, "a");
    let barrier = Barrier::new(RIVALS);
    let wins: usize = std::thread::scope(|scope| {
        let rivals: Vec<_> = (0..RIVALS)
            .map(|_| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let client = open();
                    let mut wins = 0;
                    for from in 0..EPOCHS {
                        barrier.wait();
                        let commit = commit(new_move(), from, "b");
                        match ask(&client, Request::Commit { port, commit }) {
                            Reply::Committed { epoch } => {
                                assert_eq!(epoch, Epoch(from + 1));
                                wins += 1;
                            }
                            Reply::Refused(Refusal::Stale { current }) => {
                                assert_eq!(current, Epoch(from + 1));
                            }
                            other => panic!("{other:?}"),
                        }
                        barrier.wait();
                    }
                    wins
                })
            })
            .collect();
        rivals.into_iter().map(|rival| rival.join().unwrap()).sum()
    });
    assert_eq!(wins as u64, EPOCHS, "one winner an epoch");
}

/// `[R25]`
fn what_is_settled_stays_so(open: &dyn Fn() -> Client) {
    let client = open();
    let port = register(&client, 0, "a");
    let lost = new_move();
    let settle = |move_id| Request::Settle { port, move_id };
    assert_eq!(ask(&client, settle(lost)), Reply::Aborted);
    let late = Request::Commit {
        port,
        commit: commit(lost, 0, "b"),
    };
    assert_eq!(ask(&open(), late), Reply::Refused(Refusal::CalledOff));
    assert_eq!(client.lookup(port).unwrap().unwrap().epoch, Epoch(0));
}

/// The same questions to a directory in memory are answered the same.
fn it_answers_as_core_does(open: &dyn Fn() -> Client) {
    let clients = [open(), open()];
    let mut model = Directory::default();
    let ports = [new_port(), new_port(), new_port()];
    let moves: Vec<_> = (0..6).map(|_| new_move()).collect();
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    for step in 0..160 {
        let mut pick = |count: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % count as u64) as usize
        };
        let port = ports[pick(3)];
        let epoch = pick(5) as u64;
        let node = ["a", "b"][pick(2)];
        let move_id = moves[pick(6)];
        let request = match pick(16) {
            0..4 => Request::Register {
                port,
                entry: entry(epoch, node),
            },
            4..6 => Request::Locate {
                port,
                epoch: Epoch(epoch),
                location: entry(epoch, node).location,
            },
            6..11 => Request::Commit {
                port,
                commit: commit(move_id, epoch, node),
            },
            11..13 => Request::Settle { port, move_id },
            13..15 => Request::Lookup { port },
            // Rarely: it is the end of a port.
            _ if step > 100 => Request::Remove {
                port,
                epoch: Epoch(epoch),
                ending: Ending::Left,
            },
            _ => Request::Lookup { port },
        };
        let expected = model.handle(request.clone()).0;
        let client = &clients[step % 2];
        assert_eq!(
            ask(client, request.clone()),
            expected,
            "{step}: {request:?}"
        );
    }
}

fn the_list_has_all_that_live(open: &dyn Fn() -> Client) {
    let client = open();
    let mut ports: Vec<PortId> = (0..DIRECTORY_PAGE + 44)
        .map(|_| register(&client, 0, "a"))
        .collect();
    ports.sort_unstable();
    // A whole stretch of the list ends, so that a page of it may be empty.
    for port in ports.drain(10..40) {
        let (epoch, ending) = (Epoch(0), Ending::Left);
        let remove = Request::Remove {
            port,
            epoch,
            ending,
        };
        assert_eq!(ask(&client, remove), Reply::Done);
    }
    let listed: Vec<PortId> = open().list().unwrap().into_iter().map(|(p, _)| p).collect();
    assert!(listed.is_sorted());
    let ours: Vec<PortId> = listed.into_iter().filter(|p| ports.contains(p)).collect();
    assert_eq!(ours, ports);
}

fn who_waits_for_a_change_is_told(open: &(dyn Fn() -> Client + Sync)) {
    let client = open();
    let port = register(&client, 0, "a");
    let seen = entry(0, "a");
    let wait = Duration::from_secs(20);
    // Nothing happens: he waits as long as he said, and not longer.
    let started = Instant::now();
    let short = Duration::from_millis(300);
    let same = client.wait_change(port, Some(&seen), short).unwrap();
    assert_eq!(same.as_ref(), Some(&seen));
    assert!(started.elapsed() >= short && started.elapsed() < wait / 4);
    // What he says he saw is not so: he is told at once.
    let other = entry(1, "a");
    let now = client.wait_change(port, Some(&other), wait).unwrap();
    assert_eq!(now.as_ref(), Some(&seen));
    // Something happens: he is told then.
    std::thread::scope(|scope| {
        let moved = scope.spawn(|| open().wait_change(port, Some(&seen), wait).unwrap());
        let appeared = new_port();
        let there = scope.spawn(move || open().wait_change(appeared, None, wait).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        let told = Instant::now();
        let commit = commit(new_move(), 0, "b");
        ask(&client, Request::Commit { port, commit });
        assert_eq!(moved.join().unwrap().unwrap().epoch, Epoch(1));
        let entry = entry(0, "c");
        ask(
            &client,
            Request::Register {
                port: appeared,
                entry: entry.clone(),
            },
        );
        assert_eq!(there.join().unwrap(), Some(entry));
        let seen = client.lookup(port).unwrap();
        let gone = scope.spawn(move || open().wait_change(port, seen.as_ref(), wait).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        let (epoch, ending) = (Epoch(1), Ending::Died);
        let remove = Request::Remove {
            port,
            epoch,
            ending,
        };
        ask(&client, remove);
        assert_eq!(gone.join().unwrap(), None);
        assert!(
            told.elapsed() < wait / 2,
            "it was found by waiting, not told"
        );
    });
}

/// A lease that is held by two lives as long as one of them renews it. The clients' lease is 2 s.
fn a_lease_that_is_not_renewed_runs_out(open: &dyn Fn() -> Client) {
    let (one, other) = (open(), open());
    let node = NodeName("b".into());
    let alive = |client: &Client| client.alive().unwrap().contains(&node);
    one.hold_lease(&node).unwrap();
    assert!(alive(&other));
    let started = Instant::now();
    for _ in 0..10 {
        other.hold_lease(&node).unwrap();
        assert!(alive(&one));
        std::thread::sleep(Duration::from_millis(400));
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(8), "a renewal waits: {took:?}");
    let silent = Instant::now();
    while alive(&one) {
        assert!(silent.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(silent.elapsed() > Duration::from_secs(1));
    one.hold_lease(&node).unwrap();
    assert!(alive(&other));
}

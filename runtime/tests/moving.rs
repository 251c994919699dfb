//! Ports move, links break: nothing is lost, nothing comes twice.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Collector, Reader, SERVICE, SOME_TIME, config, connect, open, open_over_shm, open_over_tcp,
    over_shm, over_tcp, pair, pattern, until,
};
use meander::{Epoch, Error, NodeName, Outgoing, Port, SendMode, TransportKind};

/// The message of this number, eager or not.
fn numbered(number: usize) -> Vec<u8> {
    let mut bytes = pattern(
        if number.is_multiple_of(50) {
            200_000
        } else {
            number % 3000
        },
        number,
    );
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes
}

#[test]
fn a_port_moves_as_a_value_while_its_peer_keeps_sending() {
    const MESSAGES: usize = 3000;
    let (left, right) = (open(), open());
    let (near, far) = connect(&left, &right);
    let sender = thread::spawn(move || {
        (0..MESSAGES).for_each(|number| near.send(&numbered(number)).unwrap());
        assert_eq!(near.recv(SOME_TIME).unwrap().unwrap(), b"all there");
        left.flush(SOME_TIME).unwrap();
    });
    let (mut port, mut stream, mut number) = (right, far, 0);
    for moves in 1..=6 {
        for _ in 0..300 {
            assert!(
                stream.recv(SOME_TIME).unwrap().unwrap() == numbered(number),
                "{number}"
            );
            number += 1;
        }
        let (id, key) = (port.id(), stream.key());
        let value = port.suspend().unwrap();
        assert!(matches!(stream.send(b"x"), Err(Error::Suspended)));
        thread::sleep(Duration::from_millis(20));
        let (attached, mut streams) = Port::attach(config(), &value).unwrap();
        assert_eq!((attached.id(), attached.epoch()), (id, Epoch(moves)));
        assert_eq!(streams.len(), 1);
        (port, stream) = (attached, streams.remove(0));
        assert_eq!(stream.key(), key);
    }
    while number < MESSAGES {
        assert!(
            stream.recv(SOME_TIME).unwrap().unwrap() == numbered(number),
            "{number}"
        );
        number += 1;
    }
    stream.send(b"all there").unwrap();
    port.flush(SOME_TIME).unwrap();
    sender.join().unwrap();
}

#[test]
fn what_a_moved_port_retained_goes_out_from_its_new_place() {
    let (left, right) = (open(), open());
    let (near, far) = connect(&left, &right);
    right.suspend_in_place().unwrap();
    near.send(b"small").unwrap();
    near.send_owned(pattern(1 << 20, 4)).unwrap();
    near.finish().unwrap();
    let value = left.suspend().unwrap();
    right.resume_in_place().unwrap();
    let (left, _streams) = Port::attach(config(), &value).unwrap();
    // Both have another address now; what a directory would say.
    left.add_peer(&right.contact());
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"small");
    assert!(far.recv(SOME_TIME).unwrap().unwrap() == pattern(1 << 20, 4));
    assert_eq!(far.recv(SOME_TIME).unwrap(), None);
    left.flush(SOME_TIME).unwrap();
}

#[test]
fn streams_and_services_not_yet_accepted_move_too() {
    let (left, right) = (open(), open());
    right.listen(SERVICE);
    let near = left.connect(&right.contact(), SERVICE).unwrap();
    near.send(b"hello").unwrap();
    left.flush(SOME_TIME).unwrap();
    let value = right.suspend().unwrap();
    let (right, streams) = Port::attach(config(), &value).unwrap();
    assert!(streams.is_empty());
    let far = right.accept(SOME_TIME).unwrap();
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"hello");
    connect(&left, &right);
}

#[test]
fn a_value_that_is_none_is_refused() {
    let value = open().suspend().unwrap();
    for bad in [&b""[..], b"meander", &value[..20], &value[1..]] {
        assert!(matches!(Port::attach(config(), bad), Err(Error::BadValue)));
    }
}

#[test]
fn a_port_moves_in_place_while_its_peers_talk_to_it() {
    const MESSAGES: usize = 4000;
    let (left, right) = pair();
    let to = left.fixed_stream(right.id());
    let mut reader = Reader::new(&right);
    left.post(to, b"first", Outgoing::Bytes(b""), SendMode::Standard)
        .unwrap();
    reader.read(1, || {});
    let mover = right.clone();
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let moving = thread::spawn(move || {
        let mut moves = 0;
        while !stop.load(Ordering::Relaxed) {
            mover.suspend_in_place().unwrap();
            assert!(matches!(
                mover.attach_in_place(mover.epoch(), NodeName::default()),
                Err(Error::StaleEpoch(_))
            ));
            thread::sleep(Duration::from_millis(2));
            match moves % 3 {
                0 => mover.resume_in_place().unwrap(),
                _ => mover
                    .attach_in_place(mover.epoch().next(), NodeName("c".into()))
                    .unwrap(),
            }
            assert!(matches!(mover.resume_in_place(), Err(Error::NotSuspended)));
            moves += 1;
            thread::sleep(Duration::from_millis(15));
        }
        moves
    });
    let sending = thread::spawn(move || {
        let mut collector = Collector::default();
        for number in 0..MESSAGES {
            let body = numbered(number);
            let body = match number % 50 {
                0 => Outgoing::Source(Box::new(body)),
                _ => Outgoing::Bytes(&body),
            };
            left.post(to, &number.to_le_bytes(), body, SendMode::Standard)
                .unwrap();
            left.progress(&mut collector);
        }
        until(&mut [(&left, &mut collector)], |got| {
            got[0].returned == MESSAGES / 50
        });
        left.flush(SOME_TIME).unwrap();
    });
    reader.read(1 + MESSAGES, || {});
    sending.join().unwrap();
    done.store(true, Ordering::Relaxed);
    let moves = moving.join().unwrap();
    assert!(moves > 1, "it did not move");
    assert_eq!(right.contact().location.node, NodeName("c".into()));
    for (number, (app, payload)) in reader.received.into_iter().skip(1).enumerate() {
        assert_eq!(app, number.to_le_bytes());
        assert!(payload.unwrap() == numbered(number), "{number}");
    }
}

#[test]
fn a_suspended_port_holds_no_socket_and_its_calls_wait() {
    let (left, right) = pair();
    let (near, far) = connect(&left, &right);
    let before = sockets();
    let peers = left.suspend_in_place().unwrap();
    assert_eq!(peers, [right.id()]);
    assert!(left.contact().location.cards.is_empty());
    assert!(sockets() < before);
    right.suspend_in_place().unwrap();
    let sender = thread::spawn(move || near.send(b"late").map(|()| near));
    thread::sleep(Duration::from_millis(50));
    assert!(!sender.is_finished());
    left.resume_in_place().unwrap();
    right.resume_in_place().unwrap();
    left.add_peer(&right.contact());
    let _near = sender.join().unwrap().unwrap();
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"late");
}

/// Sockets of this process. Other tests of this file run at the same time, so only their absence
/// in a process that has one test would be exact; see `ci` for that.
fn sockets() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

#[test]
fn links_over_shm_that_break_under_load_heal() {
    links_break_under_load(open_over_shm(), open_over_shm());
}

#[test]
fn links_over_tcp_that_break_under_load_heal() {
    links_break_under_load(open_over_tcp(), open_over_tcp());
}

/// Whoever sleeps in the port hears of it when another thread breaks its links: else what the port still has to
/// send would wait for the next call.
#[test]
fn a_link_that_breaks_while_the_port_sleeps_is_noticed() {
    for open in [open_over_shm, open_over_tcp] {
        let (left, right) = (open(), open());
        let (near, far) = connect(&left, &right);
        near.send(&numbered(1)).unwrap();
        assert!(far.recv(SOME_TIME).unwrap().unwrap() == numbered(1));
        let sleeper = thread::spawn(move || {
            let late = far.recv(SOME_TIME).unwrap().unwrap();
            assert!(late == numbered(2));
            far
        });
        // Long enough that it sleeps, and that nothing is left to acknowledge.
        thread::sleep(Duration::from_millis(300));
        right.cut_links();
        let patience = Instant::now() + Duration::from_secs(5);
        while right.linked_by(left.id()).is_some() {
            assert!(Instant::now() < patience, "the port has not noticed");
            thread::sleep(Duration::from_millis(5));
        }
        near.send(&numbered(2)).unwrap();
        sleeper.join().unwrap();
    }
}

fn links_break_under_load(left: Port, right: Port) {
    const MESSAGES: usize = 2000;
    let (near, far) = connect(&left, &right);
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let cutter = thread::spawn(move || {
        let mut cuts = 0;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(7));
            if cuts % 2 == 0 {
                left.cut_links()
            } else {
                right.cut_links()
            }
            cuts += 1;
        }
        cuts
    });
    let echo = thread::spawn(move || {
        for number in 0..MESSAGES {
            let message = far.recv(SOME_TIME).unwrap().unwrap();
            assert!(message == numbered(number), "{number}");
            far.send_owned(message).unwrap();
        }
        far
    });
    let sender = thread::spawn(move || {
        for number in 0..MESSAGES {
            near.send(&numbered(number)).unwrap();
            if number % 2 == 1 {
                for number in [number - 1, number] {
                    assert!(near.recv(SOME_TIME).unwrap().unwrap() == numbered(number));
                }
            }
        }
        near
    });
    let _streams = (sender.join().unwrap(), echo.join().unwrap());
    done.store(true, Ordering::Relaxed);
    assert!(cutter.join().unwrap() > 3);
}

/// Both move at the same time, so neither finds the other where it was. A third party, in the
/// place of the directory, tells.
#[test]
fn both_ends_move_at_once() {
    let (mut left, mut right) = (open(), open());
    let (mut near, mut far) = connect(&left, &right);
    for round in 0..5usize {
        near.send(&numbered(round)).unwrap();
        far.send(&numbered(round + 50)).unwrap();
        let values = (left.suspend().unwrap(), right.suspend().unwrap());
        let (new_left, mut streams) = Port::attach(config(), &values.0).unwrap();
        let new_near = streams.remove(0);
        let (new_right, mut streams) = Port::attach(config(), &values.1).unwrap();
        let new_far = streams.remove(0);
        new_left.add_peer(&new_right.contact());
        (left, right, near, far) = (new_left, new_right, new_near, new_far);
        assert!(far.recv(SOME_TIME).unwrap().unwrap() == numbered(round));
        assert!(near.recv(SOME_TIME).unwrap().unwrap() == numbered(round + 50));
    }
    assert_eq!((left.epoch(), right.epoch()), (Epoch(5), Epoch(5)));
}

/// Whoever leaves the node goes on over TCP, and whoever comes to it over shared memory, in the middle of
/// what is being sent. `[R45]`
#[test]
fn a_stream_changes_its_transport_as_its_ends_move() {
    const MESSAGES: usize = 1200;
    let (left, right) = (open_over_shm(), open_over_shm());
    let (near, far) = connect(&left, &right);
    let (stays, mut port, mut stream) = (left.clone(), right, far);
    let sender = thread::spawn(move || {
        (0..MESSAGES).for_each(|number| near.send(&numbered(number)).unwrap());
        assert_eq!(near.recv(SOME_TIME).unwrap().unwrap(), b"all there");
    });
    let mut moves = 0;
    for number in 0..MESSAGES {
        let message = stream.recv(SOME_TIME).unwrap().unwrap();
        assert!(message == numbered(number), "{number}");
        if number % 200 == 100 {
            let (shm, tcp) = (TransportKind::Shm, TransportKind::Tcp);
            let (way, config) = match moves % 2 {
                0 => (shm, over_tcp()),
                _ => (tcp, over_shm()),
            };
            // What is read here may be older than the link.
            let start = Instant::now();
            while stays.linked_by(port.id()) != Some(way) {
                assert!(start.elapsed() < Duration::from_secs(30), "{way:?}");
            }
            moves += 1;
            let value = port.suspend().unwrap();
            let (attached, mut streams) = Port::attach(config, &value).unwrap();
            (port, stream) = (attached, streams.remove(0));
        }
    }
    stream.send(b"all there").unwrap();
    sender.join().unwrap();
    assert_eq!(moves, 6);
}

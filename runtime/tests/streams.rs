//! Streams of programs over loopback.

mod common;

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use common::{SERVICE, SOME_TIME, config, connect, open, pattern};
use meander::{Config, Contact, Error, Key, Port};

#[test]
fn ping_pong() {
    let (left, right) = (open(), open());
    let (near, far) = connect(&left, &right);
    let echo = thread::spawn(move || {
        while let Some(message) = far.recv(SOME_TIME).unwrap() {
            far.send(&message).unwrap();
        }
    });
    for round in 0..2000usize {
        let message = pattern(round % 300, round);
        near.send(&message).unwrap();
        assert_eq!(near.recv(SOME_TIME).unwrap().unwrap(), message);
    }
    near.finish().unwrap();
    assert_eq!(near.recv(SOME_TIME).unwrap(), None);
    echo.join().unwrap();
}

#[test]
fn both_ends_send_at_once_without_reading() {
    let (left, right) = (open(), open());
    let (near, far) = connect(&left, &right);
    let big = pattern(3 << 20, 1);
    let copy = big.clone();
    let other = thread::spawn(move || {
        far.send_owned(copy.clone()).unwrap();
        assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), copy);
        far
    });
    near.send_owned(big.clone()).unwrap();
    assert!(near.recv(SOME_TIME).unwrap().unwrap() == big);
    other.join().unwrap();
}

#[test]
fn half_close_leaves_the_other_direction_open() {
    let (left, right) = (open(), open());
    let (near, far) = connect(&left, &right);
    near.send(b"last words").unwrap();
    near.finish().unwrap();
    assert!(matches!(near.send(b"more"), Err(Error::Finished)));
    assert!(matches!(near.finish(), Err(Error::Finished)));
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"last words");
    assert_eq!(far.recv(SOME_TIME).unwrap(), None);
    assert_eq!(far.recv(SOME_TIME).unwrap(), None);
    for number in 0..100u8 {
        far.send(&[number; 9]).unwrap();
    }
    for number in 0..100u8 {
        assert_eq!(near.recv(SOME_TIME).unwrap().unwrap(), [number; 9]);
    }
}

#[test]
fn bytes_flow_without_boundaries() {
    let (left, right) = (open(), open());
    right.listen(SERVICE);
    let mut near = left.connect_bytes(&right.contact(), SERVICE).unwrap();
    let mut far = right.accept(SOME_TIME).unwrap();
    let sent = pattern(5_000_000, 3);
    let expected = sent.clone();
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        far.read_to_end(&mut received).unwrap();
        assert!(received == expected);
        far.write_all(b"thanks").unwrap();
        far.finish().unwrap();
        far
    });
    for chunk in sent.chunks(70_001) {
        near.write_all(chunk).unwrap();
    }
    near.finish().unwrap();
    let mut thanks = String::new();
    near.read_to_string(&mut thanks).unwrap();
    assert_eq!(thanks, "thanks");
    reader.join().unwrap();
    assert!(matches!(near.send(b"x"), Err(Error::WrongKind { .. })));
}

#[test]
fn a_sender_waits_for_a_reader_who_does_not_read() {
    let (left, right) = (open(), open());
    let (near, far) = connect(&left, &right);
    let sender = thread::spawn(move || {
        for number in 0..40_000u32 {
            near.send(&pattern(1024, number as usize)).unwrap();
        }
        near
    });
    thread::sleep(Duration::from_millis(300));
    assert!(
        !sender.is_finished(),
        "40 MB went somewhere though nobody reads"
    );
    for number in 0..40_000u32 {
        assert_eq!(
            far.recv(SOME_TIME).unwrap().unwrap(),
            pattern(1024, number as usize)
        );
    }
    sender.join().unwrap();
}

#[test]
fn an_empty_message_is_a_message() {
    let (left, right) = (open(), open());
    let (near, far) = connect(&left, &right);
    near.send(b"").unwrap();
    near.send_owned(Vec::new()).unwrap();
    near.finish().unwrap();
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"");
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"");
    assert_eq!(far.recv(SOME_TIME).unwrap(), None);
}

#[test]
fn nobody_listening_is_a_refusal() {
    let (left, right) = (open(), open());
    right.listen(SERVICE);
    let refused = left.connect(&right.contact(), SERVICE + 1);
    assert!(matches!(refused, Err(Error::Refused { peer, .. }) if peer == right.id()));
    connect(&left, &right);
}

#[test]
fn another_key_is_a_refusal() {
    let right = open();
    right.listen(SERVICE);
    let stranger = Port::open(Config {
        key: Key([8; 32]),
        ..config()
    })
    .unwrap();
    let refused = stranger.connect(&right.contact(), SERVICE);
    assert!(matches!(refused, Err(Error::Refused { peer, .. }) if peer == right.id()));
    assert!(right.accept(Some(Duration::from_millis(50))).is_err());
}

#[test]
fn a_peer_out_of_reach_dies_by_its_named_timeout() {
    let mut config = config();
    config.limits.peer_timeout = Duration::from_millis(300);
    let left = Port::open(config).unwrap();
    let gone: Contact = open().contact();
    let dead = left.connect(&gone, SERVICE);
    assert!(matches!(dead, Err(Error::PeerDead { peer, .. }) if peer == gone.port));
}

#[test]
fn a_death_that_is_reported_ends_what_waits() {
    let (left, right) = (open(), open());
    let (near, far) = connect(&left, &right);
    far.send(b"before").unwrap();
    right.flush(SOME_TIME).unwrap();
    let waiting = thread::spawn(move || {
        assert_eq!(near.recv(SOME_TIME).unwrap().unwrap(), b"before");
        near.recv(SOME_TIME)
    });
    thread::sleep(Duration::from_millis(50));
    left.peer_is_dead(right.id());
    assert!(matches!(
        waiting.join().unwrap(),
        Err(Error::PeerDead { .. })
    ));
}

#[test]
fn a_wait_ends_with_its_time() {
    let (left, right) = (open(), open());
    let (near, _far) = connect(&left, &right);
    let short = Some(Duration::from_millis(20));
    assert!(matches!(
        near.recv(short),
        Err(Error::TimedOut { operation: "recv" })
    ));
    assert!(matches!(
        left.accept(short),
        Err(Error::TimedOut {
            operation: "accept"
        })
    ));
    right.suspend_in_place().unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(matches!(
        near.recv(short),
        Err(Error::Moving {
            operation: "recv",
            ..
        })
    ));
    right.resume_in_place().unwrap();
}

#[test]
fn a_message_that_is_too_long_is_declined() {
    let left = open();
    let right = Port::open(Config {
        message_bytes_max: 100_000,
        ..config()
    })
    .unwrap();
    let (near, far) = connect(&left, &right);
    near.send(&[1; 100_001]).unwrap();
    near.send(b"fine").unwrap();
    assert!(matches!(
        far.recv(SOME_TIME),
        Err(Error::TooLong {
            len: 100_001,
            max: 100_000
        })
    ));
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"fine");
    left.flush(SOME_TIME).unwrap();
}

#[test]
fn a_dropped_stream_is_finished_and_drained() {
    let (left, right) = (open(), open());
    let (near, far) = connect(&left, &right);
    for _ in 0..100 {
        near.send(&[5; 50_000]).unwrap();
    }
    drop(far);
    assert_eq!(near.recv(SOME_TIME).unwrap(), None);
    left.flush(SOME_TIME).unwrap();
}

#[test]
fn many_streams_between_many_ports() {
    let hub = open();
    hub.listen(SERVICE);
    let at = hub.contact();
    let clients: Vec<_> = (0..6usize)
        .map(|number| {
            let at = at.clone();
            thread::spawn(move || {
                let port = open();
                for round in 0..5usize {
                    let stream = port.connect(&at, SERVICE).unwrap();
                    let message = pattern(20_000 * round + number, round);
                    stream.send(&message).unwrap();
                    assert!(stream.recv(SOME_TIME).unwrap().unwrap() == message);
                }
            })
        })
        .collect();
    for _ in 0..30 {
        let stream = hub.accept(SOME_TIME).unwrap();
        let message = stream.recv(SOME_TIME).unwrap().unwrap();
        stream.send_owned(message).unwrap();
        assert_eq!(stream.recv(SOME_TIME).unwrap(), None);
    }
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
}

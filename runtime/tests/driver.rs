//! The driver interface over loopback.

mod common;

use std::time::Duration;

use common::{Collector, Reader, SOME_TIME, config, open, pair, pattern, until};
use meander::{Error, Outgoing, Port, Posted, SendMode};

#[test]
fn small_messages_come_in_order_and_complete_at_once() {
    let (left, right) = pair();
    let to = left.fixed_stream(right.id());
    for number in 0..1000u32 {
        let posted = left.post(
            to,
            &number.to_le_bytes(),
            Outgoing::Bytes(&pattern(number as usize, 0)),
            SendMode::Standard,
        );
        assert_eq!(posted.unwrap(), Posted::Complete);
    }
    let mut reader = Reader::new(&right);
    reader.read(1000, || {});
    for (number, (app, payload)) in reader.received.into_iter().enumerate() {
        assert_eq!(app, (number as u32).to_le_bytes());
        assert_eq!(payload.unwrap(), pattern(number, 0));
    }
    left.flush(SOME_TIME).unwrap();
}

#[test]
fn a_flood_that_nobody_expects_arrives_whole() {
    const MESSAGES: u32 = 300_000;
    let (left, right) = pair();
    let to = left.fixed_stream(right.id());
    let body = [9; 1024];
    for number in 0..MESSAGES {
        let (app, body) = (number.to_le_bytes(), Outgoing::Bytes(&body));
        left.post(to, &app, body, SendMode::Standard).unwrap();
    }
    // Nobody has called the receiving port so far.
    let mut reader = Reader::new(&right);
    reader.read(MESSAGES as usize, || {});
    for (number, (app, payload)) in reader.received.iter().enumerate() {
        assert_eq!(*app, (number as u32).to_le_bytes());
        assert_eq!(payload.as_deref(), Some(&body[..]));
    }
    assert!(reader.pulled() > 0, "the window is smaller than the flood");
    left.flush(SOME_TIME).unwrap();
}

#[test]
fn large_messages_cross_in_both_directions_at_once() {
    const BYTES: usize = 64 << 20;
    let (left, right) = pair();
    let body = pattern(BYTES, 1);
    let ports = [&left, &right];
    for (port, peer) in [(&left, &right), (&right, &left)] {
        let source = Outgoing::Source(Box::new(body.clone()));
        let to = port.fixed_stream(peer.id());
        let posted = port.post(to, b"big", source, SendMode::Standard).unwrap();
        assert!(matches!(posted, Posted::Pending(_)));
    }
    let (mut first, mut second) = (Collector::default(), Collector::default());
    let mut asked = [false; 2];
    until(&mut [(&left, &mut first), (&right, &mut second)], |got| {
        for side in 0..2 {
            if let (Some((message, app, len)), false) = (got[side].envelopes.first(), asked[side]) {
                assert_eq!((&app[..], *len), (&b"big"[..], BYTES as u64));
                ports[side].pull(*message, Box::new(vec![0; BYTES]), u64::MAX);
                asked[side] = true;
            }
        }
        got.iter()
            .all(|got| got.pulled.len() == 1 && got.sent.len() == 1)
    });
    assert!(first.pulled[0].1 == body && second.pulled[0].1 == body);
    assert_eq!((first.returned, second.returned), (1, 1));
}

#[test]
fn a_synchronous_send_completes_when_it_is_matched() {
    let (left, right) = pair();
    let to = left.fixed_stream(right.id());
    let mut ids = Vec::new();
    for body in [&b""[..], b"one", b"two"] {
        let posted = left
            .post(to, b"", Outgoing::Bytes(body), SendMode::Synchronous)
            .unwrap();
        let Posted::Pending(id) = posted else {
            panic!("{posted:?}")
        };
        ids.push(id);
    }
    let (mut sender, mut got) = (Collector::default(), Collector::default());
    until(&mut [(&right, &mut got), (&left, &mut sender)], |got| {
        got[0].envelopes.len() == 3
    });
    std::thread::sleep(Duration::from_millis(50));
    left.progress(&mut sender);
    assert!(sender.sent.is_empty());
    for (number, (message, _, _)) in got.envelopes.clone().into_iter().enumerate() {
        match number {
            2 => right.decline(message),
            _ => right.pull(message, Box::new(vec![0; 8]), 8),
        }
    }
    until(&mut [(&right, &mut got), (&left, &mut sender)], |got| {
        got[1].sent.len() == 3 && got[0].pulled.len() == 2
    });
    sender.sent.sort();
    assert_eq!(sender.sent, ids);
    got.pulled.sort_by_key(|(message, _)| message.seq);
    assert_eq!(got.pulled[0].1, b"");
    assert_eq!(got.pulled[1].1, b"one");
}

#[test]
fn without_credit_messages_come_as_envelopes_until_it_is_returned() {
    const BYTES: usize = 1024;
    let (left, right) = pair();
    let to = left.fixed_stream(right.id());
    let window = left.limits().window_bytes as usize / BYTES;
    let send = |number: usize| {
        let body = pattern(BYTES, number);
        left.post(to, b"", Outgoing::Bytes(&body), SendMode::Standard)
            .unwrap();
    };
    (0..window + 10).for_each(send);
    let mut sender = Collector::default();
    let mut got = Collector {
        holds: true,
        ..Collector::default()
    };
    until(&mut [(&right, &mut got), (&left, &mut sender)], |got| {
        got[0].messages.len() + got[0].envelopes.len() == window + 10
    });
    assert!(got.messages.len() <= window && got.envelopes.len() >= 10);
    for (message, _, len) in got.envelopes.drain(..) {
        right.pull(message, Box::new(vec![0; BYTES]), len);
    }
    for (from, bytes) in got.held.drain(..) {
        right.return_credit(from, bytes);
    }
    until(&mut [(&right, &mut got), (&left, &mut sender)], |got| {
        got[0].messages.len() + got[0].pulled.len() == window + 10
    });
    // With the credit back, payloads travel with their messages again.
    let before = got.messages.len();
    std::thread::sleep(Duration::from_millis(50));
    left.progress(&mut sender);
    send(0);
    until(&mut [(&right, &mut got), (&left, &mut sender)], |got| {
        got[0].messages.len() == before + 1
    });
}

#[test]
fn a_pull_takes_no_more_than_it_wants() {
    let (left, right) = pair();
    let to = left.fixed_stream(right.id());
    let source = || Outgoing::Source(Box::new(pattern(100_000, 5)));
    left.post(to, b"", source(), SendMode::Standard).unwrap();
    let (mut sender, mut got) = (Collector::default(), Collector::default());
    until(&mut [(&right, &mut got), (&left, &mut sender)], |got| {
        got[0].envelopes.len() == 1
    });
    right.pull(got.envelopes[0].0, Box::new(vec![0; 70_000]), 60_000);
    until(&mut [(&right, &mut got), (&left, &mut sender)], |got| {
        got[0].pulled.len() == 1 && got[1].returned == 1
    });
    assert!(got.pulled[0].1 == pattern(100_000, 5)[..60_000]);
}

#[test]
fn retention_has_a_bound() {
    let mut small = config();
    small.limits.retained_bytes = 10_000;
    let (left, right) = (Port::open(small).unwrap(), open());
    left.add_peer(&right.contact());
    let to = left.fixed_stream(right.id());
    let send = || left.post(to, b"", Outgoing::Bytes(&[1; 6000]), SendMode::Standard);
    right.suspend_in_place().unwrap();
    assert_eq!(send().unwrap(), Posted::Complete);
    assert!(matches!(send(), Err(Error::Full)));
    let lent = Outgoing::Source(Box::new(vec![2; 6000]));
    assert!(matches!(
        left.post(to, b"", lent, SendMode::Standard),
        Ok(Posted::Pending(_))
    ));
    right.resume_in_place().unwrap();
    let (mut sender, mut got) = (Collector::default(), Collector::default());
    left.add_peer(&right.contact());
    until(&mut [(&right, &mut got), (&left, &mut sender)], |got| {
        !got[0].messages.is_empty() && got[0].messages.len() + got[0].envelopes.len() == 2
    });
    until(&mut [(&right, &mut got), (&left, &mut sender)], |_| {
        send().is_ok()
    });
}

#[test]
fn a_peer_that_nobody_introduced_is_unknown() {
    let (left, right) = (open(), open());
    let to = left.fixed_stream(right.id());
    let posted = left.post(to, b"", Outgoing::Bytes(b"x"), SendMode::Standard);
    assert!(matches!(posted, Err(Error::UnknownPeer(peer)) if peer == right.id()));
    let long = left.post(to, &[0; 65], Outgoing::Bytes(b"x"), SendMode::Standard);
    assert!(matches!(long, Err(Error::LongHeader { len: 65 })));
}

#[test]
fn the_background_thread_serves_a_program_that_computes() {
    let (left, right) = pair();
    let to = left.fixed_stream(right.id());
    let source = Outgoing::Source(Box::new(pattern(1 << 20, 2)));
    left.post(to, b"", source, SendMode::Standard).unwrap();
    let mut got = Collector::default();
    // Only the right one calls its port from here on.
    until(&mut [(&right, &mut got)], |got| got[0].envelopes.len() == 1);
    right.pull(got.envelopes[0].0, Box::new(vec![0; 1 << 20]), u64::MAX);
    until(&mut [(&right, &mut got)], |got| got[0].pulled.len() == 1);
    let mut sender = Collector::default();
    until(&mut [(&left, &mut sender)], |got| got[0].returned == 1);
}

#[test]
fn a_wait_ends_by_a_wake() {
    let port = open();
    let waker = port.clone();
    let start = std::time::Instant::now();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        waker.wake();
    });
    port.wait(Duration::from_secs(20));
    assert!(start.elapsed() < Duration::from_secs(10));
    thread.join().unwrap();
}

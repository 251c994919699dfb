//! Links over loopback: frames whole and in order, back-pressure, peers that break the rules.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::{Ends, Store, frame, pump, until};
use meander_core::transport::{LinkError, LinkEvent, SendError, Transport};
use meander_core::wire::{FrameKind, HEADER_BYTES, VERSION};
use meander_core::{Card, TransportKind};
use meander_tcp::TcpTransport;

#[test]
fn frames_arrive_whole_and_in_order() {
    let mut ends = Ends::connect();
    for number in 0..1000u64 {
        let body = vec![number as u8; (number * 37 % 2000) as usize];
        ends.send(FrameKind::Eager, number, b"app", &body);
    }
    ends.pump_until(|right| right.frames.len() == 1000);
    for (number, got) in ends.right_store.frames.iter().enumerate() {
        assert_eq!(got.header.seq.get(), number as u64);
        assert_eq!(got.app, b"app");
        assert_eq!(got.body, vec![number as u8; number * 37 % 2000]);
    }
}

#[test]
fn bodies_of_every_size_go_straight_into_their_place() {
    let largest = meander_core::limits::DATA_FRAME_BYTES;
    for into_place in [false, true] {
        let mut ends = Ends::connect();
        ends.right_store.into_place = into_place;
        let sizes = [0, 1, 47, 4095, 4096, 4097, 65_536, largest - 1, largest];
        for (number, &size) in sizes.iter().enumerate() {
            let body: Vec<u8> = (0..size).map(|at| (at * 7 + number) as u8).collect();
            ends.send(FrameKind::Data, number as u64, b"", &body);
        }
        ends.pump_until(|right| right.frames.len() == sizes.len());
        for (number, got) in ends.right_store.frames.iter().enumerate() {
            assert_eq!(got.body.len(), sizes[number]);
            assert!(
                got.body
                    .iter()
                    .enumerate()
                    .all(|(at, &byte)| byte == (at * 7 + number) as u8)
            );
        }
    }
}

#[test]
fn a_full_link_says_so_and_tells_when_it_has_room() {
    let mut ends = Ends::connect();
    let mut taken = 0;
    let refused = loop {
        let frame = frame(
            &mut ends.left_store,
            FrameKind::Eager,
            taken,
            b"",
            &[1; 60_000],
        );
        let (link, memory) = (ends.left_link, &mut ends.left_store);
        if let Err(error) = ends.left.send(link, frame, memory) {
            break error;
        }
        ends.left.flush(link, memory);
        taken += 1;
    };
    assert!(matches!(refused, SendError::Full));
    let mut events = Vec::new();
    until(|| {
        pump(&mut ends.right, &mut ends.right_store);
        ends.left.poll(Duration::ZERO, &mut events);
        ends.left.flush(ends.left_link, &ends.left_store);
        events
            .iter()
            .any(|event| matches!(event, LinkEvent::Writable(_)))
    });
    ends.pump_until(|right| right.frames.len() as u64 == taken);
}

#[test]
fn one_byte_at_a_time_makes_the_same_frames() {
    let mut right = TcpTransport::open(&common::LOOPBACK).unwrap();
    let mut store = Store::default();
    let mut socket = dial_plain(&right);
    let mut expected = Vec::new();
    for number in 0..5u64 {
        let body = vec![number as u8; number as usize * 3];
        let bytes = common::encode(FrameKind::Eager, number, b"hdr", &body);
        for byte in bytes {
            socket.write_all(&[byte]).unwrap();
            pump(&mut right, &mut store);
        }
        expected.push(body);
    }
    until(|| {
        pump(&mut right, &mut store);
        store.frames.len() == 5
    });
    let bodies: Vec<_> = store
        .frames
        .iter()
        .map(|frame| frame.body.clone())
        .collect();
    assert_eq!(bodies, expected);
}

#[test]
fn malformed_frames_break_the_link_and_nothing_else() {
    let good = common::encode(FrameKind::Eager, 0, b"", b"x");
    let spoil = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let length = HEADER_BYTES - 8; // of the body
    let bad = [
        spoil(0, VERSION + 1),
        spoil(1, 0),
        spoil(1, 255),
        spoil(2, 65),
        spoil(2, 255),
        spoil(length + 3, 0xff),
        vec![0xff; 300],
        vec![0; 300],
    ];
    let mut right = TcpTransport::open(&common::LOOPBACK).unwrap();
    for bytes in bad {
        let mut store = Store::default();
        let mut socket = dial_plain(&right);
        socket.write_all(&bytes).unwrap();
        until(|| {
            pump(&mut right, &mut store);
            !store.errors.is_empty()
        });
        assert!(
            matches!(store.errors[0], LinkError::Protocol(_)),
            "{:?}",
            store.errors
        );
        assert!(store.frames.is_empty());
        // The transport has closed its end.
        assert!(matches!(socket.read(&mut [0; 16]), Ok(0) | Err(_)));
    }
}

#[test]
fn a_frame_cut_short_is_never_handed_over() {
    let mut right = TcpTransport::open(&common::LOOPBACK).unwrap();
    let whole = common::encode(FrameKind::Data, 3, b"abc", &[9; 100]);
    for into_place in [false, true] {
        for cut in 0..whole.len() {
            let mut store = Store {
                into_place,
                ..Store::default()
            };
            let mut socket = dial_plain(&right);
            socket.write_all(&whole[..cut]).unwrap();
            drop(socket);
            until(|| {
                pump(&mut right, &mut store);
                !store.errors.is_empty()
            });
            assert!(matches!(store.errors[0], LinkError::Closed));
            assert!(store.frames.is_empty());
        }
    }
}

#[test]
fn a_released_body_breaks_the_link() {
    let mut ends = Ends::connect();
    let lost = frame(&mut ends.left_store, FrameKind::Eager, 1, b"", &[1; 100]);
    ends.left_store.buffers.clear();
    ends.left
        .send(ends.left_link, lost, &mut ends.left_store)
        .unwrap();
    ends.left.flush(ends.left_link, &ends.left_store);
    let mut events = Vec::new();
    ends.left.poll(Duration::ZERO, &mut events);
    assert!(matches!(events[0], LinkEvent::Broken(..)));
}

#[test]
fn a_dial_tries_the_addresses_in_order() {
    let right = TcpTransport::open(&common::LOOPBACK).unwrap();
    let good = common::addresses(&right.card())[0];
    // Nobody listens there: the number was given to a listener that is gone.
    let gone = common::addresses(&TcpTransport::open(&common::LOOPBACK).unwrap().card())[0];
    let mut left = TcpTransport::open(&common::LOOPBACK).unwrap();
    let link = left.dial(&common::card(&[gone, good])).unwrap();
    let mut events = Vec::new();
    until(|| {
        left.poll(Duration::from_millis(1), &mut events);
        !events.is_empty()
    });
    assert!(matches!(events[0], LinkEvent::Connected(connected) if connected == link));
}

#[test]
fn a_dial_that_nobody_answers_breaks() {
    let gone = TcpTransport::open(&common::LOOPBACK).unwrap().card();
    let mut left = TcpTransport::open(&common::LOOPBACK).unwrap();
    let mut events = Vec::new();
    match left.dial(&gone) {
        Err(LinkError::Io {
            operation: "connect",
            ..
        }) => return,
        other => assert!(other.is_ok()),
    }
    until(|| {
        left.poll(Duration::from_millis(1), &mut events);
        !events.is_empty()
    });
    assert!(matches!(
        &events[0],
        LinkEvent::Broken(
            _,
            LinkError::Io {
                operation: "connect",
                ..
            }
        )
    ));
    assert!(left.next_timeout().is_none());
}

#[test]
fn a_bad_card_is_refused() {
    let mut left = TcpTransport::open(&common::LOOPBACK).unwrap();
    let bad = Card {
        transport: TransportKind::Tcp,
        bytes: vec![250; 20],
    };
    assert!(matches!(left.dial(&bad), Err(LinkError::BadCard)));
}

#[test]
fn closing_ends_the_link_at_the_other_side_too() {
    let mut ends = Ends::connect();
    ends.left.close(ends.left_link);
    ends.left.close(ends.left_link);
    until(|| {
        pump(&mut ends.right, &mut ends.right_store);
        !ends.right_store.errors.is_empty()
    });
    let late = frame(&mut ends.left_store, FrameKind::Eager, 0, b"", b"late");
    assert!(matches!(
        ends.left.send(ends.left_link, late, &mut ends.left_store),
        Err(SendError::Broken)
    ));
}

#[test]
fn a_cut_link_is_noticed_by_both() {
    let mut ends = Ends::connect();
    ends.left.cut();
    until(|| {
        pump(&mut ends.right, &mut ends.right_store);
        pump(&mut ends.left, &mut ends.left_store);
        !ends.right_store.errors.is_empty() && !ends.left_store.errors.is_empty()
    });
}

fn dial_plain(to: &TcpTransport) -> TcpStream {
    let address: SocketAddr = common::addresses(&to.card())[0];
    let socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

#[test]
fn a_link_is_reported_once_a_poll() {
    let mut ends = Ends::connect();
    for number in 0..20 {
        ends.send(FrameKind::Eager, number, b"", b"x");
        ends.pump_until(|right| right.frames.len() as u64 == number + 1);
        for _ in 0..20 {
            let mut events = Vec::new();
            ends.right.poll(Duration::ZERO, &mut events);
            assert!(events.len() <= 1, "{events:?}");
            for event in events {
                let LinkEvent::Readable(link) = event else {
                    panic!("{event:?}")
                };
                ends.right.receive(link, &mut ends.right_store).unwrap();
            }
        }
    }
}

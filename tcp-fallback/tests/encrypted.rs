//! Encrypted links over loopback: who can have one, and what goes over the wire.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{Ends, LOOPBACK, Store, frame, pump, until};
use meander_core::transport::{LinkError, Transport};
use meander_core::wire::{FrameKind, Violation};
use meander_tcp::{Psk, TcpTransport};

fn encrypted(psk: u8) -> TcpTransport {
    TcpTransport::open_encrypted(&LOOPBACK, Psk([psk; 32])).unwrap()
}

/// A frame of every size, into its place and whole, both ways of holding a body.
#[test]
fn bodies_of_every_size_arrive_as_they_were() {
    let largest = meander_core::limits::DATA_FRAME_BYTES;
    for into_place in [false, true] {
        let mut ends = Ends::join(encrypted(7), encrypted(7));
        ends.right_store.into_place = into_place;
        let sizes = [
            0,
            1,
            47,
            4095,
            4096,
            32_767,
            32_768,
            65_536,
            largest - 1,
            largest,
        ];
        for (number, &size) in sizes.iter().cycle().take(40).enumerate() {
            let body: Vec<u8> = (0..size).map(|at| (at * 7 + number) as u8).collect();
            ends.send(FrameKind::Data, number as u64, b"app", &body);
        }
        ends.pump_until(|right| right.frames.len() == 40);
        for (number, got) in ends.right_store.frames.iter().enumerate() {
            let same = |(at, &byte): (usize, &u8)| byte == (at * 7 + number) as u8;
            assert_eq!(got.body.len(), sizes[number % sizes.len()]);
            assert!(got.body.iter().enumerate().all(same));
        }
    }
}

/// The card says whether links are encrypted: nobody dials in vain. `[R54]`
#[test]
fn who_encrypts_and_who_does_not_are_told_before_they_dial() {
    let (mut plain, mut sealed) = (TcpTransport::open(&LOOPBACK).unwrap(), encrypted(7));
    let error = plain.dial(&sealed.card()).unwrap_err();
    assert!(matches!(error, LinkError::Differs(why) if why.contains("are encrypted, and")));
    let error = sealed.dial(&plain.card()).unwrap_err();
    assert!(matches!(error, LinkError::Differs(why) if why.contains("are not encrypted")));
}

/// With a card that is not true any more, both hear of it at once. `[R54]`
#[test]
fn who_dials_the_wrong_way_all_the_same_is_hung_up_on() {
    let strip = |card: &meander_core::Card| common::card(&common::addresses(card));
    let add = |card: &meander_core::Card| {
        let mut card = card.clone();
        card.bytes.push(1);
        card
    };
    let open_plain = || TcpTransport::open(&LOOPBACK).unwrap();
    for plain_dials in [true, false] {
        let (mut left, mut right) = match plain_dials {
            true => (open_plain(), encrypted(7)),
            false => (encrypted(7), open_plain()),
        };
        let card = match plain_dials {
            true => strip(&right.card()),
            false => add(&right.card()),
        };
        let (mut store, mut right_store) = (Store::default(), Store::default());
        let link = left.dial(&card).unwrap();
        let hello = frame(&mut store, FrameKind::Hello, 1, b"", &[0; 500]);
        until(|| {
            let _ = left.send(link, hello.clone(), &mut store);
            left.flush(link, &store);
            pump(&mut left, &mut store);
            pump(&mut right, &mut right_store);
            !store.errors.is_empty() && !right_store.errors.is_empty()
        });
        assert!(right_store.frames.is_empty());
        match plain_dials {
            true => assert!(matches!(right_store.errors[0], LinkError::Differs(_))),
            false => assert!(matches!(right_store.errors[0], LinkError::Protocol(_))),
        }
    }
}

/// Both ends learn that their keys differ. `[R54]`
#[test]
fn another_key_breaks_the_link_at_both_ends() {
    let (mut left, mut right) = (encrypted(1), encrypted(2));
    let (mut store, mut right_store) = (Store::default(), Store::default());
    left.dial(&right.card()).unwrap();
    until(|| {
        pump(&mut left, &mut store);
        pump(&mut right, &mut right_store);
        !store.errors.is_empty() && !right_store.errors.is_empty()
    });
    for errors in [&store.errors, &right_store.errors] {
        let error = &errors[0];
        assert!(
            matches!(error, LinkError::Protocol(Violation::Proof)),
            "{error:?}"
        );
    }
}

/// Who listens on the wire, and passes everything on. Once he flips a bit the link breaks. `[R55]`
#[test]
fn the_wire_carries_no_plaintext_and_no_altered_byte_passes() {
    for sealed in [false, true] {
        let open = || match sealed {
            true => encrypted(7),
            false => TcpTransport::open(&LOOPBACK).unwrap(),
        };
        let (left, right) = (open(), open());
        let relay = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut card = common::card(&[relay.local_addr().unwrap()]);
        card.bytes.extend(sealed.then_some(1));
        let there: SocketAddr = common::addresses(&right.card())[0];
        let recorded = std::thread::spawn(move || {
            let (mut near, _) = relay.accept().unwrap();
            let mut far = TcpStream::connect(there).unwrap();
            let (mut back, mut forth) = (far.try_clone().unwrap(), near.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
            let mut all = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = near.read(&mut buffer) {
                let flip = all.len() < 50_000 && all.len() + count >= 50_000;
                all.extend_from_slice(&buffer[..count]);
                buffer[count - 1] ^= u8::from(flip);
                if far.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            all
        });
        let mut ends = Ends::join_by(left, right, &card);
        let text = b"nobody else should read this";
        let mut sent = 0;
        until(|| {
            let eager = frame(&mut ends.left_store, FrameKind::Eager, sent, b"app", text);
            let (link, memory) = (ends.left_link, &mut ends.left_store);
            if sent < 5000 && ends.left.send(link, eager, memory).is_ok() {
                sent += 1;
            }
            ends.step();
            !ends.right_store.errors.is_empty() || (!sealed && sent == 5000)
        });
        let Ends {
            left,
            right,
            mut right_store,
            ..
        } = ends;
        drop(left);
        let all = recorded.join().unwrap();
        drop(right);
        let seen = all.windows(text.len()).any(|part| part == text);
        assert_eq!(seen, !sealed, "{} bytes", all.len());
        let altered = right_store.frames.iter().any(|got| got.body != text);
        if sealed {
            let error = right_store.errors.remove(0);
            assert!(matches!(error, LinkError::Protocol(Violation::Seal)));
            assert!(!altered && !right_store.frames.is_empty());
        }
    }
}

/// A stranger who says what he likes gets no further than his first message.
#[test]
fn nonsense_gets_nowhere() {
    let mut right = encrypted(7);
    let mut store = Store::default();
    for bytes in [&[0; 300][..], &[255; 300], &[48, 0, 1, 2, 3], &[48; 50]] {
        let mut socket = TcpStream::connect(common::addresses(&right.card())[0]).unwrap();
        socket.write_all(bytes).unwrap();
        if bytes.len() < 50 {
            socket.shutdown(std::net::Shutdown::Write).unwrap();
        }
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        until(|| {
            pump(&mut right, &mut store);
            !store.errors.is_empty()
        });
        store.errors.clear();
        assert!(store.frames.is_empty());
    }
}

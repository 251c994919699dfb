//! Someone who can open connections and say anything, but does not know the key.

mod common;
#[path = "common/friend.rs"]
mod friend;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Collector, open_over_tcp as open, over_tcp as config, until};
use friend::{Friend, address_of};
use meander::{Contact, Key, Outgoing, Port, SendMode};
use meander_core::limits::{SETUP_BODY_BYTES, SETUP_TIMEOUT, UNPROVED_LINKS};
use meander_core::wire::{FrameHeader, FrameKind};

/// The address of a port that an attacker would like to be.
const FRIEND: u128 = 77;

fn key() -> Key {
    config().key
}

/// Whether the other side hangs up within this time, whatever it says before.
fn hangs_up(socket: &mut TcpStream, within: Duration) -> bool {
    let started = Instant::now();
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    while started.elapsed() < within {
        match socket.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return true,
        }
    }
    false
}

fn received(port: &Port) -> Vec<Vec<u8>> {
    let mut collector = Collector::default();
    while port.progress(&mut collector) {}
    collector.messages.into_iter().map(|it| it.0).collect()
}

fn wait_for(port: &Port, wanted: &[&[u8]]) {
    let mut collector = Collector::default();
    until(&mut [(port, &mut collector)], |them| {
        them[0].messages.len() >= wanted.len()
    });
    let apps: Vec<&[u8]> = collector.messages.iter().map(|it| &it.0[..]).collect();
    assert_eq!(apps, wanted);
}

/// He knows the port's address, its epoch, everything but the key. `[R3]`
#[test]
fn nobody_attaches_a_port_without_the_key() {
    let port = open();
    let mut friend = Friend::new(FRIEND, key(), 0);
    friend.post(&port.contact(), b"first");
    friend.talk(&port.contact()).expect("a friend gets in");
    wait_for(&port, &[b"first"]);

    let mut attacker = Friend::new(FRIEND, Key([66; 32]), 1);
    attacker.post(&port.contact(), b"forged");
    assert_eq!(attacker.talk(&port.contact()), None);

    // The friend has lost nothing, not even the link.
    friend.post(&port.contact(), b"second");
    friend.talk(&port.contact()).expect("the link is as it was");
    wait_for(&port, &[b"second"]);
}

/// Frames of a stream, on a connection that has proved nothing, or half way to it. `[R41]`
#[test]
fn nobody_injects_into_a_stream() {
    let port = open();
    let mut friend = Friend::new(FRIEND, key(), 0);
    friend.post(&port.contact(), b"first");
    friend.talk(&port.contact()).expect("a friend gets in");
    let hello_bytes = frames(&friend.recorded.said)[0].clone();
    let stream = frames(&friend.recorded.said)
        .into_iter()
        .find(|it| it[1] == FrameKind::Eager as u8)
        .expect("the message");
    for beginning in [Vec::new(), hello_bytes] {
        for kind in FrameKind::ALL.iter().filter(|kind| !kind.is_setup()) {
            let mut frame = stream[..48].to_vec();
            (frame[1], frame[2]) = (*kind as u8, 0);
            let mut socket = TcpStream::connect(address_of(&port.contact())).unwrap();
            socket.write_all(&beginning).unwrap();
            socket.write_all(&frame).unwrap();
            let soon = Duration::from_secs(4);
            assert!(hangs_up(&mut socket, soon), "{kind:?} was taken");
        }
    }
    wait_for(&port, &[b"first"]);
    assert_eq!(received(&port), [b""; 0]);
    friend.post(&port.contact(), b"second");
    friend.talk(&port.contact()).expect("the link is as it was");
    wait_for(&port, &[b"second"]);
}

/// All that a friend once said, said again: at a first set-up, and as it attached after a move. `[R3]`
#[test]
fn a_recorded_attach_is_worth_nothing() {
    let port = open();
    let mut friend = Friend::new(FRIEND, key(), 0);
    friend.post(&port.contact(), b"first");
    friend.talk(&port.contact()).expect("a friend gets in");
    let first = friend.recorded.clone();
    let mut friend = friend.moved();
    friend.post(&port.contact(), b"second");
    friend.talk(&port.contact()).expect("a friend gets in");
    let attach = friend.recorded.clone();
    wait_for(&port, &[b"first", b"second"]);
    for recorded in [&first, &attach] {
        let mut socket = TcpStream::connect(address_of(&port.contact())).unwrap();
        // At once, and frame by frame as the answers come.
        socket.write_all(&recorded.said).unwrap();
        assert!(hangs_up(&mut socket, Duration::from_secs(4)));
        let mut socket = TcpStream::connect(address_of(&port.contact())).unwrap();
        for frame in frames(&recorded.said) {
            let _ = socket.write_all(&frame);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(hangs_up(&mut socket, Duration::from_secs(4)));
    }
    assert_eq!(received(&port), [b""; 0]);
    friend.post(&port.contact(), b"third");
    friend.talk(&port.contact()).expect("the link is as it was");
    wait_for(&port, &[b"third"]);
}

/// Our own challenge, said back to us: as a proof, and as a hello on another connection. `[R3]`
#[test]
fn a_reflected_challenge_is_worth_nothing() {
    let port = open();
    let mut friend = Friend::new(FRIEND, key(), 0);
    friend.post(&port.contact(), b"first");
    friend.talk(&port.contact()).expect("a friend gets in");
    let hello = frames(&friend.recorded.said)[0].clone();
    let mut socket = TcpStream::connect(address_of(&port.contact())).unwrap();
    socket.write_all(&hello).unwrap();
    let challenge = read_frame(&mut socket);
    let proof = &challenge[challenge.len() - 32..];
    socket.write_all(&framed(FrameKind::Prove, proof)).unwrap();
    assert!(hangs_up(&mut socket, Duration::from_secs(4)));

    // The challenge holds the port's own introduction: a hello in its name.
    let introduction = &challenge[48 + 1..challenge.len() - 32];
    let skip = usize::from(challenge[48] >= 128);
    let mut socket = TcpStream::connect(address_of(&port.contact())).unwrap();
    socket
        .write_all(&framed(FrameKind::Hello, &introduction[skip..]))
        .unwrap();
    let second = read_frame(&mut socket);
    assert_eq!(second[1], FrameKind::Challenge as u8);
    let second_proof = &second[second.len() - 32..];
    socket
        .write_all(&framed(FrameKind::Prove, second_proof))
        .unwrap();
    assert!(hangs_up(&mut socket, Duration::from_secs(4)));
    friend.post(&port.contact(), b"second");
    friend.talk(&port.contact()).expect("the link is as it was");
}

/// He listens where a port was before it moved, and passes on whatever is said, both ways. `[R42]`
#[test]
fn nobody_gets_between_two_ports_from_an_address_that_one_has_left() {
    let (left, right) = (open(), open());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let there = address_of(&right.contact());
    let mut stale = right.contact();
    stale.location.cards[0].bytes =
        postcard::to_stdvec(&vec![listener.local_addr().unwrap()]).unwrap();
    let passed = std::thread::spawn(move || {
        let (mut near, _) = listener.accept().unwrap();
        near.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut far = TcpStream::connect(there).unwrap();
        let (mut back, mut forth) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
        let mut said = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = near.read(&mut buffer) {
            said.extend_from_slice(&buffer[..count]);
            let _ = far.write_all(&buffer[..count]);
        }
        said
    });
    left.add_peer(&stale);
    let stream = left.fixed_stream(right.id());
    left.post(stream, b"secret", Outgoing::Bytes(&[]), SendMode::Standard)
        .unwrap();
    let said = passed.join().unwrap();
    assert_eq!(
        frames(&said).len(),
        1,
        "more than the hello was said to him"
    );
    assert_eq!(received(&right), [b""; 0]);
    // Where it really is, it is found.
    left.add_peer(&right.contact());
    wait_for(&right, &[b"secret"]);
}

/// What is said at a set-up and at an attach, by both sides, holds nothing of the key. `[R3]`
#[test]
fn no_secret_travels() {
    let mut bytes = [0; 32];
    bytes
        .iter_mut()
        .enumerate()
        .for_each(|(at, byte)| *byte = (at * 37 + 11) as u8);
    let secret = Key(bytes);
    let port = Port::open(meander::Config {
        key: secret.clone(),
        ..config()
    })
    .unwrap();
    let mut friend = Friend::new(FRIEND, secret, 0);
    friend.post(&port.contact(), b"first");
    friend.talk(&port.contact()).unwrap();
    let first = friend.recorded.clone();
    let mut friend = friend.moved();
    friend.post(&port.contact(), b"second");
    friend.talk(&port.contact()).unwrap();
    let all = [
        &first.said[..],
        &first.heard,
        &friend.recorded.said,
        &friend.recorded.heard,
    ]
    .concat();
    assert!(all.len() > 1000 && all.windows(5).any(|part| part == b"first"));
    // Any four bytes of the key in a row, in either order; and of what nonces are made from.
    for secret in [bytes, [1; 32], [99; 32]] {
        let mut backwards = secret;
        backwards.reverse();
        for part in secret.windows(4).chain(backwards.windows(4)) {
            assert!(!all.windows(4).any(|it| it == part), "{part:?}");
        }
    }
}

/// A stranger has so much time. `[R3]`
#[test]
fn a_connection_that_proves_nothing_is_closed_in_time() {
    let port = open();
    let mut socket = TcpStream::connect(address_of(&port.contact())).unwrap();
    // A byte now and then gives him no more of it.
    let mut hello = FrameHeader::new(FrameKind::Hello);
    hello.body_len = (SETUP_BODY_BYTES as u32).into();
    let bytes = hello.to_bytes();
    let started = Instant::now();
    let mut closed = false;
    for byte in bytes.iter().chain(std::iter::repeat(&0)) {
        closed |= socket.write_all(&[*byte]).is_err();
        closed |= hangs_up(&mut socket, Duration::from_millis(100));
        if closed || started.elapsed() > 2 * SETUP_TIMEOUT {
            break;
        }
    }
    assert!(closed, "it may go on for ever");
    assert!(started.elapsed() + Duration::from_millis(500) > SETUP_TIMEOUT);
}

/// Thousands of connections that claim as much as they may, and never prove anything: what they
/// cost is bounded, and friends get in all the while. `[R41]`
#[test]
fn a_flood_costs_little_and_keeps_no_friend_out() {
    let port = open();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also where the test fails: else the flood would go on for ever.
        let _end = End(&over);
        let floods: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| flood(&port.contact(), &over)))
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let before = resident_bytes();
        let mut most = before;
        for number in 0..10u8 {
            let mut friend = Friend::new(u128::from(number) + 1000, key(), 0);
            friend.post(&port.contact(), &[number]);
            let started = Instant::now();
            while friend.talk(&port.contact()).is_none() {
                // Evicted: it tries again, as a port does.
                assert!(started.elapsed() < Duration::from_secs(20), "kept out");
                friend = Friend::new(u128::from(number) + 1000, key(), 0);
                friend.post(&port.contact(), &[number]);
            }
            most = most.max(resident_bytes());
            std::thread::sleep(Duration::from_millis(100));
        }
        over.store(true, Ordering::Relaxed);
        let opened: usize = floods.into_iter().map(|it| it.join().unwrap()).sum();
        assert!(opened > 8 * UNPROVED_LINKS, "{opened} is no flood");
        // A receive buffer of 16 KiB and a hello of 8 KiB, twice, each.
        let bound = (UNPROVED_LINKS as u64 + 64) * 48 * 1024;
        assert!(most - before < bound, "{} bytes", most - before);
        println!("{opened} connections, {} bytes at most", most - before);
    });
    let mut collector = Collector::default();
    until(&mut [(&port, &mut collector)], |them| {
        them[0].messages.len() >= 10
    });
    assert_eq!(received(&port), [b""; 0]);
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opens connections until told to stop, and keeps the last few hundred. Returns how many it opened.
fn flood(to: &Contact, over: &AtomicBool) -> usize {
    let mut hello = FrameHeader::new(FrameKind::Hello);
    hello.body_len = (SETUP_BODY_BYTES as u32).into();
    // All but the last byte of it.
    let claim = [&hello.to_bytes()[..], &[0; SETUP_BODY_BYTES - 1]].concat();
    let mut held = std::collections::VecDeque::new();
    let mut opened = 0;
    while !over.load(Ordering::Relaxed) {
        if let Ok(mut socket) = TcpStream::connect(address_of(to)) {
            let _ = socket.write_all(&claim);
            held.push_back(socket);
            opened += 1;
        }
        if held.len() > 150 {
            held.pop_front();
        }
    }
    opened
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

/// Cuts what was said into its frames.
fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(header) = bytes.first_chunk::<48>() {
        let header = FrameHeader::parse(header).unwrap();
        let len = 48 + usize::from(header.app_len) + header.body_bytes();
        let (frame, rest) = bytes.split_at(len);
        frames.push(frame.to_vec());
        bytes = rest;
    }
    frames
}

fn framed(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut header = FrameHeader::new(kind);
    header.body_len = (body.len() as u32).into();
    [&header.to_bytes()[..], body].concat()
}

fn read_frame(socket: &mut TcpStream) -> Vec<u8> {
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut frame = vec![0; 48];
    socket.read_exact(&mut frame).unwrap();
    let header = FrameHeader::parse(frame.first_chunk().unwrap()).unwrap();
    let mut body = vec![0; header.body_bytes()];
    socket.read_exact(&mut body).unwrap();
    frame.extend(body);
    frame
}

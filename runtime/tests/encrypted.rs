//! Somebody on the path between two ports: he reads what passes, and alters some of it. Without
//! encryption that is out of scope; with it he learns nothing and does nothing but cut links.

mod common;
#[path = "common/relay.rs"]
mod relay;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{SERVICE, SOME_TIME, connect, over_tcp as config, pattern};
use meander::{Config, Error, Key, Port, Stream};
use relay::Relay;

const SECRET: &[u8] = b"this is for the two of us and nobody else";

fn encrypted() -> Config {
    let mut config = config();
    config.tcp.encryption = true;
    config
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// What passes at a set-up, in small messages, in large ones, and when a stream comes back after a
/// move, holds none of it; and all of it without encryption. `[R55]`
#[test]
fn nobody_on_the_path_reads_anything() {
    for (config, reads) in [(encrypted(), false), (config(), true)] {
        let left = Port::open(config.clone()).unwrap();
        let right = Port::open(config.clone()).unwrap();
        right.listen(SERVICE);
        let relay = Relay::before(&right);
        let near = left.connect(&relay.contact(&right), SERVICE).unwrap();
        let far = right.accept(SOME_TIME).unwrap();
        let mut large = pattern(500_000, 3);
        large[300_000..][..SECRET.len()].copy_from_slice(SECRET);
        near.send(b"small").unwrap();
        near.send(SECRET).unwrap();
        near.send(&large).unwrap();
        for wanted in [b"small", SECRET, &large] {
            assert!(far.recv(SOME_TIME).unwrap().unwrap() == wanted);
        }
        let (right, mut streams) = Port::attach(config, &right.suspend().unwrap()).unwrap();
        let relay_after = Relay::before(&right);
        left.add_peer(&relay_after.contact(&right));
        near.send(SECRET).unwrap();
        let far = streams.remove(0);
        assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), SECRET);
        let passed = relay.recorded();
        assert!(passed.len() > 500_000, "{} bytes", passed.len());
        let id = postcard::to_stdvec(&left.id()).unwrap();
        for part in [SECRET, &large[1000..1100], &id, b"small"] {
            assert_eq!(contains(&passed, part), reads, "{part:?}");
        }
        drop((left, right));
    }
}

/// He flips bits, of set-ups and of data, both ways, while both ports send and one of them moves.
/// Links break; what arrives is what was sent, once and in order. `[R55]` `[R9]`
#[test]
fn whatever_is_altered_on_the_path_breaks_the_link_and_nothing_else() {
    const MESSAGES: usize = 1500;
    let (left, right) = (
        Port::open(encrypted()).unwrap(),
        Port::open(encrypted()).unwrap(),
    );
    let (near, far) = connect(&left, &right);
    let to_right = Relay::before(&right);
    let to_left = Relay::before(&left);
    let over = AtomicBool::new(false);
    let altered = || to_right.altered() + to_left.altered();
    let present = Mutex::new((left.clone(), right.clone()));
    thread::scope(|scope| {
        // Also where the test fails.
        let _end = End(&over);
        let (present, over, to_right, to_left) = (&present, &over, &to_right, &to_left);
        // Keeps him between the two: what they prove to each other is where they really are.
        scope.spawn(move || {
            let mut round = 0u64;
            while !over.load(Ordering::Relaxed) {
                let (left, right) = present.lock().unwrap().clone();
                left.add_peer(&to_right.contact(&right));
                right.add_peer(&to_left.contact(&left));
                round += 1;
                match round % 60 {
                    0 => to_right.alter(),
                    30 => to_left.alter(),
                    _ => {}
                }
                drop((left, right));
                thread::sleep(Duration::from_millis(1));
            }
        });
        let sender = scope.spawn(move || {
            for number in 0..MESSAGES {
                near.send(&numbered(number)).unwrap();
                if number % 100 == 99 {
                    expect(&near, number / 100);
                }
            }
            near
        });
        let mut far = far;
        for number in 0..MESSAGES {
            expect(&far, number);
            if number % 100 == 99 {
                far.send(&numbered(number / 100)).unwrap();
            }
            if number % 500 == 250 {
                // A move in the middle of it, as a value.
                let mut both = present.lock().unwrap();
                let value = both.1.clone().suspend().unwrap();
                let (moved, mut streams) = Port::attach(encrypted(), &value).unwrap();
                to_right.lead_to(&moved);
                far = streams.remove(0);
                both.1 = moved;
            }
            thread::sleep(Duration::from_micros(500));
        }
        sender.join().unwrap();
    });
    assert!(altered() >= 10, "only {} bits were flipped", altered());
}

fn numbered(number: usize) -> Vec<u8> {
    let len = match number % 40 {
        0 => 150_000,
        _ => number % 3000,
    };
    let mut bytes = pattern(len, number);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes
}

fn expect(stream: &Stream, number: usize) {
    let message = stream.recv(SOME_TIME).unwrap().unwrap();
    assert!(message == numbered(number), "{number}");
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whoever connects two ports that can't talk is told why, at once. `[R54]`
#[test]
fn a_mismatch_is_named() {
    let other_key = || {
        let mut other = encrypted();
        other.key = Key([8; 32]);
        other
    };
    for (left, right, why) in [
        (encrypted(), config(), "its TCP links are not encrypted"),
        (config(), encrypted(), "its TCP links are encrypted"),
        (encrypted(), other_key(), "does not have this port's key"),
    ] {
        let (left, right) = (Port::open(left).unwrap(), Port::open(right).unwrap());
        right.listen(SERVICE);
        let refused = left.connect(&right.contact(), SERVICE);
        match refused {
            Err(Error::Refused { peer, why: said }) => {
                assert_eq!(peer, right.id());
                assert!(said.contains(why), "{said}");
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("they talk: {why}"),
        }
    }
}

/// Over an encrypted link a port proves itself as over any other: the key of the encryption is all that
/// a stranger lacks to be heard, and not enough to be believed. `[R3]`
#[test]
fn a_value_attaches_with_encryption_and_its_peer_goes_on() {
    let (left, right) = (
        Port::open(encrypted()).unwrap(),
        Port::open(encrypted()).unwrap(),
    );
    let (near, far) = connect(&left, &right);
    near.send(b"before").unwrap();
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"before");
    far.send(b"kept").unwrap();
    let (left, mut streams) = Port::attach(encrypted(), &left.suspend().unwrap()).unwrap();
    let near = streams.remove(0);
    assert_eq!(near.recv(SOME_TIME).unwrap().unwrap(), b"kept");
    near.send(b"after").unwrap();
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"after");
    left.flush(SOME_TIME).unwrap();
}

//! Peers that are killed, or frozen, at any instruction: nobody else hangs, and what arrives is whole.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use meander_core::limits::DATA_FRAME_BYTES;
use meander_core::transport::{Body, Frame, Slice, Transport};
use meander_core::wire::{AppHeader, FrameHeader, FrameKind};
use meander_core::{Card, LinkId, TransportKind};
use meander_shm::{ShmConfig, ShmTransport};
use meander_sim::conformance::{End, Got};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What the process is to do that a test runs itself in: dial this card, and send for ever.
const CARD: &str = "MEANDER_TEST_CARD";

fn open() -> End<ShmTransport> {
    End::new(ShmTransport::open(ShmConfig::default()).unwrap())
}

/// Not a test of its own: what the other process does in the tests below.
#[test]
fn a_part_for_another_process() {
    let Ok(text) = std::env::var(CARD) else {
        return;
    };
    let bytes = text.split(',').map(|it| it.parse().unwrap()).collect();
    let transport = TransportKind::Shm;
    let mut end = open();
    let link = end.transport.dial(&Card { transport, bytes }).unwrap();
    while !end.connected.contains(&link) {
        end.drive();
    }
    println!("\nlinked");
    std::io::stdout().flush().unwrap();
    let large = end.buffer(1, vec![0x5a; DATA_FRAME_BYTES]);
    let mut number = 0;
    loop {
        while end.try_send(link, numbered(number, large)) {
            end.transport.flush(link, &end.record);
            number += 1;
        }
        end.drive();
        end.record.got.clear();
        if end.broken.contains(&link) {
            return;
        }
    }
}

/// Small frames, some that go beside the ring, and some that are read from the sender's memory.
fn numbered(number: u64, large: meander_core::BufferId) -> Frame {
    let mut header = FrameHeader::new(FrameKind::Eager);
    header.seq = number.into();
    let body = match number % 23 {
        7 => Body::Own(vec![number as u8; 20_000]),
        11 => {
            header.kind = FrameKind::Data as u8;
            Body::Slice(Slice {
                buffer: large,
                offset: 0,
                len: DATA_FRAME_BYTES as u64,
            })
        }
        small => Body::Own(vec![number as u8; small as usize * 7]),
    };
    header.body_len = (body.len() as u32).into();
    Frame {
        header,
        app: AppHeader::new(),
        body,
    }
}

fn assert_whole(number: u64, got: &Got) {
    assert_eq!(got.header.seq.get(), number, "out of order");
    let (byte, len) = match number % 23 {
        7 => (number as u8, 20_000),
        11 => (0x5a, DATA_FRAME_BYTES),
        small => (number as u8, small as usize * 7),
    };
    assert_eq!(got.body.len(), len);
    assert!(got.body.iter().all(|it| *it == byte), "{number} is torn");
}

struct Sender(Child);

impl Sender {
    /// A process that sends to this end for ever, once it is linked.
    fn start(to: &mut End<ShmTransport>) -> (Sender, LinkId) {
        let card: Vec<String> = to
            .transport
            .card()
            .bytes
            .iter()
            .map(u8::to_string)
            .collect();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_part_for_another_process", "--nocapture"])
            .env(CARD, card.join(","))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let link = until(to, |to| to.accepted.pop_front());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "linked"));
        (Sender(child), link)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until<T>(
    end: &mut End<ShmTransport>,
    mut done: impl FnMut(&mut End<ShmTransport>) -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(done) = done(end) {
            return done;
        }
        end.drive();
        assert!(start.elapsed() < Duration::from_secs(20), "in vain");
    }
}

/// How often a peer is killed.
const KILLS: u64 = 200;

#[test]
fn a_peer_may_be_killed_at_any_instruction() {
    let mut near = open();
    let (mut random, mut frames) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    for round in 0..KILLS {
        let (sender, link) = Sender::start(&mut near);
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let lives = Duration::from_micros((random >> 33) % 3000);
        let killer = std::thread::spawn(move || {
            let start = Instant::now();
            while start.elapsed() < lives {
                std::hint::spin_loop();
            }
            drop(sender);
        });
        let mut next = 0;
        let mut back = 0;
        until(&mut near, |near| {
            // It answers, so that both directions are busy.
            while back <= next && near.try_send(link, numbered(back, meander_core::BufferId(0))) {
                back += 1 + u64::from((back + 1) % 23 == 11);
                near.transport.flush(link, &near.record);
            }
            for got in near.record.got.remove(&link).unwrap_or_default() {
                assert_whole(next, &got);
                next += 1;
            }
            near.broken.contains(&link).then_some(())
        });
        killer.join().unwrap();
        frames += next;
        assert!(!near.transport.has_room(link), "round {round}");
    }
    assert!(
        frames > KILLS,
        "they were killed before they had sent anything"
    );
    assert!(near.connected.is_empty() && near.transport.next_timeout().is_none());
}

/// Who is stopped, in the middle of what it does, holds nobody else up; and goes on when it is let.
#[test]
fn a_frozen_peer_blocks_nobody_but_itself() {
    let mut near = open();
    let (frozen, cold) = Sender::start(&mut near);
    let (_other, warm) = Sender::start(&mut near);
    for _ in 0..5 {
        kill(frozen.pid(), Signal::SIGSTOP).unwrap();
        // What it had written before arrives; then nothing of it any more.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            near.drive();
        }
        near.record.got.clear();
        while near.try_send(cold, numbered(0, meander_core::BufferId(0))) {}
        until(&mut near, |near| (near.got(warm).len() > 500).then_some(()));
        assert!(near.got(cold).is_empty());
        near.record.got.clear();
        kill(frozen.pid(), Signal::SIGCONT).unwrap();
        until(&mut near, |near| (near.got(cold).len() > 100).then_some(()));
    }
    assert!(near.broken.is_empty());
}

//! Faults that take a hand inside the transport. They need an RDMA device.

use std::process::Command;
use std::time::{Duration, Instant};

use meander_core::LinkId;
use meander_core::transport::{Body, Frame, LinkEvent, Slice, Transport};
use meander_core::wire::{AppHeader, FrameHeader, FrameKind};
use meander_sim::conformance::End;

use super::{VerbsTransport, key};
use crate::VerbsConfig;
use crate::objects::AsyncEvent;
use crate::packet::{Message, RemotePlace};

const PATIENCE: Duration = Duration::from_secs(30);

type Verbs = End<VerbsTransport>;

fn open() -> Verbs {
    let opened = VerbsTransport::open(&VerbsConfig::default());
    End::new(opened.expect("a device with an active port"))
}

fn until(ends: &mut [&mut Verbs], what: &str, done: impl Fn(&[&mut Verbs]) -> bool) {
    let start = Instant::now();
    while !done(ends) {
        ends.iter_mut().for_each(|end| end.drive());
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
    }
}

fn pair() -> (Verbs, Verbs, LinkId, LinkId) {
    let (mut near, mut far) = (open(), open());
    let one = near.dial(&far.transport);
    until(&mut [&mut near, &mut far], "a link", |ends| {
        ends[0].connected.contains(&one) && !ends[1].accepted.is_empty()
    });
    let other = far.accepted[0];
    (near, far, one, other)
}

/// Drives all until a link of the first has ended, and gives the reason in words.
fn reason(near: &mut Verbs, others: &mut [&mut Verbs], link: LinkId) -> String {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "it goes on");
        others.iter_mut().for_each(|end| end.drive());
        let mut events = Vec::new();
        near.transport.poll(Duration::ZERO, &mut events);
        for event in events {
            match event {
                LinkEvent::Broken(broken, error) if broken == link => return error.to_string(),
                LinkEvent::Readable(readable) => {
                    let read = near.transport.receive(readable, &mut near.record);
                    if let Err(error) = read {
                        near.transport.close(readable);
                        near.connected.retain(|it| *it != readable);
                        if readable == link {
                            return error.to_string();
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// The key that a peer has named is none: the device refuses the write, and both ends hear of it.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn a_completion_with_error_names_its_status() {
    let (mut near, mut far, one, other) = pair();
    let place = RemotePlace {
        offset: 0,
        address: 0x1000,
        bytes: 100_000,
        rkey: 0xdead_beef,
    };
    let message = Message { stream: 0, seq: 5 };
    near.transport.links[key(one)].named.named(message, place);
    let buffer = near.buffer(1, vec![1; 100_000]);
    let mut header = FrameHeader::new(FrameKind::Data);
    header.seq.set(5);
    header.body_len.set(100_000);
    let body = Body::Slice(Slice {
        buffer,
        offset: 0,
        len: 100_000,
    });
    let app = AppHeader::new();
    assert!(near.try_send(one, Frame { header, app, body }));
    near.transport.flush(one, &near.record);
    let reason = reason(&mut near, &mut [&mut far], one);
    assert!(
        reason.contains("rxe0: a send or write completed with: remote access error (vendor code"),
        "{reason}"
    );
    until(&mut [&mut far], "the other end to break", |ends| {
        ends[0].broken.contains(&other)
    });
    assert!(far.got(other).is_empty());
}

/// A peer that sends more than it was given credits for is found out before anything of it is read. [R62]
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn a_peer_that_overruns_its_credits_is_cut_off() {
    let (mut near, mut far, one, _) = pair();
    // It believes that it has more than it was told of.
    let link = &mut near.transport.links[key(one)];
    link.credits.received(1000).expect("it has not sent either");
    for number in 0..40 {
        let mut header = FrameHeader::new(FrameKind::Eager);
        header.seq.set(number);
        header.body_len.set(7000);
        let body = Body::Own(vec![0; 7000]);
        let app = AppHeader::new();
        assert!(near.try_send(one, Frame { header, app, body }));
    }
    near.transport.flush(one, &near.record);
    // All arrive before any is read.
    std::thread::sleep(Duration::from_millis(500));
    let other = far.accepted[0];
    let reason = reason(&mut far, &mut [&mut near], other);
    assert!(reason.contains("the window was overrun"), "{reason}");
}

/// What the device says of itself ends every link, and nothing is dialled until it is over.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn a_device_that_fails_ends_every_link() {
    let (mut near, mut far, one, other) = pair();
    let event = AsyncEvent::DeviceFailed("the device failed");
    near.transport.events.push(event);
    let reason = reason(&mut near, &mut [&mut far], one);
    assert!(reason.contains("rxe0: the device failed"), "{reason}");
    let refused = near
        .transport
        .dial(&far.transport.card())
        .expect_err("it is gone");
    assert!(
        refused.to_string().contains("rxe0: the device failed"),
        "{refused}"
    );
    until(&mut [&mut far], "the other end to break", |ends| {
        ends[0].broken.contains(&other)
    });
}

/// The interface of the device is taken down under it, and put up again.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn a_port_goes_down_and_comes_back() {
    let (mut near, mut far, one, other) = pair();
    let device = near.transport.device().to_owned();
    let netdev = format!("/sys/class/infiniband/{device}/ports/1/gid_attrs/ndevs/0");
    let netdev = std::fs::read_to_string(netdev).expect("a device over Ethernet");
    let set = |state: &str| {
        let ran = Command::new("ip")
            .args(["link", "set", netdev.trim(), state])
            .status();
        assert!(ran.expect("ip is there").success(), "are you root?");
    };
    set("down");
    let start = Instant::now();
    let reason = reason(&mut near, &mut [], one);
    let took = start.elapsed();
    until(&mut [&mut far], "the other end to break", |ends| {
        ends[0].broken.contains(&other)
    });
    let refused = near.transport.dial(&far.transport.card());
    set("up");
    assert!(reason.contains("the port went down"), "{reason}");
    // Not only when the device gives up sending again.
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(refused.is_err_and(|error| error.to_string().contains("the port is down")));
    // Its address comes back a moment later.
    let start = Instant::now();
    loop {
        assert!(
            start.elapsed() < PATIENCE,
            "no link after the port came back"
        );
        near.drive();
        far.drive();
        let Ok(link) = near.transport.dial(&far.transport.card()) else {
            continue;
        };
        until(&mut [&mut near, &mut far], "an answer", |ends| {
            ends[0].connected.contains(&link) || ends[0].broken.contains(&link)
        });
        if near.connected.contains(&link) {
            break;
        }
    }
}

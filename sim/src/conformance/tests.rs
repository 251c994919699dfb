//! The tests of the suite. What a failing one means stands in its name.

use meander_core::limits::{APP_HEADER_BYTES, DATA_FRAME_BYTES, EAGER_BYTES_MAX};
use meander_core::transport::{Body, Frame, SendError, Transport};
use meander_core::wire::{AppHeader, FrameHeader, FrameKind};
use meander_core::{Card, LinkId};

use super::end::{data, frame};
use super::{End, Fabric, until};

type EndOf<F> = End<<F as Fabric>::Transport>;

/// Two ends with a link between them.
fn pair<F: Fabric>(fabric: &F) -> (EndOf<F>, EndOf<F>, LinkId, LinkId) {
    let mut near = End::new(fabric.open());
    let mut far = End::new(fabric.open());
    let (one, other) = link(fabric, &mut near, &mut far);
    (near, far, one, other)
}

fn link<F: Fabric>(fabric: &F, near: &mut EndOf<F>, far: &mut EndOf<F>) -> (LinkId, LinkId) {
    let one = near.dial(&far.transport);
    until(fabric, &mut [near, far], "a link", |ends| {
        ends[0].connected.contains(&one) && !ends[1].accepted.is_empty()
    });
    (one, far.accepted.pop_front().expect("just seen"))
}

/// Sends all frames, as room allows, and waits until as many have arrived.
fn carry<F: Fabric>(
    fabric: &F,
    near: &mut EndOf<F>,
    far: &mut EndOf<F>,
    (one, other): (LinkId, LinkId),
    frames: Vec<Frame>,
) {
    let wanted = far.got(other).len() + frames.len();
    let mut frames = frames.into_iter().peekable();
    until(fabric, &mut [near, far], "all frames to arrive", |ends| {
        while let Some(next) = frames.peek() {
            if !ends[0].try_send(one, next.clone()) {
                break;
            }
            frames.next();
        }
        ends[1].got(other).len() == wanted
    });
}

fn pattern(number: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|place| (place as u64 * 31 + number * 7) as u8)
        .collect()
}

/// Frames of one link arrive whole and in the order they were sent. `[R1]`
pub fn frames_arrive_in_order<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let frames: Vec<Frame> = (0..2000)
        .map(|number| {
            frame(
                FrameKind::Eager,
                number,
                pattern(number, number as usize * 13 % 3000),
            )
        })
        .collect();
    carry(fabric, &mut near, &mut far, (one, other), frames);
    for (number, got) in far.got(other).iter().enumerate() {
        assert_eq!(got.header.seq.get(), number as u64);
        assert_eq!(got.body, pattern(number as u64, number * 13 % 3000));
    }
}

/// "Full, later" is a result, not an error: a reader that does not read stops the sender, which
/// goes on when it reads again.
pub fn a_full_link_says_so_and_takes_more_later<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let mut sent = 0;
    for _ in 0..4000 {
        let next = frame(FrameKind::Eager, sent, pattern(sent, 60_000));
        if near.try_send(one, next) {
            sent += 1;
        } else {
            near.drive();
            if !near.transport.has_room(one) {
                break;
            }
        }
    }
    assert!(sent < 4000, "a link without a bound on what it takes");
    assert!(near.broken.is_empty(), "back-pressure broke the link");
    until(
        fabric,
        &mut [&mut near, &mut far],
        "the backlog to arrive",
        |ends| ends[1].got(other).len() as u64 == sent,
    );
    carry(
        fabric,
        &mut near,
        &mut far,
        (one, other),
        vec![frame(FrameKind::Eager, sent, vec![1])],
    );
    let order = far.got(other).iter().map(|got| got.header.seq.get());
    assert!(order.eq(0..=sent));
}

/// A link without room refuses a frame with a reason of its own, stays as it is, and says when to try
/// again; one that is gone refuses it with another.
pub fn full_is_a_result_and_broken_another<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let next = || frame(FrameKind::Eager, 0, pattern(0, 60_000));
    let mut sent = 0;
    while near.transport.has_room(one) {
        assert!(near.try_send(one, next()));
        near.transport.flush(one, &near.record);
        sent += 1;
        assert!(sent < 4000, "a link without a bound on what it takes");
    }
    for _ in 0..3 {
        let refused = near.transport.send(one, next(), &mut near.record);
        assert!(matches!(refused, Err(SendError::Full)), "{refused:?}");
    }
    near.writable.clear();
    until(fabric, &mut [&mut near, &mut far], "room again", |ends| {
        ends[0].writable.contains(&one) && ends[0].transport.has_room(one)
    });
    assert!(near.broken.is_empty() && near.try_send(one, next()));
    let ends = &mut [&mut near, &mut far];
    until(fabric, ends, "what was taken, and no more", |ends| {
        ends[1].got(other).len() == sent + 1
    });
    near.close(one);
    let refused = near.transport.send(one, next(), &mut near.record);
    assert!(matches!(refused, Err(SendError::Broken)), "{refused:?}");
}

/// Frames that go at once keep their place among those that wait for their turn, and one that is not
/// taken so leaves no trace.
pub fn frames_sent_at_once_keep_their_place<F: Fabric>(fabric: &F) {
    const FRAMES: u64 = 2000;
    let (mut near, mut far, one, other) = pair(fabric);
    let made = |number: u64| {
        let body = pattern(number, [8, 0, 150, 3000, 60_000][number as usize % 5]);
        let app = pattern(number, number as usize % 3 * 20);
        let mut frame = frame(FrameKind::Eager, number, body.clone());
        frame.header.app_len = app.len() as u8;
        frame.app = AppHeader::try_from(&app[..]).expect("it fits");
        (frame, body)
    };
    for number in 0..FRAMES {
        let (frame, body) = made(number);
        let tried = number % 7 != 0;
        let (header, app) = (frame.header, frame.app.clone());
        if tried && near.transport.send_at_once(one, &header, &app, &body) {
            continue;
        }
        let ends = &mut [&mut near, &mut far];
        until(fabric, ends, "room", |ends| ends[0].transport.has_room(one));
        assert!(near.try_send(one, frame));
        if number % 11 == 0 {
            near.transport.flush(one, &near.record);
        }
    }
    let ends = &mut [&mut near, &mut far];
    until(fabric, ends, "all of them", |ends| {
        ends[1].got(other).len() as u64 == FRAMES
    });
    for (number, got) in (0..).zip(far.got(other)) {
        let (frame, body) = made(number);
        assert_eq!((got.header, &got.app), (frame.header, &frame.app));
        assert!(got.body == body, "another body in frame {number}");
    }
    near.close(one);
    let (frame, body) = made(0);
    let taken = near
        .transport
        .send_at_once(one, &frame.header, &frame.app, &body);
    assert!(!taken, "a link that is closed took a frame");
}

/// Frames of no body and of the largest, with both sizes of application header.
pub fn the_smallest_and_the_largest_frame<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let most = near.transport.capabilities().max_body_bytes;
    assert!(most >= DATA_FRAME_BYTES, "a data frame does not fit");
    let full = AppHeader::try_from(&pattern(3, APP_HEADER_BYTES)[..]).expect("it fits");
    let mut frames = Vec::new();
    for len in [0, 1, EAGER_BYTES_MAX] {
        for app in [AppHeader::new(), full.clone()] {
            let mut frame = frame(FrameKind::Eager, len as u64, pattern(1, len));
            frame.header.app_len = app.len() as u8;
            frames.push(Frame { app, ..frame });
        }
    }
    let buffer = near.buffer(1, pattern(9, DATA_FRAME_BYTES));
    frames.push(data(buffer, 0, DATA_FRAME_BYTES as u64));
    let wanted = frames.clone();
    carry(fabric, &mut near, &mut far, (one, other), frames);
    for (sent, got) in wanted.iter().zip(far.got(other)) {
        assert_eq!((sent.header, &sent.app), (got.header, &got.app));
        match &sent.body {
            Body::Own(bytes) => assert_eq!(bytes, &got.body),
            _ => assert_eq!(got.body, pattern(9, DATA_FRAME_BYTES)),
        }
    }
}

/// Bodies that have a place are written there, and nowhere else.
pub fn bodies_go_straight_into_their_place<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let total = 5_000_000;
    let from = near.buffer(1, pattern(4, total));
    let into = far.buffer(2, vec![0; total + 2]);
    far.record.place = Some(into);
    let mut frames = Vec::new();
    for offset in (0..total).step_by(DATA_FRAME_BYTES) {
        let len = DATA_FRAME_BYTES.min(total - offset) as u64;
        frames.push(data(from, offset as u64, len));
        frames.push(frame(FrameKind::Eager, offset as u64, vec![7; 100]));
    }
    carry(fabric, &mut near, &mut far, (one, other), frames);
    let memory = &far.record.buffers[&into];
    assert_eq!(memory[..total], pattern(4, total));
    assert_eq!(memory[total..], [0, 0]);
}

/// A frame is a gather list: its three parts come from three places and arrive as one.
pub fn header_application_header_and_body_make_one_frame<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let buffer = near.buffer(1, pattern(5, 10_000));
    let frames = (0..500)
        .map(|number: u64| {
            let app = AppHeader::try_from(&pattern(number, number as usize % 65)[..]);
            let mut frame = data(buffer, number, number * 17 % 9000);
            frame.app = app.expect("at most 64 bytes");
            frame.header.app_len = frame.app.len() as u8;
            frame
        })
        .collect();
    carry(fabric, &mut near, &mut far, (one, other), frames);
    for (number, got) in far.got(other).iter().enumerate() {
        assert_eq!(got.app[..], pattern(number as u64, number % 65));
        assert_eq!(got.body, pattern(5, 10_000)[number..][..number * 17 % 9000]);
    }
}

/// An end that goes away without a word is noticed, and what it had sent before still arrives.
pub fn a_peer_that_vanishes_breaks_the_link<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let frames = (0..10)
        .map(|number| frame(FrameKind::Eager, number, vec![1; 100]))
        .collect();
    carry(fabric, &mut near, &mut far, (one, other), frames);
    drop(near);
    until(fabric, &mut [&mut far], "the link to break", |ends| {
        ends[0].broken.contains(&other)
    });
    assert_eq!(far.got(other).len(), 10);
}

/// An end that goes away in the middle of what it sends leaves a beginning of it, in whole frames; one
/// that is sent to notices, and takes no more.
pub fn a_peer_that_vanishes_under_fire_leaves_whole_frames<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let into = far.buffer(2, vec![0; DATA_FRAME_BYTES]);
    far.record.place = Some(into);
    let from = near.buffer(1, pattern(8, DATA_FRAME_BYTES));
    let (mut forth, mut back) = (0, 0);
    while forth < 60 && near.try_send(one, data(from, 0, DATA_FRAME_BYTES as u64)) {
        forth += 1;
    }
    while back < 60 && far.try_send(other, frame(FrameKind::Eager, back, vec![1; 60_000])) {
        back += 1;
    }
    near.drive();
    fabric.go_on();
    far.drive();
    drop(near);
    until(fabric, &mut [&mut far], "the link to break", |ends| {
        ends[0].broken.contains(&other)
    });
    assert!(far.got(other).len() <= forth);
    for got in far.got(other) {
        assert_eq!(got.body, pattern(8, DATA_FRAME_BYTES));
    }
    assert!(!far.try_send(other, frame(FrameKind::Eager, 0, vec![1])));
}

/// Links by the dozen at once, some closed before they are connected: the others are as good as
/// one alone, and so is the next.
pub fn many_links_come_and_go_at_once<F: Fabric>(fabric: &F) {
    let mut near = End::new(fabric.open());
    let mut far = End::new(fabric.open());
    for _ in 0..6 {
        let dialled: Vec<LinkId> = (0..40).map(|_| near.dial(&far.transport)).collect();
        let (kept, dropped) = dialled.split_at(30);
        dropped.iter().for_each(|link| near.close(*link));
        until(
            fabric,
            &mut [&mut near, &mut far],
            "all that are kept",
            |ends| {
                kept.iter().all(|link| ends[0].connected.contains(link))
                    && ends[1].connected.len() >= kept.len()
            },
        );
        for (number, link) in kept.iter().enumerate() {
            let number = number as u64;
            let sent = frame(FrameKind::Eager, number, pattern(number, 1000));
            assert!(near.try_send(*link, sent));
        }
        let all = |far: &EndOf<F>| {
            let mut numbers: Vec<u64> = far
                .record
                .got
                .values()
                .flatten()
                .map(|got| got.header.seq.get())
                .collect();
            numbers.sort_unstable();
            numbers.into_iter().eq(0..kept.len() as u64)
        };
        until(
            fabric,
            &mut [&mut near, &mut far],
            "a frame on each",
            |ends| all(ends[1]),
        );
        for got in far.record.got.values().flatten() {
            assert_eq!(got.body, pattern(got.header.seq.get(), 1000));
        }
        // Half are closed at one end, half at the other; at once.
        kept[..15].iter().for_each(|link| near.close(*link));
        let mut there = far.connected.clone();
        let theirs = there.split_off(there.len() / 2);
        theirs.iter().for_each(|link| far.close(*link));
        until(
            fabric,
            &mut [&mut near, &mut far],
            "all to be gone",
            |ends| {
                for link in ends[0].connected.clone() {
                    ends[0].close(link);
                }
                ends[1].connected.is_empty()
            },
        );
        far.record.got.clear();
        far.accepted.clear();
    }
    let (one, other) = link(fabric, &mut near, &mut far);
    let last = vec![frame(FrameKind::Eager, 9, pattern(9, 500))];
    carry(fabric, &mut near, &mut far, (one, other), last);
}

/// Many links, one after another, and the last is as good as the first.
pub fn links_come_and_go_in_storms<F: Fabric>(fabric: &F) {
    let mut near = End::new(fabric.open());
    let mut far = End::new(fabric.open());
    for round in 0..60 {
        let (one, other) = link(fabric, &mut near, &mut far);
        let number = round as u64;
        let sent = vec![frame(FrameKind::Eager, number, pattern(number, 1000))];
        carry(fabric, &mut near, &mut far, (one, other), sent);
        assert_eq!(far.got(other)[0].body, pattern(number, 1000));
        if round % 2 == 0 {
            near.close(one);
            until(
                fabric,
                &mut [&mut near, &mut far],
                "the other side to see it",
                |ends| ends[1].broken.contains(&other),
            );
        } else {
            far.close(other);
            until(
                fabric,
                &mut [&mut near, &mut far],
                "the other side to see it",
                |ends| ends[0].broken.contains(&one),
            );
        }
    }
}

/// Closing with data in flight loses what is in flight; other links feel nothing.
pub fn closing_drops_what_is_in_flight_and_nothing_else<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let (two, second) = link(fabric, &mut near, &mut far);
    let mut sent = 0;
    while sent < 64 && near.try_send(one, frame(FrameKind::Eager, sent, vec![2; 30_000])) {
        sent += 1;
    }
    near.close(one);
    near.close(one);
    let last = vec![frame(FrameKind::Eager, 5, vec![3; 100])];
    carry(fabric, &mut near, &mut far, (two, second), last);
    until(
        fabric,
        &mut [&mut near, &mut far],
        "the closed link to break",
        |ends| ends[1].broken.contains(&other),
    );
    let order = far.got(other).iter().map(|got| got.header.seq.get());
    assert!(
        order.eq(0..far.got(other).len() as u64),
        "a gap in what arrived before the close"
    );
}

/// The fence: after close returns, memory that was being sent or received is free. `[R20]`
pub fn nothing_touches_memory_after_close<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let from = near.buffer(1, pattern(6, 1 << 20));
    let into = far.buffer(2, vec![0; 1 << 20]);
    far.record.place = Some(into);
    for offset in (0..1 << 20).step_by(DATA_FRAME_BYTES) {
        near.try_send(one, data(from, offset, DATA_FRAME_BYTES as u64));
    }
    near.drive();
    fabric.go_on();
    far.drive();
    far.close(other);
    // A touch of the buffers from here on is a panic: they are not there any more.
    far.record.buffers.clear();
    near.close(one);
    near.record.buffers.clear();
    for _ in 0..50 {
        fabric.go_on();
        near.drive();
        far.drive();
    }
}

/// Nothing blocks: one thread drives both ends, both sending more than any buffer holds.
pub fn two_ports_on_one_thread_talk_both_ways<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let (mut sent, mut back) = (0, 0);
    until(
        fabric,
        &mut [&mut near, &mut far],
        "both directions",
        |ends| {
            while sent < 400
                && ends[0].try_send(one, frame(FrameKind::Eager, sent, vec![1; 50_000]))
            {
                sent += 1;
            }
            while back < 400
                && ends[1].try_send(other, frame(FrameKind::Eager, back, vec![2; 50_000]))
            {
                back += 1;
            }
            ends[0].got(one).len() == 400 && ends[1].got(other).len() == 400
        },
    );
}

/// One port with many links keeps them apart and serves them all.
pub fn sixty_four_peers<F: Fabric>(fabric: &F) {
    let mut hub = End::new(fabric.open());
    let mut peers: Vec<(EndOf<F>, LinkId, LinkId)> = Vec::new();
    for _ in 0..64 {
        let mut peer = End::new(fabric.open());
        let (one, other) = link(fabric, &mut peer, &mut hub);
        peers.push((peer, one, other));
    }
    for round in 0..20 {
        for (place, (peer, one, _)) in peers.iter_mut().enumerate() {
            let number = place as u64 * 100 + round;
            assert!(peer.try_send(*one, frame(FrameKind::Eager, number, pattern(number, 2000))));
            peer.drive();
        }
        fabric.go_on();
        hub.drive();
    }
    let links: Vec<LinkId> = peers.iter().map(|(_, _, other)| *other).collect();
    until(fabric, &mut [&mut hub], "every peer's frames", |ends| {
        links.iter().all(|link| ends[0].got(*link).len() == 20)
    });
    for (place, link) in links.iter().enumerate() {
        for (round, got) in hub.got(*link).iter().enumerate() {
            let number = (place * 100 + round) as u64;
            assert_eq!(
                (got.header.seq.get(), &got.body),
                (number, &pattern(number, 2000))
            );
        }
    }
}

/// A card of no sense is refused when it is dialled.
pub fn a_card_that_is_nonsense_is_an_error<F: Fabric>(fabric: &F) {
    let mut near = fabric.open();
    let card = near.card();
    for bytes in [Vec::new(), vec![0xff; 40]] {
        assert!(
            near.dial(&Card {
                bytes,
                ..card.clone()
            })
            .is_err()
        );
    }
}

/// Dialling who has gone is no error of the call: the link breaks.
pub fn a_card_that_leads_nowhere_breaks_the_link<F: Fabric>(fabric: &F) {
    let mut near = End::new(fabric.open());
    let gone = fabric.open();
    let card = gone.card();
    drop(gone);
    if let Ok(link) = near.transport.dial(&card) {
        until(fabric, &mut [&mut near], "the link to break", |ends| {
            ends[0].broken.contains(&link)
        });
    }
}

/// A header that can't be is the end of its link, and of nothing else. `[R2]`
pub fn nonsense_breaks_the_link<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    let header = FrameHeader {
        kind: 200,
        ..FrameHeader::new(FrameKind::Ack)
    };
    near.try_send(
        one,
        Frame {
            header,
            app: AppHeader::new(),
            body: Body::Empty,
        },
    );
    until(
        fabric,
        &mut [&mut near, &mut far],
        "the link to break",
        |ends| ends[1].broken.contains(&other),
    );
    assert!(far.got(other).is_empty());
    let (two, second) = link(fabric, &mut near, &mut far);
    carry(
        fabric,
        &mut near,
        &mut far,
        (two, second),
        vec![frame(FrameKind::Ack, 1, Vec::new())],
    );
}

/// So is a frame that the port above does not take.
pub fn the_sink_can_break_the_link<F: Fabric>(fabric: &F) {
    let (mut near, mut far, one, other) = pair(fabric);
    far.record.refuses = Some(FrameKind::Open);
    near.try_send(one, frame(FrameKind::Open, 0, Vec::new()));
    near.try_send(one, frame(FrameKind::Eager, 1, vec![1; 10]));
    until(
        fabric,
        &mut [&mut near, &mut far],
        "the link to break",
        |ends| ends[1].broken.contains(&other),
    );
    assert!(
        far.got(other).is_empty(),
        "a frame came after the one that broke the link"
    );
}

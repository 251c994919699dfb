//! Streams over links that come and go.

use super::*;

/// `[R13]`
#[test]
fn small_messages_travel_with_their_payload_until_the_window_is_full() {
    let (mut a, mut b, at) = pair();
    for _ in 0..80 {
        a.send(Time(0), at, message(1024, false)).unwrap();
    }
    let [_, at_b] = converse(&mut a, &mut b).unwrap();
    let eager = at_b
        .iter()
        .filter(|it| matches!(it, Arrival::Message { .. }))
        .count();
    let waiting = at_b
        .iter()
        .filter(|it| matches!(it, Arrival::Envelope { .. }))
        .count();
    assert_eq!((eager, waiting), (64, 16));
}

/// `[R22]`
#[test]
fn a_refused_stream_gives_its_memory_back() {
    let (mut a, mut b, at) = pair();
    let stream = a.open(Time(0), at.peer, 5, StreamKind::Messages).unwrap();
    let opened = StreamAt {
        peer: at.peer,
        stream,
    };
    a.send(Time(0), opened, message(10, false)).unwrap();
    let [_, at_b] = converse(&mut a, &mut b).unwrap();
    let offered = at_b.iter().find_map(|it| match it {
        Arrival::Opened { at, service: 5, .. } => Some(*at),
        _ => None,
    });
    b.answer(Time(0), offered.unwrap(), false).unwrap();
    let [at_a, _] = converse(&mut a, &mut b).unwrap();
    assert!(at_a.contains(&Arrival::Rejected(opened)));
    let effects: Vec<Effect> = std::iter::from_fn(|| a.poll_effect()).collect();
    assert!(
        effects
            .iter()
            .any(|it| matches!(it, Effect::Sent { .. } | Effect::Lost { .. }))
    );
    assert_eq!(
        a.send(Time(0), opened, message(1, false)),
        Err(PortError::Rejected)
    );
}

/// `[R21]`
#[test]
fn half_a_stream_ends_and_the_other_half_goes_on() {
    let (mut a, mut b, at) = pair();
    a.finish(Time(0), at).unwrap();
    let [_, at_b] = converse(&mut a, &mut b).unwrap();
    assert!(at_b.iter().any(|it| matches!(it, Arrival::Finished(_))));
    assert_eq!(
        a.send(Time(0), at, message(1, false)),
        Err(PortError::Finished)
    );
    let back = StreamAt {
        peer: a.id(),
        stream: at.stream,
    };
    b.send(Time(0), back, message(4, false)).unwrap();
    let [at_a, _] = converse(&mut a, &mut b).unwrap();
    assert!(at_a.iter().any(|it| matches!(it, Arrival::Message { .. })));
}

/// Cuts the link between two ports.
fn cut(a: &mut Port, b: &mut Port) {
    a.broken(Time(0), NEAR);
    b.broken(Time(0), FAR);
}

fn messages(arrivals: &[Arrival]) -> Vec<u64> {
    let numbers = arrivals.iter().filter_map(|it| match it {
        Arrival::Message { seq, .. } => Some(seq.0),
        _ => None,
    });
    numbers.collect()
}

/// What a cut has swallowed is sent again from where the peer says that it stopped, nothing before
/// the peer has said so, and nothing twice. `[R9]` `[R15]` `[R11]`
#[test]
fn items_are_replayed_from_the_number_the_peer_names() {
    let (mut a, mut b, at) = pair();
    for _ in 0..6 {
        a.send(Time(0), at, message(10, false)).unwrap();
    }
    for _ in 0..3 {
        let frame = a.poll_transmit(NEAR).unwrap();
        deliver(&mut b, FAR, &frame).unwrap();
    }
    // Two more get lost on the way.
    a.poll_transmit(NEAR).unwrap();
    a.poll_transmit(NEAR).unwrap();
    cut(&mut a, &mut b);
    dial(&mut a, &mut b);
    let mut resumed = false;
    let mut arrived = Vec::new();
    for _ in 0..20 {
        while let Some(frame) = a.poll_transmit(NEAR) {
            let kind = frame.header.frame_kind().unwrap();
            assert!(
                resumed || !kind.is_item(),
                "{kind:?} before the peer's resumed"
            );
            arrived.push(deliver(&mut b, FAR, &frame).unwrap());
        }
        while let Some(frame) = b.poll_transmit(FAR) {
            resumed |= frame.header.kind == FrameKind::Resumed as u8;
            deliver(&mut a, NEAR, &frame).unwrap();
        }
    }
    assert_eq!(messages(&arrived), [4, 5, 6]);
}

/// Items are acknowledged on their own after a number of them, or a while, and their memory is then
/// the sender's. `[R12]`
#[test]
fn a_retained_item_is_released_when_it_is_acknowledged() {
    let (mut a, mut b, at) = pair();
    a.send(Time(0), at, message(10, false)).unwrap();
    let sent = |port: &mut Port| {
        let effects = std::iter::from_fn(|| port.poll_effect());
        effects
            .filter(|it| matches!(it, Effect::Sent { .. }))
            .count()
    };
    converse(&mut a, &mut b).unwrap();
    assert_eq!(sent(&mut a), 0, "nothing came back that it could ride on");
    let due = b.poll_timeout().unwrap();
    assert_eq!(due, Time(0) + limits::ACK_DELAY);
    b.handle_timeout(due);
    converse(&mut a, &mut b).unwrap();
    assert_eq!(sent(&mut a), 1);
    for _ in 0..limits::ACK_ITEMS {
        a.send(due, at, message(10, false)).unwrap();
    }
    converse(&mut a, &mut b).unwrap();
    assert_eq!(sent(&mut a), limits::ACK_ITEMS as usize);
}

/// An acknowledgement that has ridden on another frame does not go on its own as well; a later one
/// waits for its own time. `[R12]`
#[test]
fn what_has_ridden_does_not_go_on_its_own() {
    let (mut a, mut b, at) = pair();
    let from = StreamAt {
        peer: a.id(),
        stream: at.stream,
    };
    a.send(Time(0), at, message(10, false)).unwrap();
    converse(&mut a, &mut b).unwrap();
    let first_due = b.poll_timeout().unwrap();
    b.send(Time(0), from, message(10, false)).unwrap();
    converse(&mut a, &mut b).unwrap();
    let later = Time(1_000_000);
    a.send(later, at, message(10, false)).unwrap();
    while let Some(frame) = a.poll_transmit(NEAR) {
        let body = vec![0; frame.body.len()];
        b.frame_complete(later, FAR, &frame.header, &frame.app, &body)
            .unwrap();
    }
    b.handle_timeout(first_due);
    assert!(b.poll_transmit(FAR).is_none(), "it may wait still");
    let due = b.poll_timeout().unwrap();
    assert_eq!(due, later + limits::ACK_DELAY);
    b.handle_timeout(due);
    let frame = b.poll_transmit(FAR).expect("nothing took it along");
    assert_eq!(frame.header.kind, FrameKind::Ack as u8);
}

/// What was never sent can't be acknowledged. `[R12]`
#[test]
fn an_acknowledgement_from_the_future_breaks_the_link() {
    let (mut a, _, at) = pair();
    let mut header = FrameHeader::new(FrameKind::Ack);
    header.stream = at.stream.0.into();
    header.ack = 2u64.into();
    let frame = Frame {
        header,
        app: AppHeader::new(),
        body: crate::transport::Body::Empty,
    };
    assert_eq!(deliver(&mut a, NEAR, &frame), Err(Violation::Sequence(2)));
}

/// Each side opens with numbers of its own, upwards. `[R10]`
#[test]
fn the_lower_port_opens_even_streams_and_the_higher_odd_ones() {
    let (mut a, mut b, at) = pair();
    let (to_a, to_b) = (a.id(), at.peer);
    let open = |port: &mut Port, peer| port.open(Time(0), peer, 5, StreamKind::Bytes).unwrap().0;
    assert_eq!([open(&mut a, to_b), open(&mut a, to_b)], [0, 2]);
    assert_eq!([open(&mut b, to_a), open(&mut b, to_a)], [1, 3]);
    converse(&mut a, &mut b).unwrap();
    // A number of the other side's is no stream.
    let mut header = FrameHeader::new(FrameKind::Open);
    header.stream = 7u32.into();
    let frame = Frame {
        header,
        app: AppHeader::new(),
        body: crate::transport::Body::Empty,
    };
    assert_eq!(deliver(&mut b, FAR, &frame), Err(Violation::Stream(7)));
}

/// A cut transfer goes on at its offset, and ends with the sender's memory free. `[R14]` `[R16]`
#[test]
fn a_pull_is_asked_for_again_from_where_it_stopped() {
    let (mut a, mut b, at) = pair();
    let len = 3 * limits::DATA_FRAME_BYTES as u64;
    let seq = a.send(Time(0), at, message(len, false)).unwrap();
    converse(&mut a, &mut b).unwrap();
    let from = StreamAt {
        peer: a.id(),
        stream: at.stream,
    };
    b.pull(Time(0), from, seq, BufferId(4), u64::MAX).unwrap();
    let pull = b.poll_transmit(FAR).unwrap();
    deliver(&mut a, NEAR, &pull).unwrap();
    let first = a.poll_transmit(NEAR).unwrap();
    let place = b.frame_begin(FAR, &first.header);
    let part = Slice {
        buffer: BufferId(4),
        offset: 0,
        len: limits::DATA_FRAME_BYTES as u64,
    };
    assert_eq!(place, Ok(crate::transport::Place::Into(part)));
    deliver(&mut b, FAR, &first).unwrap();
    a.poll_transmit(NEAR).unwrap(); // and is lost
    cut(&mut a, &mut b);
    // Of the two it is the receiver that waits for something.
    dial(&mut b, &mut a);
    let mut offsets = Vec::new();
    for _ in 0..20 {
        while let Some(frame) = b.poll_transmit(NEAR) {
            deliver(&mut a, FAR, &frame).unwrap();
        }
        while let Some(frame) = a.poll_transmit(FAR) {
            if frame.header.kind == FrameKind::Data as u8 {
                offsets.push(frame.header.arg.get() / limits::DATA_FRAME_BYTES as u64);
            }
            deliver(&mut b, NEAR, &frame).unwrap();
        }
    }
    assert_eq!(offsets, [1, 2]);
    let effects: Vec<Effect> = std::iter::from_fn(|| a.poll_effect()).collect();
    assert!(effects.contains(&Effect::Sent {
        buffer: BufferId(9)
    }));
}

/// A stream is forgotten when all of it is done, and a peer that does not hear of that on one link
/// hears of it on the next. `[R17]`
#[test]
fn a_stream_is_forgotten_when_everything_is_told() {
    let (mut a, mut b, at) = pair();
    let from = StreamAt {
        peer: a.id(),
        stream: at.stream,
    };
    a.finish(Time(0), at).unwrap();
    b.finish(Time(0), from).unwrap();
    converse(&mut a, &mut b).unwrap();
    for port in [&mut a, &mut b] {
        port.handle_timeout(Time(0) + limits::ACK_DELAY);
    }
    // What b says last is lost, so a does not know that b has everything.
    while let Some(frame) = a.poll_transmit(NEAR) {
        deliver(&mut b, FAR, &frame).unwrap();
    }
    while b.poll_transmit(FAR).is_some() {}
    cut(&mut a, &mut b);
    let gone = |port: &mut Port, at| {
        port.send(Time(0), at, message(0, false)) == Err(PortError::UnknownStream(at))
    };
    assert!(gone(&mut b, from), "b has had all of it and told");
    let other = a.open(Time(0), at.peer, 5, StreamKind::Bytes).unwrap();
    assert_eq!(other.0, 0);
    dial(&mut a, &mut b);
    converse(&mut a, &mut b).unwrap();
    assert!(gone(&mut a, at));
}

/// After the end of a direction only answers come. `[R21]`
#[test]
fn a_message_behind_the_end_breaks_the_link() {
    let (mut a, mut b, at) = pair();
    let from = StreamAt {
        peer: a.id(),
        stream: at.stream,
    };
    let seq = b.send(Time(0), from, message(1, true)).unwrap();
    a.finish(Time(0), at).unwrap();
    converse(&mut a, &mut b).unwrap();
    a.decline(Time(0), at, seq).unwrap();
    converse(&mut a, &mut b).unwrap();
    let mut header = FrameHeader::new(FrameKind::Eager);
    header.stream = at.stream.0.into();
    header.seq = 3u64.into();
    let frame = Frame {
        header,
        app: AppHeader::new(),
        body: crate::transport::Body::Empty,
    };
    assert_eq!(deliver(&mut b, FAR, &frame), Err(Violation::Sequence(3)));
}

/// Nothing is said on an offered stream before it is answered, and nothing is taken. `[R10]`
#[test]
fn the_first_word_on_an_opened_stream_is_its_answer() {
    let (mut a, mut b, at) = pair();
    let stream = a.open(Time(0), at.peer, 5, StreamKind::Messages).unwrap();
    let from = StreamAt {
        peer: a.id(),
        stream,
    };
    converse(&mut a, &mut b).unwrap();
    let early = b.send(Time(0), from, message(1, false));
    assert_eq!(early, Err(PortError::Unanswered));
    assert_eq!(b.finish(Time(0), from), Err(PortError::Unanswered));
    let mut header = FrameHeader::new(FrameKind::Eager);
    header.stream = stream.0.into();
    let frame = Frame {
        header,
        app: AppHeader::new(),
        body: crate::transport::Body::Empty,
    };
    let broken = Err(Violation::Kind(FrameKind::Eager as u8));
    assert_eq!(deliver(&mut a, NEAR, &frame), broken);
    b.answer(Time(0), from, true).unwrap();
    b.send(Time(0), from, message(1, false)).unwrap();
}

/// A stream is opened once, and not by the side whose number it has. `[R10]`
#[test]
fn a_stream_that_is_there_can_not_be_opened() {
    let (mut a, mut b, at) = pair();
    let open = |port: &mut Port, link, stream: StreamId, seq: u64| {
        let mut header = FrameHeader::new(FrameKind::Open);
        header.stream = stream.0.into();
        header.seq = seq.into();
        let frame = Frame {
            header,
            app: AppHeader::new(),
            body: crate::transport::Body::Empty,
        };
        deliver(port, link, &frame)
    };
    let broken = Err(Violation::Kind(FrameKind::Open as u8));
    let ours = a.open(Time(0), at.peer, 5, StreamKind::Messages).unwrap();
    converse(&mut a, &mut b).unwrap();
    assert_eq!(open(&mut a, NEAR, ours, 0), broken);
    assert_eq!(open(&mut b, FAR, ours, 1), broken);
    assert_eq!(open(&mut b, FAR, at.stream, 1), broken);
}

/// Copies are taken up to the port's bound, memory that is lent always; what the peer has makes room, and
/// so does what is lost with it. `[R56]`
#[test]
fn copies_have_a_bound_that_moves_with_the_port() {
    let (mut a, mut b, at) = pair();
    let copy = |len: u64| Message {
        copied: true,
        ..message(len, false)
    };
    let bound = LIMITS.retained_bytes;
    let sizes = [1000, bound - 1000 - 500, 500];
    for len in sizes {
        a.send(Time(0), at, copy(len)).unwrap();
    }
    assert_eq!(a.retained_bytes(), bound);
    for (len, taken) in [(1, false), (0, true)] {
        assert_eq!(a.takes_copy(len), taken);
        let sent = a.send(Time(0), at, copy(len));
        assert_eq!(sent.is_ok(), taken, "{sent:?}");
    }
    assert_eq!(a.send(Time(0), at, copy(1)), Err(PortError::Full));
    a.send(Time(0), at, message(bound, false)).unwrap();

    // The small ones are acknowledged; the large one is an envelope, and waits.
    converse(&mut a, &mut b).unwrap();
    a.solicit();
    converse(&mut a, &mut b).unwrap();
    assert_eq!(a.retained_bytes(), sizes[1]);
    a.suspend();
    let mut a = Port::from_snapshot(a.snapshot(), [9; 32]);
    assert_eq!(a.retained_bytes(), sizes[1]);
    assert!(a.takes_copy(1500) && !a.takes_copy(1501));

    // With the peer goes all that it was owed.
    a.attach(Time(0), Epoch(1), location(3));
    a.declare_dead(b.id());
    assert_eq!(a.retained_bytes(), 0);
}

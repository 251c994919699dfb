//! What the simulator does not do: lie, forge, and talk nonsense.

use super::*;
use crate::location::{Card, TransportKind};
use crate::transport::Frame;
use crate::wire::{FrameHeader, Violation};

const LIMITS: Limits = Limits {
    eager_bytes: 1024,
    window_bytes: 64 * 1024,
    retained_bytes: 1 << 20,
    peer_timeout: Duration::from_secs(10),
};

fn port(id: u128, key: u8) -> Port {
    let mut port = Port::new(Config {
        id: PortId(id),
        key: Key([key; 32]),
        limits: LIMITS,
        seed: [id as u8; 32],
    });
    let card = Card {
        transport: TransportKind::Sim,
        bytes: vec![id as u8],
    };
    let location = Location {
        cards: vec![card],
        ..Location::default()
    };
    port.attach(Time(0), Epoch(0), location);
    port
}

/// A link between two ports: the number each side knows it by.
const NEAR: LinkId = LinkId(1);
const FAR: LinkId = LinkId(2);

/// Lets `a` dial `b`, which it must want to.
fn dial(a: &mut Port, b: &mut Port) {
    let wish = std::iter::from_fn(|| a.poll_effect()).find(|it| matches!(it, Effect::Dial { .. }));
    assert!(wish.is_some(), "the port does not want to dial");
    a.dialled(Time(0), b.id(), NEAR);
    a.connected(NEAR);
    b.accepted(Time(0), FAR);
}

/// Carries frames until neither has any; returns what arrived at `a` and at `b`.
fn converse(a: &mut Port, b: &mut Port) -> Result<[Vec<Arrival>; 2], Violation> {
    let mut arrivals = [Vec::new(), Vec::new()];
    loop {
        let to_b: Vec<Frame> = std::iter::from_fn(|| a.poll_transmit(NEAR)).collect();
        let to_a: Vec<Frame> = std::iter::from_fn(|| b.poll_transmit(FAR)).collect();
        if to_a.is_empty() && to_b.is_empty() {
            return Ok(arrivals);
        }
        for frame in to_b {
            arrivals[1].push(deliver(b, FAR, &frame)?);
        }
        for frame in to_a {
            arrivals[0].push(deliver(a, NEAR, &frame)?);
        }
    }
}

fn deliver(port: &mut Port, link: LinkId, frame: &Frame) -> Result<Arrival, Violation> {
    let own = match &frame.body {
        crate::transport::Body::Own(bytes) => bytes.clone(),
        body => vec![0; body.len()],
    };
    port.frame_begin(link, &frame.header)?;
    port.frame_complete(Time(0), link, &frame.header, &frame.app, &own)
}

fn pair() -> (Port, Port, StreamAt) {
    let (mut a, mut b) = (port(1, 7), port(2, 7));
    a.learn(Time(0), &b.contact());
    let stream = a.open_fixed(b.id(), 0).unwrap();
    let at = StreamAt {
        peer: b.id(),
        stream,
    };
    a.send(Time(0), at, message(0, false)).unwrap();
    dial(&mut a, &mut b);
    converse(&mut a, &mut b).unwrap();
    (a, b, at)
}

fn message(len: u64, synchronous: bool) -> Message {
    let body = (len > 0 || synchronous).then_some(Slice {
        buffer: BufferId(9),
        offset: 0,
        len,
    });
    Message {
        app: AppHeader::new(),
        body,
        synchronous,
    }
}

#[test]
fn another_key_is_refused() {
    let (mut a, mut b) = (port(1, 7), port(2, 8));
    a.learn(Time(0), &b.contact());
    let stream = a.open_fixed(b.id(), 0).unwrap();
    a.send(
        Time(0),
        StreamAt {
            peer: b.id(),
            stream,
        },
        message(1, false),
    )
    .unwrap();
    dial(&mut a, &mut b);
    assert_eq!(converse(&mut a, &mut b), Err(Violation::Proof));
}

#[test]
fn a_stale_epoch_is_not_believed() {
    let (mut a, mut b) = (port(1, 7), port(2, 7));
    let mut newer = b.contact();
    newer.epoch = Epoch(3);
    a.learn(Time(0), &newer);
    let stream = a.open_fixed(b.id(), 0).unwrap();
    a.send(
        Time(0),
        StreamAt {
            peer: b.id(),
            stream,
        },
        message(1, false),
    )
    .unwrap();
    dial(&mut a, &mut b);
    assert_eq!(converse(&mut a, &mut b), Err(Violation::StaleEpoch(0)));
}

#[test]
fn a_replayed_proof_is_worth_nothing() {
    let (mut a, mut b) = (port(1, 7), port(2, 7));
    a.learn(Time(0), &b.contact());
    let stream = a.open_fixed(b.id(), 0).unwrap();
    a.send(
        Time(0),
        StreamAt {
            peer: b.id(),
            stream,
        },
        message(1, false),
    )
    .unwrap();
    dial(&mut a, &mut b);
    let hello = a.poll_transmit(NEAR).unwrap();
    deliver(&mut b, FAR, &hello).unwrap();
    let challenge = b.poll_transmit(FAR).unwrap();
    deliver(&mut a, NEAR, &challenge).unwrap();
    let proof = a.poll_transmit(NEAR).unwrap();
    // The attacker has seen a whole set-up and says the same again on a link of his own.
    let again = LinkId(77);
    b.accepted(Time(0), again);
    deliver(&mut b, again, &hello).unwrap();
    b.poll_transmit(again).unwrap();
    assert_eq!(deliver(&mut b, again, &proof), Err(Violation::Proof));
}

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

#[test]
fn nonsense_breaks_the_link_and_nothing_else() {
    let (mut a, mut b, at) = pair();
    for kind in FrameKind::ALL {
        for number in [0, 1, u64::MAX] {
            let mut header = FrameHeader::new(*kind);
            header.stream = at.stream.0.into();
            header.seq = number.into();
            header.ack = number.into();
            header.arg = number.into();
            header.credit = number.into();
            let frame = Frame {
                header,
                app: AppHeader::new(),
                body: crate::transport::Body::Empty,
            };
            let _ = deliver(&mut b, FAR, &frame);
        }
    }
    a.send(Time(0), at, message(1, false)).unwrap();
    b.broken(Time(0), FAR);
    a.broken(Time(0), NEAR);
    assert!(!a.is_drained());
}

#[test]
fn an_unreachable_peer_is_dead_after_the_named_time_only() {
    let (mut a, b) = (port(1, 7), port(2, 7));
    a.learn(Time(0), &b.contact());
    let stream = a.open_fixed(b.id(), 0).unwrap();
    let at = StreamAt {
        peer: b.id(),
        stream,
    };
    a.send(Time(0), at, message(1, true)).unwrap();
    let mut now = Time(0);
    loop {
        while let Some(effect) = a.poll_effect() {
            match effect {
                Effect::Dial { peer, .. } => a.dial_failed(now, peer),
                Effect::Dead { .. } => {
                    assert!(now >= Time(0) + LIMITS.peer_timeout);
                    let error = a.send(now, at, message(1, false));
                    assert!(matches!(error, Err(PortError::Dead { .. })));
                    return;
                }
                _ => {}
            }
        }
        now = a
            .poll_timeout()
            .expect("a peer is missing, so there is a deadline")
            .max(now);
        a.handle_timeout(now);
    }
}

//! What the simulator does not do: lie, forge, and talk nonsense.

mod setup;
mod streams;

use std::hash::{DefaultHasher, Hasher};

use super::*;
use crate::location::{Card, TransportKind};
use crate::transport::{Frame, Slice};
use crate::wire::{FrameHeader, Violation};

const LIMITS: Limits = Limits {
    eager_bytes: 1024,
    window_bytes: 64 * 1024,
    retained_bytes: 1 << 20,
    peer_timeout: Duration::from_secs(10),
};

fn port(id: u128, key: u8) -> Port {
    let mut port = suspended(id, key);
    port.attach(Time(0), Epoch(0), location(id as u8));
    port
}

/// A place whose card tells it from others.
fn location(card: u8) -> Location {
    let card = Card {
        transport: TransportKind::Sim,
        bytes: vec![card],
    };
    Location {
        cards: vec![card],
        ..Location::default()
    }
}

fn suspended(id: u128, key: u8) -> Port {
    Port::new(Config {
        id: PortId(id),
        key: Key([key; 32]),
        limits: LIMITS,
        seed: [id as u8; 32],
    })
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
    let mut other = port.clone();
    let at_once = other.message_at_once(Time(0), link, &frame.header);
    port.frame_begin(link, &frame.header)?;
    let arrival = port.frame_complete(Time(0), link, &frame.header, &frame.app, &own)?;
    if let Some(at) = at_once {
        let seq = Seq(frame.header.seq.get());
        assert_eq!(arrival, Arrival::Message { at, seq });
        assert_same(port.clone(), other);
    }
    Ok(arrival)
}

/// That two ports will do the same.
fn assert_same(mut one: Port, mut other: Port) {
    let effects =
        |port: &mut Port| -> Vec<Effect> { std::iter::from_fn(|| port.poll_effect()).collect() };
    assert_eq!(effects(&mut one), effects(&mut other));
    assert_eq!(one.retained_bytes(), other.retained_bytes());
    let fingerprint = |port: &Port| {
        let mut hasher = DefaultHasher::new();
        port.fingerprint(Time(0), &mut hasher);
        hasher.finish()
    };
    assert_eq!(fingerprint(&one), fingerprint(&other));
}

/// Tells a port of a peer, and gives it something to send there.
fn owe(port: &mut Port, peer: &Contact, message: Message) -> StreamAt {
    port.learn(Time(0), peer);
    let stream = port.open_fixed(peer.port, 0).unwrap();
    let at = StreamAt {
        peer: peer.port,
        stream,
    };
    port.send(Time(0), at, message).unwrap();
    at
}

fn pair() -> (Port, Port, StreamAt) {
    let (mut a, mut b) = (port(1, 7), port(2, 7));
    let at = owe(&mut a, &b.contact(), message(0, false));
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
        copied: false,
        synchronous,
    }
}

/// No frame of an honest peer's kind, out of place, is more than the end of its link. `[R2]`
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

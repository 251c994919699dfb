//! The decoder of frames, and of what sets a link up: headers of every kind, and bodies from someone who knows no key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meander_core::port::{Config, Effect, Port};
use meander_core::transport::Place;
use meander_core::wire::{AppHeader, FrameHeader, FrameKind, HEADER_BYTES};
use meander_core::{
    Card, Epoch, Key, Limits, LinkId, Location, PortId, StreamKind, Time, TransportKind, limits,
};

const LINK: LinkId = LinkId(1);

// The first byte says how far the link has come; then a frame.
fuzz_target!(|bytes: &[u8]| {
    let Some((stage, rest)) = bytes.split_first() else {
        return;
    };
    let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else {
        return;
    };
    let Ok(header) = FrameHeader::parse(header) else {
        return;
    };
    assert_eq!(FrameHeader::parse(&header.to_bytes()), Ok(header));
    let app_len = usize::from(header.app_len).min(rest.len());
    let (app, body) = rest.split_at(app_len);
    let app = AppHeader::try_from(app).expect("the header was checked");
    // The transport would wait for the rest.
    let body = &body[..body.len().min(header.body_bytes())];
    let (mut port, far) = at_stage(*stage);
    let kind = header.frame_kind().expect("the header was checked");
    match port.frame_begin(LINK, &header) {
        Ok(place) => assert_eq!(place, Place::Whole, "a place in nobody's buffer"),
        Err(_) => {
            assert!(!kind.is_setup(), "a set-up frame refused by its header");
            return;
        }
    }
    assert!(
        kind.is_setup(),
        "a stranger may say what sets a link up, no more"
    );
    assert!(body.len() <= limits::SETUP_BODY_BYTES);
    let _ = port.frame_complete(Time(1), LINK, &header, &app, body);
    assert!(!port.is_linked(far), "linked without the key [R3]");
    while port.poll_transmit(LINK).is_some() {}
    port.handle_timeout(Time(0) + limits::SETUP_TIMEOUT);
    let effects = std::iter::from_fn(|| port.poll_effect());
    assert!(effects.into_iter().any(|it| it == Effect::Close(LINK)) || *stage % 3 == 1);
});

/// A port with a link to a stranger: silent, or dialled and greeted, or challenged.
fn at_stage(stage: u8) -> (Port, PortId) {
    let location = |card: u8| Location {
        cards: vec![Card {
            transport: TransportKind::Sim,
            bytes: vec![card],
        }],
        ..Location::default()
    };
    let port = |id: u8, key: u8| {
        let mut port = Port::new(Config {
            id: PortId(id.into()),
            key: Key([key; 32]),
            limits: Limits::default(),
            seed: [id; 32],
        });
        port.attach(Time(0), Epoch(0), location(id));
        port
    };
    let (mut near, mut far) = (port(1, 7), port(2, 8));
    if stage % 3 == 1 {
        near.learn(Time(0), &far.contact());
        near.open(Time(0), far.id(), 0, StreamKind::Messages)
            .expect("it was learnt");
        while near.poll_effect().is_some() {}
        near.dialled(Time(0), far.id(), LINK);
        near.connected(LINK);
        near.poll_transmit(LINK);
        return (near, far.id());
    }
    near.accepted(Time(0), LINK);
    if stage % 3 == 2 {
        far.learn(Time(0), &near.contact());
        far.open(Time(0), near.id(), 0, StreamKind::Messages)
            .expect("it was learnt");
        while far.poll_effect().is_some() {}
        far.dialled(Time(0), near.id(), LINK);
        far.connected(LINK);
        let hello = far.poll_transmit(LINK).expect("a dialler greets");
        assert_eq!(hello.header.kind, FrameKind::Hello as u8);
        let meander_core::transport::Body::Own(body) = &hello.body else {
            panic!("a hello without a body");
        };
        near.frame_complete(Time(0), LINK, &hello.header, &hello.app, body)
            .expect("an honest hello");
    }
    (near, far.id())
}

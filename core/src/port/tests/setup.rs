//! Links are set up, proved, replaced and refused.

use super::*;
use crate::transport::Body;

/// The key is proved, in both directions. `[R3]`
#[test]
fn another_key_is_refused() {
    let (mut a, mut b) = (port(1, 7), port(2, 8));
    owe(&mut a, &b.contact(), message(1, false));
    dial(&mut a, &mut b);
    assert_eq!(converse(&mut a, &mut b), Err(Violation::Proof));
}

/// `[R6]`
#[test]
fn a_stale_epoch_is_not_believed() {
    let (mut a, mut b) = (port(1, 7), port(2, 7));
    let mut newer = b.contact();
    newer.epoch = Epoch(3);
    owe(&mut a, &newer, message(1, false));
    dial(&mut a, &mut b);
    assert_eq!(converse(&mut a, &mut b), Err(Violation::StaleEpoch(0)));
}

/// A proof is good for one challenge. `[R3]`
#[test]
fn a_replayed_proof_is_worth_nothing() {
    let (mut a, mut b) = (port(1, 7), port(2, 7));
    owe(&mut a, &b.contact(), message(1, false));
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

/// `[R8]` `[R9]`
#[test]
fn an_unreachable_peer_is_dead_after_the_named_time_only() {
    let (mut a, b) = (port(1, 7), port(2, 7));
    let at = owe(&mut a, &b.contact(), message(1, true));
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

fn wants(port: &mut Port) -> Vec<Effect> {
    std::iter::from_fn(|| port.poll_effect()).collect()
}

/// `a` has something for `b`, which it has heard of.
fn strangers() -> (Port, Port) {
    let (mut a, b) = (port(1, 7), port(2, 7));
    owe(&mut a, &b.contact(), message(1, false));
    (a, b)
}

/// What is said in a hello is nothing to anybody until it has been proved; and who does not prove
/// it in time is gone. `[R3]`
#[test]
fn nothing_is_believed_of_a_stranger_and_his_time_is_short() {
    let (mut a, mut b) = strangers();
    dial(&mut a, &mut b);
    let hello = a.poll_transmit(NEAR).unwrap();
    deliver(&mut b, FAR, &hello).unwrap();
    assert_eq!(b.contact_of(a.id()), None);
    assert!(!b.is_linked(a.id()));
    let due = b.poll_timeout().unwrap();
    assert_eq!(due, Time(0) + limits::SETUP_TIMEOUT);
    b.handle_timeout(due);
    assert_eq!(wants(&mut b), [Effect::Close(FAR)]);
    assert!(deliver(&mut b, FAR, &hello).is_err());
}

/// A flood of connections costs a bounded number of links, and keeps nobody out who knows the key:
/// it is the oldest stranger who makes way. `[R41]`
#[test]
fn a_flood_of_strangers_is_bounded_and_does_not_keep_friends_out() {
    let (mut a, mut b) = strangers();
    let flood = |b: &mut Port, from: u64, count: usize| {
        for number in from..from + count as u64 {
            b.accepted(Time(number), LinkId(number));
        }
        wants(b).len()
    };
    assert_eq!(flood(&mut b, 1000, limits::UNPROVED_LINKS), 0);
    assert_eq!(flood(&mut b, 2000, 100), 100, "each takes another's place");
    assert!(wants(&mut a).len() == 1);
    a.dialled(Time(0), b.id(), NEAR);
    a.connected(NEAR);
    b.accepted(Time(3000), FAR);
    let hello = a.poll_transmit(NEAR).unwrap();
    deliver(&mut b, FAR, &hello).unwrap();
    flood(&mut b, 4000, limits::UNPROVED_LINKS - 1);
    converse(&mut a, &mut b).unwrap();
    assert!(b.is_linked(a.id()));
    flood(&mut b, 5000, 3 * limits::UNPROVED_LINKS);
    assert!(b.is_linked(a.id()), "a proved link makes way for nobody");
    assert_eq!(b.links.len(), limits::UNPROVED_LINKS + 1);
}

/// Before it has proved itself a link takes set-up frames only; a header is enough to end it, so
/// that nothing is stored of a body, however long it claims to be. `[R41]`
#[test]
fn a_stranger_can_only_say_what_sets_a_link_up() {
    let mut b = port(2, 7);
    b.accepted(Time(0), FAR);
    for kind in FrameKind::ALL {
        let begun = b.frame_begin(FAR, &FrameHeader::new(*kind));
        assert_eq!(begun.is_ok(), kind.is_setup(), "{kind:?}");
    }
    let mut header = FrameHeader::new(FrameKind::Hello);
    header.body_len = (limits::SETUP_BODY_BYTES as u32 + 1).into();
    assert!(FrameHeader::parse(&header.to_bytes()).is_err());
}

/// A challenge said back to its maker proves nothing: the two sides' proofs differ. `[R3]`
#[test]
fn our_own_challenge_reflected_is_worth_nothing() {
    let (mut a, mut b) = strangers();
    dial(&mut a, &mut b);
    let hello = a.poll_transmit(NEAR).unwrap();
    deliver(&mut b, FAR, &hello).unwrap();
    let challenge = b.poll_transmit(FAR).unwrap();
    let Body::Own(said) = &challenge.body else {
        panic!("a challenge without a body")
    };
    let proof = said[said.len() - limits::PROOF_BYTES..].to_vec();
    let mut header = FrameHeader::new(FrameKind::Prove);
    header.body_len = (proof.len() as u32).into();
    let reflected = Frame {
        header,
        app: AppHeader::new(),
        body: Body::Own(proof),
    };
    assert_eq!(deliver(&mut b, FAR, &reflected), Err(Violation::Proof));
    assert!(!b.is_linked(a.id()));
}

/// Somebody listens where `b` was, and passes on what `a` says to where `b` is now. `[R42]`
#[test]
fn who_has_taken_over_an_old_address_can_not_pass_a_set_up_on() {
    let (mut a, mut b) = strangers();
    b.suspend();
    b.attach(Time(0), Epoch(1), location(9));
    // The relay is perfect: it changes nothing. Still the card that was dialled is not b's.
    dial(&mut a, &mut b);
    assert_eq!(converse(&mut a, &mut b), Err(Violation::Elsewhere));
    assert!(!b.is_linked(a.id()));
}

/// Of two ports that dial at once the lower one's attempt goes first. `[R7]`
#[test]
fn when_both_dial_the_lower_address_goes_first() {
    let (mut a, mut b) = strangers();
    owe(&mut b, &a.contact(), message(1, false));
    dial(&mut a, &mut b);
    // b's own attempt, by other numbers.
    let (theirs, ours) = (LinkId(11), LinkId(12));
    assert!(matches!(wants(&mut b)[..], [Effect::Dial { .. }]));
    b.dialled(Time(0), a.id(), theirs);
    b.connected(theirs);
    a.accepted(Time(0), ours);
    let carry = |from: &mut Port, link, to: &mut Port, other| {
        let frame = from.poll_transmit(link).unwrap();
        deliver(to, other, &frame).unwrap();
    };
    carry(&mut b, theirs, &mut a, ours);
    carry(&mut a, ours, &mut b, theirs);
    carry(&mut a, NEAR, &mut b, FAR);
    carry(&mut b, FAR, &mut a, NEAR);
    // Both have been challenged. a has sent its proof, and refuses b's.
    carry(&mut b, theirs, &mut a, ours);
    carry(&mut a, ours, &mut b, theirs);
    assert!(!a.is_linked(b.id()));
    assert!(wants(&mut b).contains(&Effect::Close(theirs)));
    converse(&mut a, &mut b).unwrap();
    assert!(a.is_linked(b.id()) && b.is_linked(a.id()));
}

/// `[R8]`
#[test]
fn attempts_to_dial_come_further_and_further_apart() {
    let (mut a, b) = strangers();
    let (mut now, mut dialled, mut asked) = (Time(0), Vec::new(), 0);
    while dialled.len() < 12 {
        for effect in wants(&mut a) {
            match effect {
                Effect::Dial { peer, .. } => {
                    dialled.push(now);
                    a.dial_failed(now, peer);
                }
                Effect::Ask(peer) => {
                    assert_eq!(peer, b.id());
                    assert!(dialled.len() >= 2);
                    asked += 1;
                }
                _ => {}
            }
        }
        if let Some(due) = a.poll_timeout() {
            now = due.max(now);
            a.handle_timeout(now);
        }
    }
    let apart: Vec<u128> = dialled
        .windows(2)
        .map(|pair| pair[1].since(pair[0]).as_millis())
        .collect();
    assert_eq!(apart, [0, 5, 10, 20, 40, 80, 160, 320, 500, 500, 500]);
    assert_eq!(asked, 10, "from the second failure on, with every attempt");
}

/// A port that was moved tells those it knows, and they go on where they were. `[R5]` `[R4]`
#[test]
fn who_attaches_dials_everyone_it_has_met() {
    let (mut a, mut b, at) = pair();
    b.suspend();
    assert_eq!(wants(&mut b).last(), Some(&Effect::Close(FAR)));
    a.broken(Time(0), NEAR);
    a.send(Time(0), at, message(1, false)).unwrap();
    let mut b = Port::from_snapshot(b.snapshot(), [9; 32]);
    b.attach(Time(0), Epoch(1), location(9));
    assert!(matches!(wants(&mut b)[..], [Effect::Dial { peer, .. }] if peer == a.id()));
    b.dialled(Time(0), a.id(), FAR);
    b.connected(FAR);
    a.accepted(Time(0), NEAR);
    let [_, at_b] = converse(&mut a, &mut b).unwrap();
    assert!(at_b.iter().any(|it| matches!(it, Arrival::Message { .. })));
    assert_eq!(a.contact_of(b.id()).unwrap().epoch, Epoch(1));
}

/// A new link replaces the old one, which is closed before anything is said on the new one. `[R20]`
#[test]
fn the_old_link_is_closed_before_the_new_one_resumes() {
    let (mut a, mut b, _) = pair();
    // a's end of the link breaks; b has not noticed.
    a.broken(Time(0), NEAR);
    let stream = a.open_fixed(b.id(), 0).unwrap();
    let at = StreamAt {
        peer: b.id(),
        stream,
    };
    a.send(Time(0), at, message(1, false)).unwrap();
    let second = LinkId(21);
    wants(&mut a);
    wants(&mut b);
    a.dialled(Time(0), b.id(), NEAR);
    a.connected(NEAR);
    b.accepted(Time(0), second);
    for _ in 0..2 {
        let frame = a.poll_transmit(NEAR).unwrap();
        assert_eq!(wants(&mut b), []);
        deliver(&mut b, second, &frame).unwrap();
        if let Some(frame) = b.poll_transmit(second).filter(|it| it.header.kind == 2) {
            deliver(&mut a, NEAR, &frame).unwrap();
        }
    }
    assert_eq!(wants(&mut b), [Effect::Close(FAR)]);
    let resumed: Vec<u8> =
        std::iter::from_fn(|| b.poll_transmit(second).map(|it| it.header.kind)).collect();
    let [resume, end] = [FrameKind::Resume as u8, FrameKind::Resumed as u8];
    assert!(resumed.ends_with(&[resume, end]), "{resumed:?}");
}

/// A link that is to take over from the one there is: the number each side knows it by.
const BETTER: LinkId = LinkId(11);
const BETTER_FAR: LinkId = LinkId(12);

/// `a` tries for a better link to `b`, whose transport connects it.
fn improve(a: &mut Port, b: &mut Port) {
    assert!(a.improve(b.id()));
    assert!(!a.improve(b.id()), "one attempt at a time");
    let wish = wants(a);
    assert!(matches!(&wish[..], [Effect::Dial { .. }]), "{wish:?}");
    a.dialled(Time(0), b.id(), BETTER);
    a.connected(BETTER);
    b.accepted(Time(0), BETTER_FAR);
}

/// Carries set-up frames on the better link until neither side has any.
fn set_up(a: &mut Port, b: &mut Port) {
    loop {
        let (to_b, to_a) = (a.poll_transmit(BETTER), b.poll_transmit(BETTER_FAR));
        if to_a.is_none() && to_b.is_none() {
            return;
        }
        if let Some(frame) = to_b {
            deliver(b, BETTER_FAR, &frame).unwrap();
        }
        if let Some(frame) = to_a {
            deliver(a, BETTER, &frame).unwrap();
        }
    }
}

/// `[R45]`
#[test]
fn a_better_link_takes_over_what_the_old_one_carried() {
    let (mut a, mut b, at) = pair();
    wants(&mut a);
    wants(&mut b);
    improve(&mut a, &mut b);
    a.send(Time(0), at, message(5, false)).unwrap();
    assert!(a.poll_transmit(NEAR).is_some(), "the old link goes on");
    set_up(&mut a, &mut b);
    assert!(wants(&mut a).contains(&Effect::Close(NEAR)));
    assert!(wants(&mut b).contains(&Effect::Close(FAR)));
    assert!(a.is_linked(b.id()) && b.is_linked(a.id()));
    b.solicit();
    a.solicit();
    set_up(&mut a, &mut b);
    assert!(a.is_drained(), "what the old link lost came by the new one");
}

/// `[R45]`
#[test]
fn an_attempt_at_a_better_link_that_fails_changes_nothing() {
    let (mut a, mut b, at) = pair();
    wants(&mut a);
    improve(&mut a, &mut b);
    a.broken(Time(0), BETTER);
    assert_eq!(wants(&mut a), []);
    assert!(a.is_linked(b.id()));
    assert!(a.improve(b.id()), "it may be tried again");
    wants(&mut a);
    a.dial_failed(Time(0), b.id());
    a.send(Time(0), at, message(5, false)).unwrap();
    let [_, got] = converse(&mut a, &mut b).unwrap();
    assert!(matches!(got[..], [Arrival::Message { .. }]), "{got:?}");
}

/// The old link breaks while the better one is being set up: the streams wait for that, and if it
/// fails too, the peer is dialled as ever. `[R45]`
#[test]
fn an_old_link_may_break_under_an_attempt_at_a_better_one() {
    let (mut a, mut b, at) = pair();
    wants(&mut a);
    improve(&mut a, &mut b);
    a.broken(Time(0), NEAR);
    a.send(Time(0), at, message(5, false)).unwrap();
    assert_eq!(wants(&mut a), [], "no second attempt");
    a.broken(Time(0), BETTER);
    let wish = wants(&mut a);
    assert!(matches!(&wish[..], [Effect::Dial { .. }]), "{wish:?}");
}

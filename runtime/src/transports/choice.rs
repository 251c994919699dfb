//! Which way to a peer is tried when: the best one, unless it has just failed.

use std::collections::HashMap;
use std::time::Duration;

use meander_core::{Card, PortId, Time, TransportKind};

/// What is remembered of ways that have failed.
#[derive(Debug, Default)]
pub(super) struct Choice {
    troubles: HashMap<(PortId, TransportKind), Trouble>,
}

/// A way to a peer that has failed.
#[derive(Debug)]
struct Trouble {
    /// With this card; the peer's next one is another way.
    card: Card,
    /// When it may be tried again, and how long the next failure puts that off.
    not_before: Time,
    pause: Duration,
    /// Since when a link by it is up.
    up_since: Option<Time>,
}

/// How long the reason lasts that a way has failed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasts {
    /// It may work again soon.
    AWhile,
    /// With this card it leads nowhere from here: who moves, or is attached anew, has another.
    AsLongAsTheCard,
}

/// When a way is tried again that leads nowhere.
const NEVER: Time = Time(u64::MAX);

/// How long a way that has failed is left alone: at first, and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A link that was up for so long shows that its way was good again.
const GOOD_AFTER: Duration = Duration::from_secs(10);

impl Choice {
    /// The ways to a peer in the order to try them: those without trouble as they are given, best
    /// first; if there is none, the last one, for something must be tried.
    pub fn in_order<'a, T: Copy>(
        &self,
        now: Time,
        peer: PortId,
        ways: &[(T, &'a Card)],
    ) -> Vec<(T, &'a Card)> {
        let good = ways.iter().filter(|(_, card)| self.due(peer, card) <= now);
        let mut good: Vec<_> = good.copied().collect();
        if good.is_empty() {
            good.extend(ways.last());
        }
        good
    }

    /// When the first of these ways may be tried, if any of them leads anywhere.
    pub fn next_try<T>(&self, now: Time, peer: PortId, ways: &[(T, &Card)]) -> Option<Time> {
        let due = ways.iter().map(|(_, card)| self.due(peer, card));
        due.filter(|due| *due != NEVER)
            .map(|due| due.max(now))
            .min()
    }

    /// A way failed: to dial, or a link by it broke.
    pub fn failed(&mut self, now: Time, peer: PortId, card: &Card, lasts: Lasts) {
        let trouble = self.troubles.entry((peer, card.transport));
        let trouble = trouble.or_insert_with(|| Trouble::new(card));
        let was_good = trouble
            .up_since
            .is_some_and(|since| now.since(since) >= GOOD_AFTER);
        if was_good || trouble.card != *card {
            *trouble = Trouble::new(card);
        }
        trouble.not_before = match lasts {
            Lasts::AWhile => now + trouble.pause,
            Lasts::AsLongAsTheCard => NEVER,
        };
        trouble.pause = (trouble.pause * 2).min(PAUSE_MAX);
        trouble.up_since = None;
    }

    /// A link by this way is up.
    pub fn connected(&mut self, now: Time, peer: PortId, card: &Card) {
        if let Some(trouble) = self.troubles.get_mut(&(peer, card.transport)) {
            trouble.up_since = Some(now);
        }
    }

    /// Forgets what is known of a peer that is gone.
    pub fn forget(&mut self, peer: PortId) {
        self.troubles.retain(|(of, _), _| *of != peer);
    }

    fn due(&self, peer: PortId, card: &Card) -> Time {
        let trouble = self.troubles.get(&(peer, card.transport));
        let trouble = trouble.filter(|trouble| trouble.card == *card);
        trouble.map_or(Time(0), |trouble| trouble.not_before)
    }
}

impl Trouble {
    fn new(card: &Card) -> Trouble {
        Trouble {
            card: card.clone(),
            not_before: Time(0),
            pause: PAUSE_FIRST,
            up_since: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PortId = PortId(7);
    const START: Time = Time(1_000_000_000);

    fn card(transport: TransportKind, number: u8) -> Card {
        Card {
            transport,
            bytes: vec![number],
        }
    }

    #[test]
    fn the_best_way_comes_first_and_again_when_its_pause_is_over() {
        let mut choice = Choice::default();
        let (verbs, tcp) = (card(TransportKind::Verbs, 1), card(TransportKind::Tcp, 1));
        let ways = [(1, &verbs), (0, &tcp)];
        assert_eq!(choice.in_order(START, PEER, &ways), ways);
        choice.failed(START, PEER, &verbs, Lasts::AWhile);
        assert_eq!(choice.in_order(START, PEER, &ways), [ways[1]]);
        assert_eq!(choice.in_order(START, PortId(8), &ways), ways);
        assert_eq!(
            choice.next_try(START, PEER, &ways[..1]),
            Some(START + PAUSE_FIRST)
        );
        assert_eq!(choice.in_order(START + PAUSE_FIRST, PEER, &ways), ways);
    }

    #[test]
    fn pauses_grow_up_to_their_bound_and_begin_anew_after_a_link_that_held() {
        let mut choice = Choice::default();
        let verbs = card(TransportKind::Verbs, 1);
        let mut now = START;
        let pause = |choice: &Choice, now: Time| choice.due(PEER, &verbs).since(now);
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            choice.failed(now, PEER, &verbs, Lasts::AWhile);
            assert!(pause(&choice, now) >= last);
            last = pause(&choice, now);
            now = now + last;
        }
        assert_eq!(last, PAUSE_MAX);
        choice.connected(now, PEER, &verbs);
        choice.failed(now + GOOD_AFTER / 2, PEER, &verbs, Lasts::AWhile);
        assert_eq!(pause(&choice, now + GOOD_AFTER / 2), PAUSE_MAX);
        choice.connected(now, PEER, &verbs);
        choice.failed(now + GOOD_AFTER, PEER, &verbs, Lasts::AWhile);
        assert_eq!(pause(&choice, now + GOOD_AFTER), PAUSE_FIRST);
    }

    #[test]
    fn another_card_is_another_way_and_something_is_always_tried() {
        let mut choice = Choice::default();
        let (old, new) = (card(TransportKind::Verbs, 1), card(TransportKind::Verbs, 2));
        choice.failed(START, PEER, &old, Lasts::AWhile);
        assert_eq!(choice.in_order(START, PEER, &[(1, &new)]), [(1, &new)]);
        assert_eq!(choice.in_order(START, PEER, &[(1, &old)]), [(1, &old)]);
        choice.forget(PEER);
        assert_eq!(choice.next_try(START, PEER, &[(1, &old)]), Some(START));
    }

    #[test]
    fn a_way_that_leads_nowhere_is_tried_again_only_with_another_card() {
        let mut choice = Choice::default();
        let (old, new) = (card(TransportKind::Shm, 1), card(TransportKind::Shm, 2));
        let tcp = card(TransportKind::Tcp, 1);
        let late = START + Duration::from_secs(1_000_000);
        choice.failed(START, PEER, &old, Lasts::AsLongAsTheCard);
        assert_eq!(
            choice.in_order(late, PEER, &[(1, &old), (0, &tcp)]),
            [(0, &tcp)]
        );
        assert_eq!(choice.next_try(late, PEER, &[(1, &old)]), None);
        assert_eq!(choice.next_try(late, PEER, &[(1, &new)]), Some(late));
        choice.failed(late, PEER, &new, Lasts::AWhile);
        assert_eq!(
            choice.next_try(late, PEER, &[(1, &new)]),
            Some(late + PAUSE_FIRST)
        );
    }
}

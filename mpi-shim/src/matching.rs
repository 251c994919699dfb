//! Which message meets which receive (MPI 3.1, sections 3.2.4 and 3.5).
//!
//! A receive takes the earliest message it fits, a message the earliest receive that fits it;
//! "earliest" is the order of [`Matcher::post`] and [`Matcher::arrive`] calls. The matcher is
//! pure: `R` stands for a receive and `M` for a message's body, whatever they are.
//!
//! Each context keeps two ordered sets. Messages nobody has asked for lie in one queue for each
//! (source, tag), with an index by arrival for wildcards; receives that name both lie in one queue
//! for each (source, tag), those with a wildcard in a list. So the flood of one sender and the
//! exact receive cost the same however many there are.

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;

use crate::envelope::{Context, Envelope};

/// What a receive or probe asks for; `None` is the wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The half of a communicator.
    pub context: Context,
    /// The sender's rank there.
    pub source: Option<u32>,
    /// The tag.
    pub tag: Option<i32>,
}

impl Pattern {
    /// Whether a message with `envelope` fits.
    pub fn fits(&self, envelope: &Envelope) -> bool {
        self.context == envelope.context
            && self.source.is_none_or(|source| source == envelope.source)
            && self.tag.is_none_or(|tag| tag == envelope.tag)
    }

    fn exact(&self) -> Option<Bin> {
        Some((self.source?, self.tag?))
    }
}

/// Receives without a message and messages without a receive.
pub struct Matcher<R, M> {
    contexts: FxHashMap<Context, Half<R, M>>,
    unexpected: usize,
}

impl<R: Copy + PartialEq, M> Matcher<R, M> {
    /// An empty one.
    pub fn new() -> Matcher<R, M> {
        Matcher {
            contexts: FxHashMap::default(),
            unexpected: 0,
        }
    }

    /// A receive is posted: it takes the earliest message that fits, or waits.
    pub fn post(&mut self, pattern: Pattern, receive: R) -> Option<(Envelope, M)> {
        if let Some(found) = self.take(pattern) {
            return Some(found);
        }
        let half = self.contexts.entry(pattern.context).or_default();
        let order = half.next_posted;
        half.next_posted += 1;
        match pattern.exact() {
            Some(bin) => half
                .exact
                .entry(bin)
                .or_default()
                .push_back((order, receive)),
            None => half.wild.push_back((order, pattern, receive)),
        }
        None
    }

    /// A message arrives: the earliest receive that fits, which waits no longer.
    pub fn arrive(&mut self, envelope: &Envelope) -> Option<R> {
        let half = self.contexts.get_mut(&envelope.context)?;
        let bin = (envelope.source, envelope.tag);
        let exact = half
            .exact
            .get(&bin)
            .and_then(|queue| queue.front())
            .map(|first| first.0);
        let wild = half
            .wild
            .iter()
            .position(|(_, pattern, _)| pattern.fits(envelope));
        let wild_first = match (exact, wild) {
            (None, None) => return None,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(exact), Some(wild)) => half.wild[wild].0 < exact,
        };
        if wild_first {
            return wild
                .and_then(|at| half.wild.remove(at))
                .map(|(.., receive)| receive);
        }
        let queue = half.exact.get_mut(&bin)?;
        let receive = queue.pop_front().map(|(_, receive)| receive);
        if queue.is_empty() {
            half.exact.remove(&bin);
        }
        receive
    }

    /// Keeps a message for which [`Matcher::arrive`] found no receive.
    pub fn keep(&mut self, envelope: Envelope, message: M) {
        let half = self.contexts.entry(envelope.context).or_default();
        let order = half.next_arrival;
        half.next_arrival += 1;
        let bin = (envelope.source, envelope.tag);
        half.messages
            .entry(bin)
            .or_default()
            .push_back((order, message));
        half.arrivals.insert(order, bin);
        self.unexpected += 1;
    }

    /// The message that a receive with this pattern would take; it stays.
    pub fn probe(&self, pattern: Pattern) -> Option<(Envelope, &M)> {
        let half = self.contexts.get(&pattern.context)?;
        let bin = half.find(pattern)?;
        let (_, message) = half.messages.get(&bin)?.front()?;
        Some((envelope(pattern.context, bin), message))
    }

    /// Takes the earliest message that fits.
    pub fn take(&mut self, pattern: Pattern) -> Option<(Envelope, M)> {
        let half = self.contexts.get_mut(&pattern.context)?;
        let bin = half.find(pattern)?;
        let queue = half.messages.get_mut(&bin)?;
        let (order, message) = queue.pop_front()?;
        if queue.is_empty() {
            half.messages.remove(&bin);
        }
        half.arrivals.remove(&order);
        self.unexpected -= 1;
        Some((envelope(pattern.context, bin), message))
    }

    /// Withdraws a receive; false if it does not wait (any more).
    pub fn withdraw(&mut self, pattern: Pattern, receive: R) -> bool {
        let Some(half) = self.contexts.get_mut(&pattern.context) else {
            return false;
        };
        let Some(bin) = pattern.exact() else {
            let at = half
                .wild
                .iter()
                .position(|(.., waiting)| *waiting == receive);
            return at.and_then(|at| half.wild.remove(at)).is_some();
        };
        let Some(queue) = half.exact.get_mut(&bin) else {
            return false;
        };
        let at = queue.iter().position(|(_, waiting)| *waiting == receive);
        let removed = at.and_then(|at| queue.remove(at)).is_some();
        if queue.is_empty() {
            half.exact.remove(&bin);
        }
        removed
    }

    /// Messages that no receive has met.
    #[cfg(test)]
    pub fn unexpected(&self) -> usize {
        self.unexpected
    }
}

type Bin = (u32, i32);

struct Half<R, M> {
    messages: FxHashMap<Bin, VecDeque<(u64, M)>>,
    arrivals: BTreeMap<u64, Bin>,
    next_arrival: u64,
    exact: FxHashMap<Bin, VecDeque<(u64, R)>>,
    wild: VecDeque<(u64, Pattern, R)>,
    next_posted: u64,
}

impl<R, M> Default for Half<R, M> {
    fn default() -> Half<R, M> {
        Half {
            messages: FxHashMap::default(),
            arrivals: BTreeMap::new(),
            next_arrival: 0,
            exact: FxHashMap::default(),
            wild: VecDeque::new(),
            next_posted: 0,
        }
    }
}

impl<R, M> Half<R, M> {
    /// The queue whose front is the earliest message that fits.
    fn find(&self, pattern: Pattern) -> Option<Bin> {
        if let Some(bin) = pattern.exact() {
            return self.messages.contains_key(&bin).then_some(bin);
        }
        let fits = |bin: &&Bin| pattern.fits(&envelope(pattern.context, **bin));
        self.arrivals.values().find(fits).copied()
    }
}

fn envelope(context: Context, (source, tag): Bin) -> Envelope {
    Envelope {
        context,
        source,
        tag,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule itself: two lists, searched from the front.
    #[derive(Default)]
    struct Naive {
        posted: Vec<(Pattern, u32)>,
        messages: Vec<(Envelope, u32)>,
    }

    impl Naive {
        fn post(&mut self, pattern: Pattern, receive: u32) -> Option<(Envelope, u32)> {
            let at = self
                .messages
                .iter()
                .position(|(envelope, _)| pattern.fits(envelope));
            match at {
                Some(at) => Some(self.messages.remove(at)),
                None => {
                    self.posted.push((pattern, receive));
                    None
                }
            }
        }

        fn arrive(&mut self, envelope: Envelope, message: u32) -> Option<u32> {
            let at = self
                .posted
                .iter()
                .position(|(pattern, _)| pattern.fits(&envelope));
            match at {
                Some(at) => Some(self.posted.remove(at).1),
                None => {
                    self.messages.push((envelope, message));
                    None
                }
            }
        }

        fn withdraw(&mut self, receive: u32) -> bool {
            let before = self.posted.len();
            self.posted.retain(|(_, waiting)| *waiting != receive);
            self.posted.len() != before
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Post(Pattern),
        Arrive(Envelope),
        Withdraw(u32),
        Probe(Pattern),
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        let source = prop::option::weighted(0.7, 0..3u32);
        let tag = prop::option::weighted(0.7, 0..3i32);
        (0..2u32, source, tag).prop_map(|(context, source, tag)| Pattern {
            context: Context(context),
            source,
            tag,
        })
    }

    fn arrival() -> impl Strategy<Value = Envelope> {
        (0..2u32, 0..3u32, 0..3i32).prop_map(|(context, source, tag)| Envelope {
            context: Context(context),
            source,
            tag,
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => pattern().prop_map(Step::Post),
            4 => arrival().prop_map(Step::Arrive),
            1 => (0..60u32).prop_map(Step::Withdraw),
            1 => pattern().prop_map(Step::Probe),
        ]
    }

    proptest! {
        #[test]
        fn matching_is_what_two_plain_lists_would_do(steps in prop::collection::vec(step(), 0..200)) {
            let mut naive = Naive::default();
            let mut matcher = Matcher::<u32, u32>::new();
            let mut patterns = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let number = number as u32;
                match step {
                    Step::Post(pattern) => {
                        let receive = patterns.len() as u32;
                        patterns.push(pattern);
                        prop_assert_eq!(matcher.post(pattern, receive), naive.post(pattern, receive));
                    }
                    Step::Arrive(envelope) => {
                        let found = matcher.arrive(&envelope);
                        if found.is_none() {
                            matcher.keep(envelope, number);
                        }
                        prop_assert_eq!(found, naive.arrive(envelope, number));
                    }
                    Step::Withdraw(receive) => {
                        if let Some(pattern) = patterns.get(receive as usize) {
                            prop_assert_eq!(matcher.withdraw(*pattern, receive), naive.withdraw(receive));
                        }
                    }
                    Step::Probe(pattern) => {
                        let found = matcher.probe(pattern).map(|(envelope, message)| (envelope, *message));
                        let wanted = naive.messages.iter().find(|(envelope, _)| pattern.fits(envelope));
                        prop_assert_eq!(found, wanted.copied());
                    }
                }
                prop_assert_eq!(matcher.unexpected(), naive.messages.len());
            }
        }
    }

    #[test]
    fn a_flood_is_received_in_order() {
        let mut matcher = Matcher::<u32, u32>::new();
        let envelope = envelope(Context(0), (1, 5));
        for number in 0..300_000 {
            assert_eq!(matcher.arrive(&envelope), None);
            matcher.keep(envelope, number);
        }
        let any = Pattern {
            context: Context(0),
            source: None,
            tag: Some(5),
        };
        let exact = Pattern {
            source: Some(1),
            ..any
        };
        for number in 0..300_000 {
            let pattern = if number % 2 == 0 { any } else { exact };
            assert_eq!(matcher.post(pattern, 0), Some((envelope, number)));
        }
        assert_eq!(matcher.unexpected(), 0);
    }
}

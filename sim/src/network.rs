//! Links of the virtual network: frames arrive in order, later, or not at all.

use std::collections::BTreeMap;

use meander_core::port::Port;
use meander_core::transport::Frame;
use meander_core::{LinkId, Time};

/// A frame as it is on the wire: the body is copied out of the sender's memory when it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub at: Time,
    pub frame: Frame,
    pub body: Vec<u8>,
}

/// One side of a link, as the host that owns it numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Side {
    pub host: usize,
    pub link: LinkId,
}

#[derive(Debug)]
struct Wire {
    other: Side,
    /// Frames on their way to this side.
    coming: std::collections::VecDeque<Sent>,
    /// When this side learns that the link is gone.
    broken_at: Option<Time>,
}

/// All links. Both sides of a link have an entry until each has been told of its end.
#[derive(Debug, Default)]
pub(crate) struct Network {
    sides: BTreeMap<Side, Wire>,
    next: u64,
}

/// What a side gets next.
pub(crate) enum Delivery {
    Frame(Sent),
    Broken,
}

impl Network {
    /// A new link between two hosts; returns its two sides.
    pub fn connect(&mut self, from: usize, to: usize) -> (Side, Side) {
        self.next += 2;
        let near = Side {
            host: from,
            link: LinkId(self.next),
        };
        let far = Side {
            host: to,
            link: LinkId(self.next + 1),
        };
        for (side, other) in [(near, far), (far, near)] {
            self.sides.insert(
                side,
                Wire {
                    other,
                    coming: Default::default(),
                    broken_at: None,
                },
            );
        }
        (near, far)
    }

    /// Puts a frame on the wire. A side that is gone swallows it, as a socket does.
    pub fn send(&mut self, from: Side, at: Time, frame: Frame, body: Vec<u8>) {
        let Some(other) = self.sides.get(&from).map(|wire| wire.other) else {
            return;
        };
        let Some(wire) = self.sides.get_mut(&other) else {
            return;
        };
        // Order within a link is the transport's promise.
        let at = wire.coming.back().map_or(at, |last| at.max(last.at));
        if wire.broken_at.is_none() {
            wire.coming.push_back(Sent { at, frame, body });
        }
    }

    /// A side closes: what it has not read is gone; what it sent still arrives, then the end.
    pub fn close(&mut self, side: Side, now: Time) {
        let Some(wire) = self.sides.remove(&side) else {
            return;
        };
        if let Some(other) = self.sides.get_mut(&wire.other) {
            let last = other.coming.back().map_or(now, |sent| sent.at.max(now));
            other.broken_at.get_or_insert(last);
        }
    }

    /// Cuts the link: each side loses all but the first few frames that were on their way.
    pub fn cut(&mut self, side: Side, now: Time, kept: [usize; 2]) {
        let Some(other) = self.sides.get(&side).map(|wire| wire.other) else {
            return;
        };
        for (side, kept) in [side, other].into_iter().zip(kept) {
            if let Some(wire) = self.sides.get_mut(&side) {
                wire.coming.truncate(kept);
                let last = wire.coming.back().map_or(now, |sent| sent.at.max(now));
                wire.broken_at.get_or_insert(last);
            }
        }
    }

    /// Every side there is.
    pub fn sides(&self) -> Vec<Side> {
        self.sides.keys().copied().collect()
    }

    /// When the next thing happens on any link.
    pub fn next_time(&self) -> Option<Time> {
        self.sides.values().filter_map(Wire::next_time).min()
    }

    /// The next delivery that is due, with the side that gets it.
    pub fn poll(&mut self, now: Time) -> Option<(Side, Delivery)> {
        let side = self
            .sides
            .iter()
            .filter(|(_, wire)| wire.next_time().is_some_and(|at| at <= now))
            .map(|(side, _)| *side)
            .next()?;
        let wire = self.sides.get_mut(&side).expect("just seen");
        match wire.coming.pop_front() {
            Some(sent) => Some((side, Delivery::Frame(sent))),
            None => {
                self.sides.remove(&side);
                Some((side, Delivery::Broken))
            }
        }
    }
}

impl Wire {
    fn next_time(&self) -> Option<Time> {
        self.coming.front().map(|sent| sent.at).or(self.broken_at)
    }
}

/// Hands out everything a port wants to transmit.
pub(crate) fn transmit(port: &mut Port, mut take: impl FnMut(LinkId, Frame)) {
    while let Some(link) = port.poll_ready() {
        while let Some(frame) = port.poll_transmit(link) {
            take(link, frame);
        }
    }
}

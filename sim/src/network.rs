//! Links of the virtual network: frames arrive in order, later, or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use meander_core::port::Port;
use meander_core::transport::Frame;
use meander_core::{Epoch, LinkId, Time};

/// A frame as it is on the wire: the body is copied out of the sender's memory when it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub at: Time,
    pub frame: Frame,
    pub body: Vec<u8>,
    /// Only so many thousandths of it come: the link breaks in its middle.
    pub torn: Option<usize>,
    /// The epoch of the process that sent it, when it set up the link.
    pub epoch: Epoch,
}

/// One side of a link, as the process that owns it numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Side {
    pub slot: usize,
    pub link: LinkId,
}

#[derive(Debug)]
struct Wire {
    other: Side,
    /// Frames on their way to this side.
    coming: std::collections::VecDeque<Sent>,
    /// When this side learns that the link is gone.
    broken_at: Option<Time>,
    /// Nothing comes to this side any more, and nobody knows.
    deaf: bool,
    /// Nothing comes before then.
    stalled: Option<Time>,
    /// The epoch of the process at this side.
    epoch: Epoch,
}

/// All links. Both sides of a link have an entry until each has been told of its end.
#[derive(Debug, Default)]
pub(crate) struct Network {
    sides: BTreeMap<Side, Wire>,
    next: u64,
}

/// How one direction of a link is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Frames on their way that still come.
    pub kept: usize,
    /// How many thousandths of the last of them come, if not all.
    pub torn: Option<usize>,
    /// How long the side does not know.
    pub late: Duration,
}

/// What a side gets next.
pub(crate) enum Delivery {
    Frame(Box<Sent>),
    Broken,
}

impl Network {
    /// A new link between two hosts; returns its two sides.
    pub fn connect(&mut self, from: (usize, Epoch), to: (usize, Epoch)) -> (Side, Side) {
        self.next += 2;
        let near = Side {
            slot: from.0,
            link: LinkId(self.next),
        };
        let far = Side {
            slot: to.0,
            link: LinkId(self.next + 1),
        };
        for (side, other, epoch) in [(near, far, from.1), (far, near, to.1)] {
            self.sides.insert(
                side,
                Wire {
                    other,
                    coming: Default::default(),
                    broken_at: None,
                    deaf: false,
                    stalled: None,
                    epoch,
                },
            );
        }
        (near, far)
    }

    /// Puts a frame on the wire. A side that is gone swallows it, as a socket does.
    pub fn send(&mut self, from: Side, at: Time, frame: Frame, body: Vec<u8>) {
        let Some((other, epoch)) = self.sides.get(&from).map(|wire| (wire.other, wire.epoch))
        else {
            return;
        };
        let Some(wire) = self.sides.get_mut(&other) else {
            return;
        };
        // Order within a link is the transport's promise.
        let at = wire.stalled.map_or(at, |until| at.max(until));
        let at = wire.coming.back().map_or(at, |last| at.max(last.at));
        if wire.broken_at.is_none() && !wire.deaf {
            wire.coming.push_back(Sent {
                at,
                frame,
                body,
                torn: None,
                epoch,
            });
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

    /// Cuts the link. Of the frames on their way to each side only the first few still come, the
    /// last of them in part, and the side learns of the end after `late`. Returns whether a frame
    /// was torn.
    pub fn cut(&mut self, side: Side, now: Time, ways: [Cut; 2]) -> bool {
        let Some(other) = self.sides.get(&side).map(|wire| wire.other) else {
            return false;
        };
        let mut torn = false;
        for (side, way) in [side, other].into_iter().zip(ways) {
            let Some(wire) = self.sides.get_mut(&side) else {
                continue;
            };
            wire.coming.truncate(way.kept);
            let mut last = now + way.late;
            if let Some(sent) = wire.coming.back_mut() {
                sent.torn = way.torn;
                torn |= way.torn.is_some();
                last = last.max(sent.at);
            }
            wire.broken_at.get_or_insert(last);
        }
        torn
    }

    /// From now on nothing comes to this side.
    pub fn deafen(&mut self, side: Side) {
        if let Some(wire) = self.sides.get_mut(&side) {
            wire.coming.clear();
            wire.deaf = true;
        }
    }

    /// One side is told that the link is gone; the other is not, and nothing comes to it for a
    /// while: then the link comes back to life there.
    pub fn stall(&mut self, side: Side, now: Time, until: Time) {
        let Some(other) = self.sides.get(&side).map(|wire| wire.other) else {
            return;
        };
        if let Some(wire) = self.sides.get_mut(&other) {
            wire.stalled = Some(until);
            for sent in &mut wire.coming {
                sent.at = sent.at.max(until);
            }
        }
        self.close(side, now);
        if let Some(wire) = self.sides.get_mut(&other) {
            wire.broken_at = wire.broken_at.max(Some(until));
        }
    }

    /// Whether this link was silent for a while.
    pub fn has_stalled(&self, side: Side) -> bool {
        self.sides
            .get(&side)
            .is_some_and(|wire| wire.stalled.is_some())
    }

    /// Whether the same two processes have a later link.
    pub fn has_later(&self, side: Side) -> bool {
        let Some(peer) = self.other_slot(side) else {
            return false;
        };
        let later = Side {
            link: LinkId(side.link.0 + 1),
            ..side
        };
        let end = Side {
            slot: side.slot + 1,
            link: LinkId(0),
        };
        self.sides
            .range(later..end)
            .any(|(_, wire)| wire.other.slot == peer)
    }

    /// The links of a process.
    pub fn sides_of(&self, slot: usize) -> Vec<Side> {
        let first = Side {
            slot,
            link: LinkId(0),
        };
        let end = Side {
            slot: slot + 1,
            ..first
        };
        self.sides
            .range(first..end)
            .map(|(side, _)| *side)
            .collect()
    }

    /// The process at the other end of a link.
    pub fn other_slot(&self, side: Side) -> Option<usize> {
        self.sides.get(&side).map(|wire| wire.other.slot)
    }

    /// Links of which nothing may come to one side.
    pub fn deaf_sides(&self) -> Vec<Side> {
        self.sides
            .iter()
            .filter(|(_, wire)| wire.deaf)
            .map(|(side, _)| *side)
            .collect()
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
            Some(sent) => Some((side, Delivery::Frame(Box::new(sent)))),
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

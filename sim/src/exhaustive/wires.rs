//! Links of the small world: frames in order, then perhaps the end.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use meander_core::LinkId;

use super::process::Sent;

/// One side of a link: a process, and the number it knows the link by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct End {
    pub process: usize,
    pub link: LinkId,
}

#[derive(Clone, Debug)]
struct Wire {
    ends: [End; 2],
    open: [bool; 2],
    /// Frames on their way to each end.
    coming: [VecDeque<Arc<Sent>>; 2],
}

/// What an end may get next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Frame,
    TheEnd,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Wires(Vec<Wire>);

impl Wires {
    /// A new link; each side numbers it with the first number that it does not use.
    pub fn connect(&mut self, from: usize, to: usize) -> [End; 2] {
        let ends = [from, to].map(|process| End {
            process,
            link: self.free(process),
        });
        self.0.push(Wire {
            ends,
            open: [true; 2],
            coming: Default::default(),
        });
        self.0.sort_by_key(|wire| wire.ends);
        ends
    }

    fn free(&self, process: usize) -> LinkId {
        let used = |link| {
            let mut ends = self.0.iter().flat_map(|wire| wire.ends);
            ends.any(|end| end == End { process, link })
        };
        (1..)
            .map(LinkId)
            .find(|link| !used(*link))
            .expect("there are many numbers")
    }

    pub fn send(&mut self, from: End, sent: Sent) {
        if let Some((wire, side)) = self.find(from)
            && wire.open[side]
            && wire.open[1 - side]
        {
            wire.coming[1 - side].push_back(Arc::new(sent));
        }
    }

    /// One end closes: what it has not read is gone, what it sent still comes.
    pub fn close(&mut self, end: End) {
        if let Some((wire, side)) = self.find(end) {
            wire.open[side] = false;
            wire.coming[side].clear();
        }
        self.0.retain(|wire| wire.open != [false; 2]);
    }

    /// All links of a process close.
    pub fn close_all(&mut self, process: usize) {
        let ends: Vec<End> = self.ends().filter(|end| end.process == process).collect();
        ends.into_iter().for_each(|end| self.close(end));
    }

    /// A cable is cut: nothing more comes to either end.
    pub fn cut(&mut self, end: End) {
        if let Some((wire, _)) = self.find(end) {
            wire.coming.iter_mut().for_each(VecDeque::clear);
            let ends = wire.ends;
            // Each side notices by itself: two halves, of which the other ends are closed.
            let half = |side: usize| {
                let mut open = [false; 2];
                open[side] = true;
                Wire {
                    ends,
                    open,
                    coming: Default::default(),
                }
            };
            self.0.retain(|wire| wire.ends != ends);
            self.0.extend([half(0), half(1)]);
            self.0.sort_by_key(|wire| (wire.ends, wire.open));
        }
    }

    /// Links on which both ends are there.
    pub fn whole(&self) -> impl Iterator<Item = End> {
        let whole = self.0.iter().filter(|wire| wire.open == [true; 2]);
        whole.map(|wire| wire.ends[0])
    }

    /// Ends that may get something now.
    pub fn due(&self) -> Vec<(End, Due)> {
        let mut due = Vec::new();
        for wire in &self.0 {
            for side in [0, 1].into_iter().filter(|side| wire.open[*side]) {
                if !wire.coming[side].is_empty() {
                    due.push((wire.ends[side], Due::Frame));
                } else if !wire.open[1 - side] {
                    due.push((wire.ends[side], Due::TheEnd));
                }
            }
        }
        due
    }

    pub fn take(&mut self, end: End) -> Option<Arc<Sent>> {
        let (wire, side) = self.find(end)?;
        wire.coming[side].pop_front()
    }

    fn ends(&self) -> impl Iterator<Item = End> {
        let open = |wire: &Wire| {
            let (ends, open) = (wire.ends, wire.open);
            (0..2)
                .filter(move |side| open[*side])
                .map(move |side| ends[side])
        };
        self.0.iter().flat_map(open)
    }

    fn find(&mut self, end: End) -> Option<(&mut Wire, usize)> {
        self.0.iter_mut().find_map(|wire| {
            let side = (0..2).find(|side| wire.ends[*side] == end && wire.open[*side])?;
            Some((wire, side))
        })
    }

    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        for wire in &self.0 {
            (wire.ends, wire.open).hash(hasher);
            for coming in &wire.coming {
                coming.len().hash(hasher);
                coming.iter().for_each(|sent| sent.fingerprint(hasher));
            }
        }
    }
}

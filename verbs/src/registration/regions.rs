//! What is registered: ranges of whole pages, in the order of their addresses, and which was used
//! least recently.
//!
//! Ranges may overlap (two rows of a matrix share the page where one ends and the other begins),
//! and are never merged: a region covers what was asked for and nothing more, so that it does not
//! fail, or go stale, for memory that is none of the sender's. One that another covers is dropped.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Regions by their ranges.
pub struct Regions<T> {
    by_start: BTreeMap<usize, Entry<T>>,
    bytes: usize,
    /// No range is longer: how far below an address to look for one that reaches it.
    longest: usize,
    clock: u64,
}

struct Entry<T> {
    end: usize,
    region: Arc<T>,
    /// The clock when it was last found.
    used: u64,
}

impl<T> Regions<T> {
    /// None.
    pub fn new() -> Regions<T> {
        Regions {
            by_start: BTreeMap::new(),
            bytes: 0,
            longest: 0,
            clock: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// The bytes of all, where two overlap twice: so much is pinned.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// One that covers a range. It counts as used now.
    pub fn find(&mut self, range: &Range<usize>) -> Option<Arc<T>> {
        self.clock += 1;
        let from = range.start.saturating_sub(self.longest);
        let below = self.by_start.range_mut(from..=range.start);
        let (_, entry) = below.rev().find(|(_, entry)| entry.end >= range.end)?;
        entry.used = self.clock;
        Some(Arc::clone(&entry.region))
    }

    /// Adds one for a range that none covers, and drops those that it covers.
    pub fn insert(&mut self, range: Range<usize>, region: Arc<T>) {
        let inside = self.by_start.range(range.clone());
        let covered: Vec<usize> = inside
            .filter(|(_, entry)| entry.end <= range.end)
            .map(|(&start, _)| start)
            .collect();
        for start in covered {
            self.remove(start);
        }
        self.clock += 1;
        self.bytes += range.len();
        self.longest = self.longest.max(range.len());
        let entry = Entry {
            end: range.end,
            region,
            used: self.clock,
        };
        let replaced = self.by_start.insert(range.start, entry);
        debug_assert!(replaced.is_none(), "one with this start covers the range");
    }

    /// Drops all that touch a range; says how many.
    pub fn remove_overlapping(&mut self, range: &Range<usize>) -> usize {
        let from = range.start.saturating_sub(self.longest);
        let near = self.by_start.range(from..range.end);
        let touching: Vec<usize> = near
            .filter(|(_, entry)| entry.end > range.start)
            .map(|(&start, _)| start)
            .collect();
        touching.iter().for_each(|&start| self.remove(start));
        touching.len()
    }

    /// Drops the one that was used least recently of those that nobody uses now, if there is one.
    pub fn evict(&mut self) -> bool {
        // Nobody can begin to use one meanwhile: that takes `find`, or somebody who uses it.
        let unused = self.by_start.iter();
        let unused = unused.filter(|(_, entry)| Arc::strong_count(&entry.region) == 1);
        let Some((&start, _)) = unused.min_by_key(|(_, entry)| entry.used) else {
            return false;
        };
        self.remove(start);
        true
    }

    fn remove(&mut self, start: usize) {
        let entry = self.by_start.remove(&start).expect("it was seen");
        self.bytes -= entry.end - start;
        if self.by_start.is_empty() {
            self.longest = 0;
        }
    }
}

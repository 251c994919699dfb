//! The registration cache on this machine's kernel: memory that changes in every way there is, with
//! a device that remembers what it has seen.

mod memory;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meander_verbs::registration::CacheLimits;
use proptest::prelude::*;

use memory::{Area, PAGE, cache, cache_of};

const LEN: usize = 16 * PAGE;

/// Registers an area, changes it, gets it again: the region must have seen the new memory.
fn changed_memory_is_registered_again(mut area: Area, change: impl Fn(&mut Area)) {
    let mut cache = cache();
    let before = cache.get(area.start(), area.len()).unwrap();
    assert_eq!(cache.counters().misses, 1, "{:?}", cache.counters());
    change(&mut area);
    area.stamp();
    let after = cache.get(area.start(), area.len()).unwrap();
    assert_eq!(after.seen, area.tags(), "a region of memory that is gone");
    assert_ne!(before.seen, after.seen);
    assert!(cache.counters().invalidations >= 1);
    // The cache has dropped it; the transfer that has it keeps it.
    assert_eq!(Arc::strong_count(&before), 1);
    let registered = after.device.registered.load(Ordering::Relaxed);
    assert_eq!(registered, 2 * area.len());
    // What is there now is kept like anything else.
    assert!(Arc::ptr_eq(
        &after,
        &cache.get(area.start(), area.len()).unwrap()
    ));
}

#[test]
fn unchanged_memory_is_registered_once() {
    let (area, mut cache) = (Area::new(LEN), cache());
    let first = cache.get(area.start(), LEN).unwrap();
    for (offset, len) in [(0, LEN), (1, 1), (PAGE - 1, 2), (LEN - 1, 1), (5, LEN - 5)] {
        let again = cache.get(area.start() + offset, len).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
    }
    area.stamp(); // What is written there is no change of the memory itself.
    assert!(Arc::ptr_eq(&first, &cache.get(area.start(), LEN).unwrap()));
    let counters = cache.counters();
    assert_eq!((counters.hits, counters.misses, counters.unkept), (6, 1, 0));
    assert_eq!((counters.bytes, counters.regions), (LEN, 1));
}

#[test]
fn after_munmap_and_mmap() {
    changed_memory_is_registered_again(Area::new(LEN), |area| {
        area.unmap(0..LEN);
        area.map(0..LEN);
    });
}

#[test]
fn after_munmap_of_a_part() {
    changed_memory_is_registered_again(Area::new(LEN), |area| {
        area.unmap(3 * PAGE..4 * PAGE);
        area.map(3 * PAGE..4 * PAGE);
    });
}

#[test]
fn after_a_fixed_mmap_over_it() {
    changed_memory_is_registered_again(Area::new(LEN), |area| {
        area.map_over(0..LEN);
    });
}

#[test]
fn after_mremap_away() {
    changed_memory_is_registered_again(Area::new(LEN), |area| {
        let moved = area.move_away();
        area.map(0..LEN);
        drop(moved);
    });
}

#[test]
fn after_mremap_onto_it() {
    let other = Area::new(LEN);
    let other = Mutex::new(Some(other));
    changed_memory_is_registered_again(Area::new(LEN), |area| {
        area.move_onto(other.lock().unwrap().take().unwrap());
    });
}

#[test]
fn after_madvise() {
    for advice in [libc::MADV_DONTNEED, libc::MADV_FREE] {
        changed_memory_is_registered_again(Area::new(LEN), |area| {
            area.advise(2 * PAGE..3 * PAGE, advice);
        });
    }
}

#[test]
fn memory_that_was_moved_is_registered_where_it_is_now() {
    let (mut area, mut cache) = (Area::new(LEN), cache());
    cache.get(area.start(), LEN).unwrap();
    let mut moved = area.move_away();
    let region = cache.get(moved.start(), LEN).unwrap();
    assert_eq!(region.seen, moved.tags());
    let counters = cache.counters();
    assert_eq!((counters.misses, counters.invalidations), (2, 1));
    assert!(Arc::ptr_eq(
        &region,
        &cache.get(moved.start(), LEN).unwrap()
    ));
    // It is watched there.
    moved.map_over(0..PAGE);
    moved.stamp();
    assert_eq!(cache.get(moved.start(), LEN).unwrap().seen, moved.tags());
}

/// The C library gives a large piece of memory back by a munmap that no interposed function sees.
#[test]
fn after_free_of_64_megabytes() {
    const BYTES: usize = 64 << 20;
    let mut cache = cache();
    let mut place = 0;
    for round in 0.. {
        let block = memory::Malloc::new(BYTES);
        let again = block.start() == place;
        block.stamp();
        let invalidated = cache.counters().invalidations;
        let region = cache.get(block.start(), BYTES).unwrap();
        assert_eq!(region.seen, block.tags());
        if again {
            assert_eq!(cache.counters().invalidations, invalidated + 1);
            break;
        }
        assert!(round < 100, "malloc never gives the same memory again");
        place = block.start();
    }
}

#[test]
fn a_gap_in_the_memory_is_an_error_of_the_device_and_nothing_is_kept() {
    let (mut area, mut cache) = (Area::new(LEN), cache());
    area.unmap(PAGE..2 * PAGE);
    assert!(cache.get(area.start(), LEN).is_err());
    assert_eq!((cache.counters().regions, cache.counters().bytes), (0, 0));
    cache.get(area.start(), PAGE).unwrap();
    assert_eq!(cache.counters().misses, 1);
}

/// Two rows of a matrix share a page; each stays registered.
#[test]
fn ranges_that_share_pages_are_kept_beside_each_other() {
    let (area, mut cache) = (Area::new(LEN), cache());
    let rows = [(0, PAGE + 10), (PAGE + 10, PAGE), (2 * PAGE + 10, 5 * PAGE)];
    for round in 0..3 {
        for (offset, len) in rows {
            let region = cache.get(area.start() + offset, len).unwrap();
            assert!(region.covers(area.start() + offset, len));
        }
        assert_eq!(cache.counters().misses, 3, "round {round}");
    }
    // One that covers several replaces them.
    cache.get(area.start(), 3 * PAGE).unwrap();
    assert_eq!(cache.counters().regions, 2);
    assert_eq!(cache.counters().bytes, (3 + 6) * PAGE);
}

/// Their pages can be exchanged by another process, or by calls that make no events.
#[test]
fn memory_that_others_can_change_is_never_kept() {
    let mut cache = cache();
    let kinds = [
        Area::shared_anonymous(LEN),
        Area::memfd(LEN),
        Area::sysv(LEN),
    ];
    let count = kinds.len() as u64;
    for area in kinds {
        let before = cache.get(area.start(), LEN).unwrap();
        area.punch_hole();
        area.stamp();
        let after = cache.get(area.start(), LEN).unwrap();
        assert_ne!(before.seen, after.seen);
        assert_eq!(after.seen, area.tags());
    }
    let text = b"a constant of the program";
    cache.get(text.as_ptr() as usize, text.len()).unwrap();
    let counters = cache.counters();
    assert_eq!((counters.unkept, counters.regions), (2 * count + 1, 0));
}

#[test]
#[ignore = "needs root, to set huge pages aside: cargo xtask test unit runs it"]
fn huge_pages_are_kept() {
    let _aside = HugePages::set_aside(4);
    let (mut area, mut cache) = (Area::huge(), cache());
    area.stamp();
    // One of the two, whole.
    let region = cache.get(area.start() + 100, PAGE).unwrap();
    assert!(region.covers(area.start(), area.len() / 2));
    cache.get(area.start() + area.len() / 2 - 1, 1).unwrap();
    area.map_over(0..area.len());
    area.stamp();
    let region = cache.get(area.start(), area.len()).unwrap();
    assert_eq!(region.seen, area.tags());
    assert_eq!(cache.counters().misses, 2);
    assert_eq!(cache.counters().hits, 1);
}

/// Huge pages that this machine keeps free for a test, besides what it had.
struct HugePages {
    before: u64,
}

impl HugePages {
    const NUMBER: &str = "/proc/sys/vm/nr_hugepages";

    fn set_aside(count: u64) -> HugePages {
        let text = std::fs::read_to_string(Self::NUMBER).unwrap();
        let before: u64 = text.trim().parse().unwrap();
        std::fs::write(Self::NUMBER, (before + count).to_string()).expect("this needs root");
        HugePages { before }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::NUMBER, self.before.to_string());
    }
}

#[test]
fn of_two_caches_on_the_same_memory_one_keeps_it_and_both_are_right() {
    let (mut area, mut first, mut second) = (Area::new(LEN), cache(), cache());
    first.get(area.start(), LEN).unwrap();
    second.get(area.start() + PAGE, PAGE).unwrap();
    assert_eq!(second.counters().unkept, 1);
    first.get(area.start(), LEN).unwrap();
    assert_eq!(first.counters().hits, 1);
    area.map_over(0..LEN);
    area.stamp();
    assert_eq!(second.get(area.start(), LEN).unwrap().seen, area.tags());
    assert_eq!(
        second.counters().misses,
        1,
        "the memory is new, and nobody's"
    );
    assert_eq!(first.get(area.start(), LEN).unwrap().seen, area.tags());
    assert_eq!(first.counters().unkept, 1);
    drop(second);
    first.get(area.start(), LEN).unwrap();
    assert_eq!(first.counters().misses, 2);
}

#[test]
fn the_least_recently_used_is_dropped_unless_it_is_in_use() {
    let limits = CacheLimits {
        bytes: 4 * PAGE,
        ..CacheLimits::default()
    };
    let (area, mut cache) = (Area::new(LEN), cache_of(limits, usize::MAX));
    let mut get = |page: usize, pages: usize| {
        let region = cache.get(area.start() + page * PAGE, pages * PAGE);
        (region.unwrap(), cache.counters())
    };
    let (held, _) = get(0, 1);
    get(1, 1);
    get(2, 1);
    get(3, 1);
    get(1, 1); // Two is the oldest now that nobody holds.
    let (_, counters) = get(4, 1);
    assert_eq!((counters.evictions, counters.bytes), (1, 4 * PAGE));
    assert_eq!(get(1, 1).1.hits, counters.hits + 1);
    let misses = get(2, 1).1.misses;
    assert_eq!(misses, counters.misses + 1);
    // Three pages are all that is not held; four do not fit.
    let (_, counters) = get(5, 3);
    assert_eq!((counters.regions, counters.bytes), (2, 4 * PAGE));
    let (_, counters) = get(8, 4);
    assert_eq!(counters.unkept, 1);
    let (again, counters) = get(0, 1);
    assert!(Arc::ptr_eq(&held, &again));
    let (_, counters_after) = get(0, 5);
    assert_eq!(
        counters_after.unkept,
        counters.unkept + 1,
        "more than the limit"
    );
}

#[test]
fn where_the_system_lets_no_more_be_locked_the_unused_makes_room() {
    let (area, mut cache) = (Area::new(LEN), cache_of(CacheLimits::default(), 4 * PAGE));
    for page in 0..12 {
        cache.get(area.start() + page * PAGE, PAGE).unwrap();
    }
    assert_eq!(cache.counters().evictions, 8);
    let held = cache.get(area.start(), 3 * PAGE).unwrap();
    cache
        .get(area.start() + 4 * PAGE, 2 * PAGE)
        .err()
        .expect("three of four pages are held");
    assert_eq!(Arc::strong_count(&held), 2);
}

#[test]
fn a_limit_of_nothing_keeps_nothing() {
    let limits = CacheLimits {
        bytes: 0,
        ..CacheLimits::default()
    };
    let (area, mut cache) = (Area::new(LEN), cache_of(limits, usize::MAX));
    assert!(!cache.keeps());
    cache.get(area.start(), LEN).unwrap();
    cache.get(area.start(), LEN).unwrap();
    assert_eq!(cache.counters().unkept, 2);
}

#[test]
fn memory_that_was_given_back_is_let_go_without_another_get() {
    let (mut area, mut cache) = (Area::new(LEN), cache());
    let region = cache.get(area.start(), LEN).unwrap();
    let (weak, device) = (Arc::downgrade(&region), Arc::clone(&region.device));
    drop(region);
    area.unmap(0..LEN);
    let limit = Instant::now() + Duration::from_secs(10);
    while cache.counters().regions > 0 {
        assert!(Instant::now() < limit, "the event never came");
        cache.tidy();
    }
    assert!(weak.upgrade().is_none());
    assert_eq!(device.registered.load(Ordering::Relaxed), 0);
}

/// More changes than are remembered between two gets: everything counts as changed.
#[test]
fn a_flood_of_changes_loses_none() {
    const PAGES: usize = 3000;
    let mut area = Area::new(PAGES * PAGE);
    let mut cache = cache();
    for page in 0..PAGES {
        cache.get(area.start() + page * PAGE, PAGE).unwrap();
    }
    assert_eq!(cache.counters().regions, PAGES);
    (0..PAGES).for_each(|page| area.map_over(page * PAGE..(page + 1) * PAGE));
    area.stamp();
    for page in (0..PAGES).rev() {
        let region = cache.get(area.start() + page * PAGE, PAGE).unwrap();
        assert_eq!(region.seen, area.tags()[page..=page]);
    }
    assert_eq!(cache.counters().invalidations, PAGES as u64);
}

/// Threads map and unmap memory wherever the system puts it, so that one is given the addresses
/// of another whose munmap has not returned yet; some unmap while they hold the cache's lock.
#[test]
fn in_a_storm_of_mappings_no_region_is_of_memory_that_is_gone() {
    let cache = Mutex::new(cache());
    let (stop, gets) = (AtomicBool::new(false), AtomicUsize::new(0));
    let storm = |number: usize| {
        for round in 0_usize.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let pages = 1 + (round * 7 + number) % 5;
            let area = Area::anywhere(pages * PAGE);
            let region = {
                let mut cache = cache.lock().unwrap();
                let region = cache.get(area.start(), area.len()).unwrap();
                if round.is_multiple_of(3) {
                    assert_eq!(region.seen_of(&area), area.tags());
                    drop(area);
                    continue;
                }
                region
            };
            // A region may cover more than was asked for; of that, this thread knows nothing.
            assert_eq!(region.seen_of(&area), area.tags());
            gets.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || storm(number));
        }
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
    });
    let counters = cache.into_inner().unwrap().counters();
    println!("{} gets, {counters:?}", gets.into_inner());
    assert!(counters.invalidations > 100, "{counters:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Get(usize, usize),
    Remap(usize, usize),
    MapOver(usize, usize),
    Discard(usize, usize),
    Swap(usize, usize),
}

fn steps() -> impl Strategy<Value = Step> {
    let part = || (0..12_usize, 1..=4_usize);
    prop_oneof![
        6 => part().prop_map(|(page, pages)| Step::Get(page, pages)),
        1 => part().prop_map(|(page, pages)| Step::Remap(page, pages)),
        1 => part().prop_map(|(page, pages)| Step::MapOver(page, pages)),
        1 => part().prop_map(|(page, pages)| Step::Discard(page, pages)),
        1 => part().prop_map(|(page, pages)| Step::Swap(page, pages)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// The model: a page belongs to the mapping whose number was last written there, and what was
    /// registered together stays so until one of its pages changes.
    #[test]
    fn whatever_becomes_of_memory_a_region_is_of_what_is_there(steps in prop::collection::vec(steps(), 1..40)) {
        let (mut area, mut cache) = (Area::new(16 * PAGE), cache());
        let mut registered: Vec<(usize, usize)> = Vec::new();
        for step in steps {
            let (page, pages) = match step {
                Step::Get(page, pages) => {
                    let hit = registered.iter().any(|(it, len)| *it <= page && page + pages <= it + len);
                    let before = cache.counters();
                    let region = cache.get(area.start() + page * PAGE, pages * PAGE).unwrap();
                    prop_assert_eq!(region.seen_at(area.start() + page * PAGE, pages), &area.tags()[page..page + pages]);
                    let after = cache.counters();
                    prop_assert_eq!(after.hits - before.hits, u64::from(hit));
                    prop_assert_eq!(after.misses - before.misses, u64::from(!hit));
                    if !hit {
                        registered.retain(|(it, len)| !(page <= *it && it + len <= page + pages));
                        registered.push((page, pages));
                    }
                    continue;
                }
                Step::Remap(page, pages) => {
                    area.unmap(page * PAGE..(page + pages) * PAGE);
                    area.map(page * PAGE..(page + pages) * PAGE);
                    (page, pages)
                }
                Step::MapOver(page, pages) => {
                    area.map_over(page * PAGE..(page + pages) * PAGE);
                    (page, pages)
                }
                Step::Discard(page, pages) => {
                    area.advise(page * PAGE..(page + pages) * PAGE, libc::MADV_DONTNEED);
                    (page, pages)
                }
                Step::Swap(page, pages) => {
                    area.swap_part(page * PAGE..(page + pages) * PAGE);
                    (page, pages)
                }
            };
            area.stamp_part(page * PAGE..(page + pages) * PAGE);
            registered.retain(|(it, len)| page + pages <= *it || it + len <= page);
        }
    }
}

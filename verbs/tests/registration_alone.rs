//! What a registration cache does to its whole process: the break, descriptors and threads, a forked
//! child. One test, for each part wants the process to itself.

mod memory;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meander_verbs::registration::check;

use memory::{Area, Device, PAGE, cache};

const LEN: usize = 16 * PAGE;

#[test]
fn the_process_and_its_cache() {
    check().expect("userfaultfd");
    let before = descriptors_and_threads();
    after_the_break_has_moved();
    a_forked_child_does_not_disturb_its_parent();
    a_port_that_is_dropped_with_memory_mapped_leaves_nothing();
    assert_eq!(descriptors_and_threads(), before);
}

/// brk(2) is malloc's too: nothing is allocated from it while it is moved.
fn after_the_break_has_moved() {
    let mut cache = cache();
    // SAFETY: what sbrk gives is not malloc's, and is given back in the reverse order.
    let moved = |by: isize| unsafe { libc::sbrk(by) } as usize;
    let unaligned = moved(0) % PAGE;
    if unaligned != 0 {
        moved((PAGE - unaligned) as isize);
    }
    let first = moved(LEN as isize);
    let area = Area::existing(first, LEN);
    area.stamp();
    let old = cache.get(first, LEN).unwrap();
    assert_eq!(cache.counters().misses, 1);
    moved(-(LEN as isize));
    let again = moved(LEN as isize);
    assert_eq!(again, first, "malloc has moved the break");
    area.stamp();
    let new = cache.get(first, LEN).unwrap();
    assert_ne!(old.seen, new.seen);
    assert_eq!(new.seen, area.tags());
    assert_eq!(cache.counters().invalidations, 1);
    std::mem::forget(area);
    moved(-(LEN as isize));
}

fn a_forked_child_does_not_disturb_its_parent() {
    let (mut area, mut cache) = (Area::new(LEN), cache());
    let region = cache.get(area.start(), LEN).unwrap();
    let device: Arc<Device> = Arc::clone(&region.device);
    drop(region);
    // SAFETY: the other threads are the test harness's, which sleeps, and the cache's, which
    // allocates nothing: the child may.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let registered = device.registered.load(Ordering::Relaxed);
        let watching = descriptors_and_threads().contains_key("anon_inode:[userfaultfd]");
        area.map_over(0..PAGE); // Not watched: nobody would read that event.
        let unkept = cache.counters().unkept;
        let right = cache.get(area.start(), LEN).is_ok() && cache.counters().unkept == unkept + 1;
        drop(cache);
        let left = device.registered.load(Ordering::Relaxed) == registered;
        // SAFETY: the child ends here, with nothing of its parent's run.
        unsafe { libc::_exit(i32::from(watching || !right || !left)) };
    }
    let mut status = -1;
    // SAFETY: the status is this frame's.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0, "the child's status");
    cache.get(area.start(), LEN).unwrap();
    assert_eq!(cache.counters().hits, 1, "{:?}", cache.counters());
    area.map_over(0..PAGE);
    area.stamp();
    assert_eq!(cache.get(area.start(), LEN).unwrap().seen, area.tags());
}

fn a_port_that_is_dropped_with_memory_mapped_leaves_nothing() {
    let (mut area, mut cache) = (Area::new(LEN), cache());
    let region = cache.get(area.start(), LEN).unwrap();
    let device: Arc<Device> = Arc::clone(&region.device);
    let moved = area.move_away();
    let names = descriptors_and_threads();
    assert_eq!(names.get("anon_inode:[userfaultfd]"), Some(&1), "{names:?}");
    assert_eq!(names.get("thread meander-watch"), Some(&1), "{names:?}");
    drop(region);
    drop(cache);
    assert_eq!(device.registered.load(Ordering::Relaxed), 0);
    // Nobody waits for an event that nobody reads.
    area.map(0..LEN);
    drop(area);
    drop(moved);
}

/// How many there are of each: what a checkpoint would find.
fn descriptors_and_threads() -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links =
        descriptors.filter_map(|it| Some(fs::read_link(it.path()).ok()?.display().to_string()));
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let threads = tasks.filter_map(|it| {
        let name = fs::read_to_string(it.path().join("comm")).ok()?;
        Some(format!("thread {}", name.trim()))
    });
    // Of the directory that is read, the name differs from process to process.
    for name in links
        .chain(threads)
        .filter(|name| !name.starts_with("/proc/"))
    {
        *names.entry(name).or_default() += 1;
    }
    names
}

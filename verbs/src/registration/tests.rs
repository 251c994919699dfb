//! The regions against a naive model, and the kernel's word on changes in flight.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::param::page_size;

use super::regions::Regions;
use super::sys;

#[derive(Clone, Debug)]
enum Step {
    /// Find a range, or insert it; use it from now on, or only now.
    Get(Range<usize>, bool),
    /// The last that is used is used no more.
    Release,
    Change(Range<usize>),
    Evict,
}

fn ranges() -> impl Strategy<Value = Range<usize>> {
    (0..40_usize, 1..12_usize).prop_map(|(start, len)| start..start + len)
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (ranges(), any::<bool>()).prop_map(|(range, hold)| Step::Get(range, hold)),
        2 => Just(Step::Release),
        1 => ranges().prop_map(Step::Change),
        1 => Just(Step::Evict),
    ]
}

/// A list that is looked through, in the order of use.
#[derive(Default)]
struct Naive(Vec<(Range<usize>, Weak<()>)>);

impl Naive {
    fn covers(&self, range: &Range<usize>) -> bool {
        let mut all = self.0.iter();
        all.any(|(it, _)| it.start <= range.start && range.end <= it.end)
    }

    fn use_now(&mut self, region: &Arc<()>) -> Range<usize> {
        let is_it = |(_, it): &(_, Weak<()>)| it.as_ptr() == Arc::as_ptr(region);
        let place = self.0.iter().position(is_it);
        let entry = self.0.remove(place.expect("the model has what was found"));
        self.0.push(entry.clone());
        entry.0
    }

    fn remove(&mut self, which: impl Fn(&Range<usize>) -> bool) -> usize {
        let before = self.0.len();
        self.0.retain(|(it, _)| !which(it));
        before - self.0.len()
    }
}

proptest! {
    #[test]
    fn regions_are_those_of_a_list(steps in prop::collection::vec(steps(), 1..80)) {
        let (mut regions, mut naive) = (Regions::new(), Naive::default());
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Get(range, hold) => {
                    let found = regions.find(&range);
                    prop_assert_eq!(found.is_some(), naive.covers(&range));
                    let region = found.unwrap_or_else(|| {
                        let region = Arc::new(());
                        regions.insert(range.clone(), Arc::clone(&region));
                        naive.remove(|it| range.start <= it.start && it.end <= range.end);
                        naive.0.push((range.clone(), Arc::downgrade(&region)));
                        region
                    });
                    let whole = naive.use_now(&region);
                    prop_assert!(whole.start <= range.start && range.end <= whole.end);
                    if hold {
                        held.push(region);
                    }
                }
                Step::Release => held.truncate(held.len().saturating_sub(1)),
                Step::Change(range) => {
                    let dropped = regions.remove_overlapping(&range);
                    let expected = naive.remove(|it| it.start < range.end && range.start < it.end);
                    prop_assert_eq!(dropped, expected);
                }
                Step::Evict => {
                    let place = naive.0.iter().position(|(_, it)| it.strong_count() == 1);
                    prop_assert_eq!(regions.evict(), place.is_some());
                    if let Some(place) = place {
                        naive.0.remove(place);
                    }
                }
            }
            prop_assert_eq!(regions.len(), naive.0.len());
            prop_assert_eq!(regions.bytes(), naive.0.iter().map(|(it, _)| it.len()).sum::<usize>());
            // Exactly those are left.
            prop_assert!(naive.0.iter().all(|(_, it)| it.strong_count() > 0));
        }
    }
}

/// What [`sys::changing`] rests on, which the kernel's documentation does not promise.
#[test]
fn the_kernel_says_that_a_change_is_in_flight_until_its_event_is_read() {
    let fd = match sys::userfaultfd() {
        Ok(fd) => fd,
        Err(error) => panic!("userfaultfd: {error}: nothing here can be tested"),
    };
    let len = page_size();
    // SAFETY: a new mapping that only this test has; it is not touched after the munmap.
    let start = unsafe {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) as usize
    };
    sys::watch(fd.as_fd(), start, len).unwrap();
    assert!(!sys::changing(fd.as_fd()));
    // SAFETY: as above.
    let unmapper = std::thread::spawn(move || unsafe { libc::munmap(start as *mut _, len) });
    let limit = Instant::now() + Duration::from_secs(10);
    while !sys::changing(fd.as_fd()) {
        assert!(Instant::now() < limit, "the change never began");
        std::thread::yield_now();
    }
    assert!(!unmapper.is_finished());
    let mut message = [0_u8; 32];
    while rustix::io::read(&fd, &mut message) == Err(rustix::io::Errno::AGAIN) {
        assert!(Instant::now() < limit, "the event never came");
    }
    assert_eq!(unmapper.join().unwrap(), 0);
    assert!(!sys::changing(fd.as_fd()));
}

//! The registration cache: memory stays registered between transfers, and never stands for memory
//! that is no longer there.
//!
//! Registered memory is pinned: when the program unmaps it and maps something else at the same
//! address, the device goes on reading the old pages. So a cache must know of every change of the
//! address space. Interposed calls do not show them all (the C library unmaps by its own internal
//! calls, and so does a program that makes system calls itself), but the kernel does: the cached
//! ranges are watched by a userfaultfd(2), which tells of munmap, mremap, brk, mmap with
//! `MAP_FIXED` and madvise with `MADV_DONTNEED`, `MADV_FREE` and `MADV_REMOVE`, whoever calls
//! them. It is opened for user mode only, which needs no privilege. Ranges are registered for
//! write-protection faults, of which there is none as nothing is ever protected; only the events
//! are wanted. (Registered for missing pages, a page that is not there yet would make the program's
//! own system calls on it fail with `EFAULT`.)
//!
//! Why a region that [`Cache::get`] gives is right:
//! - *Order.* For a new region the range is watched first, then looked at, then registered. Whatever
//!   changes after the first step is an event, and an event drops every region it touches, even one
//!   that was made after the change.
//! - *A change before `get`*, by any thread, of memory that the caller could have been given since:
//!   `Watch::settle` waits until its event has been taken in.
//! - *A change during `get`, or with a transfer in flight*: nobody may unmap or discard memory that
//!   he has lent to a transfer; who does sends what was there before or after. The region is held by
//!   its `Arc` and the pages by the pin, so that nothing of another's is read or written; and the
//!   event drops the region for all who come later.
//! - *`MADV_DONTNEED` and its like* are told before the pages go. A `get` of these very pages in
//!   between would be another's use of memory that is being discarded, as above: no region covers
//!   pages beside those that were asked for.
//! - *A part of a range* that changes drops the whole region; what is left is registered anew when
//!   it is wanted.
//! - *mremap*: the old addresses have changed. The new ones come watched, which does no harm.
//! - *fork*: the child's memory is not watched (`UFFD_FEATURE_EVENT_FORK` is not asked for), and the
//!   kernel copies pinned pages for the child at once, so the parent keeps those that are registered.
//!   The child closes the descriptor at once; a cache that finds itself in a child keeps and drops
//!   nothing, for the regions are the parent's.
//! - *Two caches*, or the program's own userfaultfd, on one range: the second gets `EBUSY` and does
//!   not cache it. So nobody takes another's watch away either: what was cached once is watched until
//!   it is unmapped or the cache is dropped (see `sys::watch`).
//! - *Deadlock*: who unmaps waits for the monitor, which waits for nobody (`monitor.rs`). A `get`
//!   waits for whoever unmaps, but not for long: then it registers for this transfer alone, which is
//!   always right.
//!
//! What cannot be watched is registered for each transfer; `mapping.rs` says what that is and why.
//!
//! The kernel makes no event, and a region stays that should not, for two calls (tried on 6.18): shmat
//! with `SHM_REMAP` onto cached private memory, and `MADV_GUARD_INSTALL` (6.13), which is meant for the
//! edges of stacks.

mod mapping;
mod monitor;
mod regions;
mod sys;
#[cfg(test)]
mod tests;
mod watch;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::regions::Regions;
use self::watch::Watch;

/// Bytes that a cache keeps registered, where nothing else is said.
pub const REGISTRATION_BYTES_DEFAULT: usize = 1 << 30;
/// Regions that a cache keeps at most: the kernel allows a process 65,530 mappings, and each region
/// can make two more of one.
pub const REGIONS_MAX: usize = 4096;
/// The environment variable that says how many bytes; 0 keeps nothing registered.
pub const REGISTRATION_BYTES_VARIABLE: &str = "MEANDER_REGISTRATION_BYTES";

/// Whoever can register memory with a device.
pub trait Registrar {
    /// Registered memory. Dropping it deregisters it.
    type Region;
    /// Why it failed.
    type Error;

    /// Registers `bytes` bytes at an address, whatever is mapped there.
    fn register(&self, address: usize, bytes: usize) -> Result<Self::Region, Self::Error>;
}

/// How much a cache keeps. Regions in use may add to it: memory that finds no room is registered
/// for its transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes that are registered at a time; none are cached if it is 0.
    pub bytes: usize,
    /// Regions at a time, at most [`REGIONS_MAX`].
    pub regions: usize,
}

impl Default for CacheLimits {
    fn default() -> CacheLimits {
        CacheLimits {
            bytes: REGISTRATION_BYTES_DEFAULT,
            regions: REGIONS_MAX,
        }
    }
}

impl CacheLimits {
    /// The default, with the bytes that [`REGISTRATION_BYTES_VARIABLE`] says if it is a number.
    pub fn from_env() -> CacheLimits {
        let mut limits = CacheLimits::default();
        if let Ok(text) = std::env::var(REGISTRATION_BYTES_VARIABLE) {
            match text.trim().parse() {
                Ok(bytes) => limits.bytes = bytes,
                Err(_) => tracing::warn!(
                    "{REGISTRATION_BYTES_VARIABLE}={text:?} is not a number of bytes: it stays at {}",
                    limits.bytes
                ),
            }
        }
        limits
    }
}

/// What a cache has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Memory that was registered already.
    pub hits: u64,
    /// Memory that was registered, and kept so.
    pub misses: u64,
    /// Memory that was registered for one transfer: it cannot be watched, or there was no room.
    pub unkept: u64,
    /// Regions dropped for want of room.
    pub evictions: u64,
    /// Regions dropped because their memory changed.
    pub invalidations: u64,
    /// Bytes that are kept registered now.
    pub bytes: usize,
    /// Regions that are kept now.
    pub regions: usize,
}

/// Registered memory, for reuse. It belongs to one port, which calls it under its lock.
pub struct Cache<R: Registrar> {
    registrar: R,
    limits: CacheLimits,
    regions: Regions<R::Region>,
    /// `None`: nothing is kept.
    watch: Option<Watch>,
    counters: Counters,
    /// Its owner; a forked child has a copy.
    process: u32,
}

/// Whether memory can be watched here, so that registrations are kept; if not, why (`ENOSYS`: a
/// kernel without userfaultfd; `EPERM`: a container's seccomp filter; `EINVAL`: a kernel before 5.19).
pub fn check() -> std::io::Result<()> {
    Ok(sys::userfaultfd().map(drop)?)
}

impl<R: Registrar> Cache<R> {
    /// An empty one. Where memory cannot be watched it says so in the log, once for a process, and
    /// keeps nothing.
    pub fn open(registrar: R, limits: CacheLimits) -> Cache<R> {
        let watch = match limits.bytes {
            0 => None,
            _ => Watch::start().map_err(|error| warn_once(&error)).ok(),
        };
        Cache {
            registrar,
            limits,
            regions: Regions::new(),
            watch,
            counters: Counters::default(),
            process: std::process::id(),
        }
    }

    /// A region that covers a range and is registered for what is mapped there now. While somebody
    /// holds it, it stays registered, whatever becomes of the memory.
    pub fn get(&mut self, address: usize, bytes: usize) -> Result<Arc<R::Region>, R::Error> {
        let range = address..address.saturating_add(bytes.max(1));
        if !self.is_current() {
            return self.register_unkept(&range);
        }
        if let Some(region) = self.regions.find(&range) {
            self.counters.hits += 1;
            return Ok(region);
        }
        match self.watch_pages(&range) {
            Some(pages) => self.register_kept(pages),
            None => self.register_unkept(&range),
        }
    }

    /// Drops what has changed since: [`Cache::get`] does that itself, but a port that has nothing to
    /// send would keep memory pinned that the program has given back. Cheap where nothing has.
    pub fn tidy(&mut self) {
        if !self.is_forked() {
            self.take_events();
        }
    }

    /// What it has done, and has now.
    pub fn counters(&self) -> Counters {
        Counters {
            bytes: self.regions.bytes(),
            regions: self.regions.len(),
            ..self.counters
        }
    }

    /// Whether it can keep anything.
    pub fn keeps(&self) -> bool {
        self.watch.is_some()
    }

    /// Takes in every change; `false` if that is not possible, at the moment or at all.
    fn is_current(&mut self) -> bool {
        if self.is_forked() {
            return false;
        }
        let settled = self.watch.as_ref().is_some_and(Watch::settle);
        self.take_events();
        settled && self.watch.is_some()
    }

    fn take_events(&mut self) {
        let Some(watch) = &self.watch else { return };
        if watch.is_broken() {
            tracing::warn!("the userfaultfd was closed: memory is registered for each transfer");
            self.watch = None;
            self.invalidate(&(0..usize::MAX));
            return;
        }
        if watch.take_overflowed() {
            self.invalidate(&(0..usize::MAX));
        }
        while let Some(changed) = self.watch.as_ref().and_then(Watch::take) {
            self.invalidate(&changed);
        }
    }

    fn invalidate(&mut self, changed: &Range<usize>) {
        self.counters.invalidations += self.regions.remove_overlapping(changed) as u64;
    }

    /// Makes room for the pages of a range and watches them, if they can be kept.
    fn watch_pages(&mut self, range: &Range<usize>) -> Option<Range<usize>> {
        let pages = mapping::cacheable_pages(range)?;
        if !self.make_room(pages.len()) {
            return None;
        }
        self.watch.as_ref()?.add(&pages).ok()?;
        // What was looked at may have been replaced before it was watched; not after.
        (mapping::cacheable_pages(range).as_ref() == Some(&pages)).then_some(pages)
    }

    fn register_kept(&mut self, pages: Range<usize>) -> Result<Arc<R::Region>, R::Error> {
        let region = self.register(&pages)?;
        self.counters.misses += 1;
        self.regions.insert(pages, Arc::clone(&region));
        Ok(region)
    }

    fn register_unkept(&mut self, range: &Range<usize>) -> Result<Arc<R::Region>, R::Error> {
        self.counters.unkept += 1;
        self.register(range)
    }

    /// Registers; when that fails, once more with as much given up as it needs: a limit of locked
    /// memory may be lower than ours.
    fn register(&mut self, range: &Range<usize>) -> Result<Arc<R::Region>, R::Error> {
        let register = |this: &Self| this.registrar.register(range.start, range.len());
        let failed = match register(self) {
            Ok(region) => return Ok(Arc::new(region)),
            Err(error) => error,
        };
        let kept = self.regions.bytes();
        while kept - self.regions.bytes() < range.len() && self.evict() {}
        if self.regions.bytes() == kept {
            return Err(failed);
        }
        register(self).map(Arc::new)
    }

    fn make_room(&mut self, bytes: usize) -> bool {
        if bytes > self.limits.bytes {
            return false;
        }
        let most = self.limits.regions.min(REGIONS_MAX);
        while self.regions.bytes() + bytes > self.limits.bytes || self.regions.len() >= most {
            if !self.evict() {
                return false;
            }
        }
        true
    }

    fn evict(&mut self) -> bool {
        let evicted = !self.is_forked() && self.regions.evict();
        self.counters.evictions += u64::from(evicted);
        evicted
    }

    fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }
}

impl<R: Registrar> Drop for Cache<R> {
    fn drop(&mut self) {
        if self.is_forked() {
            // The parent's: to deregister them here would do it there.
            std::mem::forget(std::mem::replace(&mut self.regions, Regions::new()));
            std::mem::forget(self.watch.take());
        }
    }
}

fn warn_once(error: &std::io::Error) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "userfaultfd: {error}: memory is registered with the device for each transfer, not kept so"
        );
    }
}

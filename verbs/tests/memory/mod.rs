//! Memory whose pages carry numbers, and a device that remembers which numbers it saw when it
//! registered them.
//!
//! Everything is read and written by system calls, which fail where nothing is mapped.

#![allow(dead_code)] // Each test binary uses a part.

use std::ffi::c_void;
use std::io::{Error, Result};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use meander_verbs::registration::{Cache, CacheLimits, Registrar};

pub const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;
const WORD: usize = size_of::<u64>();
/// Vectors of one system call.
const VECTORS_MAX: usize = 1024;

/// What a device and all its regions know.
#[derive(Default)]
pub struct Device {
    /// Bytes that are registered now.
    pub registered: AtomicUsize,
}

/// A device that registers up to so many bytes.
pub struct Fake {
    device: Arc<Device>,
    most: usize,
}

/// What was there when it was registered.
pub struct Region {
    address: usize,
    bytes: usize,
    /// The number of each page.
    pub seen: Vec<u64>,
    pub device: Arc<Device>,
}

impl Registrar for Fake {
    type Region = Region;
    type Error = Error;

    fn register(&self, address: usize, bytes: usize) -> Result<Region> {
        if self.device.registered.load(Ordering::Relaxed) + bytes > self.most {
            return Err(Error::from_raw_os_error(libc::ENOMEM));
        }
        let seen = read_numbers(address, bytes)?;
        self.device.registered.fetch_add(bytes, Ordering::Relaxed);
        Ok(Region {
            address,
            bytes,
            seen,
            device: Arc::clone(&self.device),
        })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let registered = &self.device.registered;
        registered.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Region {
    pub fn covers(&self, address: usize, bytes: usize) -> bool {
        self.address <= address && address + bytes <= self.address + self.bytes
    }

    /// What it saw of some pages.
    pub fn seen_at(&self, address: usize, pages: usize) -> &[u64] {
        assert!(self.covers(address, pages * PAGE));
        let first = (address - self.address) / PAGE;
        &self.seen[first..first + pages]
    }

    pub fn seen_of(&self, area: &Area) -> &[u64] {
        self.seen_at(area.start, area.len / PAGE)
    }
}

/// A cache without limits.
pub fn cache() -> Cache<Fake> {
    cache_of(CacheLimits::default(), usize::MAX)
}

/// A cache whose device registers at most so many bytes.
pub fn cache_of(limits: CacheLimits, most: usize) -> Cache<Fake> {
    let device = Arc::default();
    let cache = Cache::open(Fake { device, most }, limits);
    assert!(limits.bytes == 0 || cache.keeps(), "no userfaultfd here");
    cache
}

enum Kind {
    Private,
    Huge,
    SharedAnonymous,
    File(OwnedFd),
    SystemV,
}

/// Memory of a test, at addresses that nobody else is given, unless it asks for none in particular.
pub struct Area {
    start: usize,
    len: usize,
    kind: Kind,
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

impl Area {
    pub fn new(len: usize) -> Area {
        Area::with(len, Kind::Private, ANONYMOUS, -1).unwrap()
    }

    /// Where the system likes.
    pub fn anywhere(len: usize) -> Area {
        let area = Area {
            start: map(0, len, ANONYMOUS, -1).unwrap(),
            len,
            kind: Kind::Private,
        };
        area.stamp();
        area
    }

    /// Two huge pages, of those that are set aside.
    pub fn huge() -> Area {
        let flags = ANONYMOUS | libc::MAP_HUGETLB;
        Area::with(2 * HUGE_PAGE, Kind::Huge, flags, -1).expect("huge pages are set aside")
    }

    pub fn shared_anonymous(len: usize) -> Area {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        Area::with(len, Kind::SharedAnonymous, flags, -1).unwrap()
    }

    pub fn memfd(len: usize) -> Area {
        // SAFETY: the name is a C string, and the descriptor is new and ours.
        let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"test".as_ptr(), 0)) };
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), len as i64) }, 0);
        let number = fd.as_raw_fd();
        Area::with(len, Kind::File(fd), libc::MAP_SHARED, number).unwrap()
    }

    pub fn sysv(len: usize) -> Area {
        let start = fresh_addresses(len);
        attach_segment(start, len);
        let area = Area {
            start,
            len,
            kind: Kind::SystemV,
        };
        area.stamp();
        area
    }

    /// Memory that the caller has from elsewhere, and forgets.
    pub fn existing(start: usize, len: usize) -> Area {
        Area {
            start,
            len,
            kind: Kind::Private,
        }
    }

    fn with(len: usize, kind: Kind, flags: i32, fd: i32) -> Result<Area> {
        let flags = flags | libc::MAP_FIXED_NOREPLACE;
        let start = map(fresh_addresses(len), len, flags, fd)?;
        let area = Area { start, len, kind };
        if !matches!(area.kind, Kind::Huge) {
            area.stamp();
        }
        Ok(area)
    }

    pub fn start(&self) -> usize {
        self.start
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The number of each page now.
    pub fn tags(&self) -> Vec<u64> {
        read_numbers(self.start, self.len).unwrap()
    }

    /// Gives each page a number that none has had.
    pub fn stamp(&self) {
        self.stamp_part(0..self.len);
    }

    pub fn stamp_part(&self, part: Range<usize>) {
        write_numbers(self.start + part.start, part.len()).unwrap();
    }

    pub fn unmap(&mut self, part: Range<usize>) {
        unmap(self.start + part.start, part.len());
    }

    /// Maps new memory where there is none.
    pub fn map(&mut self, part: Range<usize>) {
        let flags = ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        map(self.start + part.start, part.len(), flags, -1).unwrap();
    }

    /// Maps new memory over what is there.
    pub fn map_over(&mut self, part: Range<usize>) {
        let flags = match self.kind {
            Kind::Huge => ANONYMOUS | libc::MAP_FIXED | libc::MAP_HUGETLB,
            _ => ANONYMOUS | libc::MAP_FIXED,
        };
        map(self.start + part.start, part.len(), flags, -1).unwrap();
    }

    /// Moves all of it to other addresses; nothing is left here.
    pub fn move_away(&mut self) -> Area {
        let start = fresh_addresses(self.len);
        remap(self.start, self.len, start);
        Area {
            start,
            len: self.len,
            kind: Kind::Private,
        }
    }

    /// Moves other memory over it.
    pub fn move_onto(&mut self, other: Area) {
        remap(other.start, other.len, self.start);
    }

    /// Moves new memory over a part of it.
    pub fn swap_part(&mut self, part: Range<usize>) {
        let from = map(0, part.len(), ANONYMOUS, -1).unwrap();
        remap(from, part.len(), self.start + part.start);
    }

    pub fn advise(&mut self, part: Range<usize>, advice: i32) {
        let start = (self.start + part.start) as *mut c_void;
        // SAFETY: the pages are the test's, which has no reference to them.
        let failed = unsafe { libc::madvise(start, part.len(), advice) };
        assert_eq!(failed, 0, "{}", Error::last_os_error());
    }

    /// Exchanges the pages behind the mapping's back.
    pub fn punch_hole(&self) {
        let start = self.start as *mut c_void;
        match &self.kind {
            Kind::Private | Kind::Huge => panic!("nobody else can"),
            Kind::SharedAnonymous => {
                // SAFETY: the child calls what is safe after a fork of a process with threads.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // SAFETY: as above; the pages are the test's.
                    unsafe {
                        libc::_exit(libc::madvise(start, self.len, libc::MADV_REMOVE));
                    }
                }
                let mut status = -1;
                // SAFETY: the status is this frame's.
                unsafe { libc::waitpid(child, &mut status, 0) };
                assert_eq!(status, 0);
            }
            Kind::File(fd) => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                // SAFETY: no memory is involved but the file's.
                let failed = unsafe { libc::fallocate(fd.as_raw_fd(), mode, 0, self.len as i64) };
                assert_eq!(failed, 0);
            }
            Kind::SystemV => {
                // SAFETY: the segment is the test's, which has no reference to it.
                assert_eq!(unsafe { libc::shmdt(start) }, 0);
                attach_segment(self.start, self.len);
            }
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        unmap(self.start, self.len);
    }
}

/// A block of malloc(3).
pub struct Malloc {
    start: *mut c_void,
    len: usize,
}

impl Malloc {
    pub fn new(len: usize) -> Malloc {
        // SAFETY: nothing is asked of the caller.
        let start = unsafe { libc::malloc(len) };
        assert!(!start.is_null());
        Malloc { start, len }
    }

    pub fn start(&self) -> usize {
        self.start as usize
    }

    pub fn tags(&self) -> Vec<u64> {
        read_numbers(self.start(), self.len).unwrap()
    }

    /// Numbers for its whole pages; malloc's own words come before it.
    pub fn stamp(&self) {
        let first = self.start().next_multiple_of(PAGE);
        let last = (self.start() + self.len) / PAGE * PAGE;
        write_numbers(first, last - first).unwrap();
    }
}

impl Drop for Malloc {
    fn drop(&mut self) {
        // SAFETY: it comes from malloc, and is freed once.
        unsafe { libc::free(self.start) };
    }
}

/// Addresses far below those that the system gives of itself.
fn fresh_addresses(len: usize) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0x1000_0000_0000);
    NEXT.fetch_add(
        (len + HUGE_PAGE).next_multiple_of(HUGE_PAGE),
        Ordering::Relaxed,
    )
}

fn map(start: usize, len: usize, flags: i32, fd: i32) -> Result<usize> {
    // SAFETY: with MAP_FIXED the addresses are the test's, which has no reference to what is there.
    let mapped = unsafe { libc::mmap(start as *mut c_void, len, READ_WRITE, flags, fd, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    Ok(mapped as usize)
}

fn unmap(start: usize, len: usize) {
    // SAFETY: the addresses are the test's, which has no reference to what is there.
    assert_eq!(unsafe { libc::munmap(start as *mut c_void, len) }, 0);
}

fn remap(from: usize, len: usize, to: usize) {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: both are the test's, which has no reference to what is there.
    let moved = unsafe { libc::mremap(from as *mut c_void, len, len, flags, to as *mut c_void) };
    assert_eq!(moved as usize, to, "{}", Error::last_os_error());
}

fn attach_segment(start: usize, len: usize) {
    // SAFETY: the segment is new, and attached where nothing is mapped; it goes with its last user.
    unsafe {
        let segment = libc::shmget(libc::IPC_PRIVATE, len, libc::IPC_CREAT | 0o600);
        assert_ne!(segment, -1, "{}", Error::last_os_error());
        let attached = libc::shmat(segment, start as *const c_void, 0);
        libc::shmctl(segment, libc::IPC_RMID, null_mut());
        assert_eq!(attached as usize, start);
    }
}

/// The word at the start of every page that has a part in a range.
fn read_numbers(address: usize, bytes: usize) -> Result<Vec<u64>> {
    let mut numbers = vec![0; pages(address, bytes).count()];
    let pages: Vec<_> = pages(address, bytes).collect();
    for (pages, numbers) in pages
        .chunks(VECTORS_MAX)
        .zip(numbers.chunks_mut(VECTORS_MAX))
    {
        transfer(libc::process_vm_readv, pages, numbers)?;
    }
    Ok(numbers)
}

fn write_numbers(address: usize, bytes: usize) -> Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let pages: Vec<_> = pages(address, bytes).collect();
    for pages in pages.chunks(VECTORS_MAX) {
        let first = NEXT.fetch_add(pages.len() as u64, Ordering::Relaxed);
        let mut numbers: Vec<u64> = (first..).take(pages.len()).collect();
        transfer(libc::process_vm_writev, pages, &mut numbers)?;
    }
    Ok(())
}

fn pages(address: usize, bytes: usize) -> impl Iterator<Item = usize> {
    (address / PAGE * PAGE..address + bytes).step_by(PAGE)
}

type Transfer = unsafe extern "C" fn(
    libc::pid_t,
    *const libc::iovec,
    libc::c_ulong,
    *const libc::iovec,
    libc::c_ulong,
    libc::c_ulong,
) -> isize;

fn transfer(call: Transfer, pages: &[usize], numbers: &mut [u64]) -> Result<()> {
    let vector = |base, len| libc::iovec {
        iov_base: base,
        iov_len: len,
    };
    let bytes = size_of_val(numbers);
    let here = vector(numbers.as_mut_ptr().cast(), bytes);
    let there: Vec<_> = pages
        .iter()
        .map(|&page| vector(page as *mut c_void, WORD))
        .collect();
    // SAFETY: the numbers are as long as the vector says; of the other side the kernel checks what
    // is mapped, and what is written are pages of the test, which has no reference to them.
    let done = unsafe {
        let pid = std::process::id() as libc::pid_t;
        call(pid, &here, 1, there.as_ptr(), there.len() as u64, 0)
    };
    if done == bytes as isize {
        return Ok(());
    }
    Err(Error::from_raw_os_error(libc::EFAULT))
}

//! The system calls that no crate has a safe form of: userfaultfd(2) with its ioctls, the query of
//! a mapping, the signal mask, pthread_atfork(3). Numbers and layouts are those of
//! `linux/userfaultfd.h` and `linux/fs.h`.
//!
//! None of them reads or writes memory of the program through a number that it gets: an address is
//! a name of pages here, and a wrong one gives an error.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Updater, opcode};
use rustix::mm::UserfaultfdFlags;

const UFFDIO: u8 = 0xAA;
const UFFD_API: u64 = 0xAA;
/// Without this flag of userfaultfd(2), `vm.unprivileged_userfaultfd = 0` (the default) refuses it
/// to all but root.
const UFFD_USER_MODE_ONLY: u32 = 1;
const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const UFFD_FEATURE_EVENT_REMAP: u64 = 1 << 2;
const UFFD_FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const UFFD_FEATURE_EVENT_UNMAP: u64 = 1 << 6;
/// Not used for itself. A kernel that has it (5.19) also COUNTS the changes in flight (5.15), which
/// [`changing`] relies on: before, there was one flag, which the first of two changes to end took
/// down.
const UFFD_FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRange {
    start: u64,
    len: u64,
}

#[repr(C)]
struct UffdioRegister {
    range: UffdioRange,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioWriteprotect {
    range: UffdioRange,
    mode: u64,
}

const UFFDIO_API: Opcode = opcode::read_write::<UffdioApi>(UFFDIO, 0x3F);
const UFFDIO_REGISTER: Opcode = opcode::read_write::<UffdioRegister>(UFFDIO, 0x00);
const UFFDIO_WRITEPROTECT: Opcode = opcode::read_write::<UffdioWriteprotect>(UFFDIO, 0x06);

/// A userfaultfd of this process that tells of unmapped, moved and discarded memory, and never of
/// a fault.
pub fn userfaultfd() -> Result<OwnedFd, Errno> {
    let flags = UserfaultfdFlags::CLOEXEC
        | UserfaultfdFlags::NONBLOCK
        | UserfaultfdFlags::from_bits_retain(UFFD_USER_MODE_ONLY);
    // SAFETY: the descriptor could change memory behind the program's back by UFFDIO_COPY and the
    // like. It does not leave this module's siblings, which call only what is below.
    let fd = unsafe { rustix::mm::userfaultfd(flags) }?;
    let mut api = UffdioApi {
        api: UFFD_API,
        features: UFFD_FEATURE_PAGEFAULT_FLAG_WP
            | UFFD_FEATURE_EVENT_REMAP
            | UFFD_FEATURE_EVENT_REMOVE
            | UFFD_FEATURE_EVENT_UNMAP
            | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
        ioctls: 0,
    };
    // SAFETY: opcode and structure belong together in linux/userfaultfd.h.
    unsafe { ioctl::ioctl(&fd, Updater::<UFFDIO_API, _>::new(&mut api)) }?;
    Ok(fd)
}

/// From now on changes of this range are told: its start and length are multiples of the page size
/// of what is mapped there. `EBUSY`: another userfaultfd has a part of it; `EINVAL`: nothing is
/// mapped there, or what cannot be watched.
///
/// There is no way back but to close the descriptor: before Linux 6.17 UFFDIO_UNREGISTER ends the
/// watch of ANY userfaultfd on the range, and whether it is still ours no one can say for sure.
pub fn watch(fd: impl AsFd, start: usize, len: usize) -> Result<(), Errno> {
    let mut register = UffdioRegister {
        range: UffdioRange {
            start: start as u64,
            len: len as u64,
        },
        mode: UFFDIO_REGISTER_MODE_WP,
        ioctls: 0,
    };
    // SAFETY: opcode and structure belong together. No page is write-protected, so no thread of
    // the program ever faults because of this.
    unsafe { ioctl::ioctl(fd, Updater::<UFFDIO_REGISTER, _>::new(&mut register)) }
}

/// Whether watched memory is being changed and the event of that has not been read yet. The kernel
/// counts such changes before the first page goes, under the lock that keeps the addresses from
/// being given to anybody else (`mmap_changing` in fs/userfaultfd.c), and refuses UFFDIO_WRITEPROTECT
/// with EAGAIN meanwhile, before it looks at the range. Of an empty range there is nothing to protect.
pub fn changing(fd: impl AsFd) -> bool {
    let mut nothing = UffdioWriteprotect {
        range: UffdioRange { start: 0, len: 0 },
        mode: 0,
    };
    // SAFETY: opcode and structure belong together; the range is empty and no protection is asked
    // for, so that the call can only fail.
    let failed = unsafe { ioctl::ioctl(fd, Updater::<UFFDIO_WRITEPROTECT, _>::new(&mut nothing)) };
    failed == Err(Errno::AGAIN)
}

/// What the kernel says of a mapping: `struct procmap_query` of linux/fs.h (6.11).
#[repr(C)]
#[derive(Default)]
pub struct Mapping {
    size: u64,
    query_flags: u64,
    query_address: u64,
    /// Its first address.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
    flags: u64,
    /// Bytes of a page, which is larger for huge pages.
    pub page_bytes: u64,
    offset: u64,
    /// Of the file that is mapped; 0 for plain memory.
    pub inode: u64,
    device_major: u32,
    device_minor: u32,
    name_bytes: u32,
    build_id_bytes: u32,
    name_address: u64,
    build_id_address: u64,
}

const PROCMAP_QUERY: Opcode = opcode::read_write::<Mapping>(b'f', 17);
const PROCMAP_QUERY_VMA_SHARED: u64 = 0x08;

impl Mapping {
    /// Whether it is `MAP_SHARED`.
    pub fn is_shared(&self) -> bool {
        self.flags & PROCMAP_QUERY_VMA_SHARED != 0
    }
}

/// The mapping that covers an address, by way of an open `/proc/self/maps`, and what it is called
/// (up to the room there is; a longer name is `ENAMETOOLONG`). `ENOENT`: nothing is mapped there;
/// `ENOTTY`: the kernel is older.
pub fn mapping(maps: impl AsFd, address: usize, name: &mut [u8]) -> Result<Mapping, Errno> {
    let mut query = Mapping {
        size: size_of::<Mapping>() as u64,
        query_address: address as u64,
        name_bytes: name.len() as u32,
        name_address: if name.is_empty() {
            0
        } else {
            name.as_mut_ptr() as u64
        },
        ..Mapping::default()
    };
    // SAFETY: opcode and structure belong together; the kernel writes the structure and at most
    // `name_bytes` bytes of the name, which the borrow keeps alive and ours.
    unsafe { ioctl::ioctl(maps, Updater::<PROCMAP_QUERY, _>::new(&mut query)) }?;
    Ok(query)
}

/// Runs something (the start of a thread, which inherits the mask) with every signal blocked.
pub fn with_signals_blocked<T>(run: impl FnOnce() -> T) -> T {
    // SAFETY: both sets are this frame's own; sigfillset fills the first before it is read, and
    // the call writes the second, which is all zeroes (a valid set) if it fails.
    let before = unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
            (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        before
    };
    let done = run();
    // SAFETY: the set is the one that was in force.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    done
}

/// Descriptors that a forked child closes at once: as long as a child had one, the end of it in
/// this process would not end the watch, and whoever unmapped memory would wait for ever.
static CLOSED_BY_CHILDREN: [AtomicI32; PLACES] = [const { AtomicI32::new(-1) }; PLACES];
/// Most caches of a process that can watch memory.
const PLACES: usize = 64;

/// A place in the list of descriptors that forked children close; given back when it is dropped.
pub struct ClosedByChildren(&'static AtomicI32);

impl ClosedByChildren {
    /// Lists a descriptor, if there is a place left.
    pub fn list(fd: i32) -> Option<ClosedByChildren> {
        static HANDLER: Once = Once::new();
        // SAFETY: the handler is a function of this library; the C library forgets it when the
        // library is unloaded. In the child it calls only what is safe there.
        HANDLER.call_once(|| unsafe {
            libc::pthread_atfork(None, None, Some(close_in_child));
        });
        CLOSED_BY_CHILDREN
            .iter()
            .find(|place| {
                let claimed = place.compare_exchange(-1, fd, Ordering::SeqCst, Ordering::SeqCst);
                claimed.is_ok()
            })
            .map(ClosedByChildren)
    }
}

impl Drop for ClosedByChildren {
    fn drop(&mut self) {
        self.0.store(-1, Ordering::SeqCst);
    }
}

extern "C" fn close_in_child() {
    for place in &CLOSED_BY_CHILDREN {
        let fd = place.swap(-1, Ordering::SeqCst);
        if fd >= 0 {
            // SAFETY: the number is that of a descriptor which the child inherited, has not used
            // (this is the first that runs in it) and whose owner in the child's memory forgets it.
            unsafe { libc::close(fd) };
        }
    }
}

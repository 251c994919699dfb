//! Memory that a device may touch: regions, and slots of our own to send from and receive in.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdma_sys::{ibv_access_flags, ibv_mr};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::context::Domain;
use crate::VerbsError;
use crate::limits::{CHUNK_SLOTS, SEND_SLOTS, SLOT_BYTES};

/// Memory that is registered; dropping it deregisters it. It does not own the memory.
pub(crate) struct Region {
    raw: NonNull<ibv_mr>,
    domain: Arc<Domain>,
    address: usize,
    bytes: usize,
}

// SAFETY: libibverbs locks what it changes; the region is deregistered once, by `drop`.
unsafe impl Send for Region {}
// SAFETY: see above.
unsafe impl Sync for Region {}

impl Region {
    /// Registers memory.
    ///
    /// # Safety
    ///
    /// As long as the region is there its memory is only that of whoever has agreed to what `access` says:
    /// with remote access, any peer of a queue pair of the domain that has been told the key may
    /// write there at any time.
    unsafe fn register(
        domain: &Arc<Domain>,
        address: usize,
        bytes: usize,
        access: ibv_access_flags,
    ) -> Result<Region, VerbsError> {
        let context = domain.context();
        let start = address as *mut c_void;
        let register = context.library().ibv_reg_mr;
        // SAFETY: the domain is there; memory that does not exist is an error of the verb. That others
        // write there is the caller's promise.
        let made = unsafe { register(domain.raw(), start, bytes, access.0 as c_int) };
        Ok(Region {
            raw: context.made("ibv_reg_mr", made)?,
            domain: Arc::clone(domain),
            address,
            bytes,
        })
    }

    /// Whether the region has all of this memory.
    pub fn covers(&self, address: usize, bytes: usize) -> bool {
        address >= self.address
            && address - self.address <= self.bytes
            && bytes <= self.bytes - (address - self.address)
    }

    /// The key for this side's work requests.
    pub fn lkey(&self) -> u32 {
        // SAFETY: the region is registered as long as this value is there.
        unsafe { self.raw.as_ref().lkey }
    }

    /// The key for the peer's.
    pub fn rkey(&self) -> u32 {
        // SAFETY: the region is registered as long as this value is there.
        unsafe { self.raw.as_ref().rkey }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let context = self.domain.context();
        if context.is_forked() {
            return;
        }
        // SAFETY: work requests that use the region hold it by an Arc, so none is outstanding.
        let result = unsafe { (context.library().ibv_dereg_mr)(self.raw.as_ptr()) };
        if let Err(error) = context.checked("ibv_dereg_mr", result) {
            tracing::warn!("{error}");
        }
    }
}

/// Registers memory that the port above has lent: to send from, and to receive into.
pub(crate) struct UserMemory {
    domain: Arc<Domain>,
}

impl UserMemory {
    pub fn new(domain: &Arc<Domain>) -> UserMemory {
        UserMemory {
            domain: Arc::clone(domain),
        }
    }

    /// A region of memory that a frame has named.
    pub fn register(&self, address: usize, bytes: usize) -> Result<Region, VerbsError> {
        let access =
            ibv_access_flags::IBV_ACCESS_LOCAL_WRITE | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE;
        // SAFETY: the port names only memory that it was lent, which stays lent until every link that
        // could touch it is closed or has no more to do there [R20]. A peer is told the key of what it
        // is to write to, and only a peer that has proved the job's key is told anything.
        unsafe { Region::register(&self.domain, address, bytes, access) }
    }
}

/// Slots in one piece of registered memory of our own.
pub(super) struct Chunk {
    // Deregistered first, unmapped then: fields are dropped in this order.
    region: Region,
    mapping: Mapping,
}

impl Chunk {
    pub fn new(domain: &Arc<Domain>) -> Result<Chunk, VerbsError> {
        let bytes = CHUNK_SLOTS * SLOT_BYTES;
        let mapping =
            Mapping::new(bytes).map_err(|errno| domain.context().failed("mmap", errno.into()))?;
        let address = mapping.start.as_ptr() as usize;
        // SAFETY: the mapping was made for this, is reached only through slots, and outlives the region.
        let region = unsafe {
            Region::register(
                domain,
                address,
                bytes,
                ibv_access_flags::IBV_ACCESS_LOCAL_WRITE,
            )?
        };
        Ok(Chunk { region, mapping })
    }

    /// Where a slot begins; slots beyond the last are none.
    pub fn slot(&self, number: usize) -> NonNull<u8> {
        assert!(number < CHUNK_SLOTS, "a chunk has {CHUNK_SLOTS} slots");
        // SAFETY: it is inside the mapping.
        unsafe { self.mapping.start.add(number * SLOT_BYTES) }
    }

    pub fn lkey(&self) -> u32 {
        self.region.lkey()
    }
}

/// Anonymous memory.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    /// Who made it.
    process: u32,
}

// SAFETY: the mapping is memory like any other, unmapped once.
unsafe impl Send for Mapping {}
// SAFETY: it is reached by tokens only, each of which one thread has.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> rustix::io::Result<Mapping> {
        // SAFETY: a mapping at an address that the system chooses touches no other.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        let process = std::process::id();
        let mapping = Mapping {
            start,
            bytes,
            process,
        };
        // A forked child must not make the parent's pages copies that the device does not know.
        // SAFETY: nobody has the memory yet.
        unsafe {
            rustix::mm::madvise(mapping.start.as_ptr().cast(), bytes, Advice::LinuxDontFork)?
        };
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // A forked child has no such mapping, and may have something of its own there.
        if std::process::id() == self.process {
            // SAFETY: it was mapped by `new`; slots hold the chunk, so nobody has a part of it.
            let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

/// A slot that this side may write; posting gives it away.
pub(crate) struct SendSlot {
    chunk: Arc<Chunk>,
    number: usize,
}

impl SendSlot {
    /// The whole slot.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: this value is the only way to the slot, and nothing of it is posted.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), SLOT_BYTES) }
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.chunk.slot(self.number)
    }

    pub(super) fn lkey(&self) -> u32 {
        self.chunk.lkey()
    }
}

/// The slots to send from, of all links of a transport. The one used last is used next.
pub(crate) struct SendPool {
    domain: Arc<Domain>,
    free: Vec<SendSlot>,
    made: usize,
}

impl SendPool {
    pub fn new(domain: &Arc<Domain>) -> SendPool {
        SendPool {
            domain: Arc::clone(domain),
            free: Vec::new(),
            made: 0,
        }
    }

    /// A slot; `None` where all are in use and there may be no more.
    pub fn take(&mut self) -> Option<SendSlot> {
        if self.free.is_empty() && self.made < SEND_SLOTS {
            match Chunk::new(&self.domain) {
                Ok(chunk) => self.add(Arc::new(chunk)),
                Err(error) => tracing::debug!("no more slots to send from: {error}"),
            }
        }
        self.free.pop()
    }

    /// Whether [`SendPool::take`] would find one without making any.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    pub fn give_back(&mut self, slot: SendSlot) {
        self.free.push(slot);
    }

    fn add(&mut self, chunk: Arc<Chunk>) {
        self.made += CHUNK_SLOTS;
        // The first is taken first.
        self.free
            .extend((0..CHUNK_SLOTS).rev().map(|number| SendSlot {
                chunk: Arc::clone(&chunk),
                number,
            }));
    }
}

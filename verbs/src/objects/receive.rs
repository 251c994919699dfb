//! The receive queue that all queue pairs of a transport share, and the slots that are posted to it.

use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};

use arrayvec::ArrayVec;
use rdma_sys::{ibv_post_srq_recv, ibv_recv_wr, ibv_sge, ibv_srq, ibv_srq_attr, ibv_srq_init_attr};

use super::completion::RECEIVE;
use super::context::Domain;
use super::memory::Chunk;
use crate::VerbsError;
use crate::limits::{CHUNK_SLOTS, SLOT_BYTES};

/// Slots posted with one call.
const POSTED_AT_ONCE: usize = 32;

/// A receive queue. Queue pairs hold it, and it holds every chunk that was posted to it.
pub(super) struct ReceiveQueue {
    raw: NonNull<ibv_srq>,
    domain: Arc<Domain>,
    /// What may be posted; freed only when the queue has been destroyed.
    chunks: Mutex<Vec<Arc<Chunk>>>,
}

// SAFETY: the provider locks a queue while it changes it; it is destroyed once.
unsafe impl Send for ReceiveQueue {}
// SAFETY: see above.
unsafe impl Sync for ReceiveQueue {}

impl ReceiveQueue {
    fn new(domain: &Arc<Domain>, capacity: usize) -> Result<ReceiveQueue, VerbsError> {
        let context = domain.context();
        let mut attributes = ibv_srq_init_attr {
            srq_context: ptr::null_mut(),
            attr: ibv_srq_attr {
                max_wr: capacity as u32,
                max_sge: 1,
                srq_limit: 0,
            },
        };
        // SAFETY: the domain is there; the structure is read and updated.
        let made = unsafe { (context.library().ibv_create_srq)(domain.raw(), &mut attributes) };
        Ok(ReceiveQueue {
            raw: context.made("ibv_create_srq", made)?,
            domain: Arc::clone(domain),
            chunks: Mutex::new(Vec::new()),
        })
    }

    pub fn raw(&self) -> *mut ibv_srq {
        self.raw.as_ptr()
    }
}

impl Drop for ReceiveQueue {
    fn drop(&mut self) {
        let context = self.domain.context();
        if context.is_forked() {
            return;
        }
        // SAFETY: queue pairs hold the queue by an Arc, so none uses it any more.
        let result = unsafe { (context.library().ibv_destroy_srq)(self.raw()) };
        if let Err(error) = context.checked("ibv_destroy_srq", result) {
            tracing::warn!("{error}");
        }
    }
}

/// A packet that has arrived: the slot it is in, which nobody else may write until it is posted again.
#[derive(Debug)]
pub(crate) struct Arrived {
    slot: u32,
    bytes: u32,
}

/// The slots of a receive queue, and how many of them were promised to peers.
pub(crate) struct ReceivePool {
    queue: Arc<ReceiveQueue>,
    chunks: Vec<Arc<Chunk>>,
    /// Of each slot, whether the queue has it.
    posted: Vec<bool>,
    /// To be posted with the next batch.
    waiting: Vec<u32>,
    /// Packets that peers may send, all of them at once.
    promised: usize,
    capacity: usize,
    /// Batches handed to the device.
    pub batches: u64,
}

impl ReceivePool {
    /// At most `capacity` slots; they are made when they are promised.
    pub fn new(domain: &Arc<Domain>, capacity: usize) -> Result<ReceivePool, VerbsError> {
        Ok(ReceivePool {
            queue: Arc::new(ReceiveQueue::new(domain, capacity)?),
            chunks: Vec::new(),
            posted: Vec::new(),
            waiting: Vec::new(),
            promised: 0,
            capacity: capacity - capacity % CHUNK_SLOTS,
            batches: 0,
        })
    }

    /// Makes the first slots, so that what stands against that is known at once.
    pub fn prepare(&mut self) -> Result<(), VerbsError> {
        self.add_chunk()
    }

    pub(super) fn queue(&self) -> &Arc<ReceiveQueue> {
        &self.queue
    }

    /// Slots that there would be with so many more promises.
    pub fn slots_with(&self, packets: u32) -> usize {
        let wanted = self.promised + packets as usize;
        wanted.next_multiple_of(CHUNK_SLOTS).max(self.posted.len())
    }

    /// Promises room for so many more packets: there are never fewer slots than promises. `[R62]`
    pub fn promise(&mut self, packets: u32) -> Result<(), VerbsError> {
        while self.promised + packets as usize > self.posted.len() {
            self.add_chunk()?;
        }
        self.promised += packets as usize;
        Ok(())
    }

    /// Takes promises back, of peers that can't send any more.
    pub fn forget(&mut self, packets: u32) {
        self.promised -= packets as usize;
    }

    /// Whether a link that is busy should make room for others.
    pub fn is_tight(&self) -> bool {
        self.promised + CHUNK_SLOTS > self.capacity
    }

    /// The slot of a completion; `None` for one that was not posted.
    pub fn arrived(&mut self, slot: u64, bytes: u32) -> Option<Arrived> {
        let posted = self.posted.get_mut(usize::try_from(slot).ok()?)?;
        std::mem::take(posted).then_some(Arrived {
            slot: slot as u32,
            bytes: bytes.min(SLOT_BYTES as u32),
        })
    }

    /// What has arrived.
    pub fn bytes(&self, arrived: &Arrived) -> &[u8] {
        let (chunk, number) = place(arrived.slot);
        let start = self.chunks[chunk].slot(number);
        // SAFETY: the slot is not posted, so the device does not write it; who has `arrived` borrowed
        // can't post it. The chunk is held by `self`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), arrived.bytes as usize) }
    }

    /// The slot is read and may be used again, from the next [`ReceivePool::post`] on.
    pub fn give_back(&mut self, arrived: Arrived) {
        self.waiting.push(arrived.slot);
    }

    /// Whether slots wait to be posted, so many at least.
    pub fn has_waiting(&self, at_least: usize) -> bool {
        self.waiting.len() >= at_least
    }

    /// Posts the slots that were given back.
    pub fn post(&mut self) -> Result<(), VerbsError> {
        while !self.waiting.is_empty() {
            self.post_some()?;
        }
        Ok(())
    }

    fn post_some(&mut self) -> Result<(), VerbsError> {
        let some = self.waiting.len().min(POSTED_AT_ONCE);
        let mut parts: ArrayVec<ibv_sge, POSTED_AT_ONCE> = ArrayVec::new();
        let mut requests: ArrayVec<ibv_recv_wr, POSTED_AT_ONCE> = ArrayVec::new();
        for &slot in &self.waiting[..some] {
            let (chunk, number) = place(slot);
            let chunk = &self.chunks[chunk];
            parts.push(ibv_sge {
                addr: chunk.slot(number).as_ptr() as u64,
                length: SLOT_BYTES as u32,
                lkey: chunk.lkey(),
            });
            requests.push(ibv_recv_wr {
                wr_id: RECEIVE | u64::from(slot),
                next: ptr::null_mut(),
                sg_list: ptr::null_mut(),
                num_sge: 1 as c_int,
            });
        }
        // Both lists have their places now.
        let (parts, first) = (parts.as_mut_ptr(), requests.as_mut_ptr());
        for at in 0..some {
            // SAFETY: both lists are `some` long, and are not moved before the call below.
            unsafe {
                (*first.add(at)).sg_list = parts.add(at);
                if at + 1 < some {
                    (*first.add(at)).next = first.add(at + 1);
                }
            }
        }
        let mut bad = ptr::null_mut();
        // SAFETY: the queue is there and holds the chunks; the slots are given away here: nobody has them
        // until they complete.
        let result = unsafe { ibv_post_srq_recv(self.queue.raw(), first, &mut bad) };
        let context = self.queue.domain.context();
        context.checked("ibv_post_srq_recv", result)?;
        self.batches += 1;
        for slot in self.waiting.drain(..some) {
            self.posted[slot as usize] = true;
        }
        Ok(())
    }

    fn add_chunk(&mut self) -> Result<(), VerbsError> {
        if self.posted.len() + CHUNK_SLOTS > self.capacity {
            return Err(VerbsError::Limit {
                device: self.queue.domain.context().device().to_owned(),
                what: "packets promised to peers",
                most: self.capacity,
            });
        }
        let chunk = Arc::new(Chunk::new(&self.queue.domain)?);
        let held = &self.queue.chunks;
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        held.push(Arc::clone(&chunk));
        drop(held);
        self.chunks.push(chunk);
        let first = self.posted.len();
        self.posted.resize(first + CHUNK_SLOTS, false);
        let added = first as u32..(first + CHUNK_SLOTS) as u32;
        self.waiting.extend(added);
        self.post()
    }
}

fn place(slot: u32) -> (usize, usize) {
    let slot = slot as usize;
    (slot / CHUNK_SLOTS, slot % CHUNK_SLOTS)
}

//! Work requests for a send queue, and what they need until they have completed.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::Arc;

use rdma_sys::{ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wr_opcode, rdma_t, wr_t};

use super::memory::{Region, SendPool, SendSlot};
use crate::limits::SLOT_BYTES;

/// What a request needs until it has completed.
pub(super) enum Keep {
    Nothing,
    Slot(SendSlot),
    Region(Arc<Region>),
}

/// One work request, with what it needs.
pub(crate) struct SendRequest {
    pub(super) keep: Keep,
    address: u64,
    bytes: u32,
    lkey: u32,
    operation: Operation,
}

#[derive(Clone, Copy)]
enum Operation {
    Send,
    Write { address: u64, rkey: u32 },
}

impl SendRequest {
    /// Sends the beginning of a slot.
    pub fn send(slot: SendSlot, bytes: usize) -> SendRequest {
        SendRequest {
            address: slot.start().as_ptr() as u64,
            bytes: bytes.min(SLOT_BYTES) as u32,
            lkey: slot.lkey(),
            keep: Keep::Slot(slot),
            operation: Operation::Send,
        }
    }

    /// Writes a part of a region to where the peer has said; `None` for what is no part of it.
    pub fn write(
        region: Arc<Region>,
        from: usize,
        bytes: usize,
        to: u64,
        rkey: u32,
    ) -> Option<SendRequest> {
        region.covers(from, bytes).then(|| SendRequest {
            address: from as u64,
            bytes: bytes as u32,
            lkey: region.lkey(),
            keep: Keep::Region(region),
            operation: Operation::Write { address: to, rkey },
        })
    }

    /// Whether another write takes up where this one ends, on both sides, out of the same region.
    fn goes_on_with(&self, next: &SendRequest) -> bool {
        let (Keep::Region(region), Keep::Region(other)) = (&self.keep, &next.keep) else {
            return false;
        };
        let (Operation::Write { address: to, rkey }, Operation::Write { address, rkey: key }) =
            (self.operation, next.operation)
        else {
            return false;
        };
        let bytes = u64::from(self.bytes);
        Arc::ptr_eq(region, other)
            && rkey == key
            && self.address + bytes == next.address
            && to.wrapping_add(bytes) == address
            && bytes + u64::from(next.bytes) <= WRITE_BYTES_MAX
    }

    /// Whether its bytes go into the queue with it, where so many may.
    pub(super) fn is_inline(&self, most: u32) -> bool {
        !self.is_write() && self.bytes <= most
    }

    /// Whether it is a write.
    fn is_write(&self) -> bool {
        matches!(self.operation, Operation::Write { .. })
    }
}

/// Bytes of one write; every device takes as many.
const WRITE_BYTES_MAX: u64 = 1 << 24;

/// What one call of [`super::QueuePair::post`] has posted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Posted {
    pub requests: u64,
    pub writes: u64,
    pub inline: u64,
    pub signalled: u64,
}

/// Requests to be posted together, and the lists that are made of them for the call.
#[derive(Default)]
pub(crate) struct Chain {
    pub(super) requests: Vec<SendRequest>,
    raw: Vec<ibv_send_wr>,
    parts: Vec<ibv_sge>,
}

// SAFETY: the lists have pointers into each other only during a call of `post`.
unsafe impl Send for Chain {}
// SAFETY: see above.
unsafe impl Sync for Chain {}

impl Chain {
    /// Adds a request. A write that goes on where the one before ends becomes one with it.
    pub fn push(&mut self, request: SendRequest) {
        if let Some(last) = self.requests.last_mut()
            && last.goes_on_with(&request)
        {
            last.bytes += request.bytes;
        } else {
            self.requests.push(request);
        }
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Forgets requests that will not be posted.
    pub fn abandon(&mut self, pool: &mut SendPool) {
        for request in self.requests.drain(..) {
            if let Keep::Slot(slot) = request.keep {
                pool.give_back(slot);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Makes the lists for the device: requests numbered from `first` on, of which the last asks for a
    /// completion where one must, or memory is to be given back. Returns what they are.
    pub(super) fn build(&mut self, first: u64, inline_bytes: u32, must_signal: bool) -> Posted {
        let mut posted = Posted {
            requests: self.requests.len() as u64,
            ..Posted::default()
        };
        self.raw.clear();
        self.parts.clear();
        for (number, request) in (first..).zip(&self.requests) {
            let inline = request.is_inline(inline_bytes);
            posted.inline += u64::from(inline);
            posted.writes += u64::from(request.is_write());
            self.parts.push(ibv_sge {
                addr: request.address,
                length: request.bytes,
                lkey: request.lkey,
            });
            self.raw.push(raw_request(request, number, inline));
        }
        let holds = posted.inline < posted.requests;
        if let Some(last) = self.raw.last_mut()
            && (holds || must_signal)
        {
            last.send_flags |= ibv_send_flags::IBV_SEND_SIGNALED.0;
            posted.signalled = 1;
        }
        posted
    }

    /// The first of the lists that [`Chain::build`] has made, linked to the rest. They stay where they
    /// are until the chain is changed.
    pub(super) fn linked(&mut self) -> *mut ibv_send_wr {
        let count = self.raw.len().min(self.parts.len());
        let (first, parts) = (self.raw.as_mut_ptr(), self.parts.as_mut_ptr());
        for at in 0..count {
            // SAFETY: both lists have so many entries.
            unsafe {
                (*first.add(at)).sg_list = parts.add(at);
                if at + 1 < count {
                    (*first.add(at)).next = first.add(at + 1);
                }
            }
        }
        first
    }
}

/// A send whose bytes the device takes with it: it needs no slot, and nothing is kept for it.
pub(super) struct InlineRequest<'a> {
    raw: ibv_send_wr,
    part: ibv_sge,
    _bytes: PhantomData<&'a [u8]>,
}

impl<'a> InlineRequest<'a> {
    pub fn new(number: u64, bytes: &'a [u8], signalled: bool) -> InlineRequest<'a> {
        let mut raw = empty_request(number);
        raw.opcode = ibv_wr_opcode::IBV_WR_SEND;
        raw.send_flags = ibv_send_flags::IBV_SEND_INLINE.0;
        if signalled {
            raw.send_flags |= ibv_send_flags::IBV_SEND_SIGNALED.0;
        }
        let part = ibv_sge {
            addr: bytes.as_ptr() as u64,
            length: bytes.len() as u32,
            lkey: 0,
        };
        InlineRequest {
            raw,
            part,
            _bytes: PhantomData,
        }
    }

    /// The request as a list of one, which is there as long as this value is where it is.
    pub fn linked(&mut self) -> *mut ibv_send_wr {
        self.raw.sg_list = &mut self.part;
        &mut self.raw
    }
}

fn empty_request(number: u64) -> ibv_send_wr {
    // SAFETY: zeroes are a value of every field: numbers, null pointers, unions of those.
    let mut raw: ibv_send_wr = unsafe { MaybeUninit::zeroed().assume_init() };
    raw.wr_id = number;
    raw.num_sge = 1;
    raw
}

fn raw_request(request: &SendRequest, number: u64, inline: bool) -> ibv_send_wr {
    let mut raw = empty_request(number);
    match request.operation {
        Operation::Send => raw.opcode = ibv_wr_opcode::IBV_WR_SEND,
        Operation::Write { address, rkey } => {
            raw.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE;
            raw.wr = wr_t {
                rdma: rdma_t {
                    remote_addr: address,
                    rkey,
                },
            };
        }
    }
    if inline {
        raw.send_flags = ibv_send_flags::IBV_SEND_INLINE.0;
    }
    raw
}

//! What queue pairs and queues are, and what a posted request does to them.

use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdma_sys::{
    ibv_access_flags, ibv_qp_state, ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wc, ibv_wc_opcode,
    ibv_wc_status, ibv_wr_opcode,
};

/// Everything there is, of all ports of the process.
#[derive(Default)]
pub struct Fabric {
    pub pairs: HashMap<u32, Pair>,
    pub queues: HashMap<u32, Queue>,
    pub receives: HashMap<u32, VecDeque<Receive>>,
    pub regions: HashMap<u32, Region>,
    last: u32,
}

/// A queue pair.
pub struct Pair {
    pub queue: u32,
    pub receives: u32,
    pub state: u32,
    pub peer: u32,
}

/// A completion queue.
#[derive(Default)]
pub struct Queue {
    pub completions: VecDeque<Done>,
    pub armed: bool,
    /// The descriptor of its channel's events.
    pub channel: RawFd,
    /// The address by which its owner knows it.
    pub raw: usize,
}

/// A posted receive.
pub struct Receive {
    pub id: u64,
    pub address: u64,
    pub bytes: u32,
    pub lkey: u32,
}

/// Registered memory; local and remote key are the same.
pub struct Region {
    pub address: u64,
    pub bytes: u64,
    pub access: u32,
}

/// A completion.
pub struct Done {
    pub id: u64,
    pub pair: u32,
    pub status: u32,
    pub opcode: u32,
    pub bytes: u32,
}

static FABRIC: Mutex<Option<Fabric>> = Mutex::new(None);

/// Runs with everything there is.
pub fn with<T>(act: impl FnOnce(&mut Fabric) -> T) -> T {
    let mut fabric: MutexGuard<'_, _> = FABRIC.lock().unwrap_or_else(PoisonError::into_inner);
    act(fabric.get_or_insert_default())
}

impl Fabric {
    /// A number that nothing has had.
    pub fn number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// Carries out a work request of a queue pair.
    ///
    /// # Safety
    /// Its list and what that names, and every posted receive, are memory of this process.
    pub unsafe fn post(&mut self, from: u32, request: &ibv_send_wr) {
        let Some(pair) = self.pairs.get(&from) else {
            return;
        };
        let (queue, to) = (pair.queue, pair.peer);
        let status = if pair.state == ibv_qp_state::IBV_QPS_RTS {
            // SAFETY: the caller's promise.
            unsafe { self.carry_out(to, request) }
        } else {
            ibv_wc_status::IBV_WC_WR_FLUSH_ERR
        };
        let failed = status != ibv_wc_status::IBV_WC_SUCCESS;
        if failed && let Some(pair) = self.pairs.get_mut(&from) {
            pair.state = ibv_qp_state::IBV_QPS_ERR;
        }
        if failed || request.send_flags & ibv_send_flags::IBV_SEND_SIGNALED.0 != 0 {
            let opcode = ibv_wc_opcode::IBV_WC_SEND;
            self.complete(queue, request.wr_id, from, status, opcode, 0);
        }
    }

    /// # Safety
    /// As of [`Fabric::post`].
    unsafe fn carry_out(&mut self, to: u32, request: &ibv_send_wr) -> u32 {
        if request.num_sge > 1 {
            return ibv_wc_status::IBV_WC_LOC_LEN_ERR;
        }
        let none = ibv_sge {
            addr: 0,
            length: 0,
            lkey: 0,
        };
        let part = match request.num_sge {
            0 => &none,
            // SAFETY: the caller's promise; there is one.
            _ => unsafe { &*request.sg_list },
        };
        let inline = request.send_flags & ibv_send_flags::IBV_SEND_INLINE.0 != 0;
        if !inline && !self.may(part.lkey, part.addr, part.length, 0) {
            return ibv_wc_status::IBV_WC_LOC_PROT_ERR;
        }
        if request.opcode == ibv_wr_opcode::IBV_WR_RDMA_WRITE {
            // SAFETY: of a write this is the part of the union that is set.
            let place = unsafe { request.wr.rdma };
            let access = ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
            if !self.may(place.rkey, place.remote_addr, part.length, access) {
                return ibv_wc_status::IBV_WC_REM_ACCESS_ERR;
            }
            // SAFETY: both were registered as memory that may be read and written so.
            unsafe { copy(part.addr, place.remote_addr, part.length) };
            return ibv_wc_status::IBV_WC_SUCCESS;
        }
        let Some(peer) = self.pairs.get(&to) else {
            return ibv_wc_status::IBV_WC_RETRY_EXC_ERR;
        };
        let queue = peer.queue;
        let posted = self.receives.get_mut(&peer.receives);
        let Some(receive) = posted.and_then(VecDeque::pop_front) else {
            return ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR;
        };
        let access = ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0;
        let fits = receive.bytes >= part.length
            && self.may(receive.lkey, receive.address, receive.bytes, access);
        if !fits {
            return ibv_wc_status::IBV_WC_REM_OP_ERR;
        }
        // SAFETY: as above.
        unsafe { copy(part.addr, receive.address, part.length) };
        let (status, opcode) = (ibv_wc_status::IBV_WC_SUCCESS, ibv_wc_opcode::IBV_WC_RECV);
        self.complete(queue, receive.id, to, status, opcode, part.length);
        ibv_wc_status::IBV_WC_SUCCESS
    }

    fn may(&self, key: u32, address: u64, bytes: u32, access: u32) -> bool {
        self.regions.get(&key).is_some_and(|region| {
            let end = address.checked_add(u64::from(bytes));
            address >= region.address
                && end.is_some_and(|end| end <= region.address + region.bytes)
                && region.access & access == access
        })
    }

    fn complete(&mut self, queue: u32, id: u64, pair: u32, status: u32, opcode: u32, bytes: u32) {
        let Some(queue) = self.queues.get_mut(&queue) else {
            return;
        };
        queue.completions.push_back(Done {
            id,
            pair,
            status,
            opcode,
            bytes,
        });
        if std::mem::take(&mut queue.armed) {
            crate::device::ring(queue.channel);
        }
    }
}

impl Done {
    /// As verbs tell it.
    pub fn write(&self, into: &mut ibv_wc) {
        into.wr_id = self.id;
        into.status = self.status;
        into.opcode = self.opcode;
        into.vendor_err = 0;
        into.byte_len = self.bytes;
        into.qp_num = self.pair;
        into.src_qp = 0;
        into.wc_flags = 0;
    }
}

/// # Safety
/// Both are so many bytes of this process, the second writable.
unsafe fn copy(from: u64, to: u64, bytes: u32) {
    // SAFETY: the caller's promise.
    unsafe { ptr::copy(from as *const u8, to as *mut u8, bytes as usize) };
}

//! A reliable-connected queue pair: its states, and what it has outstanding.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdma_sys::{
    ibv_access_flags, ibv_ah_attr, ibv_gid, ibv_post_send, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask,
    ibv_qp_cap, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type, ibv_send_wr,
};

use super::completion::CompletionQueue;
use super::context::Domain;
use super::doorbell;
use super::memory::SendPool;
use super::receive::{ReceivePool, ReceiveQueue};
use super::request::{Chain, InlineRequest, Keep, Posted};
use crate::VerbsError;
use crate::limits::{INLINE_BYTES, SEND_QUEUE_REQUESTS, SIGNAL_EVERY};

/// A queue pair. Dropping it destroys it: after that nothing of it touches memory. `[R20]`
pub(crate) struct QueuePair {
    raw: NonNull<ibv_qp>,
    domain: Arc<Domain>,
    _completions: Arc<CompletionQueue>,
    _receives: Arc<ReceiveQueue>,
    /// What the requests that have not completed need, in the order in which they were posted.
    outstanding: VecDeque<Keep>,
    /// The number of the next request.
    next: u64,
    /// Requests since the last that asks for a completion.
    unsignalled: usize,
    inline_bytes: u32,
    connected: bool,
    destroyed: bool,
}

// SAFETY: libibverbs and the provider lock a queue pair while they change it; it is destroyed once.
unsafe impl Send for QueuePair {}
// SAFETY: see above; posting takes `&mut self`.
unsafe impl Sync for QueuePair {}

/// Where a queue pair's peer is, and how to get there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// This side's port of the device.
    pub port: u8,
    /// This side's address in the port's table.
    pub gid_index: u8,
    /// As verbs number it.
    pub mtu: u32,
    /// InfiniBand's service level; on Ethernet the priority.
    pub service_level: u8,
    /// The traffic class; on Ethernet the DSCP and ECN bits.
    pub traffic_class: u8,
    /// Whether the peer is addressed by GID; on Ethernet always.
    pub global: bool,
    /// 4.096 µs times two to this power is how long an acknowledgement may take.
    pub timeout: u8,
    /// Attempts after the first.
    pub retries: u8,
    /// The first packet sequence number of this side.
    pub psn: u32,
    /// The peer's.
    pub peer_psn: u32,
    /// The peer's queue pair.
    pub peer_pair: u32,
    /// The peer's address.
    pub peer_gid: [u8; 16],
    /// The peer's local identifier; zero on Ethernet.
    pub peer_lid: u16,
}

impl QueuePair {
    /// A queue pair in its initial state, on a port.
    pub fn new(
        domain: &Arc<Domain>,
        completions: &Arc<CompletionQueue>,
        receives: &ReceivePool,
        port: u8,
    ) -> Result<QueuePair, VerbsError> {
        let made = create(domain, completions, receives.queue(), INLINE_BYTES)
            // A device that has no room for so much inline, or none at all.
            .or_else(|_| create(domain, completions, receives.queue(), 0));
        let (raw, inline_bytes) = made?;
        let pair = QueuePair {
            raw,
            domain: Arc::clone(domain),
            _completions: Arc::clone(completions),
            _receives: Arc::clone(receives.queue()),
            outstanding: VecDeque::with_capacity(SEND_QUEUE_REQUESTS),
            next: 0,
            unsignalled: 0,
            inline_bytes,
            connected: false,
            destroyed: false,
        };
        let mut attributes = attributes(ibv_qp_state::IBV_QPS_INIT);
        attributes.port_num = port;
        let access =
            ibv_access_flags::IBV_ACCESS_LOCAL_WRITE | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE;
        attributes.qp_access_flags = access.0;
        use ibv_qp_attr_mask as mask;
        let given = mask::IBV_QP_PKEY_INDEX | mask::IBV_QP_PORT | mask::IBV_QP_ACCESS_FLAGS;
        pair.modify(attributes, given)?;
        Ok(pair)
    }

    /// Its number, which the peer must know.
    pub fn number(&self) -> u32 {
        // SAFETY: the queue pair is there.
        unsafe { self.raw.as_ref().qp_num }
    }

    /// From here on it takes what the peer sends, and then sends.
    pub fn connect(&mut self, path: &Path) -> Result<(), VerbsError> {
        use ibv_qp_attr_mask as mask;
        let mut receive = attributes(ibv_qp_state::IBV_QPS_RTR);
        receive.path_mtu = path.mtu;
        receive.dest_qp_num = path.peer_pair;
        receive.rq_psn = path.peer_psn;
        receive.max_dest_rd_atomic = 1;
        receive.min_rnr_timer = 12;
        receive.ah_attr = address(path);
        let given = mask::IBV_QP_AV
            | mask::IBV_QP_PATH_MTU
            | mask::IBV_QP_DEST_QPN
            | mask::IBV_QP_RQ_PSN
            | mask::IBV_QP_MAX_DEST_RD_ATOMIC
            | mask::IBV_QP_MIN_RNR_TIMER;
        self.modify(receive, given)?;
        self.connected = true;
        let mut send = attributes(ibv_qp_state::IBV_QPS_RTS);
        send.timeout = path.timeout;
        send.retry_cnt = path.retries;
        // Credits see to it that the peer is always ready [R62]: if it is not, that is a fault, and must
        // be one that is seen.
        send.rnr_retry = 0;
        send.sq_psn = path.psn;
        send.max_rd_atomic = 1;
        let given = mask::IBV_QP_TIMEOUT
            | mask::IBV_QP_RETRY_CNT
            | mask::IBV_QP_RNR_RETRY
            | mask::IBV_QP_SQ_PSN
            | mask::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(send, given)
    }

    /// Whether it may have taken something from the peer.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Ends it: what is outstanding fails, and nothing more is taken from the peer.
    pub fn fail(&self) -> Result<(), VerbsError> {
        let none = ibv_qp_attr_mask(0);
        self.modify(attributes(ibv_qp_state::IBV_QPS_ERR), none)
    }

    /// How many more requests may be posted.
    pub fn room(&self) -> usize {
        SEND_QUEUE_REQUESTS - self.outstanding.len()
    }

    /// Posts all requests of the chain with one call, which is one doorbell. The last asks for a
    /// completion where something waits for one: memory to be given back, or its turn.
    pub fn post(&mut self, chain: &mut Chain, pool: &mut SendPool) -> Result<Posted, VerbsError> {
        let count = chain.len();
        assert!(
            count <= self.room(),
            "more requests than the queue has room for"
        );
        let must_signal = self.unsignalled + count >= SIGNAL_EVERY;
        let posted = chain.build(self.next, self.inline_bytes, must_signal);
        self.unsignalled = match posted.signalled {
            0 => self.unsignalled + count,
            _ => 0,
        };
        // SAFETY: the lists live through the call; what the requests read is kept until they complete,
        // or until the queue pair has been destroyed. Inline data is copied by the call.
        let result = unsafe { self.hand_over(chain.linked()) };
        self.next += count as u64;
        let inline_bytes = self.inline_bytes;
        for request in chain.requests.drain(..) {
            let inline = request.is_inline(inline_bytes);
            self.outstanding.push_back(match request.keep {
                Keep::Slot(slot) if inline => {
                    pool.give_back(slot);
                    Keep::Nothing
                }
                keep => keep,
            });
        }
        result?;
        Ok(posted)
    }

    /// Whether so many bytes can be sent at once, out of the call's own memory.
    pub fn takes_inline(&self, bytes: usize) -> bool {
        bytes <= self.inline_bytes as usize
    }

    /// Sends bytes that [`QueuePair::takes_inline`], as one request.
    pub fn post_inline(&mut self, bytes: &[u8]) -> Result<Posted, VerbsError> {
        assert!(
            self.takes_inline(bytes.len()) && self.room() > 0,
            "no room for the request"
        );
        let signalled = self.unsignalled + 1 >= SIGNAL_EVERY;
        self.unsignalled = if signalled { 0 } else { self.unsignalled + 1 };
        let mut request = InlineRequest::new(self.next, bytes, signalled);
        // SAFETY: the request and what it names live through the call, which copies the bytes.
        let result = unsafe { self.hand_over(request.linked()) };
        self.next += 1;
        self.outstanding.push_back(Keep::Nothing);
        result?;
        Ok(Posted {
            requests: 1,
            inline: 1,
            signalled: signalled.into(),
            ..Posted::default()
        })
    }

    /// Hands a list of requests to the device, with one doorbell.
    ///
    /// # Safety
    ///
    /// The list is there, and what is not inline of it stays until it has completed.
    unsafe fn hand_over(&self, first: *mut ibv_send_wr) -> Result<(), VerbsError> {
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is there; the list is the caller's promise.
        let mut result = unsafe { ibv_post_send(self.raw.as_ptr(), first, &mut bad) };
        if result == libc::EACCES && bad.is_null() {
            // The requests are in the queue; only the doorbell was refused.
            // SAFETY: the queue pair is there.
            let rung = doorbell::ring(unsafe { self.raw.as_ref() });
            result = rung.map_or_else(|error| error.raw_os_error().unwrap_or(result), |()| 0);
        }
        self.domain.context().checked("ibv_post_send", result)
    }

    /// The request of this number has completed, and with it all before: their slots are free again.
    pub fn complete(&mut self, number: u64, pool: &mut SendPool) {
        let first = self.next - self.outstanding.len() as u64;
        let Some(before) = number.checked_sub(first) else {
            return;
        };
        let done = (before as usize + 1).min(self.outstanding.len());
        for keep in self.outstanding.drain(..done) {
            if let Keep::Slot(slot) = keep {
                pool.give_back(slot);
            }
        }
    }

    /// Destroys it, and gives back the slots of what was outstanding.
    pub fn destroy(mut self, pool: &mut SendPool) {
        for keep in self.destroy_once() {
            if let Keep::Slot(slot) = keep {
                pool.give_back(slot);
            }
        }
    }

    fn destroy_once(&mut self) -> VecDeque<Keep> {
        if std::mem::replace(&mut self.destroyed, true) {
            return VecDeque::new();
        }
        let context = self.domain.context();
        if context.is_forked() {
            return VecDeque::new();
        }
        // SAFETY: it was made by `new`, and is destroyed once.
        let result = unsafe { (context.library().ibv_destroy_qp)(self.raw.as_ptr()) };
        let outstanding = std::mem::take(&mut self.outstanding);
        if let Err(error) = context.checked("ibv_destroy_qp", result) {
            tracing::error!("{error}");
            // It may still read what was posted: that memory must stay for good.
            std::mem::forget(outstanding);
            return VecDeque::new();
        }
        outstanding
    }

    fn modify(
        &self,
        mut attributes: ibv_qp_attr,
        given: ibv_qp_attr_mask,
    ) -> Result<(), VerbsError> {
        let given = given | ibv_qp_attr_mask::IBV_QP_STATE;
        let context = self.domain.context();
        // SAFETY: the queue pair is there, and the structure has what the mask says.
        let result = unsafe {
            (context.library().ibv_modify_qp)(self.raw.as_ptr(), &mut attributes, given.0 as c_int)
        };
        context.checked("ibv_modify_qp", result)
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        self.destroy_once();
    }
}

fn create(
    domain: &Arc<Domain>,
    completions: &Arc<CompletionQueue>,
    receives: &Arc<ReceiveQueue>,
    inline_bytes: u32,
) -> Result<(NonNull<ibv_qp>, u32), VerbsError> {
    let mut attributes = ibv_qp_init_attr {
        qp_context: ptr::null_mut(),
        send_cq: completions.raw(),
        recv_cq: completions.raw(),
        srq: receives.raw(),
        cap: ibv_qp_cap {
            max_send_wr: SEND_QUEUE_REQUESTS as u32,
            max_recv_wr: 0,
            max_send_sge: 1,
            max_recv_sge: 0,
            max_inline_data: inline_bytes,
        },
        qp_type: ibv_qp_type::IBV_QPT_RC,
        sq_sig_all: 0,
    };
    let context = domain.context();
    // SAFETY: domain and queues are there; the structure is read and updated.
    let made = unsafe { (context.library().ibv_create_qp)(domain.raw(), &mut attributes) };
    let raw = context.made("ibv_create_qp", made)?;
    Ok((raw, attributes.cap.max_inline_data.min(inline_bytes)))
}

fn attributes(state: u32) -> ibv_qp_attr {
    // SAFETY: zeroes are a value of every field: numbers, and unions of arrays of them.
    let mut attributes: ibv_qp_attr = unsafe { MaybeUninit::zeroed().assume_init() };
    attributes.qp_state = state;
    attributes
}

fn address(path: &Path) -> ibv_ah_attr {
    // SAFETY: as in `attributes`.
    let mut to: ibv_ah_attr = unsafe { MaybeUninit::zeroed().assume_init() };
    to.port_num = path.port;
    to.sl = path.service_level;
    to.dlid = path.peer_lid;
    if path.global {
        to.is_global = 1;
        to.grh.dgid = ibv_gid { raw: path.peer_gid };
        to.grh.sgid_index = path.gid_index;
        to.grh.hop_limit = 64;
        to.grh.traffic_class = path.traffic_class;
    }
    to
}

//! Queues and queue pairs, as verbs make and use them.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::LazyLock;

use rdma_sys::{
    ibv_comp_channel, ibv_context, ibv_cq, ibv_pd, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask,
    ibv_qp_init_attr, ibv_qp_state, ibv_recv_wr, ibv_send_wr, ibv_srq, ibv_srq_init_attr, ibv_wc,
};

use crate::device::zeroed;
use crate::fabric::{self, Pair, Queue, Receive};

/// # Safety
/// Context and channel are there. A channel has one queue.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_create_cq(
    context: *mut ibv_context,
    entries: c_int,
    own: *mut c_void,
    channel: *mut ibv_comp_channel,
    _: c_int,
) -> *mut ibv_cq {
    // SAFETY: it is made of numbers and pointers; locks of zeroes are locks. And the caller's promise.
    let (mut made, fd): (ibv_cq, _) = unsafe { (zeroed(), (*channel).fd) };
    made.context = context;
    made.channel = channel;
    made.cq_context = own;
    made.cqe = entries;
    let made = Box::leak(Box::new(made));
    made.handle = fabric::with(|fabric| {
        let (number, raw) = (fabric.number(), ptr::from_mut(made).expose_provenance());
        let queue = Queue {
            channel: fd,
            raw,
            ..Queue::default()
        };
        fabric.queues.insert(number, queue);
        number
    });
    made
}

/// # Safety
/// The queue is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_resize_cq(queue: *mut ibv_cq, entries: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { (*queue).cqe = entries };
    0
}

/// # Safety
/// The queue is there, and no queue pair is left of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_destroy_cq(queue: *mut ibv_cq) -> c_int {
    // SAFETY: it was made so.
    let queue = unsafe { Box::from_raw(queue) };
    fabric::with(|fabric| fabric.queues.remove(&queue.handle));
    0
}

/// # Safety
/// The channel is there, and does not block; the others may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_get_cq_event(
    channel: *mut ibv_comp_channel,
    queue: *mut *mut ibv_cq,
    own: *mut *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    let channel = unsafe { BorrowedFd::borrow_raw((*channel).fd) };
    let mut count = [0; 8];
    if rustix::io::read(channel, &mut count).is_err() {
        return -1;
    }
    let fd = std::os::fd::AsRawFd::as_raw_fd(&channel);
    let raw = fabric::with(|fabric| {
        let mut queues = fabric.queues.values();
        queues.find(|it| it.channel == fd).map(|it| it.raw)
    });
    let Some(raw) = raw else { return -1 };
    // SAFETY: a queue that is listed has not been destroyed; the caller's promise.
    unsafe {
        *queue = ptr::with_exposed_provenance_mut(raw);
        *own = (**queue).cq_context;
    }
    0
}

/// Does nothing: nobody waits for it.
#[unsafe(no_mangle)]
pub extern "C" fn ibv_ack_cq_events(_: *mut ibv_cq, _: c_uint) {}

/// # Safety
/// The domain is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_create_srq(
    domain: *mut ibv_pd,
    _: *mut ibv_srq_init_attr,
) -> *mut ibv_srq {
    // SAFETY: as of a completion queue.
    let mut made: ibv_srq = unsafe { zeroed() };
    made.pd = domain;
    // SAFETY: the caller's promise.
    made.context = unsafe { (*domain).context };
    made.handle = fabric::with(|fabric| {
        let number = fabric.number();
        fabric.receives.insert(number, VecDeque::new());
        number
    });
    Box::into_raw(Box::new(made))
}

/// # Safety
/// The queue is there, and no queue pair is left of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_destroy_srq(queue: *mut ibv_srq) -> c_int {
    // SAFETY: it was made so.
    let queue = unsafe { Box::from_raw(queue) };
    fabric::with(|fabric| fabric.receives.remove(&queue.handle));
    0
}

/// # Safety
/// The domain is there, and so is all that the structure names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_create_qp(
    domain: *mut ibv_pd,
    wanted: *mut ibv_qp_init_attr,
) -> *mut ibv_qp {
    // SAFETY: as of a completion queue.
    let mut made: ibv_qp = unsafe { zeroed() };
    // SAFETY: the caller's promise.
    let (wanted, context) = unsafe { (&*wanted, (*domain).context) };
    // SAFETY: see above.
    let (queue, receives) = unsafe { ((*wanted.send_cq).handle, (*wanted.srq).handle) };
    made.context = context;
    made.pd = domain;
    made.send_cq = wanted.send_cq;
    made.recv_cq = wanted.recv_cq;
    made.srq = wanted.srq;
    made.qp_num = fabric::with(|fabric| {
        let (number, state) = (fabric.number(), ibv_qp_state::IBV_QPS_RESET);
        fabric.pairs.insert(
            number,
            Pair {
                queue,
                receives,
                state,
                peer: 0,
            },
        );
        number
    });
    Box::into_raw(Box::new(made))
}

/// # Safety
/// The queue pair is there, and the structure has what the mask says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_modify_qp(
    pair: *mut ibv_qp,
    wanted: *mut ibv_qp_attr,
    given: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    let (number, wanted) = unsafe { ((*pair).qp_num, &*wanted) };
    fabric::with(|fabric| {
        let Some(pair) = fabric.pairs.get_mut(&number) else {
            return libc::EINVAL;
        };
        pair.state = wanted.qp_state;
        if given as c_uint & ibv_qp_attr_mask::IBV_QP_DEST_QPN.0 != 0 {
            pair.peer = wanted.dest_qp_num;
        }
        0
    })
}

/// # Safety
/// The queue pair is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_destroy_qp(pair: *mut ibv_qp) -> c_int {
    // SAFETY: it was made so.
    let pair = unsafe { Box::from_raw(pair) };
    fabric::with(|fabric| fabric.pairs.remove(&pair.qp_num));
    0
}

/// The status's number is enough here.
#[unsafe(no_mangle)]
pub extern "C" fn ibv_wc_status_str(_: c_uint) -> *const c_char {
    c"see ibv_wc_status".as_ptr()
}

/// `ibv_poll_cq`.
///
/// # Safety
/// The queue is there, and has room for so many after `into`.
pub unsafe extern "C" fn poll(queue: *mut ibv_cq, most: c_int, into: *mut ibv_wc) -> c_int {
    // SAFETY: the caller's promise.
    let number = unsafe { (*queue).handle };
    fabric::with(|fabric| {
        let Some(queue) = fabric.queues.get_mut(&number) else {
            return -1;
        };
        let taken = queue.completions.len().min(most as usize);
        for (at, done) in queue.completions.drain(..taken).enumerate() {
            // SAFETY: the caller's promise.
            done.write(unsafe { &mut *into.add(at) });
        }
        taken as c_int
    })
}

/// `ibv_req_notify_cq`.
///
/// # Safety
/// The queue is there.
pub unsafe extern "C" fn arm(queue: *mut ibv_cq, _: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let number = unsafe { (*queue).handle };
    fabric::with(|fabric| {
        if let Some(queue) = fabric.queues.get_mut(&number) {
            queue.armed = true;
        }
    });
    0
}

/// Where this variable is set, each doorbell lets other processes have the processor, as it does where the kernel does
/// the device's work: `ci/scripts/cold-code.sh` measures what coming back costs.
static YIELDS: LazyLock<bool> = LazyLock::new(|| std::env::var_os("MEANDER_STUB_YIELDS").is_some());

/// `ibv_post_send`.
///
/// # Safety
/// The queue pair is there, and so is all that the list names.
pub unsafe extern "C" fn post_send(
    pair: *mut ibv_qp,
    mut request: *mut ibv_send_wr,
    _: *mut *mut ibv_send_wr,
) -> c_int {
    if *YIELDS {
        std::thread::yield_now();
    }
    // SAFETY: the caller's promise.
    let number = unsafe { (*pair).qp_num };
    fabric::with(|fabric| {
        while !request.is_null() {
            // SAFETY: the caller's promise; what was posted to receive was promised so then.
            unsafe {
                fabric.post(number, &*request);
                request = (*request).next;
            }
        }
    });
    0
}

/// `ibv_post_srq_recv`.
///
/// # Safety
/// The queue is there; each request of the list has one part, which is there until it completes.
pub unsafe extern "C" fn post_receive(
    queue: *mut ibv_srq,
    mut request: *mut ibv_recv_wr,
    _: *mut *mut ibv_recv_wr,
) -> c_int {
    // SAFETY: the caller's promise.
    let number = unsafe { (*queue).handle };
    fabric::with(|fabric| {
        let Some(posted) = fabric.receives.get_mut(&number) else {
            return libc::EINVAL;
        };
        while !request.is_null() {
            // SAFETY: the caller's promise.
            let (wanted, part) = unsafe { (&*request, &*(*request).sg_list) };
            let (id, address) = (wanted.wr_id, part.addr);
            let (bytes, lkey) = (part.length, part.lkey);
            posted.push_back(Receive {
                id,
                address,
                bytes,
                lkey,
            });
            request = wanted.next;
        }
        0
    })
}

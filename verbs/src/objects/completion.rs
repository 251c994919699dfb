//! The completion queue, and sleeping until something is in it.

use std::ffi::{CStr, c_int, c_uint};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use rdma_sys::{ibv_comp_channel, ibv_cq, ibv_poll_cq, ibv_req_notify_cq, ibv_wc, ibv_wc_status};
use rustix::fs::OFlags;

use super::context::Context;
use crate::VerbsError;
use crate::limits::COMPLETIONS;

/// The bit of a work request's number that says that it was posted to receive.
pub(super) const RECEIVE: u64 = 1 << 63;

/// A queue in which completions of all queue pairs of a transport come, and its channel of events.
pub(crate) struct CompletionQueue {
    raw: NonNull<ibv_cq>,
    channel: NonNull<ibv_comp_channel>,
    context: Arc<Context>,
    /// Completions that it has room for.
    capacity: AtomicUsize,
    /// Events taken and not yet acknowledged.
    unacknowledged: AtomicU32,
}

// SAFETY: libibverbs and the provider lock a queue while they change it; it is destroyed once.
unsafe impl Send for CompletionQueue {}
// SAFETY: see above.
unsafe impl Sync for CompletionQueue {}

/// Where completions are put that are taken together.
pub(crate) struct Room([MaybeUninit<ibv_wc>; COMPLETIONS]);

impl Room {
    pub fn new() -> Room {
        Room([const { MaybeUninit::uninit() }; COMPLETIONS])
    }
}

/// One work request is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    /// The number of its queue pair.
    pub pair: u32,
    /// Of a receive, the number of its slot; of a send, its own number.
    pub request: u64,
    /// How it went.
    pub outcome: Outcome,
}

/// How a work request went.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// So many bytes have arrived.
    Received(u32),
    /// What was sent has arrived, and everything sent before.
    Sent,
    /// It failed.
    Failed {
        received: bool,
        status: u32,
        vendor: u32,
    },
}

impl CompletionQueue {
    pub fn new(context: &Arc<Context>, capacity: usize) -> Result<CompletionQueue, VerbsError> {
        let library = context.library();
        // SAFETY: the context is open.
        let channel = unsafe { (library.ibv_create_comp_channel)(context.raw()) };
        let channel = context.made("ibv_create_comp_channel", channel)?;
        // SAFETY: context and channel are there; the queue's own context is not used.
        let made = unsafe {
            let entries = capacity as c_int;
            (library.ibv_create_cq)(context.raw(), entries, ptr::null_mut(), channel.as_ptr(), 0)
        };
        let raw = match context.made("ibv_create_cq", made) {
            Ok(raw) => raw,
            Err(error) => {
                // SAFETY: it was made above, and nothing uses it.
                unsafe { (library.ibv_destroy_comp_channel)(channel.as_ptr()) };
                return Err(error);
            }
        };
        let queue = CompletionQueue {
            raw,
            channel,
            context: Arc::clone(context),
            capacity: AtomicUsize::new(capacity),
            unacknowledged: AtomicU32::new(0),
        };
        let flags = rustix::fs::fcntl_getfl(queue.as_fd())
            .and_then(|flags| rustix::fs::fcntl_setfl(queue.as_fd(), flags | OFlags::NONBLOCK));
        flags.map_err(|errno| context.failed("fcntl", errno.into()))?;
        Ok(queue)
    }

    pub(super) fn raw(&self) -> *mut ibv_cq {
        self.raw.as_ptr()
    }

    /// Sees to it that there is room for so many completions.
    pub fn reserve(&self, wanted: usize, most: usize) -> Result<(), VerbsError> {
        if wanted <= self.capacity.load(Ordering::Relaxed) {
            return Ok(());
        }
        if wanted > most {
            return Err(VerbsError::Limit {
                device: self.context.device().to_owned(),
                what: "work requests of all links",
                most,
            });
        }
        let larger = wanted.next_power_of_two().min(most);
        // SAFETY: the queue is there.
        let result = unsafe { (self.context.library().ibv_resize_cq)(self.raw(), larger as c_int) };
        self.context.checked("ibv_resize_cq", result)?;
        self.capacity.store(larger, Ordering::Relaxed);
        Ok(())
    }

    /// Takes completions, as many as there is room for.
    pub fn poll<'a>(&self, room: &'a mut Room) -> impl ExactSizeIterator<Item = Completion> + 'a {
        // SAFETY: the queue is there, and the array has so many places.
        let count =
            unsafe { ibv_poll_cq(self.raw(), COMPLETIONS as i32, room.0.as_mut_ptr().cast()) };
        // A negative count is a queue that has failed; an event says so as well.
        let count = usize::try_from(count).unwrap_or(0).min(COMPLETIONS);
        room.0[..count].iter().map(|found| {
            // SAFETY: the first `count` were written.
            read(unsafe { found.assume_init_ref() })
        })
    }

    /// Asks for an event with the next completion.
    pub fn arm(&self) -> Result<(), VerbsError> {
        // SAFETY: the queue is there.
        let result = unsafe { ibv_req_notify_cq(self.raw(), 0) };
        self.context.checked("ibv_req_notify_cq", result)
    }

    /// Takes the event that makes the descriptor readable. There is one at most for each time that the
    /// queue was armed; what is left, if anything, keeps the descriptor readable.
    pub fn take_event(&self) -> bool {
        let (mut queue, mut own) = (ptr::null_mut(), ptr::null_mut());
        let get = self.context.library().ibv_get_cq_event;
        // SAFETY: the channel is there and its descriptor does not block.
        if unsafe { get(self.channel.as_ptr(), &mut queue, &mut own) } != 0 {
            return false;
        }
        let count = self.unacknowledged.fetch_add(1, Ordering::Relaxed);
        if count >= ACKNOWLEDGE_EVERY {
            self.acknowledge();
        }
        true
    }

    /// Every event must be acknowledged before the queue is destroyed; each takes a lock.
    fn acknowledge(&self) {
        let count = self.unacknowledged.swap(0, Ordering::Relaxed);
        if count > 0 {
            // SAFETY: the queue is there, and so many events of it were taken since the last time.
            unsafe { (self.context.library().ibv_ack_cq_events)(self.raw(), count as c_uint) };
        }
    }

    /// The error that a failed completion stands for.
    pub fn error(&self, received: bool, status: u32, vendor: u32) -> VerbsError {
        // SAFETY: the function returns a static text for every number.
        let text = unsafe {
            let text = (self.context.library().ibv_wc_status_str)(status);
            NonNull::new(text.cast_mut()).map(|text| CStr::from_ptr(text.as_ptr()))
        };
        VerbsError::Completion {
            device: self.context.device().to_owned(),
            operation: if received { "receive" } else { "send or write" },
            status: text.map_or_else(
                || format!("status {status}"),
                |text| text.to_string_lossy().into_owned(),
            ),
            vendor,
        }
    }
}

/// Events that are acknowledged together.
const ACKNOWLEDGE_EVERY: u32 = 64;

#[inline]
fn read(found: &ibv_wc) -> Completion {
    let received = found.wr_id & RECEIVE != 0;
    let outcome = match (found.status, received) {
        (ibv_wc_status::IBV_WC_SUCCESS, true) => Outcome::Received(found.byte_len),
        (ibv_wc_status::IBV_WC_SUCCESS, false) => Outcome::Sent,
        (status, received) => Outcome::Failed {
            received,
            status,
            vendor: found.vendor_err,
        },
    };
    Completion {
        pair: found.qp_num,
        request: found.wr_id & !RECEIVE,
        outcome,
    }
}

/// A status that only says that its queue pair was in error already.
pub(super) fn is_flush(status: u32) -> bool {
    status == ibv_wc_status::IBV_WC_WR_FLUSH_ERR
}

impl Outcome {
    /// Whether it failed only because its queue pair was in error already.
    pub fn is_flush(self) -> bool {
        matches!(self, Outcome::Failed { status, .. } if is_flush(status))
    }
}

impl AsFd for CompletionQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the channel's own, open as long as the channel is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.channel.as_ref().fd) }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        if self.context.is_forked() {
            return;
        }
        while self.take_event() {}
        self.acknowledge();
        let library = self.context.library();
        // SAFETY: queue pairs hold the queue by an Arc, so none is left; its events are acknowledged.
        // The channel goes after the only queue that uses it.
        unsafe {
            let result = (library.ibv_destroy_cq)(self.raw());
            warn(self.context.checked("ibv_destroy_cq", result));
            let result = (library.ibv_destroy_comp_channel)(self.channel.as_ptr());
            warn(self.context.checked("ibv_destroy_comp_channel", result));
        }
    }
}

fn warn(result: Result<(), VerbsError>) {
    if let Err(error) = result {
        tracing::warn!("{error}");
    }
}

impl From<VerbsError> for meander_core::transport::LinkError {
    fn from(error: VerbsError) -> Self {
        let operation = match &error {
            VerbsError::Call { verb, .. } => verb,
            VerbsError::Completion { operation, .. } => operation,
            VerbsError::Event { .. } => "the device",
            VerbsError::Limit { .. } => "one more link",
        };
        meander_core::transport::LinkError::Io {
            operation,
            source: io::Error::from(error),
        }
    }
}

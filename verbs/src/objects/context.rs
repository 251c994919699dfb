//! A device that is open, and a protection domain of it.

use std::ffi::{CStr, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{NonNull, addr_of};
use std::sync::Arc;

use rdma_sys::{
    _compat_ibv_port_attr, ibv_async_event, ibv_context, ibv_device, ibv_device_attr,
    ibv_event_type, ibv_gid, ibv_pd, ibv_port_attr, ibv_port_state,
};
use rustix::fs::OFlags;

use crate::ffi::{self, Library};
use crate::{OpenError, VerbsError};

/// A device that is open.
pub(crate) struct Context {
    raw: NonNull<ibv_context>,
    library: &'static Library,
    device: String,
    /// Who opened it.
    process: u32,
}

// SAFETY: libibverbs locks what it changes in a context; the pointer is freed once, by `drop`.
unsafe impl Send for Context {}
// SAFETY: see above.
unsafe impl Sync for Context {}

/// What a device can do at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceLimits {
    pub completions: usize,
    pub receives: usize,
    pub ports: u8,
}

/// What a port of a device says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortState {
    pub active: bool,
    /// As verbs number it: 1 is 256 bytes, 5 is 4096.
    pub mtu: u32,
    pub lid: u16,
    /// 1 is InfiniBand, 2 is Ethernet.
    pub link_layer: u8,
    pub gids: i32,
}

/// What a device reports by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsyncEvent {
    /// A queue pair in error takes no more from its receive queue.
    LastReceive(u32),
    /// A queue pair has failed.
    PairFailed(u32),
    /// A port is not active any more.
    PortDown(u8),
    /// A port is active again.
    PortUp(u8),
    /// Nothing of the device works any more.
    DeviceFailed(&'static str),
    /// Nothing that matters here.
    Other,
}

impl Context {
    /// The names of all devices.
    pub fn devices() -> Result<Vec<String>, OpenError> {
        let library = ffi::library()?;
        with_devices(library, |devices| {
            devices.iter().map(|device| name(*device)).collect()
        })
    }

    /// Opens a device by its name.
    pub fn open(device: &str) -> Result<Context, OpenError> {
        let library = ffi::library()?;
        let opened = with_devices(library, |devices| {
            let found = devices.iter().find(|it| name(**it) == device)?;
            // SAFETY: the device is in a list that is freed after this.
            let raw = NonNull::new(unsafe { (library.ibv_open_device)(*found) });
            Some(raw.ok_or_else(|| failed("ibv_open_device", device, last())))
        })?;
        let raw = opened.ok_or(OpenError::NoDevice)??;
        let context = Context {
            raw,
            library,
            device: device.to_owned(),
            process: std::process::id(),
        };
        let flags = rustix::fs::fcntl_getfl(context.events())
            .and_then(|flags| rustix::fs::fcntl_setfl(context.events(), flags | OFlags::NONBLOCK));
        flags.map_err(|errno| context.failed("fcntl", errno.into()))?;
        Ok(context)
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether this is a forked child of the process that opened the device. Its copies of what was made
    /// stand for the parent's objects: dropping them must not destroy those.
    pub fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }

    /// The functions of libibverbs.
    pub(super) fn library(&self) -> &'static Library {
        self.library
    }

    pub(super) fn raw(&self) -> *mut ibv_context {
        self.raw.as_ptr()
    }

    /// The error of a verb that failed.
    pub(super) fn failed(&self, verb: &'static str, source: io::Error) -> VerbsError {
        failed(verb, &self.device, source)
    }

    /// The result of a verb that returns zero or an error number.
    pub(super) fn checked(&self, verb: &'static str, result: c_int) -> Result<(), VerbsError> {
        match result {
            0 => Ok(()),
            -1 => Err(self.failed(verb, last())),
            errno => Err(self.failed(verb, io::Error::from_raw_os_error(errno.abs()))),
        }
    }

    /// The result of a verb that returns a pointer, or null with an error number in `errno`.
    pub(super) fn made<T>(
        &self,
        verb: &'static str,
        made: *mut T,
    ) -> Result<NonNull<T>, VerbsError> {
        NonNull::new(made).ok_or_else(|| self.failed(verb, last()))
    }

    pub fn limits(&self) -> Result<DeviceLimits, VerbsError> {
        let mut attributes = MaybeUninit::<ibv_device_attr>::zeroed();
        // SAFETY: the context is open, and the verb fills the structure or fails; zeroes are a value
        // of it.
        let attributes = unsafe {
            let result = (self.library.ibv_query_device)(self.raw(), attributes.as_mut_ptr());
            self.checked("ibv_query_device", result)?;
            attributes.assume_init()
        };
        let count = |number: c_int| usize::try_from(number).unwrap_or(0);
        Ok(DeviceLimits {
            completions: count(attributes.max_cqe),
            receives: count(attributes.max_srq_wr),
            ports: attributes.phys_port_cnt,
        })
    }

    pub fn port(&self, number: u8) -> Result<PortState, VerbsError> {
        let mut attributes = MaybeUninit::<ibv_port_attr>::zeroed();
        // SAFETY: the context is open; the verb of this name fills the structure up to
        // `port_cap_flags2`, and zeroes are a value of the rest.
        let attributes = unsafe {
            let compatible = attributes.as_mut_ptr().cast::<_compat_ibv_port_attr>();
            let result = (self.library.ibv_query_port)(self.raw(), number, compatible);
            self.checked("ibv_query_port", result)?;
            attributes.assume_init()
        };
        Ok(PortState {
            active: attributes.state == ibv_port_state::IBV_PORT_ACTIVE,
            mtu: attributes.active_mtu,
            lid: attributes.lid,
            link_layer: attributes.link_layer,
            gids: attributes.gid_tbl_len,
        })
    }

    /// An entry of a port's table of addresses.
    pub fn gid(&self, port: u8, index: i32) -> Result<[u8; 16], VerbsError> {
        let mut gid = ibv_gid { raw: [0; 16] };
        // SAFETY: the context is open, and the verb writes 16 bytes.
        let result = unsafe { (self.library.ibv_query_gid)(self.raw(), port, index, &mut gid) };
        self.checked("ibv_query_gid", result)?;
        // SAFETY: every bit pattern is a value of an array of bytes.
        Ok(unsafe { gid.raw })
    }

    /// A descriptor that polls readable when there is an event.
    pub fn events(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the context's own, open as long as the context is borrowed.
        unsafe { BorrowedFd::borrow_raw((*self.raw()).async_fd) }
    }

    /// The next event, if there is one.
    pub fn next_event(&self) -> Option<AsyncEvent> {
        let mut event = MaybeUninit::<ibv_async_event>::zeroed();
        // SAFETY: the context is open and its descriptor does not block; the verb fills the structure
        // or fails.
        if unsafe { (self.library.ibv_get_async_event)(self.raw(), event.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: the structure was filled. The type is read as a number, because a kernel may know types
        // that the enumeration does not have. `element` holds a queue pair where the type says so, and
        // that is there until the event is acknowledged.
        let said = unsafe {
            let kind = addr_of!((*event.as_ptr()).event_type)
                .cast::<c_int>()
                .read();
            let element = addr_of!((*event.as_ptr()).element);
            let pair = || (*(*element).qp).qp_num;
            read_event(kind, pair, || (*element).port_num)
        };
        // SAFETY: it was got above, and is acknowledged once.
        unsafe { (self.library.ibv_ack_async_event)(event.as_mut_ptr()) };
        Some(said)
    }
}

fn read_event(kind: c_int, pair: impl Fn() -> u32, port: impl Fn() -> c_int) -> AsyncEvent {
    use ibv_event_type as it;
    let is = |wanted: ibv_event_type| kind == wanted as c_int;
    if is(it::IBV_EVENT_QP_LAST_WQE_REACHED) {
        AsyncEvent::LastReceive(pair())
    } else if is(it::IBV_EVENT_QP_FATAL)
        || is(it::IBV_EVENT_QP_REQ_ERR)
        || is(it::IBV_EVENT_QP_ACCESS_ERR)
    {
        AsyncEvent::PairFailed(pair())
    } else if is(it::IBV_EVENT_PORT_ERR) {
        AsyncEvent::PortDown(u8::try_from(port()).unwrap_or(0))
    } else if is(it::IBV_EVENT_PORT_ACTIVE) {
        AsyncEvent::PortUp(u8::try_from(port()).unwrap_or(0))
    } else if is(it::IBV_EVENT_DEVICE_FATAL) {
        AsyncEvent::DeviceFailed("the device failed")
    } else if is(it::IBV_EVENT_CQ_ERR) {
        AsyncEvent::DeviceFailed("the completion queue failed")
    } else if is(it::IBV_EVENT_SRQ_ERR) {
        AsyncEvent::DeviceFailed("the receive queue failed")
    } else {
        AsyncEvent::Other
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.is_forked() {
            return;
        }
        // SAFETY: whatever was made of the context holds it by an Arc, so nothing is left of it.
        let result = unsafe { (self.library.ibv_close_device)(self.raw()) };
        if let Err(error) = self.checked("ibv_close_device", result) {
            tracing::warn!("{error}");
        }
    }
}

/// A protection domain: what queue pairs and the memory they may touch belong to.
pub(crate) struct Domain {
    raw: NonNull<ibv_pd>,
    context: Arc<Context>,
}

// SAFETY: as of a context.
unsafe impl Send for Domain {}
// SAFETY: see above.
unsafe impl Sync for Domain {}

impl Domain {
    pub fn new(context: &Arc<Context>) -> Result<Domain, VerbsError> {
        // SAFETY: the context is open.
        let made = unsafe { (context.library.ibv_alloc_pd)(context.raw()) };
        Ok(Domain {
            raw: context.made("ibv_alloc_pd", made)?,
            context: Arc::clone(context),
        })
    }

    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn raw(&self) -> *mut ibv_pd {
        self.raw.as_ptr()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        if self.context.is_forked() {
            return;
        }
        // SAFETY: whatever was made in the domain holds it by an Arc, so nothing is left of it.
        let result = unsafe { (self.context.library.ibv_dealloc_pd)(self.raw()) };
        if let Err(error) = self.context.checked("ibv_dealloc_pd", result) {
            tracing::warn!("{error}");
        }
    }
}

/// Calls `look` with all devices.
fn with_devices<T>(
    library: &'static Library,
    look: impl FnOnce(&[*mut ibv_device]) -> T,
) -> Result<T, OpenError> {
    let mut count = 0;
    // SAFETY: the verb writes the count, and returns a list of so many pointers or null.
    let list = unsafe { (library.ibv_get_device_list)(&mut count) };
    if list.is_null() {
        let error = last();
        // Without any support in the kernel there is no list at all.
        return match error.raw_os_error() {
            Some(libc::ENOSYS | libc::ENOENT) => Ok(look(&[])),
            _ => Err(failed("ibv_get_device_list", "any device", error).into()),
        };
    }
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: see above; the list is freed only after `look` has returned.
    let result = look(unsafe { std::slice::from_raw_parts(list, count) });
    // SAFETY: the list came from the function above, and nobody has it any more.
    unsafe { (library.ibv_free_device_list)(list) };
    Ok(result)
}

fn name(device: *mut ibv_device) -> String {
    // SAFETY: the device is in a list that has not been freed, and its name ends with a zero byte.
    let name = unsafe { CStr::from_ptr(addr_of!((*device).name).cast()) };
    name.to_string_lossy().into_owned()
}

fn failed(verb: &'static str, device: &str, source: io::Error) -> VerbsError {
    VerbsError::Call {
        verb,
        device: device.to_owned(),
        source,
    }
}

fn last() -> io::Error {
    io::Error::last_os_error()
}

impl AsFd for Context {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events()
    }
}

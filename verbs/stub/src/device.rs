//! The device, its address, and its events.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use rdma_sys::{
    ibv_async_event, ibv_comp_channel, ibv_context, ibv_device, ibv_device_attr, ibv_gid, ibv_mr,
    ibv_pd, ibv_port_attr, ibv_port_state,
};
use rustix::event::{EventfdFlags, eventfd};

use crate::fabric::{self, Region};
use crate::queues;

/// Its address is that of loopback, so that it needs no network.
const GID: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
/// `link_layer` of InfiniBand, whose addresses need no table in sysfs.
const INFINIBAND: u8 = 1;
const MTU_4096: u32 = 5;

/// A value of all zeroes.
///
/// # Safety
/// They are a value of the type.
pub unsafe fn zeroed<T>() -> T {
    // SAFETY: the caller's promise.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// # Safety
/// `count` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_get_device_list(count: *mut c_int) -> *mut *mut ibv_device {
    // SAFETY: it is made of numbers and pointers, arrays of them, and functions that may be null.
    let mut device: ibv_device = unsafe { zeroed() };
    for (to, from) in device.name.iter_mut().zip(b"stub0") {
        *to = *from as c_char;
    }
    if !count.is_null() {
        // SAFETY: the caller's promise.
        unsafe { *count = 1 };
    }
    let device = Box::into_raw(Box::new(device));
    Box::into_raw(Box::new([device, ptr::null_mut()])).cast()
}

/// # Safety
/// The list is one of [`ibv_get_device_list`]'s.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_free_device_list(list: *mut *mut ibv_device) {
    // SAFETY: both were made so. An open context does not look at its device.
    unsafe {
        let list = Box::from_raw(list.cast::<[*mut ibv_device; 2]>());
        drop(Box::from_raw(list[0]));
    }
}

/// # Safety
/// The device is in a list that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_open_device(_: *mut ibv_device) -> *mut ibv_context {
    let Some(events) = new_events() else {
        return ptr::null_mut();
    };
    // SAFETY: as of a device; a mutex of zeroes is one.
    let mut context: ibv_context = unsafe { zeroed() };
    context.ops.poll_cq = Some(queues::poll);
    context.ops.req_notify_cq = Some(queues::arm);
    context.ops.post_send = Some(queues::post_send);
    context.ops.post_srq_recv = Some(queues::post_receive);
    context.cmd_fd = -1;
    context.async_fd = events;
    context.num_comp_vectors = 1;
    Box::into_raw(Box::new(context))
}

/// # Safety
/// The context is open, and nothing is left of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_close_device(context: *mut ibv_context) -> c_int {
    // SAFETY: it was made so.
    let context = unsafe { Box::from_raw(context) };
    close(context.async_fd);
    0
}

/// # Safety
/// The structure may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_query_device(
    _: *mut ibv_context,
    attributes: *mut ibv_device_attr,
) -> c_int {
    // SAFETY: the caller's promise.
    let attributes = unsafe { &mut *attributes };
    attributes.max_cqe = 1 << 20;
    attributes.max_srq_wr = 1 << 15;
    attributes.phys_port_cnt = 1;
    0
}

/// # Safety
/// The structure may be written, up to `port_cap_flags2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_query_port(
    _: *mut ibv_context,
    _: u8,
    attributes: *mut ibv_port_attr,
) -> c_int {
    // SAFETY: the caller's promise; no field beyond is written.
    unsafe {
        (*attributes).state = ibv_port_state::IBV_PORT_ACTIVE;
        (*attributes).active_mtu = MTU_4096;
        (*attributes).gid_tbl_len = 1;
        (*attributes).lid = 1;
        (*attributes).link_layer = INFINIBAND;
    }
    0
}

/// # Safety
/// The address may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_query_gid(
    _: *mut ibv_context,
    _: u8,
    _: c_int,
    gid: *mut ibv_gid,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { (*gid).raw = GID };
    0
}

/// There never is one.
#[unsafe(no_mangle)]
pub extern "C" fn ibv_get_async_event(_: *mut ibv_context, _: *mut ibv_async_event) -> c_int {
    -1
}

/// Does nothing.
#[unsafe(no_mangle)]
pub extern "C" fn ibv_ack_async_event(_: *mut ibv_async_event) {}

/// # Safety
/// The context is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd {
    Box::into_raw(Box::new(ibv_pd { context, handle: 0 }))
}

/// # Safety
/// The domain is there, and nothing is left of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_dealloc_pd(domain: *mut ibv_pd) -> c_int {
    // SAFETY: it was made so.
    drop(unsafe { Box::from_raw(domain) });
    0
}

/// # Safety
/// The domain is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_reg_mr(
    pd: *mut ibv_pd,
    addr: *mut std::ffi::c_void,
    length: usize,
    access: c_int,
) -> *mut ibv_mr {
    let key = fabric::with(|fabric| {
        let key = fabric.number();
        let (address, bytes, access) = (addr as u64, length as u64, access as u32);
        fabric.regions.insert(
            key,
            Region {
                address,
                bytes,
                access,
            },
        );
        key
    });
    // SAFETY: the caller's promise.
    let context = unsafe { (*pd).context };
    let (handle, lkey, rkey) = (key, key, key);
    Box::into_raw(Box::new(ibv_mr {
        context,
        pd,
        addr,
        length,
        handle,
        lkey,
        rkey,
    }))
}

/// # Safety
/// The region is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_dereg_mr(region: *mut ibv_mr) -> c_int {
    // SAFETY: it was made so.
    let region = unsafe { Box::from_raw(region) };
    fabric::with(|fabric| fabric.regions.remove(&region.lkey));
    0
}

/// # Safety
/// The context is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_create_comp_channel(
    context: *mut ibv_context,
) -> *mut ibv_comp_channel {
    match new_events() {
        Some(fd) => Box::into_raw(Box::new(ibv_comp_channel {
            context,
            fd,
            refcnt: 0,
        })),
        None => ptr::null_mut(),
    }
}

/// # Safety
/// The channel is there, and no queue is left of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int {
    // SAFETY: it was made so.
    let channel = unsafe { Box::from_raw(channel) };
    close(channel.fd);
    0
}

/// Counts one event on a descriptor.
pub fn ring(channel: RawFd) {
    // SAFETY: a queue is destroyed before its channel is.
    let channel = unsafe { BorrowedFd::borrow_raw(channel) };
    // It fails only where it counts 2^64 already.
    let _ = rustix::io::write(channel, &1_u64.to_ne_bytes());
}

fn new_events() -> Option<RawFd> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE;
    Some(eventfd(0, flags).ok()?.into_raw_fd())
}

fn close(fd: RawFd) {
    // SAFETY: it was given up by `new_events`, and is closed once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    debug_assert!(fd.as_raw_fd() >= 0);
}

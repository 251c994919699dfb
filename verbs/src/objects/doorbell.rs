//! The doorbell of software devices, for threads that may not ring it in the usual way.
//!
//! The provider of soft-RoCE (and of soft-iWARP) puts work requests where the kernel finds them, then
//! rings by write(2) on the device's descriptor. The kernel refuses such a write (`EACCES`) to a thread whose
//! credentials are another object than those of the thread that opened the device, equal as they may
//! be (`ib_safe_file_access`). Threads share theirs unless they have changed them; CRIU gives each
//! thread that it restores its own. So in a process that has moved, only the thread that opened the
//! device could send. The same command is taken from everybody as an ioctl(2)
//! (`UVERBS_METHOD_INVOKE_WRITE` of `<rdma/ib_user_ioctl_cmds.h>`), by which libibverbs itself sends all others.
//! Devices of hardware have their doorbells in mapped memory.

use std::ffi::c_int;
use std::io;

use rdma_sys::ibv_qp;

/// `RDMA_VERBS_IOCTL` of `<rdma/rdma_user_ioctl_cmds.h>`.
const VERBS_IOCTL: libc::c_ulong = 0xc018_1b01;
/// `UVERBS_OBJECT_DEVICE`, `UVERBS_METHOD_INVOKE_WRITE`, and the latter's attributes.
const OBJECT_DEVICE: u16 = 0;
const METHOD_INVOKE_WRITE: u16 = 0;
const CORE_IN: u16 = 0;
const CORE_OUT: u16 = 1;
const WRITE_COMMAND: u16 = 2;
const MANDATORY: u16 = 1;
/// `IB_USER_VERBS_CMD_POST_SEND`.
const POST_SEND: u64 = 28;
/// `RDMA_DRIVER_RXE` and `RDMA_DRIVER_SIW`: a device takes its own number only.
const DRIVERS: [u32; 2] = [14, 18];
/// Bytes of a work request in the command, at least what the kernel takes for one; none follows.
const REQUEST_BYTES: u32 = 128;

/// `struct ib_uverbs_post_send`: no work requests, for those are in the queue.
#[repr(C)]
struct PostSend {
    response: u64,
    pair: u32,
    requests: u32,
    parts: u32,
    request_bytes: u32,
}

/// `struct ib_uverbs_attr`.
#[repr(C)]
struct Attribute {
    id: u16,
    len: u16,
    flags: u16,
    reserved: u16,
    data: u64,
}

/// `struct ib_uverbs_ioctl_hdr` with its attributes.
#[repr(C)]
struct Command {
    length: u16,
    object: u16,
    method: u16,
    attributes: u16,
    reserved_1: u64,
    driver: u32,
    reserved_2: u32,
    list: [Attribute; 3],
}

/// Has the device look at what was put into the queue pair's send queue. The pair must be there.
pub(super) fn ring(pair: &ibv_qp) -> io::Result<()> {
    // SAFETY: a queue pair holds its context, which is there as long as it is.
    let descriptor = unsafe { (*pair.context).cmd_fd };
    let mut refused = io::Error::from_raw_os_error(libc::EACCES);
    for driver in DRIVERS {
        match command(descriptor, driver, pair.handle) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = error,
            done => return done,
        }
    }
    Err(refused)
}

fn command(descriptor: c_int, driver: u32, pair: u32) -> io::Result<()> {
    let input = PostSend {
        response: 0,
        pair,
        requests: 0,
        parts: 0,
        request_bytes: REQUEST_BYTES,
    };
    let mut output = 0u32;
    let attribute = |id, len: usize, data| Attribute {
        id,
        len: len as u16,
        flags: MANDATORY,
        reserved: 0,
        data,
    };
    let mut command = Command {
        length: size_of::<Command>() as u16,
        object: OBJECT_DEVICE,
        method: METHOD_INVOKE_WRITE,
        attributes: 3,
        reserved_1: 0,
        driver,
        reserved_2: 0,
        list: [
            attribute(CORE_IN, size_of::<PostSend>(), &raw const input as u64),
            attribute(CORE_OUT, size_of::<u32>(), &raw mut output as u64),
            attribute(WRITE_COMMAND, size_of::<u64>(), POST_SEND),
        ],
    };
    // SAFETY: the command and what it points to live through the call, and have the sizes they name.
    let result = unsafe { libc::ioctl(descriptor, VERBS_IOCTL, &raw mut command) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

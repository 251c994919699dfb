//! The end of the process, as the C library knows it.

use std::ffi::{c_int, c_void};
use std::ptr;

unsafe extern "C" {
    fn on_exit(
        function: extern "C" fn(status: c_int, argument: *mut c_void),
        argument: *mut c_void,
    ) -> c_int;
}

/// Has `function` called with the exit status when the program calls `exit` or returns from
/// `main`; before everything that was registered earlier.
pub fn at_exit(function: extern "C" fn(status: c_int, argument: *mut c_void)) {
    // SAFETY: the function lives as long as this object, which is never unloaded: the program is
    // linked against the names it exports.
    unsafe { on_exit(function, ptr::null_mut()) };
}

/// Ends the process at once, from any thread, whatever others do. By the system call: `_exit` is
/// ours (see [`crate::abi`]).
pub fn exit_now(status: c_int) -> ! {
    loop {
        // SAFETY: ends the process; nothing runs afterwards.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// Writes out what the program has printed.
pub fn flush_output() {
    // SAFETY: null asks for all output streams, each locked in turn.
    unsafe { libc::fflush(ptr::null_mut()) };
}

/// From a function given to [`at_exit`]: goes on with the other ones, and ends with this status
/// instead.
pub fn exit_with_other_status(status: c_int) -> ! {
    // SAFETY: glibc lets such a function call `exit`; the remaining ones run once (exit(3), NOTES
    // on portability: glibc is what the shim is for).
    unsafe { libc::exit(status) }
}

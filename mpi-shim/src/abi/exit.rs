//! The C library's functions that end a process and skip what `on_exit` has registered: without
//! them a rank could leave its job unnoticed. `exit` and the C library's own children do not come
//! by here.

use std::ffi::c_int;

use crate::ending;
use crate::native::process::exit_now;

// SAFETY: the C library's name and prototype (_exit(2)); taking its place is the purpose.
#[unsafe(no_mangle)]
extern "C" fn _exit(status: c_int) -> ! {
    ending::skipping_handlers(status);
    exit_now(status)
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn _Exit(status: c_int) -> ! {
    _exit(status)
}

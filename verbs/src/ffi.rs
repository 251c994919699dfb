//! libibverbs, loaded at run time.
//!
//! Types, and the operations that are inline in `<infiniband/verbs.h>` (they go through the context's
//! table), are rdma-sys's; functions that libibverbs exports are looked up here, because naming
//! rdma-sys's own would make every binary need the library.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use rdma_sys::{
    _compat_ibv_port_attr, ibv_async_event, ibv_comp_channel, ibv_context, ibv_cq, ibv_device,
    ibv_device_attr, ibv_gid, ibv_mr, ibv_pd, ibv_qp, ibv_qp_attr, ibv_qp_init_attr, ibv_srq,
    ibv_srq_init_attr,
};

use crate::OpenError;

/// The library's file name; its version is that of the ABI.
const NAME: &str = "libibverbs.so.1";

/// libibverbs, loaded once for all transports of the process. It is never unloaded: its providers
/// could not be.
pub(crate) fn library() -> Result<&'static Library, OpenError> {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    if let Some(library) = LIBRARY.get() {
        return Ok(library);
    }
    let library = Library::load(NAME)?;
    Ok(LIBRARY.get_or_init(|| library))
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of libibverbs, by their names; see `man 3` of each.
        pub(crate) struct Library {
            $($(#[$doc])* pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            fn load(name: &str) -> Result<Library, OpenError> {
                let failed = |error: libloading::Error| OpenError::NoLibrary {
                    name: name.to_owned(),
                    reason: error.to_string(),
                };
                // SAFETY: libibverbs runs nothing when it is loaded but its own set-up of tables.
                let library = unsafe { libloading::Library::new(name) }.map_err(failed)?;
                let loaded = Library {
                    $($name: {
                        let symbol = concat!(stringify!($name), "\0").as_bytes();
                        // SAFETY: the type is that of the function's prototype in
                        // <infiniband/verbs.h>; it stays valid, as the library stays loaded.
                        *unsafe { library.get(symbol) }.map_err(failed)?
                    },)*
                };
                std::mem::forget(library);
                Ok(loaded)
            }
        }
    };
}

functions! {
    ibv_get_device_list: fn(*mut c_int) -> *mut *mut ibv_device;
    ibv_free_device_list: fn(*mut *mut ibv_device);
    ibv_open_device: fn(*mut ibv_device) -> *mut ibv_context;
    ibv_close_device: fn(*mut ibv_context) -> c_int;
    ibv_query_device: fn(*mut ibv_context, *mut ibv_device_attr) -> c_int;
    /// Fills what was there before `port_cap_flags2`.
    ibv_query_port: fn(*mut ibv_context, u8, *mut _compat_ibv_port_attr) -> c_int;
    ibv_query_gid: fn(*mut ibv_context, u8, c_int, *mut ibv_gid) -> c_int;
    ibv_get_async_event: fn(*mut ibv_context, *mut ibv_async_event) -> c_int;
    ibv_ack_async_event: fn(*mut ibv_async_event);
    ibv_alloc_pd: fn(*mut ibv_context) -> *mut ibv_pd;
    ibv_dealloc_pd: fn(*mut ibv_pd) -> c_int;
    ibv_reg_mr: fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
    ibv_dereg_mr: fn(*mut ibv_mr) -> c_int;
    ibv_create_comp_channel: fn(*mut ibv_context) -> *mut ibv_comp_channel;
    ibv_destroy_comp_channel: fn(*mut ibv_comp_channel) -> c_int;
    ibv_create_cq: fn(
        *mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int
    ) -> *mut ibv_cq;
    ibv_resize_cq: fn(*mut ibv_cq, c_int) -> c_int;
    ibv_destroy_cq: fn(*mut ibv_cq) -> c_int;
    ibv_get_cq_event: fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
    ibv_ack_cq_events: fn(*mut ibv_cq, c_uint);
    ibv_create_srq: fn(*mut ibv_pd, *mut ibv_srq_init_attr) -> *mut ibv_srq;
    ibv_destroy_srq: fn(*mut ibv_srq) -> c_int;
    ibv_create_qp: fn(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
    ibv_modify_qp: fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
    ibv_destroy_qp: fn(*mut ibv_qp) -> c_int;
    ibv_wc_status_str: fn(c_uint) -> *const c_char;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_that_says_what_to_do() {
        let error = Library::load("libibverbs-that-is-not-here.so.1").err();
        let text = error.expect("it is not here").to_string();
        assert!(
            text.contains("libibverbs-that-is-not-here.so.1 can't be loaded"),
            "{text}"
        );
        assert!(text.contains("cannot open shared object file"), "{text}");
        assert!(text.contains("install libibverbs1"), "{text}");
    }

    #[test]
    fn another_library_lacks_the_functions() {
        let error = Library::load("libc.so.6").err();
        let text = error.expect("libc has no verbs").to_string();
        assert!(text.contains("ibv_get_device_list"), "{text}");
    }
}

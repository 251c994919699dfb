//! The C interface: every exported symbol, one line each.
//!
//! [`provided`] lists the functions that work, [`absent`] those that fail by name; what is in
//! neither is local and stays with the native library. A line gives a function's C prototype in
//! the types of `mpi-sys` and [`crate::memory`], and what to do. From it come two definitions,
//! `MPI_..` and `PMPI_..`, that send calls from inside the native library straight on to it.
//!
//! [`exit`] holds the only ones that are not MPI's.

#![allow(non_snake_case, clippy::too_many_arguments)]

mod absent;
pub mod call;
mod exit;
mod provided;

use std::ffi::{CStr, c_int};

use mpi_sys::{MPI_Comm, MPI_Comm_errhandler_function};

/// Defines one exported function under both its names.
macro_rules! export {
    ($name:ident($($arg:ident: $type:ty),*) -> $result:ty, $body:expr) => {
        const _: () = {
            fn body($($arg: $type),*) -> $result {
                if $crate::native::is_inside() {
                    static NATIVE: $crate::native::Symbol = $crate::native::Symbol::new(
                        $crate::abi::c_name(concat!("P", stringify!($name), "\0")),
                    );
                    // SAFETY: the symbol is the native library's function of this name, and the
                    // line repeats its C prototype.
                    let function = unsafe {
                        std::mem::transmute::<*mut std::ffi::c_void, extern "C" fn($($type),*) -> $result>(
                            NATIVE.address(),
                        )
                    };
                    return function($($arg),*);
                }
                $body
            }
            pastey::paste! {
                // SAFETY: the name is MPI's, and taking its place is the purpose.
                #[unsafe(no_mangle)]
                extern "C" fn [<$name>]($($arg: $type),*) -> $result {
                    body($($arg),*)
                }
                // SAFETY: as above.
                #[unsafe(no_mangle)]
                extern "C" fn [<P $name>]($($arg: $type),*) -> $result {
                    body($($arg),*)
                }
            }
        };
    };
}

/// Functions between `MPI_Init` and `MPI_Finalize`: the body gets the call, and its failure goes to
/// the error handler.
macro_rules! in_world {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) = |$call:ident| $body:expr;)*) => {
        $(export! {
            $name($($arg: $type),*) -> std::ffi::c_int,
            $crate::abi::call::run(stringify!($name), |$call| $body)
        })*
    };
}

/// Functions that may be called at any time.
macro_rules! anytime {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:expr;)*) => {
        $(export! {
            $name($($arg: $type),*) -> std::ffi::c_int,
            $crate::abi::call::run_anytime(stringify!($name), || $body)
        })*
    };
}

/// Functions that return something else than an error code, or see to their errors themselves.
macro_rules! plain {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) -> $result:ty = $body:expr;)*) => {
        $(export! {
            $name($($arg: $type),*) -> $result,
            $crate::abi::call::guarded(stringify!($name), || $body)
        })*
    };
}

/// Functions that are still to be written: they fail, with their name, through the error handler
/// of the communicator they were called on, or of the world.
macro_rules! missing {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(on $comm:ident)?;)*) => {
        $(export! {
            $name($($arg: $type),*) -> std::ffi::c_int,
            {
                $(let _ = $arg;)*
                $crate::abi::call::run(stringify!($name), |call| {
                    $(call.comm($comm)?;)?
                    let _ = &call;
                    Err($crate::errors::Error::NotProvided(stringify!($name)))
                })
            }
        })*
    };
}

use {anytime, export, in_world, missing, plain};

/// A name with its final zero, as a C string.
const fn c_name(name: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a name has one zero, at its end"),
    }
}

/// Calls the program's own error handler.
pub fn call_errhandler(own: MPI_Comm_errhandler_function, comm: MPI_Comm, code: c_int) {
    let (mut comm, mut code) = (comm, code);
    if let Some(own) = own {
        // SAFETY: the program gave this function to MPI_Comm_create_errhandler to be called so
        // (MPI 3.1, section 8.3.1); the two variables outlive the call.
        unsafe { own(&mut comm, &mut code) };
    }
}

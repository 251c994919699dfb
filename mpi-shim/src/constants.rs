//! The constants of the native MPI that the shim is built for, as C's `int`.
//!
//! Numbers come from `mpi-sys`. What C defines by a cast (`MPI_IN_PLACE`, `MPI_STATUS_IGNORE`)
//! bindgen leaves out; those are here, for Open MPI.

use std::ffi::c_int;

macro_rules! ints {
    ($($(#[$doc:meta])* $name:ident = $native:ident;)*) => {
        $($(#[$doc])* pub const $name: c_int = mpi_sys::$native as c_int;)*
    };
}

ints! {
    SUCCESS = MPI_SUCCESS;
    ANY_SOURCE = MPI_ANY_SOURCE;
    ANY_TAG = MPI_ANY_TAG;
    PROC_NULL = MPI_PROC_NULL;
    UNDEFINED = MPI_UNDEFINED;
    IDENT = MPI_IDENT;
    CONGRUENT = MPI_CONGRUENT;
    SIMILAR = MPI_SIMILAR;
    UNEQUAL = MPI_UNEQUAL;
    THREAD_SINGLE = MPI_THREAD_SINGLE;
    THREAD_SERIALIZED = MPI_THREAD_SERIALIZED;
    THREAD_MULTIPLE = MPI_THREAD_MULTIPLE;
    COMBINER_NAMED = MPI_COMBINER_NAMED;
    TAG_UB = MPI_TAG_UB;
    HOST = MPI_HOST;
    IO = MPI_IO;
    WTIME_IS_GLOBAL = MPI_WTIME_IS_GLOBAL;
    APPNUM = MPI_APPNUM;
    LASTUSEDCODE = MPI_LASTUSEDCODE;
    UNIVERSE_SIZE = MPI_UNIVERSE_SIZE;
    ERR_COUNT = MPI_ERR_COUNT;
    ERR_TYPE = MPI_ERR_TYPE;
    ERR_TAG = MPI_ERR_TAG;
    ERR_COMM = MPI_ERR_COMM;
    ERR_RANK = MPI_ERR_RANK;
    ERR_REQUEST = MPI_ERR_REQUEST;
    ERR_ROOT = MPI_ERR_ROOT;
    ERR_GROUP = MPI_ERR_GROUP;
    ERR_OP = MPI_ERR_OP;
    ERR_ARG = MPI_ERR_ARG;
    ERR_TRUNCATE = MPI_ERR_TRUNCATE;
    ERR_OTHER = MPI_ERR_OTHER;
    ERR_INTERN = MPI_ERR_INTERN;
    ERR_IN_STATUS = MPI_ERR_IN_STATUS;
    ERR_UNSUPPORTED_OPERATION = MPI_ERR_UNSUPPORTED_OPERATION;
    ERR_KEYVAL = MPI_ERR_KEYVAL;
}

/// Bytes of a processor's name, with the final zero.
pub const PROCESSOR_NAME_BYTES: usize = mpi_sys::MPI_MAX_PROCESSOR_NAME as usize;
/// Bytes of a communicator's name, with the final zero.
pub const OBJECT_NAME_BYTES: usize = mpi_sys::MPI_MAX_OBJECT_NAME as usize;
/// The address that stands for "no status wanted", one or an array of them.
pub const STATUS_IGNORE: usize = 0;
/// The buffer address that stands for `MPI_IN_PLACE`.
pub const IN_PLACE: usize = 1;
/// The largest tag.
pub const TAG_MAX: c_int = c_int::MAX;

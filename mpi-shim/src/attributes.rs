//! The predefined attributes of `MPI_COMM_WORLD` (MPI 3.1, section 8.1.2).

use std::ffi::{c_int, c_void};

use mpi_sys::MPI_Comm;

use crate::abi::call::Call;
use crate::constants::*;
use crate::errors::Error;
use crate::memory::{Out, PointerOut};
use crate::native::functions;

/// Their values, at addresses that stay.
pub struct Attributes {
    values: &'static [(c_int, c_int)],
}

impl Attributes {
    /// For a world of `size` ranks.
    pub fn new(size: u32) -> Attributes {
        let values = [
            (TAG_UB, TAG_MAX),
            (HOST, PROC_NULL),
            (IO, ANY_SOURCE),
            (WTIME_IS_GLOBAL, 0),
            (APPNUM, 0),
            (UNIVERSE_SIZE, size as c_int),
            (
                LASTUSEDCODE,
                functions::world_attribute(LASTUSEDCODE).unwrap_or(0),
            ),
        ];
        Attributes {
            // Programs keep the addresses; there is one set of them in a process.
            values: Box::leak(Box::new(values)),
        }
    }
}

/// `MPI_Comm_get_attr` and `MPI_Attr_get`.
pub fn get(
    call: &mut Call<'_>,
    comm: MPI_Comm,
    keyval: c_int,
    value: PointerOut,
    flag: Out<c_int>,
) -> Result<(), Error> {
    call.comm(comm)?;
    let known = call.world.attributes.values;
    let (_, number) = known
        .iter()
        .find(|(key, _)| *key == keyval)
        .ok_or(Error::BadKeyval(keyval))?;
    value.set((number as *const c_int).cast::<c_void>())?;
    flag.set(1)
}

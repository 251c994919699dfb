//! `MPI_Barrier`: in round k every rank hears of the 2^k ranks before it (dissemination).

use mpi_sys::MPI_Comm;

use super::Channel;
use crate::abi::call::Call;
use crate::datatype::{Datatype, View};
use crate::errors::Error;

pub fn barrier(call: &mut Call<'_>, comm: MPI_Comm) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let byte = call.world.datatypes.get(call.world.predefined.byte)?;
    disseminate(&mut Channel::new(&mut call.world.engine, &comm), byte)
}

/// The barrier itself.
pub fn disseminate(channel: &mut Channel<'_>, byte: Datatype) -> Result<(), Error> {
    let (rank, size) = (channel.rank(), channel.size());
    let nothing = View::scratch(0, byte);
    let mut distance = 1;
    while distance < size {
        let to = (rank + distance) % size;
        let from = (rank + size - distance) % size;
        channel.swap(to, &nothing, from, &nothing)?;
        distance *= 2;
    }
    Ok(())
}

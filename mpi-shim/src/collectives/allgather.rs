//! `MPI_Allgather(v)`: every block goes once around a ring.

use mpi_sys::MPI_Comm;

use super::{Block, Blocks, Channel};
use crate::abi::call::Call;
use crate::datatype::{View, is_in_place};
use crate::errors::Error;

pub fn allgather(
    call: &mut Call<'_>,
    send: Block,
    receive: Blocks,
    comm: MPI_Comm,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let blocks = receive.views(call, comm.size())?;
    if !is_in_place(send.buffer) {
        let mine = send.view(call)?;
        blocks[comm.rank].copy_from(&mine)?;
    }
    let mut channel = Channel::new(&mut call.world.engine, &comm);
    ring(&mut channel, |rank| blocks[rank].clone())
}

/// Each rank's own block is in its place; brings it the others'.
pub fn ring(channel: &mut Channel<'_>, block: impl Fn(usize) -> View) -> Result<(), Error> {
    let (rank, size) = (channel.rank(), channel.size());
    let (next, previous) = ((rank + 1) % size, (rank + size - 1) % size);
    for step in 0..size - 1 {
        let outgoing = block((rank + size - step) % size);
        let incoming = block((rank + size - step - 1) % size);
        channel.swap(next, &outgoing, previous, &incoming)?;
    }
    Ok(())
}

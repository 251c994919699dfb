//! `MPI_Allgather(v)`: short blocks go straight to everybody, long ones once around a ring, where nobody
//! receives from two at once.

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
    everywhere(&mut channel, |rank| blocks[rank].clone())
}

/// All blocks together are short up to so many bytes.
const SHORT_BYTES: usize = 64 << 10;

/// Each rank's own block is in its place; brings it the others'.
pub fn everywhere(channel: &mut Channel<'_>, block: impl Fn(usize) -> View) -> Result<(), Error> {
    let bytes: usize = (0..channel.size()).map(|rank| block(rank).bytes()).sum();
    if bytes > SHORT_BYTES {
        return ring(channel, block);
    }
    let mine = block(channel.rank());
    channel.swap_with_all(|_| mine.clone(), block)
}

fn ring(channel: &mut Channel<'_>, block: impl Fn(usize) -> View) -> Result<(), Error> {
    let (rank, size) = (channel.rank(), channel.size());
    let (next, previous) = ((rank + 1) % size, (rank + size - 1) % size);
    for step in 0..size - 1 {
        let outgoing = block((rank + size - step) % size);
        let incoming = block((rank + size - step - 1) % size);
        channel.swap(next, &outgoing, previous, &incoming)?;
    }
    Ok(())
}

//! `MPI_Gather(v)`: every rank sends to the root.

use std::ffi::c_int;

use mpi_sys::MPI_Comm;

use super::{Block, Blocks, Channel, unless_in_place};
use crate::abi::call::Call;
use crate::errors::Error;

pub fn gather(
    call: &mut Call<'_>,
    send: Block,
    receive: Blocks,
    root: c_int,
    comm: MPI_Comm,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let root = comm.root(root)?;
    if comm.rank != root {
        let mine = send.view(call)?;
        return Channel::new(&mut call.world.engine, &comm).send(root, &mine);
    }
    let blocks = receive.views(call, comm.size())?;
    let mine = unless_in_place(send.buffer, || send.view(call))?;
    let mut channel = Channel::new(&mut call.world.engine, &comm);
    let mut receives = Vec::with_capacity(blocks.len());
    for (rank, block) in blocks.iter().enumerate() {
        if rank != root {
            receives.push(channel.start_receive(rank, block)?);
        }
    }
    if let Some(mine) = mine {
        blocks[root].copy_from(&mine)?;
    }
    receives.into_iter().try_for_each(|key| channel.finish(key))
}

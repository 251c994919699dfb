//! `MPI_Scatter(v)`: the root sends to every rank.

use std::ffi::c_int;

use mpi_sys::MPI_Comm;

use super::{Block, Blocks, Channel, unless_in_place};
use crate::abi::call::Call;
use crate::datatype::View;
use crate::errors::Error;

pub fn scatter(
    call: &mut Call<'_>,
    send: Blocks,
    receive: Block,
    root: c_int,
    comm: MPI_Comm,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let root = comm.root(root)?;
    if comm.rank != root {
        let mine = receive.view(call)?;
        return Channel::new(&mut call.world.engine, &comm).receive(root, &mine);
    }
    let blocks = send.views(call, comm.size())?;
    let mine = unless_in_place(receive.buffer, || receive.view(call))?;
    let mut channel = Channel::new(&mut call.world.engine, &comm);
    deal(&mut channel, &blocks, mine.as_ref())
}

/// The root's part: a block to every rank, its own into `mine`.
pub fn deal(channel: &mut Channel<'_>, blocks: &[View], mine: Option<&View>) -> Result<(), Error> {
    let root = channel.rank();
    let mut sends = Vec::with_capacity(blocks.len());
    for (rank, block) in blocks.iter().enumerate() {
        if rank != root {
            sends.push(channel.start_send(rank, block)?);
        }
    }
    if let Some(mine) = mine {
        mine.copy_from(&blocks[root])?;
    }
    sends
        .into_iter()
        .try_for_each(|started| channel.finish_send(started))
}

//! `MPI_Alltoall(v,w)`: every rank swaps with every other.

use std::ffi::c_int;

use mpi_sys::{MPI_Comm, MPI_Datatype};

use super::{Blocks, Channel, unless_in_place};
use crate::abi::call::Call;
use crate::comm::Comm;
use crate::datatype::View;
use crate::errors::Error;
use crate::memory::{Buffer, In, borrowed};

pub fn alltoall(
    call: &mut Call<'_>,
    send: Blocks,
    receive: Blocks,
    comm: MPI_Comm,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let incoming = receive.views(call, comm.size())?;
    let outgoing = unless_in_place(send.buffer, || send.views(call, comm.size()))?;
    exchange(call, &comm, outgoing, &incoming)
}

/// A buffer argument of `MPI_Alltoallw`: displacements are in bytes, and every block has a type.
#[derive(Clone, Copy)]
pub struct TypedBlocks {
    /// The buffer.
    pub buffer: Buffer,
    /// Items by rank.
    pub counts: In<c_int>,
    /// Bytes from the buffer's start, by rank.
    pub displacements: In<c_int>,
    /// Types by rank.
    pub datatypes: In<MPI_Datatype>,
}

impl TypedBlocks {
    fn views(&self, call: &mut Call<'_>, size: usize) -> Result<Vec<View>, Error> {
        let mut view = |rank| {
            let start = self.buffer.offset(self.displacements.at(rank)? as isize);
            call.world
                .datatypes
                .view(start, self.counts.at(rank)?, self.datatypes.at(rank)?)
        };
        (0..size).map(&mut view).collect()
    }
}

pub fn alltoallw(
    call: &mut Call<'_>,
    send: TypedBlocks,
    receive: TypedBlocks,
    comm: MPI_Comm,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let incoming = receive.views(call, comm.size())?;
    let outgoing = unless_in_place(send.buffer, || send.views(call, comm.size()))?;
    exchange(call, &comm, outgoing, &incoming)
}

/// `outgoing` of `None` is `MPI_IN_PLACE`.
fn exchange(
    call: &mut Call<'_>,
    comm: &std::sync::Arc<Comm>,
    outgoing: Option<Vec<View>>,
    incoming: &[View],
) -> Result<(), Error> {
    let byte = call.world.datatypes.get(call.world.predefined.byte)?;
    // In place, a block is overwritten before its turn to be sent comes: take all of them first.
    let outgoing = match outgoing {
        Some(outgoing) => outgoing,
        None => incoming
            .iter()
            .map(|block| copy(block, byte))
            .collect::<Result<_, _>>()?,
    };
    incoming[comm.rank].copy_from(&outgoing[comm.rank])?;
    let mut channel = Channel::new(&mut call.world.engine, comm);
    channel.swap_with_all(|to| outgoing[to].clone(), |from| incoming[from].clone())
}

fn copy(block: &View, byte: crate::datatype::Datatype) -> Result<View, Error> {
    let packed = block.pack()?;
    let copy = View::scratch(packed.len(), byte);
    copy.copy_from(&View::new(borrowed(&packed), packed.len(), byte))?;
    Ok(copy)
}

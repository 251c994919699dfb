//! `MPI_Bcast`: a binomial tree whose root is the root.

use std::ffi::c_int;

use mpi_sys::MPI_Comm;

use super::{Block, Channel};
use crate::abi::call::Call;
use crate::datatype::View;
use crate::errors::Error;

pub fn bcast(call: &mut Call<'_>, data: Block, root: c_int, comm: MPI_Comm) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let root = comm.root(root)?;
    let view = data.view(call)?;
    spread(
        &mut Channel::new(&mut call.world.engine, &comm),
        &view,
        root,
    )
}

/// The broadcast itself.
pub fn spread(channel: &mut Channel<'_>, view: &View, root: usize) -> Result<(), Error> {
    let size = channel.size();
    let place = (channel.rank() + size - root) % size;
    let rank = |place: usize| (place + root) % size;
    let mut bit = 1;
    while bit < size && place & bit == 0 {
        bit *= 2;
    }
    if place != 0 {
        channel.receive(rank(place - bit), view)?;
    }
    let mut sends = Vec::new();
    while bit > 1 {
        bit /= 2;
        if place + bit < size {
            sends.push(channel.start_send(rank(place + bit), view)?);
        }
    }
    sends
        .into_iter()
        .try_for_each(|started| channel.finish_send(started))
}

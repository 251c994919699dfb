//! `MPI_Reduce_scatter(_block)`: a reduction to rank 0, which deals out the result.

use mpi_sys::MPI_Comm;

use super::Channel;
use super::reduce::{Reduction, to_root};
use super::scatter::deal;
use crate::abi::call::Call;
use crate::errors::Error;
use crate::memory::In;

use std::ffi::c_int;

/// How many items each rank gets.
#[derive(Clone, Copy)]
pub enum Shares {
    /// As many for each.
    Equal(c_int),
    /// By rank.
    Each(In<c_int>),
}

/// `what.count` is ignored: the shares add up to it.
pub fn reduce_scatter(
    call: &mut Call<'_>,
    what: Reduction,
    shares: Shares,
    comm: MPI_Comm,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let size = comm.size();
    let counts = match shares {
        Shares::Equal(count) => vec![count; size],
        Shares::Each(counts) => counts.to_vec(size)?,
    };
    if let Some(count) = counts.iter().find(|count| **count < 0) {
        return Err(Error::BadCount(*count));
    }
    let total = counts
        .iter()
        .try_fold(0, |sum: c_int, count| sum.checked_add(*count));
    let count = total.ok_or(Error::BadArgument("the counts add up to more than an int"))?;
    let (operation, given) = Reduction { count, ..what }.given(call)?;
    let count = counts[comm.rank];
    let mine = Reduction { count, ..what }.result(call)?;
    let mut channel = Channel::new(&mut call.world.engine, &comm);
    let Some(result) = to_root(&mut channel, operation, &given, 0)? else {
        return channel.receive(0, &mine);
    };
    let mut blocks = Vec::with_capacity(size);
    let mut first = 0;
    for count in counts {
        blocks.push(result.part(first, count as usize));
        first += count as usize;
    }
    // With one rank and MPI_IN_PLACE the result is in its place.
    let mine = (mine.buffer() != result.buffer()).then_some(mine);
    deal(&mut channel, &blocks, mine.as_ref())
}

//! `MPI_Reduce_scatter(_block)`: every rank gets its part of everybody's input and combines those; where that
//! must be in the order of ranks, a reduction to rank 0, which deals out the result.

use mpi_sys::MPI_Comm;

use super::Channel;
use super::reduce::{Operation, Reduction, to_root};
use super::scatter::deal;
use crate::abi::call::Call;
use crate::datatype::View;
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
    if operation.commutes {
        let parts = parts(&given, &counts);
        return to_each(&mut channel, operation, &parts, &mine);
    }
    let Some(result) = to_root(&mut channel, operation, &given, 0)? else {
        return channel.receive(0, &mine);
    };
    let blocks = parts(&result, &counts);
    // With one rank and MPI_IN_PLACE the result is in its place.
    let mine = (mine.buffer() != result.buffer()).then_some(mine);
    deal(&mut channel, &blocks, mine.as_ref())
}

/// `whole` cut into the parts of the ranks.
fn parts(whole: &View, counts: &[c_int]) -> Vec<View> {
    let mut first = 0;
    let part = |count: &c_int| {
        let part = whole.part(first, *count as usize);
        first += *count as usize;
        part
    };
    counts.iter().map(part).collect()
}

/// `given`: by rank, what this rank has for it. In place `mine` lies in what is sent, so the result goes there
/// at the end.
fn to_each(
    channel: &mut Channel<'_>,
    operation: Operation,
    given: &[View],
    mine: &View,
) -> Result<(), Error> {
    let (rank, size) = (channel.rank(), channel.size());
    let so_far = View::scratch(mine.count(), mine.datatype());
    let theirs = View::scratch(mine.count(), mine.datatype());
    so_far.copy_from(&given[rank])?;
    for step in 1..size {
        let (to, from) = ((rank + step) % size, (rank + size - step) % size);
        channel.swap(to, &given[to], from, &theirs)?;
        operation.apply(&theirs, &so_far)?;
    }
    mine.copy_from(&so_far)?;
    Ok(())
}

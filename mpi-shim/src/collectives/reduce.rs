//! `MPI_Reduce`, and what all reductions share. Two buffers are reduced by the native library; the order
//! of ranks is kept where the operation does not commute.

use std::ffi::c_int;

use mpi_sys::{MPI_Comm, MPI_Datatype, MPI_Op};

use super::Channel;
use crate::abi::call::Call;
use crate::datatype::{View, is_in_place};
use crate::errors::Error;
use crate::memory::Buffer;
use crate::native::functions;

/// Arguments of a reduction.
#[derive(Clone, Copy)]
pub struct Reduction {
    /// What each rank gives, or `MPI_IN_PLACE`.
    pub input: Buffer,
    /// Where the result goes.
    pub output: Buffer,
    /// Items.
    pub count: c_int,
    /// Their type.
    pub datatype: MPI_Datatype,
    /// The operation.
    pub op: MPI_Op,
}

impl Reduction {
    /// The operation, and what this rank gives.
    pub fn given(&self, call: &mut Call<'_>) -> Result<(Operation, View), Error> {
        let from = match is_in_place(self.input) {
            true => self.output,
            false => self.input,
        };
        let view = call.world.datatypes.view(from, self.count, self.datatype)?;
        Ok((Operation::new(call, self.op)?, view))
    }

    /// Where the result goes.
    pub fn result(&self, call: &mut Call<'_>) -> Result<View, Error> {
        call.world
            .datatypes
            .view(self.output, self.count, self.datatype)
    }
}

/// A reduction operation.
#[derive(Clone, Copy)]
pub struct Operation {
    op: MPI_Op,
    /// The order of its operands does not matter.
    pub commutes: bool,
}

impl Operation {
    fn new(call: &Call<'_>, op: MPI_Op) -> Result<Operation, Error> {
        if op.0.is_null() || op == call.world.predefined.op_null {
            return Err(Error::BadOp);
        }
        let commutes = functions::op_commutative(op)?;
        Ok(Operation { op, commutes })
    }

    /// `right = left op right`.
    pub fn apply(&self, left: &View, right: &View) -> Result<(), Error> {
        if right.count() == 0 {
            return Ok(());
        }
        let (count, datatype) = (right.count() as c_int, right.datatype().handle());
        functions::reduce_local(left.buffer(), right.buffer(), count, datatype, self.op)
    }
}

pub fn reduce(
    call: &mut Call<'_>,
    what: Reduction,
    root: c_int,
    comm: MPI_Comm,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let root = comm.root(root)?;
    let (operation, given) = what.given(call)?;
    let output = match comm.rank == root {
        true => Some(what.result(call)?),
        false => None,
    };
    let mut channel = Channel::new(&mut call.world.engine, &comm);
    let result = to_root(&mut channel, operation, &given, root)?;
    if let (Some(result), Some(output)) = (result, output)
        && result.buffer() != output.buffer()
    {
        output.copy_from(&result)?;
    }
    Ok(())
}

/// A binomial tree; gives the result at the root. Subtrees are runs of ranks, so that operands stay
/// in order; where the order matters the tree's top is rank 0, which passes the result on.
pub fn to_root(
    channel: &mut Channel<'_>,
    operation: Operation,
    given: &View,
    root: usize,
) -> Result<Option<View>, Error> {
    let (rank, size) = (channel.rank(), channel.size());
    let top = if operation.commutes { root } else { 0 };
    let place = (rank + size - top) % size;
    let place_to_rank = |place: usize| (place + top) % size;
    let mut so_far = given.clone();
    let mut spare = None;
    let mut bit = 1;
    while bit < size {
        if place & bit != 0 {
            channel.send(place_to_rank(place - bit), &so_far)?;
            break;
        }
        if place + bit < size {
            let scratch = || View::scratch(given.count(), given.datatype());
            let theirs = spare.take().unwrap_or_else(scratch);
            channel.receive(place_to_rank(place + bit), &theirs)?;
            operation.apply(&so_far, &theirs)?;
            let before = std::mem::replace(&mut so_far, theirs);
            // The program's own input is not ours to write.
            spare = (bit > 1 && before.buffer() != given.buffer()).then_some(before);
        }
        bit *= 2;
    }
    if top != root {
        if rank == top {
            channel.send(root, &so_far)?;
        } else if rank == root {
            let result = View::scratch(given.count(), given.datatype());
            channel.receive(top, &result)?;
            return Ok(Some(result));
        }
    }
    Ok((rank == root).then_some(so_far))
}

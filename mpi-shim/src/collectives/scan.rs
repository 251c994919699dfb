//! `MPI_Scan` and `MPI_Exscan`: each rank adds its part to what comes from the one before it.

use mpi_sys::MPI_Comm;

use super::Channel;
use super::reduce::Reduction;
use crate::abi::call::Call;
use crate::datatype::View;
use crate::errors::Error;

pub fn scan(call: &mut Call<'_>, what: Reduction, comm: MPI_Comm) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let (operation, given) = what.given(call)?;
    let output = what.result(call)?;
    if given.buffer() != output.buffer() {
        output.copy_from(&given)?;
    }
    let (rank, size) = (comm.rank, comm.size());
    let mut channel = Channel::new(&mut call.world.engine, &comm);
    if rank > 0 {
        let before = View::scratch(given.count(), given.datatype());
        channel.receive(rank - 1, &before)?;
        operation.apply(&before, &output)?;
    }
    if rank + 1 < size {
        channel.send(rank + 1, &output)?;
    }
    Ok(())
}

/// Rank 0's output stays as it was.
pub fn exscan(call: &mut Call<'_>, what: Reduction, comm: MPI_Comm) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let (operation, given) = what.given(call)?;
    let output = what.result(call)?;
    let (rank, size) = (comm.rank, comm.size());
    let mut channel = Channel::new(&mut call.world.engine, &comm);
    let through = View::scratch(given.count(), given.datatype());
    through.copy_from(&given)?;
    if rank > 0 {
        let before = View::scratch(given.count(), given.datatype());
        channel.receive(rank - 1, &before)?;
        operation.apply(&before, &through)?;
        output.copy_from(&before)?;
    }
    if rank + 1 < size {
        channel.send(rank + 1, &through)?;
    }
    Ok(())
}

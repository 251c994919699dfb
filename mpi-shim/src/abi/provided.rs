//! The functions that work.

use std::ffi::{c_char, c_int};
use std::time::Duration;

use meander::SendMode::{Standard, Synchronous};
use mpi_sys::{
    MPI_Comm, MPI_Comm_errhandler_function, MPI_Datatype, MPI_Errhandler, MPI_Group, MPI_Op,
    MPI_Request,
};

use super::{anytime, export, in_world, plain};
use crate::collectives::alltoall::TypedBlocks;
use crate::collectives::reduce::Reduction;
use crate::collectives::reduce_scatter::Shares;
use crate::collectives::{Block, Blocks, Counts};
use crate::collectives::{
    allgather, allreduce, alltoall, barrier, bcast, gather, reduce, reduce_scatter, scan, scatter,
};
use crate::constants::{PROCESSOR_NAME_BYTES, SUCCESS};
use crate::memory::{Buffer, In, Out, PointerOut, StatusOut, TextIn, TextOut};
use crate::p2p::Part;
use crate::{attributes, comm, ending, errors, fortran, group, init, p2p, request};

plain! {
    fn MPI_Finalize() -> c_int = init::finalize();
    fn MPI_Abort(comm: MPI_Comm, errorcode: c_int) -> c_int = { let _ = comm; ending::abort(errorcode) };
    fn MPI_Wtime() -> f64 = now().as_secs_f64();
    fn MPI_Wtick() -> f64 = 1e-9;
    fn MPI_Pcontrol(level: c_int) -> c_int = { let _ = level; SUCCESS };
    fn MPI_Comm_c2f(comm: MPI_Comm) -> c_int = fortran::comm_c2f(comm);
    fn MPI_Comm_f2c(comm: c_int) -> MPI_Comm = fortran::comm_f2c(comm);
    fn MPI_Group_c2f(group: MPI_Group) -> c_int = fortran::group_c2f(group);
    fn MPI_Group_f2c(group: c_int) -> MPI_Group = fortran::group_f2c(group);
    fn MPI_Request_c2f(request: MPI_Request) -> c_int = fortran::request_c2f(request);
    fn MPI_Request_f2c(request: c_int) -> MPI_Request = fortran::request_f2c(request);
    fn MPI_Errhandler_c2f(errhandler: MPI_Errhandler) -> c_int = fortran::errhandler_c2f(errhandler);
    fn MPI_Errhandler_f2c(errhandler: c_int) -> MPI_Errhandler = fortran::errhandler_f2c(errhandler);
}

anytime! {
    fn MPI_Init(argc: *mut c_int, argv: *mut *mut *mut c_char) = { let _ = (argc, argv); init::init() };
    fn MPI_Init_thread(argc: *mut c_int, argv: *mut *mut *mut c_char, required: c_int, provided: Out<c_int>) = { let _ = (argc, argv); init::init_thread(required, provided) };
    fn MPI_Initialized(flag: Out<c_int>) = init::initialized(flag);
    fn MPI_Finalized(flag: Out<c_int>) = init::finalized(flag);
}

in_world! {
    // Environment
    fn MPI_Query_thread(provided: Out<c_int>) = |call| provided.set(call.world.thread_level);
    fn MPI_Get_processor_name(name: TextOut, len: Out<c_int>) = |_call| len.set(name.write(&ending::node_name(), PROCESSOR_NAME_BYTES)? as c_int);
    fn MPI_Comm_get_attr(comm: MPI_Comm, keyval: c_int, value: PointerOut, flag: Out<c_int>) = |call| attributes::get(call, comm, keyval, value, flag);
    fn MPI_Attr_get(comm: MPI_Comm, keyval: c_int, value: PointerOut, flag: Out<c_int>) = |call| attributes::get(call, comm, keyval, value, flag);

    // Communicators
    fn MPI_Comm_rank(comm: MPI_Comm, rank: Out<c_int>) = |call| comm::rank(call, comm, rank);
    fn MPI_Comm_size(comm: MPI_Comm, size: Out<c_int>) = |call| comm::size(call, comm, size);
    fn MPI_Comm_group(comm: MPI_Comm, group: Out<MPI_Group>) = |call| comm::group(call, comm, group);
    fn MPI_Comm_compare(comm1: MPI_Comm, comm2: MPI_Comm, result: Out<c_int>) = |call| comm::compare(call, comm1, comm2, result);
    fn MPI_Comm_dup(comm: MPI_Comm, newcomm: Out<MPI_Comm>) = |call| comm::dup(call, comm, newcomm);
    fn MPI_Comm_create(comm: MPI_Comm, group: MPI_Group, newcomm: Out<MPI_Comm>) = |call| comm::create(call, comm, group, newcomm);
    fn MPI_Comm_split(comm: MPI_Comm, color: c_int, key: c_int, newcomm: Out<MPI_Comm>) = |call| comm::split(call, comm, color, key, newcomm);
    fn MPI_Comm_free(comm: Out<MPI_Comm>) = |call| comm::free(call, comm);
    fn MPI_Comm_test_inter(comm: MPI_Comm, flag: Out<c_int>) = |call| comm::test_inter(call, comm, flag);
    fn MPI_Comm_set_name(comm: MPI_Comm, name: TextIn) = |call| comm::set_name(call, comm, name);
    fn MPI_Comm_get_name(comm: MPI_Comm, name: TextOut, len: Out<c_int>) = |call| comm::get_name(call, comm, name, len);
    fn MPI_Topo_test(comm: MPI_Comm, status: Out<c_int>) = |call| comm::topo_test(call, comm, status);

    // Error handlers
    fn MPI_Comm_create_errhandler(function: MPI_Comm_errhandler_function, errhandler: Out<MPI_Errhandler>) = |call| comm::create_errhandler(call, function, errhandler);
    fn MPI_Comm_set_errhandler(comm: MPI_Comm, errhandler: MPI_Errhandler) = |call| comm::set_errhandler(call, comm, errhandler);
    fn MPI_Comm_get_errhandler(comm: MPI_Comm, errhandler: Out<MPI_Errhandler>) = |call| comm::get_errhandler(call, comm, errhandler);
    fn MPI_Errhandler_create(function: MPI_Comm_errhandler_function, errhandler: Out<MPI_Errhandler>) = |call| comm::create_errhandler(call, function, errhandler);
    fn MPI_Errhandler_set(comm: MPI_Comm, errhandler: MPI_Errhandler) = |call| comm::set_errhandler(call, comm, errhandler);
    fn MPI_Errhandler_get(comm: MPI_Comm, errhandler: Out<MPI_Errhandler>) = |call| comm::get_errhandler(call, comm, errhandler);
    fn MPI_Errhandler_free(errhandler: Out<MPI_Errhandler>) = |call| comm::free_errhandler(call, errhandler);
    fn MPI_Comm_call_errhandler(comm: MPI_Comm, errorcode: c_int) = |call| { call.comm(comm)?; Err(errors::Error::Called(errorcode)) };

    // Groups
    fn MPI_Group_size(group: MPI_Group, size: Out<c_int>) = |call| group::size(call, group, size);
    fn MPI_Group_rank(group: MPI_Group, rank: Out<c_int>) = |call| group::rank(call, group, rank);
    fn MPI_Group_compare(group1: MPI_Group, group2: MPI_Group, result: Out<c_int>) = |call| group::compare(call, group1, group2, result);
    fn MPI_Group_translate_ranks(group1: MPI_Group, n: c_int, ranks1: In<c_int>, group2: MPI_Group, ranks2: Out<c_int>) = |call| group::translate_ranks(call, group1, n, ranks1, group2, ranks2);
    fn MPI_Group_incl(group: MPI_Group, n: c_int, ranks: In<c_int>, newgroup: Out<MPI_Group>) = |call| group::incl(call, group, n, ranks, newgroup);
    fn MPI_Group_excl(group: MPI_Group, n: c_int, ranks: In<c_int>, newgroup: Out<MPI_Group>) = |call| group::excl(call, group, n, ranks, newgroup);
    fn MPI_Group_range_incl(group: MPI_Group, n: c_int, ranges: Out<[c_int; 3]>, newgroup: Out<MPI_Group>) = |call| group::range_incl(call, group, n, ranges, newgroup);
    fn MPI_Group_range_excl(group: MPI_Group, n: c_int, ranges: Out<[c_int; 3]>, newgroup: Out<MPI_Group>) = |call| group::range_excl(call, group, n, ranges, newgroup);
    fn MPI_Group_union(group1: MPI_Group, group2: MPI_Group, newgroup: Out<MPI_Group>) = |call| group::combined(call, group1, group2, newgroup, group::union);
    fn MPI_Group_intersection(group1: MPI_Group, group2: MPI_Group, newgroup: Out<MPI_Group>) = |call| group::combined(call, group1, group2, newgroup, group::intersection);
    fn MPI_Group_difference(group1: MPI_Group, group2: MPI_Group, newgroup: Out<MPI_Group>) = |call| group::combined(call, group1, group2, newgroup, group::difference);
    fn MPI_Group_free(group: Out<MPI_Group>) = |call| group::free(call, group);

    // Point to point
    fn MPI_Send(buf: Buffer, count: c_int, datatype: MPI_Datatype, dest: c_int, tag: c_int, comm: MPI_Comm) = |call| p2p::send(call, Part { buffer: buf, count, datatype, peer: dest, tag }, comm, Standard);
    fn MPI_Ssend(buf: Buffer, count: c_int, datatype: MPI_Datatype, dest: c_int, tag: c_int, comm: MPI_Comm) = |call| p2p::send(call, Part { buffer: buf, count, datatype, peer: dest, tag }, comm, Synchronous);
    fn MPI_Rsend(buf: Buffer, count: c_int, datatype: MPI_Datatype, dest: c_int, tag: c_int, comm: MPI_Comm) = |call| p2p::send(call, Part { buffer: buf, count, datatype, peer: dest, tag }, comm, Standard);
    fn MPI_Isend(buf: Buffer, count: c_int, datatype: MPI_Datatype, dest: c_int, tag: c_int, comm: MPI_Comm, request: Out<MPI_Request>) = |call| p2p::isend(call, Part { buffer: buf, count, datatype, peer: dest, tag }, comm, request, Standard);
    fn MPI_Issend(buf: Buffer, count: c_int, datatype: MPI_Datatype, dest: c_int, tag: c_int, comm: MPI_Comm, request: Out<MPI_Request>) = |call| p2p::isend(call, Part { buffer: buf, count, datatype, peer: dest, tag }, comm, request, Synchronous);
    fn MPI_Irsend(buf: Buffer, count: c_int, datatype: MPI_Datatype, dest: c_int, tag: c_int, comm: MPI_Comm, request: Out<MPI_Request>) = |call| p2p::isend(call, Part { buffer: buf, count, datatype, peer: dest, tag }, comm, request, Standard);
    fn MPI_Recv(buf: Buffer, count: c_int, datatype: MPI_Datatype, source: c_int, tag: c_int, comm: MPI_Comm, status: StatusOut) = |call| p2p::recv(call, Part { buffer: buf, count, datatype, peer: source, tag }, comm, status);
    fn MPI_Irecv(buf: Buffer, count: c_int, datatype: MPI_Datatype, source: c_int, tag: c_int, comm: MPI_Comm, request: Out<MPI_Request>) = |call| p2p::irecv(call, Part { buffer: buf, count, datatype, peer: source, tag }, comm, request);
    fn MPI_Sendrecv(sendbuf: Buffer, sendcount: c_int, sendtype: MPI_Datatype, dest: c_int, sendtag: c_int, recvbuf: Buffer, recvcount: c_int, recvtype: MPI_Datatype, source: c_int, recvtag: c_int, comm: MPI_Comm, status: StatusOut) = |call| p2p::sendrecv(call, Part { buffer: sendbuf, count: sendcount, datatype: sendtype, peer: dest, tag: sendtag }, Part { buffer: recvbuf, count: recvcount, datatype: recvtype, peer: source, tag: recvtag }, comm, status);
    fn MPI_Sendrecv_replace(buf: Buffer, count: c_int, datatype: MPI_Datatype, dest: c_int, sendtag: c_int, source: c_int, recvtag: c_int, comm: MPI_Comm, status: StatusOut) = |call| p2p::sendrecv_replace(call, Part { buffer: buf, count, datatype, peer: dest, tag: sendtag }, source, recvtag, comm, status);
    fn MPI_Probe(source: c_int, tag: c_int, comm: MPI_Comm, status: StatusOut) = |call| p2p::probe(call, source, tag, comm, status);
    fn MPI_Iprobe(source: c_int, tag: c_int, comm: MPI_Comm, flag: Out<c_int>, status: StatusOut) = |call| p2p::iprobe(call, source, tag, comm, flag, status);

    // Requests
    fn MPI_Wait(request: Out<MPI_Request>, status: StatusOut) = |call| request::wait(call, request, status);
    fn MPI_Test(request: Out<MPI_Request>, flag: Out<c_int>, status: StatusOut) = |call| request::test(call, request, flag, status);
    fn MPI_Waitall(count: c_int, requests: Out<MPI_Request>, statuses: StatusOut) = |call| request::waitall(call, count, requests, statuses);
    fn MPI_Testall(count: c_int, requests: Out<MPI_Request>, flag: Out<c_int>, statuses: StatusOut) = |call| request::testall(call, count, requests, flag, statuses);
    fn MPI_Waitany(count: c_int, requests: Out<MPI_Request>, index: Out<c_int>, status: StatusOut) = |call| request::waitany(call, count, requests, index, status);
    fn MPI_Testany(count: c_int, requests: Out<MPI_Request>, index: Out<c_int>, flag: Out<c_int>, status: StatusOut) = |call| request::testany(call, count, requests, index, flag, status);
    fn MPI_Waitsome(incount: c_int, requests: Out<MPI_Request>, outcount: Out<c_int>, indices: Out<c_int>, statuses: StatusOut) = |call| request::waitsome(call, incount, requests, outcount, indices, statuses);
    fn MPI_Testsome(incount: c_int, requests: Out<MPI_Request>, outcount: Out<c_int>, indices: Out<c_int>, statuses: StatusOut) = |call| request::testsome(call, incount, requests, outcount, indices, statuses);
    fn MPI_Request_get_status(request: MPI_Request, flag: Out<c_int>, status: StatusOut) = |call| request::get_status(call, request, flag, status);
    fn MPI_Request_free(request: Out<MPI_Request>) = |call| request::free(call, request);
    fn MPI_Cancel(request: Out<MPI_Request>) = |call| request::cancel(call, request);

    // Collectives
    fn MPI_Barrier(comm: MPI_Comm) = |call| barrier::barrier(call, comm);
    fn MPI_Bcast(buffer: Buffer, count: c_int, datatype: MPI_Datatype, root: c_int, comm: MPI_Comm) = |call| bcast::bcast(call, Block { buffer, count, datatype }, root, comm);
    fn MPI_Reduce(sendbuf: Buffer, recvbuf: Buffer, count: c_int, datatype: MPI_Datatype, op: MPI_Op, root: c_int, comm: MPI_Comm) = |call| reduce::reduce(call, Reduction { input: sendbuf, output: recvbuf, count, datatype, op }, root, comm);
    fn MPI_Allreduce(sendbuf: Buffer, recvbuf: Buffer, count: c_int, datatype: MPI_Datatype, op: MPI_Op, comm: MPI_Comm) = |call| allreduce::allreduce(call, Reduction { input: sendbuf, output: recvbuf, count, datatype, op }, comm);
    fn MPI_Gather(sendbuf: Buffer, sendcount: c_int, sendtype: MPI_Datatype, recvbuf: Buffer, recvcount: c_int, recvtype: MPI_Datatype, root: c_int, comm: MPI_Comm) = |call| gather::gather(call, Block { buffer: sendbuf, count: sendcount, datatype: sendtype }, Blocks { buffer: recvbuf, counts: Counts::Equal(recvcount), datatype: recvtype }, root, comm);
    fn MPI_Gatherv(sendbuf: Buffer, sendcount: c_int, sendtype: MPI_Datatype, recvbuf: Buffer, recvcounts: In<c_int>, displs: In<c_int>, recvtype: MPI_Datatype, root: c_int, comm: MPI_Comm) = |call| gather::gather(call, Block { buffer: sendbuf, count: sendcount, datatype: sendtype }, Blocks { buffer: recvbuf, counts: Counts::Each(recvcounts, displs), datatype: recvtype }, root, comm);
    fn MPI_Scatter(sendbuf: Buffer, sendcount: c_int, sendtype: MPI_Datatype, recvbuf: Buffer, recvcount: c_int, recvtype: MPI_Datatype, root: c_int, comm: MPI_Comm) = |call| scatter::scatter(call, Blocks { buffer: sendbuf, counts: Counts::Equal(sendcount), datatype: sendtype }, Block { buffer: recvbuf, count: recvcount, datatype: recvtype }, root, comm);
    fn MPI_Scatterv(sendbuf: Buffer, sendcounts: In<c_int>, displs: In<c_int>, sendtype: MPI_Datatype, recvbuf: Buffer, recvcount: c_int, recvtype: MPI_Datatype, root: c_int, comm: MPI_Comm) = |call| scatter::scatter(call, Blocks { buffer: sendbuf, counts: Counts::Each(sendcounts, displs), datatype: sendtype }, Block { buffer: recvbuf, count: recvcount, datatype: recvtype }, root, comm);
    fn MPI_Allgather(sendbuf: Buffer, sendcount: c_int, sendtype: MPI_Datatype, recvbuf: Buffer, recvcount: c_int, recvtype: MPI_Datatype, comm: MPI_Comm) = |call| allgather::allgather(call, Block { buffer: sendbuf, count: sendcount, datatype: sendtype }, Blocks { buffer: recvbuf, counts: Counts::Equal(recvcount), datatype: recvtype }, comm);
    fn MPI_Allgatherv(sendbuf: Buffer, sendcount: c_int, sendtype: MPI_Datatype, recvbuf: Buffer, recvcounts: In<c_int>, displs: In<c_int>, recvtype: MPI_Datatype, comm: MPI_Comm) = |call| allgather::allgather(call, Block { buffer: sendbuf, count: sendcount, datatype: sendtype }, Blocks { buffer: recvbuf, counts: Counts::Each(recvcounts, displs), datatype: recvtype }, comm);
    fn MPI_Alltoall(sendbuf: Buffer, sendcount: c_int, sendtype: MPI_Datatype, recvbuf: Buffer, recvcount: c_int, recvtype: MPI_Datatype, comm: MPI_Comm) = |call| alltoall::alltoall(call, Blocks { buffer: sendbuf, counts: Counts::Equal(sendcount), datatype: sendtype }, Blocks { buffer: recvbuf, counts: Counts::Equal(recvcount), datatype: recvtype }, comm);
    fn MPI_Alltoallv(sendbuf: Buffer, sendcounts: In<c_int>, sdispls: In<c_int>, sendtype: MPI_Datatype, recvbuf: Buffer, recvcounts: In<c_int>, rdispls: In<c_int>, recvtype: MPI_Datatype, comm: MPI_Comm) = |call| alltoall::alltoall(call, Blocks { buffer: sendbuf, counts: Counts::Each(sendcounts, sdispls), datatype: sendtype }, Blocks { buffer: recvbuf, counts: Counts::Each(recvcounts, rdispls), datatype: recvtype }, comm);
    fn MPI_Alltoallw(sendbuf: Buffer, sendcounts: In<c_int>, sdispls: In<c_int>, sendtypes: In<MPI_Datatype>, recvbuf: Buffer, recvcounts: In<c_int>, rdispls: In<c_int>, recvtypes: In<MPI_Datatype>, comm: MPI_Comm) = |call| alltoall::alltoallw(call, TypedBlocks { buffer: sendbuf, counts: sendcounts, displacements: sdispls, datatypes: sendtypes }, TypedBlocks { buffer: recvbuf, counts: recvcounts, displacements: rdispls, datatypes: recvtypes }, comm);
    fn MPI_Reduce_scatter(sendbuf: Buffer, recvbuf: Buffer, recvcounts: In<c_int>, datatype: MPI_Datatype, op: MPI_Op, comm: MPI_Comm) = |call| reduce_scatter::reduce_scatter(call, Reduction { input: sendbuf, output: recvbuf, count: 0, datatype, op }, Shares::Each(recvcounts), comm);
    fn MPI_Reduce_scatter_block(sendbuf: Buffer, recvbuf: Buffer, recvcount: c_int, datatype: MPI_Datatype, op: MPI_Op, comm: MPI_Comm) = |call| reduce_scatter::reduce_scatter(call, Reduction { input: sendbuf, output: recvbuf, count: 0, datatype, op }, Shares::Equal(recvcount), comm);
    fn MPI_Scan(sendbuf: Buffer, recvbuf: Buffer, count: c_int, datatype: MPI_Datatype, op: MPI_Op, comm: MPI_Comm) = |call| scan::scan(call, Reduction { input: sendbuf, output: recvbuf, count, datatype, op }, comm);
    fn MPI_Exscan(sendbuf: Buffer, recvbuf: Buffer, count: c_int, datatype: MPI_Datatype, op: MPI_Op, comm: MPI_Comm) = |call| scan::exscan(call, Reduction { input: sendbuf, output: recvbuf, count, datatype, op }, comm);

    // Local, but with a communicator among the arguments, or with something to remember
    fn MPI_Pack(inbuf: Buffer, incount: c_int, datatype: MPI_Datatype, outbuf: Buffer, outsize: c_int, position: Out<c_int>, comm: MPI_Comm) = |call| p2p::pack(call, (inbuf, incount, datatype), (outbuf, outsize), position, comm);
    fn MPI_Unpack(inbuf: Buffer, insize: c_int, position: Out<c_int>, outbuf: Buffer, outcount: c_int, datatype: MPI_Datatype, comm: MPI_Comm) = |call| p2p::unpack(call, (inbuf, insize), position, (outbuf, outcount, datatype), comm);
    fn MPI_Pack_size(incount: c_int, datatype: MPI_Datatype, comm: MPI_Comm, size: Out<c_int>) = |call| p2p::pack_size(call, incount, datatype, comm, size);
    fn MPI_Type_free(datatype: Out<MPI_Datatype>) = |call| p2p::type_free(call, datatype);
}

/// Time since some moment in the past, by the clock that CRIU keeps from running back at a move.
fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

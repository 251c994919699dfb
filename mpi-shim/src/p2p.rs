//! Messages between two ranks (MPI 3.1, chapter 3).

use std::ffi::c_int;
use std::sync::Arc;

use meander::SendMode;
use mpi_sys::{MPI_Comm, MPI_Datatype, MPI_Request};

use crate::abi::call::Call;
use crate::comm::Comm;
use crate::constants::{ANY_SOURCE, ANY_TAG, PROC_NULL, TAG_MAX};
use crate::datatype::View;
use crate::engine::Started;
use crate::errors::Error;
use crate::handles::RequestKey;
use crate::matching::Pattern;
use crate::memory::{Buffer, Out, StatusOut};
use crate::native::functions;
use crate::request::{Outcome, Request, State};
use crate::world::World;

/// One side's arguments: what, with whom, under which tag.
#[derive(Clone, Copy)]
pub struct Part {
    /// The buffer.
    pub buffer: Buffer,
    /// Items in it.
    pub count: c_int,
    /// Their type.
    pub datatype: MPI_Datatype,
    /// The other rank.
    pub peer: c_int,
    /// The tag.
    pub tag: c_int,
}

pub fn send(call: &mut Call<'_>, part: Part, comm: MPI_Comm, mode: SendMode) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let started = start_send(call, part, &comm, mode)?;
    call.world.engine.finish_send(started)
}

pub fn isend(
    call: &mut Call<'_>,
    part: Part,
    comm: MPI_Comm,
    request: Out<MPI_Request>,
    mode: SendMode,
) -> Result<(), Error> {
    request.check()?;
    let comm = call.comm(comm)?;
    let key = match start_send(call, part, &comm, mode)? {
        Started::Pending(key) => key,
        Started::Complete => done(call, &comm, Outcome::sent()),
    };
    request.set(World::request_handle(key))
}

pub fn recv(
    call: &mut Call<'_>,
    part: Part,
    comm: MPI_Comm,
    status: StatusOut,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let outcome = match start_receive(call, part, &comm)? {
        Some(key) => call.world.engine.finish(key),
        None => Outcome::from_nobody(),
    };
    outcome.write(status);
    outcome.result().map(drop)
}

pub fn irecv(
    call: &mut Call<'_>,
    part: Part,
    comm: MPI_Comm,
    request: Out<MPI_Request>,
) -> Result<(), Error> {
    request.check()?;
    let comm = call.comm(comm)?;
    let key = match start_receive(call, part, &comm)? {
        Some(key) => key,
        None => done(call, &comm, Outcome::from_nobody()),
    };
    request.set(World::request_handle(key))
}

pub fn sendrecv(
    call: &mut Call<'_>,
    send: Part,
    receive: Part,
    comm: MPI_Comm,
    status: StatusOut,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let receive = start_receive(call, receive, &comm)?;
    let sent = start_send(call, send, &comm, SendMode::Standard)
        .and_then(|started| call.world.engine.finish_send(started));
    let outcome = match receive {
        Some(key) if sent.is_ok() => call.world.engine.finish(key),
        Some(key) => {
            call.world.engine.inbox.cancel(key);
            call.world.engine.inbox.detach(key);
            return sent;
        }
        None => Outcome::from_nobody(),
    };
    outcome.write(status);
    sent.and(outcome.result().map(drop))
}

pub fn sendrecv_replace(
    call: &mut Call<'_>,
    part: Part,
    source: c_int,
    recvtag: c_int,
    comm: MPI_Comm,
    status: StatusOut,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let view = call
        .world
        .datatypes
        .view(part.buffer, part.count, part.datatype)?;
    let copy = View::scratch(view.count(), view.datatype());
    copy.copy_from(&view)?;
    let dest = member(&comm, part.peer)?;
    let tag = plain_tag(part.tag)?;
    let incoming = Part {
        peer: source,
        tag: recvtag,
        ..part
    };
    let receive = start_receive(call, incoming, &comm)?;
    if let Some(dest) = dest {
        let context = comm.point_to_point();
        let engine = &mut call.world.engine;
        let started = engine.start_send(&comm, context, dest, tag, &copy, SendMode::Standard)?;
        engine.finish_send(started)?;
    }
    let outcome = match receive {
        Some(key) => call.world.engine.finish(key),
        None => Outcome::from_nobody(),
    };
    outcome.write(status);
    outcome.result().map(drop)
}

pub fn probe(
    call: &mut Call<'_>,
    source: c_int,
    tag: c_int,
    comm: MPI_Comm,
    status: StatusOut,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let Some(pattern) = pattern(&comm, source, tag)? else {
        Outcome::from_nobody().write(status);
        return Ok(());
    };
    let rank = pattern
        .source
        .map(|source| comm.group.world_rank(source as usize));
    let seen = call.world.engine.block_until(|inbox| {
        if let Some((envelope, arrival)) = inbox.matcher.probe(pattern) {
            return Some(Ok(Outcome::seen(&envelope, arrival.len())));
        }
        inbox.dead_for(&comm, rank).map(Err)
    })?;
    seen.write(status);
    Ok(())
}

pub fn iprobe(
    call: &mut Call<'_>,
    source: c_int,
    tag: c_int,
    comm: MPI_Comm,
    flag: Out<c_int>,
    status: StatusOut,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let Some(pattern) = pattern(&comm, source, tag)? else {
        Outcome::from_nobody().write(status);
        return flag.set(1);
    };
    call.world.engine.progress();
    let found = call.world.engine.probe(pattern);
    if let Some((envelope, len)) = found {
        Outcome::seen(&envelope, len).write(status);
    }
    flag.set(c_int::from(found.is_some()))
}

/// `MPI_Pack`: packing is local, its communicator argument is not.
pub fn pack(
    call: &mut Call<'_>,
    (inbuf, count, datatype): (Buffer, c_int, MPI_Datatype),
    (outbuf, outsize): (Buffer, c_int),
    position: Out<c_int>,
    comm: MPI_Comm,
) -> Result<(), Error> {
    call.comm(comm)?;
    position.set(functions::pack(
        inbuf,
        count,
        datatype,
        outbuf,
        outsize,
        position.get()?,
    )?)
}

/// `MPI_Unpack`.
pub fn unpack(
    call: &mut Call<'_>,
    (inbuf, insize): (Buffer, c_int),
    position: Out<c_int>,
    (outbuf, count, datatype): (Buffer, c_int, MPI_Datatype),
    comm: MPI_Comm,
) -> Result<(), Error> {
    call.comm(comm)?;
    position.set(functions::unpack(
        inbuf,
        insize,
        position.get()?,
        outbuf,
        count,
        datatype,
    )?)
}

/// `MPI_Pack_size`.
pub fn pack_size(
    call: &mut Call<'_>,
    count: c_int,
    datatype: MPI_Datatype,
    comm: MPI_Comm,
    size: Out<c_int>,
) -> Result<(), Error> {
    call.comm(comm)?;
    size.set(functions::pack_size(count, datatype)?)
}

/// `MPI_Type_free`: the address may come back as another type's.
pub fn type_free(call: &mut Call<'_>, datatype: Out<MPI_Datatype>) -> Result<(), Error> {
    let mut handle = datatype.get()?;
    call.world.datatypes.forget(handle);
    functions::type_free(&mut handle)?;
    datatype.set(handle)
}

fn start_send(
    call: &mut Call<'_>,
    part: Part,
    comm: &Arc<Comm>,
    mode: SendMode,
) -> Result<Started, Error> {
    let view = call
        .world
        .datatypes
        .view(part.buffer, part.count, part.datatype)?;
    let tag = plain_tag(part.tag)?;
    let Some(dest) = member(comm, part.peer)? else {
        return Ok(Started::Complete);
    };
    call.world
        .engine
        .start_send(comm, comm.point_to_point(), dest, tag, &view, mode)
}

/// `None` for a receive from `MPI_PROC_NULL`.
fn start_receive(
    call: &mut Call<'_>,
    part: Part,
    comm: &Arc<Comm>,
) -> Result<Option<RequestKey>, Error> {
    let view = call
        .world
        .datatypes
        .view(part.buffer, part.count, part.datatype)?;
    let Some(pattern) = pattern(comm, part.peer, part.tag)? else {
        return Ok(None);
    };
    call.world
        .engine
        .start_receive(comm, pattern, view)
        .map(Some)
}

fn pattern(comm: &Comm, source: c_int, tag: c_int) -> Result<Option<Pattern>, Error> {
    let tag = match tag {
        ANY_TAG => None,
        tag => Some(plain_tag(tag)?),
    };
    let source = match source {
        ANY_SOURCE => None,
        source => match member(comm, source)? {
            Some(source) => Some(source as u32),
            None => return Ok(None),
        },
    };
    Ok(Some(Pattern {
        context: comm.point_to_point(),
        source,
        tag,
    }))
}

/// `None` for `MPI_PROC_NULL`.
fn member(comm: &Comm, rank: c_int) -> Result<Option<usize>, Error> {
    if rank == PROC_NULL {
        return Ok(None);
    }
    let size = comm.size();
    let found = usize::try_from(rank).ok().filter(|rank| *rank < size);
    found.map(Some).ok_or(Error::BadRank { rank, size })
}

fn plain_tag(tag: c_int) -> Result<c_int, Error> {
    match tag {
        0..=TAG_MAX => Ok(tag),
        _ => Err(Error::BadTag(tag)),
    }
}

/// A request that is complete from the start.
fn done(call: &mut Call<'_>, comm: &Arc<Comm>, outcome: Outcome) -> RequestKey {
    let request = Request::new(comm.clone(), None, State::Done(outcome));
    call.world.engine.inbox.requests.insert(request)
}

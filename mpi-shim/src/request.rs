//! Requests: operations under way, and the calls that wait for them (MPI 3.1, section 3.7).

use std::ffi::c_int;
use std::sync::Arc;

use mpi_sys::{MPI_Request, MPI_Status};

use crate::abi::call::Call;
use crate::comm::Comm;
use crate::constants::{ANY_SOURCE, ANY_TAG, PROC_NULL, SUCCESS, UNDEFINED};
use crate::datatype::View;
use crate::envelope::Envelope;
use crate::errors::Error;
use crate::handles::{Object, RequestKey};
use crate::inbox::{Inbox, comm_of};
use crate::matching::Pattern;
use crate::memory::{Out, StatusOut};
use crate::world::World;

/// An operation under way, or complete and not yet asked after.
pub struct Request {
    /// Whose error handler hears of a failure.
    pub comm: Arc<Comm>,
    /// The other rank, in the world; none for a receive from any source.
    pub peer: Option<u32>,
    /// How far it is.
    pub state: State,
    /// Nobody will ask after it: `MPI_Request_free`.
    pub detached: bool,
}

/// How far an operation is.
pub enum State {
    /// The port will report the send.
    Sending,
    /// A receive waits for a message.
    Posted {
        /// What it asks for.
        pattern: Pattern,
        /// Where to.
        view: View,
    },
    /// A receive has met a message, whose payload is under way.
    Pulling {
        /// The message.
        envelope: Envelope,
        /// Where to.
        view: View,
        /// The whole message's length in bytes, whatever there is room for.
        len: u64,
    },
    /// It is complete.
    Done(Outcome),
}

impl Request {
    /// A request with nobody waiting for it yet.
    pub fn new(comm: Arc<Comm>, peer: Option<u32>, state: State) -> Request {
        Request {
            comm,
            peer,
            state,
            detached: false,
        }
    }
}

/// How an operation ended: what a status says.
#[derive(Clone, Debug)]
pub struct Outcome {
    source: c_int,
    tag: c_int,
    bytes: u64,
    cancelled: bool,
    error: Option<Error>,
}

impl Outcome {
    /// The empty status.
    pub fn empty() -> Outcome {
        Outcome {
            source: ANY_SOURCE,
            tag: ANY_TAG,
            bytes: 0,
            cancelled: false,
            error: None,
        }
    }

    /// A send is complete.
    pub fn sent() -> Outcome {
        Outcome::empty()
    }

    /// A receive from `MPI_PROC_NULL` is complete.
    pub fn from_nobody() -> Outcome {
        Outcome {
            source: PROC_NULL,
            ..Outcome::empty()
        }
    }

    /// A receive was cancelled.
    pub fn cancelled() -> Outcome {
        Outcome {
            cancelled: true,
            ..Outcome::empty()
        }
    }

    /// A receive took `taken` bytes of a message of `len` into a buffer with `room`.
    pub fn received(envelope: &Envelope, taken: u64, len: u64, room: u64) -> Outcome {
        let truncated = Error::Truncated {
            message_bytes: len,
            buffer_bytes: room,
        };
        Outcome {
            source: envelope.source as c_int,
            tag: envelope.tag,
            bytes: taken,
            cancelled: false,
            error: (len > room).then_some(truncated),
        }
    }

    /// There is a message; nothing was taken.
    pub fn seen(envelope: &Envelope, len: u64) -> Outcome {
        Outcome::received(envelope, len, len, len)
    }

    /// A receive met a message, and failed.
    pub fn failed(envelope: &Envelope, error: Error) -> Outcome {
        Outcome {
            error: Some(error),
            ..Outcome::received(envelope, 0, 0, 0)
        }
    }

    /// The other rank is gone.
    pub fn lost(error: Error) -> Outcome {
        Outcome {
            error: Some(error),
            ..Outcome::empty()
        }
    }

    /// The failure, if it is one.
    pub fn result(self) -> Result<Outcome, Error> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }

    /// Fills a status as calls with a single one do: its error field stays as it was.
    pub fn write(&self, status: StatusOut) {
        self.write_at(status, 0);
    }

    fn write_at(&self, status: StatusOut, index: usize) {
        status.update(index, |status| {
            status.MPI_SOURCE = self.source;
            status.MPI_TAG = self.tag;
            status._ucount = self.bytes as usize;
            status._cancelled = c_int::from(self.cancelled);
        });
    }

    fn write_with_error(&self, status: StatusOut, index: usize) {
        self.write_at(status, index);
        let code = self.error.as_ref().map_or(SUCCESS, Error::code);
        status.update(index, |status: &mut MPI_Status| status.MPI_ERROR = code);
    }
}

impl World {
    /// The request behind a handle; `None` for `MPI_REQUEST_NULL`.
    pub fn request(&self, handle: MPI_Request) -> Result<Option<RequestKey>, Error> {
        if handle == self.predefined.request_null {
            return Ok(None);
        }
        let key = RequestKey::from_value(handle.0 as usize).ok_or(Error::BadRequest)?;
        match self.engine.inbox.requests.contains_key(key) {
            true => Ok(Some(key)),
            false => Err(Error::BadRequest),
        }
    }

    /// The handle of a request.
    pub fn request_handle(key: RequestKey) -> MPI_Request {
        MPI_Request(key.to_value() as *mut _)
    }

    fn requests(
        &self,
        count: c_int,
        handles: Out<MPI_Request>,
    ) -> Result<Vec<Option<RequestKey>>, Error> {
        let count = usize::try_from(count).map_err(|_| Error::BadCount(count))?;
        (0..count)
            .map(|index| self.request(handles.at(index)?))
            .collect()
    }
}

pub fn wait(
    call: &mut Call<'_>,
    request: Out<MPI_Request>,
    status: StatusOut,
) -> Result<(), Error> {
    let outcome = match call.world.request(request.get()?)? {
        None => Outcome::empty(),
        Some(key) => {
            call.blame_request(key);
            call.world.engine.finish(key)
        }
    };
    request.set(call.world.predefined.request_null)?;
    outcome.write(status);
    outcome.result().map(drop)
}

pub fn test(
    call: &mut Call<'_>,
    request: Out<MPI_Request>,
    flag: Out<c_int>,
    status: StatusOut,
) -> Result<(), Error> {
    flag.check()?;
    let outcome = match call.world.request(request.get()?)? {
        None => Outcome::empty(),
        Some(key) => {
            call.blame_request(key);
            call.world.engine.progress();
            let Some(outcome) = call.world.engine.inbox.take_if_done(key) else {
                return flag.set(0);
            };
            outcome
        }
    };
    request.set(call.world.predefined.request_null)?;
    flag.set(1)?;
    outcome.write(status);
    outcome.result().map(drop)
}

pub fn get_status(
    call: &mut Call<'_>,
    request: MPI_Request,
    flag: Out<c_int>,
    status: StatusOut,
) -> Result<(), Error> {
    let Some(key) = call.world.request(request)? else {
        Outcome::empty().write(status);
        return flag.set(1);
    };
    call.world.engine.progress();
    let requests = &call.world.engine.inbox.requests;
    let Some(Request {
        state: State::Done(outcome),
        ..
    }) = requests.get(key)
    else {
        return flag.set(0);
    };
    outcome.write(status);
    flag.set(1)
}

pub fn free(call: &mut Call<'_>, request: Out<MPI_Request>) -> Result<(), Error> {
    let key = call
        .world
        .request(request.get()?)?
        .ok_or(Error::BadRequest)?;
    call.world.engine.inbox.detach(key);
    request.set(call.world.predefined.request_null)
}

pub fn cancel(call: &mut Call<'_>, request: Out<MPI_Request>) -> Result<(), Error> {
    let key = call
        .world
        .request(request.get()?)?
        .ok_or(Error::BadRequest)?;
    call.blame_request(key);
    call.world.engine.progress();
    call.world.engine.inbox.cancel(key);
    Ok(())
}

pub fn waitall(
    call: &mut Call<'_>,
    count: c_int,
    requests: Out<MPI_Request>,
    statuses: StatusOut,
) -> Result<(), Error> {
    let keys = call.world.requests(count, requests)?;
    for key in keys.iter().flatten() {
        call.world
            .engine
            .block_until(|inbox| inbox.is_done(*key).then_some(()));
    }
    complete_all(call, &keys, requests, statuses)
}

pub fn testall(
    call: &mut Call<'_>,
    count: c_int,
    requests: Out<MPI_Request>,
    flag: Out<c_int>,
    statuses: StatusOut,
) -> Result<(), Error> {
    flag.check()?;
    let keys = call.world.requests(count, requests)?;
    call.world.engine.progress();
    let inbox = &call.world.engine.inbox;
    if !keys.iter().flatten().all(|key| inbox.is_done(*key)) {
        return flag.set(0);
    }
    flag.set(1)?;
    complete_all(call, &keys, requests, statuses)
}

pub fn waitany(
    call: &mut Call<'_>,
    count: c_int,
    requests: Out<MPI_Request>,
    index: Out<c_int>,
    status: StatusOut,
) -> Result<(), Error> {
    let keys = call.world.requests(count, requests)?;
    if keys.iter().all(Option::is_none) {
        Outcome::empty().write(status);
        return index.set(UNDEFINED);
    }
    let found = call
        .world
        .engine
        .block_until(|inbox| first_done(inbox, &keys));
    complete_one(call, found, requests, index, status)
}

pub fn testany(
    call: &mut Call<'_>,
    count: c_int,
    requests: Out<MPI_Request>,
    index: Out<c_int>,
    flag: Out<c_int>,
    status: StatusOut,
) -> Result<(), Error> {
    let keys = call.world.requests(count, requests)?;
    if keys.iter().all(Option::is_none) {
        Outcome::empty().write(status);
        flag.set(1)?;
        return index.set(UNDEFINED);
    }
    call.world.engine.progress();
    match first_done(&call.world.engine.inbox, &keys) {
        Some(found) => {
            flag.set(1)?;
            complete_one(call, found, requests, index, status)
        }
        None => {
            flag.set(0)?;
            index.set(UNDEFINED)
        }
    }
}

pub fn waitsome(
    call: &mut Call<'_>,
    count: c_int,
    requests: Out<MPI_Request>,
    outcount: Out<c_int>,
    indices: Out<c_int>,
    statuses: StatusOut,
) -> Result<(), Error> {
    let keys = call.world.requests(count, requests)?;
    if keys.iter().any(Option::is_some) {
        let some = |inbox: &mut Inbox| first_done(inbox, &keys);
        call.world.engine.block_until(some);
    }
    complete_some(call, &keys, requests, outcount, indices, statuses)
}

pub fn testsome(
    call: &mut Call<'_>,
    count: c_int,
    requests: Out<MPI_Request>,
    outcount: Out<c_int>,
    indices: Out<c_int>,
    statuses: StatusOut,
) -> Result<(), Error> {
    let keys = call.world.requests(count, requests)?;
    call.world.engine.progress();
    complete_some(call, &keys, requests, outcount, indices, statuses)
}

fn first_done(inbox: &Inbox, keys: &[Option<RequestKey>]) -> Option<(usize, RequestKey)> {
    let done = |(index, key): (usize, &Option<RequestKey>)| {
        key.filter(|key| inbox.is_done(*key))
            .map(|key| (index, key))
    };
    keys.iter().enumerate().find_map(done)
}

fn complete_one(
    call: &mut Call<'_>,
    (at, key): (usize, RequestKey),
    requests: Out<MPI_Request>,
    index: Out<c_int>,
    status: StatusOut,
) -> Result<(), Error> {
    call.blame_request(key);
    let outcome = call.world.engine.finish(key);
    requests.set_at(at, call.world.predefined.request_null)?;
    index.set(at as c_int)?;
    outcome.write(status);
    outcome.result().map(drop)
}

/// All of them are done: takes the outcomes, and one failure for the call where there are any.
fn complete_all(
    call: &mut Call<'_>,
    keys: &[Option<RequestKey>],
    requests: Out<MPI_Request>,
    statuses: StatusOut,
) -> Result<(), Error> {
    let mut failure = None;
    for (index, key) in keys.iter().enumerate() {
        let Some(key) = key else {
            Outcome::empty().write_with_error(statuses, index);
            continue;
        };
        let comm = comm_of(&call.world.engine.inbox, *key);
        // The same request twice in one array has been taken already.
        let outcome = call
            .world
            .engine
            .inbox
            .take_if_done(*key)
            .unwrap_or_else(Outcome::empty);
        outcome.write_with_error(statuses, index);
        requests.set_at(index, call.world.predefined.request_null)?;
        if let Err(error) = outcome.result() {
            call.blame = call.blame.take().or(comm);
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), |error| Err(Error::InStatus(Box::new(error))))
}

fn complete_some(
    call: &mut Call<'_>,
    keys: &[Option<RequestKey>],
    requests: Out<MPI_Request>,
    outcount: Out<c_int>,
    indices: Out<c_int>,
    statuses: StatusOut,
) -> Result<(), Error> {
    if keys.iter().all(Option::is_none) {
        return outcount.set(UNDEFINED);
    }
    let mut failure = None;
    let mut done = 0;
    for (index, key) in keys.iter().enumerate() {
        let Some(key) = key else { continue };
        let comm = comm_of(&call.world.engine.inbox, *key);
        let Some(outcome) = call.world.engine.inbox.take_if_done(*key) else {
            continue;
        };
        indices.set_at(done, index as c_int)?;
        outcome.write_with_error(statuses, done);
        requests.set_at(index, call.world.predefined.request_null)?;
        if let Err(error) = outcome.result() {
            call.blame = call.blame.take().or(comm);
            failure.get_or_insert(error);
        }
        done += 1;
    }
    outcount.set(done as c_int)?;
    failure.map_or(Ok(()), |error| Err(Error::InStatus(Box::new(error))))
}

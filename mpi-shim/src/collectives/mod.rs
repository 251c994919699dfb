//! Collective operations, made of messages between two ranks (MPI 3.1, chapter 5).
//!
//! Their messages travel in a half of the communicator of their own. No round needs a tag: two
//! ranks send each other the messages of one collective after another in the order in which both
//! expect them, and messages between two ranks keep their order. A rank can be moved in the middle
//! of a collective, since its messages are like any others.

pub mod allgather;
pub mod allreduce;
pub mod alltoall;
pub mod barrier;
pub mod bcast;
pub mod gather;
pub mod reduce;
pub mod reduce_scatter;
pub mod scan;
pub mod scatter;

use std::ffi::c_int;
use std::sync::Arc;

use meander::SendMode;

use crate::abi::call::Call;
use crate::comm::Comm;
use crate::datatype::{Datatype, View, is_in_place};
use crate::engine::{Engine, Started};
use crate::errors::Error;
use crate::handles::RequestKey;
use crate::matching::Pattern;
use crate::memory::{Buffer, In, borrowed};

use mpi_sys::MPI_Datatype;

/// The tag of every message of a collective.
const TAG: i32 = 0;
/// Ranks that one rank swaps with at the same time.
const SWAPS_AT_ONCE: usize = 16;

/// What a rank gives where its buffer is not `MPI_IN_PLACE`.
fn unless_in_place<T>(
    buffer: Buffer,
    view: impl FnOnce() -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    (!is_in_place(buffer)).then(view).transpose()
}

/// The members of a communicator, talking in its collective half.
pub struct Channel<'a> {
    engine: &'a mut Engine,
    comm: &'a Arc<Comm>,
}

impl<'a> Channel<'a> {
    /// The collective half of `comm`.
    pub fn new(engine: &'a mut Engine, comm: &'a Arc<Comm>) -> Channel<'a> {
        Channel { engine, comm }
    }

    /// This process's rank.
    pub fn rank(&self) -> usize {
        self.comm.rank
    }

    /// How many members.
    pub fn size(&self) -> usize {
        self.comm.size()
    }

    /// Begins to send.
    pub fn start_send(&mut self, to: usize, view: &View) -> Result<Started, Error> {
        let context = self.comm.collective();
        self.engine
            .start_send(self.comm, context, to, TAG, view, SendMode::Standard)
    }

    /// Begins to receive.
    pub fn start_receive(&mut self, from: usize, view: &View) -> Result<RequestKey, Error> {
        let pattern = Pattern {
            context: self.comm.collective(),
            source: Some(from as u32),
            tag: Some(TAG),
        };
        self.engine.start_receive(self.comm, pattern, view.clone())
    }

    /// Waits for a receive.
    pub fn finish(&mut self, key: RequestKey) -> Result<(), Error> {
        self.engine.finish(key).result().map(drop)
    }

    /// Waits for a send.
    pub fn finish_send(&mut self, started: Started) -> Result<(), Error> {
        self.engine.finish_send(started)
    }

    /// Sends; returns when the buffer is free.
    pub fn send(&mut self, to: usize, view: &View) -> Result<(), Error> {
        let started = self.start_send(to, view)?;
        self.finish_send(started)
    }

    /// Receives.
    pub fn receive(&mut self, from: usize, view: &View) -> Result<(), Error> {
        let key = self.start_receive(from, view)?;
        self.finish(key)
    }

    /// Sends to one and receives from another (or the same) at once.
    pub fn swap(
        &mut self,
        to: usize,
        outgoing: &View,
        from: usize,
        incoming: &View,
    ) -> Result<(), Error> {
        let key = self.start_receive(from, incoming)?;
        self.send(to, outgoing)?;
        self.finish(key)
    }

    /// In step k every rank sends to the k-th after it and receives from the k-th before it; many steps
    /// are under way at once, so that nobody waits for its turn.
    pub fn swap_with_all(
        &mut self,
        outgoing: impl Fn(usize) -> View,
        incoming: impl Fn(usize) -> View,
    ) -> Result<(), Error> {
        let (rank, size) = (self.rank(), self.size());
        for first in (1..size).step_by(SWAPS_AT_ONCE) {
            let steps = first..size.min(first + SWAPS_AT_ONCE);
            let (mut receives, mut sends) = (Vec::new(), Vec::new());
            for from in steps.clone().map(|step| (rank + size - step) % size) {
                receives.push(self.start_receive(from, &incoming(from))?);
            }
            for to in steps.map(|step| (rank + step) % size) {
                sends.push(self.start_send(to, &outgoing(to))?);
            }
            for started in sends {
                self.finish_send(started)?;
            }
            for key in receives {
                self.finish(key)?;
            }
        }
        Ok(())
    }

    /// Everybody tells everybody `told`, of the same length at all; gives it by rank.
    pub fn exchange(&mut self, told: &[u8], byte: Datatype) -> Result<Vec<Vec<u8>>, Error> {
        let all = View::scratch(told.len() * self.size(), byte);
        let mine = View::new(borrowed(told), told.len(), byte);
        let block = |rank: usize| all.part(rank * told.len(), told.len());
        block(self.rank()).copy_from(&mine)?;
        allgather::everywhere(self, block)?;
        let all = all.pack()?;
        Ok(all.chunks(told.len().max(1)).map(<[u8]>::to_vec).collect())
    }
}

/// A buffer argument of a collective, with a count for every rank.
#[derive(Clone, Copy)]
pub struct Blocks {
    /// The buffer.
    pub buffer: Buffer,
    /// Items for each rank.
    pub counts: Counts,
    /// Their type.
    pub datatype: MPI_Datatype,
}

/// How many items each rank has, and where they start.
#[derive(Clone, Copy)]
pub enum Counts {
    /// As many for each, one after another.
    Equal(c_int),
    /// By rank: counts, and displacements in items.
    Each(In<c_int>, In<c_int>),
}

impl Blocks {
    /// The part of each rank.
    fn views(&self, call: &mut Call<'_>, size: usize) -> Result<Vec<View>, Error> {
        let whole = call.world.datatypes.view(self.buffer, 0, self.datatype)?;
        let block = |rank: usize| {
            let (count, displacement) = match self.counts {
                Counts::Equal(count) => (count, rank as isize * count as isize),
                Counts::Each(counts, displacements) => {
                    (counts.at(rank)?, displacements.at(rank)? as isize)
                }
            };
            let items = usize::try_from(count).map_err(|_| Error::BadCount(count))?;
            Ok(whole.displaced(displacement, items))
        };
        (0..size).map(block).collect()
    }
}

/// A buffer argument of a collective that concerns one rank only.
#[derive(Clone, Copy)]
pub struct Block {
    /// The buffer.
    pub buffer: Buffer,
    /// Items in it.
    pub count: c_int,
    /// Their type.
    pub datatype: MPI_Datatype,
}

impl Block {
    fn view(&self, call: &mut Call<'_>) -> Result<View, Error> {
        call.world
            .datatypes
            .view(self.buffer, self.count, self.datatype)
    }
}

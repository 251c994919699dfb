//! Communicators (MPI 3.1, section 6.4).

use std::ffi::c_int;
use std::sync::Arc;

use mpi_sys::{MPI_Comm, MPI_Comm_errhandler_function, MPI_Errhandler, MPI_Group};
use parking_lot::Mutex;

use crate::abi::call::Call;
use crate::collectives::Channel;
use crate::constants::*;
use crate::envelope::Context;
use crate::errors::{Errhandler, Error};
use crate::group::Group;
use crate::handles::{CommKey, ErrhandlerKey, Object};
use crate::memory::{Out, TextIn, TextOut};
use crate::world::World;

/// A communicator. Requests keep it alive after it was freed.
pub struct Comm {
    handle: usize,
    number: u32,
    /// Its members.
    pub group: Arc<Group>,
    /// This process's rank in it.
    pub rank: usize,
    name: Mutex<String>,
    errhandler: Mutex<Errhandler>,
}

impl Comm {
    /// A communicator with the same number at all its members.
    pub fn new(handle: usize, number: u32, group: Arc<Group>, rank: usize, name: &str) -> Comm {
        Comm {
            handle,
            number,
            group,
            rank,
            name: Mutex::new(name.to_owned()),
            errhandler: Mutex::new(Errhandler::Fatal),
        }
    }

    /// How many members.
    pub fn size(&self) -> usize {
        self.group.size()
    }

    /// The handle the program has for it.
    pub fn handle(&self) -> MPI_Comm {
        MPI_Comm(self.handle as *mut _)
    }

    /// What its failures lead to.
    pub fn errhandler(&self) -> Errhandler {
        *self.errhandler.lock()
    }

    /// Where messages between two ranks travel.
    pub fn point_to_point(&self) -> Context {
        Context(self.number * 2)
    }

    /// Where messages of collectives travel.
    pub fn collective(&self) -> Context {
        Context(self.number * 2 + 1)
    }

    /// A rank given as root.
    pub fn root(&self, root: c_int) -> Result<usize, Error> {
        let size = self.size();
        let found = usize::try_from(root).ok().filter(|rank| *rank < size);
        found.ok_or(Error::BadRoot { root, size })
    }
}

/// Numbers of the predefined communicators, and the first of the others.
pub const WORLD_NUMBER: u32 = 0;
/// See [`WORLD_NUMBER`].
pub const SELF_NUMBER: u32 = 1;
/// See [`WORLD_NUMBER`].
pub const FIRST_NUMBER: u32 = 2;

impl World {
    /// The communicator behind a handle.
    pub fn comm(&self, handle: MPI_Comm) -> Result<Arc<Comm>, Error> {
        if handle == self.predefined.comm_world {
            return Ok(self.comm_world.clone());
        }
        if handle == self.predefined.comm_self {
            return Ok(self.comm_self.clone());
        }
        let key = CommKey::from_value(handle.0 as usize).ok_or(Error::BadComm)?;
        self.comms.get(key).cloned().ok_or(Error::BadComm)
    }

    /// Makes a communicator of the members of `group`; `None` for others.
    fn add_comm(&mut self, number: u32, group: Group, parent: &Comm) -> MPI_Comm {
        self.next_comm = self.next_comm.max(number + 1);
        let Some(rank) = group.rank_of(self.rank) else {
            return self.predefined.comm_null;
        };
        let key = self.comms.insert_with_key(|key| {
            let comm = Comm::new(key.to_value(), number, Arc::new(group), rank, "");
            *comm.errhandler.lock() = parent.errhandler();
            Arc::new(comm)
        });
        MPI_Comm(key.to_value() as *mut _)
    }

    /// Lets all members tell each other something of the same length, and the lowest number that
    /// is free at each of them; gives what was told, and a number that is free at all.
    fn agree(&mut self, comm: &Arc<Comm>, mine: &[u8]) -> Result<(Vec<Vec<u8>>, u32), Error> {
        let mut told = mine.to_vec();
        told.extend_from_slice(&self.next_comm.to_le_bytes());
        let byte = self.datatypes.get(self.predefined.byte)?;
        let all = Channel::new(&mut self.engine, comm).exchange(&told, byte)?;
        let number = |words: &Vec<u8>| {
            let (_, number) = words.split_at(mine.len());
            u32::from_le_bytes([number[0], number[1], number[2], number[3]])
        };
        let number = all.iter().map(number).max().unwrap_or(self.next_comm);
        Ok((all, number))
    }
}

pub fn rank(call: &mut Call<'_>, comm: MPI_Comm, rank: Out<c_int>) -> Result<(), Error> {
    rank.set(call.comm(comm)?.rank as c_int)
}

pub fn size(call: &mut Call<'_>, comm: MPI_Comm, size: Out<c_int>) -> Result<(), Error> {
    size.set(call.comm(comm)?.size() as c_int)
}

pub fn group(call: &mut Call<'_>, comm: MPI_Comm, group: Out<MPI_Group>) -> Result<(), Error> {
    group.check()?;
    let members = call.comm(comm)?.group.clone();
    group.set(call.world.add_group(members))
}

pub fn compare(
    call: &mut Call<'_>,
    one: MPI_Comm,
    other: MPI_Comm,
    result: Out<c_int>,
) -> Result<(), Error> {
    let (first, second) = (call.comm(one)?, call.comm(other)?);
    let verdict = match first.group.compare(&second.group) {
        IDENT if one == other => IDENT,
        IDENT => CONGRUENT,
        other => other,
    };
    result.set(verdict)
}

pub fn dup(call: &mut Call<'_>, comm: MPI_Comm, new: Out<MPI_Comm>) -> Result<(), Error> {
    new.check()?;
    let parent = call.comm(comm)?;
    let (_, number) = call.world.agree(&parent, &[])?;
    new.set(
        call.world
            .add_comm(number, Group::clone(&parent.group), &parent),
    )
}

pub fn create(
    call: &mut Call<'_>,
    comm: MPI_Comm,
    group: MPI_Group,
    new: Out<MPI_Comm>,
) -> Result<(), Error> {
    new.check()?;
    let parent = call.comm(comm)?;
    let group = Group::clone(&*call.world.group(group)?);
    let (_, number) = call.world.agree(&parent, &[])?;
    new.set(call.world.add_comm(number, group, &parent))
}

pub fn split(
    call: &mut Call<'_>,
    comm: MPI_Comm,
    color: c_int,
    key: c_int,
    new: Out<MPI_Comm>,
) -> Result<(), Error> {
    new.check()?;
    if color < 0 && color != UNDEFINED {
        return Err(Error::BadArgument("a colour is negative"));
    }
    let parent = call.comm(comm)?;
    let told = [color.to_le_bytes(), key.to_le_bytes()].concat();
    let (all, number) = call.world.agree(&parent, &told)?;
    let mut members = Vec::new();
    for (rank, words) in all.iter().enumerate() {
        let word = |at: usize| {
            c_int::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]])
        };
        if color != UNDEFINED && word(0) == color {
            members.push((word(4), rank));
        }
    }
    members.sort_unstable();
    let ranks = members
        .iter()
        .map(|(_, rank)| parent.group.world_rank(*rank))
        .collect();
    new.set(call.world.add_comm(number, Group::new(ranks), &parent))
}

pub fn free(call: &mut Call<'_>, comm: Out<MPI_Comm>) -> Result<(), Error> {
    let handle = comm.get()?;
    call.comm(handle)?;
    let key = CommKey::from_value(handle.0 as usize);
    let key = key.ok_or(Error::BadArgument(
        "a predefined communicator can't be freed",
    ))?;
    call.world.comms.remove(key);
    comm.set(call.world.predefined.comm_null)
}

pub fn test_inter(call: &mut Call<'_>, comm: MPI_Comm, flag: Out<c_int>) -> Result<(), Error> {
    call.comm(comm)?;
    flag.set(0)
}

pub fn topo_test(call: &mut Call<'_>, comm: MPI_Comm, status: Out<c_int>) -> Result<(), Error> {
    call.comm(comm)?;
    status.set(UNDEFINED)
}

pub fn set_name(call: &mut Call<'_>, comm: MPI_Comm, name: TextIn) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let mut text = name.read()?;
    let mut end = text.len().min(OBJECT_NAME_BYTES - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    *comm.name.lock() = text;
    Ok(())
}

pub fn get_name(
    call: &mut Call<'_>,
    comm: MPI_Comm,
    name: TextOut,
    len: Out<c_int>,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let written = name.write(&comm.name.lock(), OBJECT_NAME_BYTES)?;
    len.set(written as c_int)
}

pub fn create_errhandler(
    call: &mut Call<'_>,
    function: MPI_Comm_errhandler_function,
    errhandler: Out<MPI_Errhandler>,
) -> Result<(), Error> {
    errhandler.check()?;
    let insert = |key| Errhandler::Own(key, function);
    let key = call.world.errhandlers.insert_with_key(insert);
    errhandler.set(MPI_Errhandler(key.to_value() as *mut _))
}

pub fn set_errhandler(
    call: &mut Call<'_>,
    comm: MPI_Comm,
    errhandler: MPI_Errhandler,
) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let handler = if errhandler == call.world.predefined.errors_are_fatal {
        Errhandler::Fatal
    } else if errhandler == call.world.predefined.errors_return {
        Errhandler::Return
    } else {
        let key = ErrhandlerKey::from_value(errhandler.0 as usize);
        let own = key.and_then(|key| call.world.errhandlers.get(key));
        *own.ok_or(Error::BadErrhandler)?
    };
    *comm.errhandler.lock() = handler;
    Ok(())
}

pub fn get_errhandler(
    call: &mut Call<'_>,
    comm: MPI_Comm,
    errhandler: Out<MPI_Errhandler>,
) -> Result<(), Error> {
    let handle = match call.comm(comm)?.errhandler() {
        Errhandler::Fatal => call.world.predefined.errors_are_fatal,
        Errhandler::Return => call.world.predefined.errors_return,
        Errhandler::Own(key, _) => MPI_Errhandler(key.to_value() as *mut _),
    };
    errhandler.set(handle)
}

/// Communicators may go on using a freed handler, and its handle may be asked for again; so it
/// stays.
pub fn free_errhandler(call: &mut Call<'_>, errhandler: Out<MPI_Errhandler>) -> Result<(), Error> {
    errhandler.set(call.world.predefined.errhandler_null)
}

//! `MPI_Init` and `MPI_Finalize`.

use std::env;
use std::ffi::c_int;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use meander::control::{Control, Identity};
use meander::{Config, Contact, Port};
use slotmap::SlotMap;

use crate::attributes::Attributes;
use crate::collectives::{Channel, barrier};
use crate::comm::{Comm, FIRST_NUMBER, SELF_NUMBER, WORLD_NUMBER};
use crate::constants::{SUCCESS, THREAD_SERIALIZED, THREAD_SINGLE};
use crate::datatype::Datatypes;
use crate::engine::Engine;
use crate::errors::{Error, raise};
use crate::group::Group;
use crate::memory::Out;
use crate::native::{self, environment, functions};
use crate::wireup::{Job, WireUp};
use crate::world::{Stage, World, stage};
use crate::{ending, launcher, log};

/// How many bytes of messages may be here that no receive has asked for: this variable, or
/// [`UNEXPECTED_BYTES`].
pub const UNEXPECTED_VARIABLE: &str = "MEANDER_UNEXPECTED_BYTES";
/// See [`UNEXPECTED_VARIABLE`].
const UNEXPECTED_BYTES: u64 = 8 << 30;
/// How long a finished rank waits for the last acknowledgement: of a message that no peer needs
/// any more, from one that may have ended.
const LAST_FLUSH: Duration = Duration::from_secs(1);
/// How long it stays to acknowledge what its peers sent last.
const LINGER: Duration = Duration::from_millis(12);

pub fn init() -> Result<(), Error> {
    start(THREAD_SINGLE).map(drop)
}

pub fn init_thread(required: c_int, provided: Out<c_int>) -> Result<(), Error> {
    provided.set(start(required)?)
}

pub fn initialized(flag: Out<c_int>) -> Result<(), Error> {
    flag.set(c_int::from(!matches!(*stage(), Stage::Before)))
}

pub fn finalized(flag: Out<c_int>) -> Result<(), Error> {
    flag.set(c_int::from(matches!(*stage(), Stage::Finalized)))
}

/// Returns when every byte this rank has sent is acknowledged.
///
/// Two barriers: between them everybody is still there to acknowledge. After the second nobody
/// needs anything but its acknowledgements, and whoever has gone no longer does.
pub fn finalize() -> c_int {
    let mut stage = stage();
    let Stage::Running(world) = &mut *stage else {
        drop(stage);
        return raise("MPI_Finalize", &Error::NotRunning, None);
    };
    if let Err(error) = quiesce(world) {
        let comm = world.comm_world.clone();
        drop(stage);
        return raise("MPI_Finalize", &error, Some(&comm));
    }
    ending::in_good_order();
    if let Stage::Running(world) = mem::replace(&mut *stage, Stage::Finalized) {
        // Tells the agent that the rank leaves; the port lives on in the thread of `ending`, to
        // acknowledge what peers may still repeat.
        drop(world.control);
    }
    drop(stage);
    match functions::finalize() {
        Ok(()) => SUCCESS,
        Err(error) => error.code(),
    }
}

fn start(required: c_int) -> Result<c_int, Error> {
    let native = native::get().map_err(|error| Error::Setup(error.to_string()))?;
    let mut stage = stage();
    if !matches!(*stage, Stage::Before) {
        return Err(Error::InitialisedBefore);
    }
    log::start()?;
    let wire_up = match launcher::is_one_of_several() {
        true => Some(WireUp::start()?),
        false => None,
    };
    environment::isolated(functions::init_alone)?;
    let (job, port, contacts) = attach(wire_up)?;
    launcher::let_go();
    for contact in &contacts {
        if contact.port != port.id() {
            port.add_peer(contact);
        }
    }
    let identity = Identity {
        job: job.id,
        rank: job.rank,
        size: job.size,
        program: program_name(),
    };
    ending::arm(&port, job.rank, &contacts)?;
    let peers: Vec<_> = contacts.iter().map(|contact| contact.port).collect();
    let everyone = Arc::new(Group::new((0..job.size).collect()));
    let alone = Arc::new(Group::new(vec![job.rank]));
    let predefined = &native.predefined;
    let (world, own) = (
        predefined.comm_world.0 as usize,
        predefined.comm_self.0 as usize,
    );
    let rank = job.rank as usize;
    let thread_level = required.clamp(THREAD_SINGLE, THREAD_SERIALIZED);
    *stage = Stage::Running(Box::new(World {
        rank: job.rank,
        thread_level,
        predefined,
        engine: Engine::new(port.clone(), job.rank, &peers, unexpected_bytes()?),
        datatypes: Datatypes::default(),
        comm_world: Arc::new(Comm::new(
            world,
            WORLD_NUMBER,
            everyone,
            rank,
            "MPI_COMM_WORLD",
        )),
        comm_self: Arc::new(Comm::new(own, SELF_NUMBER, alone, 0, "MPI_COMM_SELF")),
        comms: SlotMap::with_key(),
        next_comm: FIRST_NUMBER,
        groups: SlotMap::with_key(),
        errhandlers: SlotMap::with_key(),
        attributes: Attributes::new(job.size),
        control: Control::start(&port, identity)?,
    }));
    Ok(thread_level)
}

fn attach(wire_up: Option<WireUp>) -> Result<(Job, Port, Vec<Contact>), Error> {
    let Some(mut wire_up) = wire_up else {
        let job = Job::alone()?;
        let port = Port::open(Config::from_env(job.key.clone())?)?;
        let contact = port.contact();
        return Ok((job, port, vec![contact]));
    };
    let job = wire_up.job()?;
    let port = Port::open(Config::from_env(job.key.clone())?)?;
    let contacts = wire_up.exchange(&port.contact(), job.size)?;
    Ok((job, port, contacts))
}

fn quiesce(world: &mut World) -> Result<(), Error> {
    let byte = world.datatypes.get(world.predefined.byte)?;
    let everyone = world.comm_world.clone();
    let port = world.engine.port().clone();
    barrier::disseminate(&mut Channel::new(&mut world.engine, &everyone), byte)?;
    port.flush(None)?;
    barrier::disseminate(&mut Channel::new(&mut world.engine, &everyone), byte)?;
    if everyone.size() > 1 {
        let _ = port.flush(Some(LAST_FLUSH));
        std::thread::sleep(LINGER);
        world.engine.progress();
    }
    Ok(())
}

fn unexpected_bytes() -> Result<u64, Error> {
    let Ok(text) = env::var(UNEXPECTED_VARIABLE) else {
        return Ok(UNEXPECTED_BYTES);
    };
    text.parse().map_err(|_| {
        Error::Setup(format!(
            "{UNEXPECTED_VARIABLE}: `{text}` is not a number of bytes"
        ))
    })
}

fn program_name() -> String {
    let path = env::current_exe().unwrap_or_default();
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

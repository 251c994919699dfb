//! Runs the body of an exported function: locks the state, hands failures to the error handler,
//! and lets no panic cross the C interface.

use std::any::Any;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mpi_sys::MPI_Comm;

use crate::comm::Comm;
use crate::constants::{ERR_INTERN, SUCCESS};
use crate::ending;
use crate::errors::{Error, raise};
use crate::handles::RequestKey;
use crate::inbox::comm_of;
use crate::world::{Stage, World, stage};

/// A call of an MPI function, while it runs.
pub struct Call<'a> {
    /// The rank's state.
    pub world: &'a mut World,
    /// Whose error handler hears of a failure; the world's otherwise.
    pub blame: Option<Arc<Comm>>,
}

impl Call<'_> {
    /// The communicator behind a handle. Failures of this call are its from now on.
    pub fn comm(&mut self, handle: MPI_Comm) -> Result<Arc<Comm>, Error> {
        let comm = self.world.comm(handle)?;
        self.blame = Some(comm.clone());
        Ok(comm)
    }

    /// Failures of this call are those of a request from now on.
    pub fn blame_request(&mut self, key: RequestKey) {
        self.blame = comm_of(&self.world.engine.inbox, key);
    }
}

/// Runs a function that needs MPI to be initialised.
pub fn run(function: &'static str, body: impl FnOnce(&mut Call<'_>) -> Result<(), Error>) -> c_int {
    guarded(function, || {
        let failure = {
            let mut stage = stage();
            match &mut *stage {
                Stage::Running(world) => {
                    let mut call = Call { world, blame: None };
                    let result = body(&mut call);
                    let blame = call.blame.take();
                    result
                        .err()
                        .map(|error| (error, blame.unwrap_or(world.comm_world.clone())))
                }
                Stage::Before | Stage::Finalized => {
                    return raise(function, &Error::NotRunning, None);
                }
            }
        };
        // The state is unlocked again: an error handler may call MPI.
        match failure {
            None => SUCCESS,
            Some((error, comm)) => raise(function, &error, Some(&comm)),
        }
    })
}

/// Runs a function that may be called at any time.
pub fn run_anytime(function: &'static str, body: impl FnOnce() -> Result<(), Error>) -> c_int {
    guarded(function, || match body() {
        Ok(()) => SUCCESS,
        Err(error) => raise(function, &error, None),
    })
}

/// Runs anything, and ends the job where it panics.
pub fn guarded<R>(function: &'static str, body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = format!("{function}: a bug in meander: {}", words(&*panic));
        ending::end_job(ERR_INTERN, &text)
    })
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no words)")
}

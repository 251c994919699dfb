//! What can go wrong in an MPI call, and what then happens (MPI 3.1, chapter 8.3).

use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::sync::Arc;

use mpi_sys::{MPI_Comm, MPI_Comm_errhandler_function};
use parking_lot::Mutex;

use crate::comm::Comm;
use crate::constants::*;
use crate::handles::ErrhandlerKey;
use crate::native::{self, functions};
use crate::{abi, ending};

/// Why an MPI call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Called outside `MPI_Init` .. `MPI_Finalize`.
    #[error("MPI is not initialised, or is finalised already")]
    NotRunning,
    /// `MPI_Init` a second time.
    #[error("MPI was initialised before")]
    InitialisedBefore,
    /// The rank could not be set up.
    #[error("{0}")]
    Setup(String),
    /// Not a communicator of this process.
    #[error("not a communicator (freed already?)")]
    BadComm,
    /// Not a group of this process.
    #[error("not a group (freed already?)")]
    BadGroup,
    /// Not a request of this process.
    #[error("not a request (complete already?)")]
    BadRequest,
    /// Not an error handler for communicators.
    #[error("not an error handler of communicators")]
    BadErrhandler,
    /// Not a datatype that data can be sent or received with.
    #[error("not a datatype for data (not committed?)")]
    BadDatatype,
    /// Not an operation.
    #[error("not a reduction operation")]
    BadOp,
    /// Negative.
    #[error("the count {0} is negative")]
    BadCount(c_int),
    /// Out of range.
    #[error("there is no rank {rank} in this communicator of {size}")]
    BadRank {
        /// The rank given.
        rank: c_int,
        /// How many there are.
        size: usize,
    },
    /// Out of range.
    #[error("there is no rank {root} to be root in this communicator of {size}")]
    BadRoot {
        /// The rank given.
        root: c_int,
        /// How many there are.
        size: usize,
    },
    /// Out of range.
    #[error("the tag {0} is not between 0 and MPI_TAG_UB")]
    BadTag(c_int),
    /// Something else about an argument.
    #[error("{0}")]
    BadArgument(&'static str),
    /// The attribute key does not exist.
    #[error("there is no attribute key {0}")]
    BadKeyval(c_int),
    /// The message is longer than the receive's buffer.
    #[error("a message of {message_bytes} bytes came for a buffer of {buffer_bytes}")]
    Truncated {
        /// Its length.
        message_bytes: u64,
        /// What there was room for.
        buffer_bytes: u64,
    },
    /// At least one of several operations failed; the statuses say which.
    #[error("an operation among several failed; its status says why: {0}")]
    InStatus(Box<Error>),
    /// The other rank is gone.
    #[error("rank {rank} of MPI_COMM_WORLD is dead: {why}")]
    PeerDead {
        /// Its rank in the world.
        rank: u32,
        /// Who said so.
        why: String,
    },
    /// The native library refused its part of the work.
    #[error("the native library's {function:?} failed with code {code}")]
    Native {
        /// Its function.
        function: &'static CStr,
        /// What it returned.
        code: c_int,
    },
    /// The port refused.
    #[error("{0}")]
    Port(Arc<meander::Error>),
    /// The program called the error handler itself, with this code.
    #[error("MPI_Comm_call_errhandler with code {0}")]
    Called(c_int),
    /// A function of MPI that is still to be written.
    #[error("{0} is not yet provided by meander")]
    NotProvided(&'static str),
}

impl From<meander::Error> for Error {
    fn from(error: meander::Error) -> Error {
        Error::Port(Arc::new(error))
    }
}

impl Error {
    /// The code that the function returns: its error class, or one whose text names the function
    /// that is not provided.
    pub fn code(&self) -> c_int {
        match self {
            Error::NotRunning | Error::InitialisedBefore | Error::Setup(_) => ERR_OTHER,
            Error::BadComm => ERR_COMM,
            Error::BadGroup => ERR_GROUP,
            Error::BadRequest => ERR_REQUEST,
            Error::BadErrhandler | Error::BadArgument(_) => ERR_ARG,
            Error::BadDatatype => ERR_TYPE,
            Error::BadOp => ERR_OP,
            Error::BadCount(_) => ERR_COUNT,
            Error::BadRank { .. } => ERR_RANK,
            Error::BadRoot { .. } => ERR_ROOT,
            Error::BadTag(_) => ERR_TAG,
            Error::BadKeyval(_) => ERR_KEYVAL,
            Error::Truncated { .. } => ERR_TRUNCATE,
            Error::InStatus(_) => ERR_IN_STATUS,
            Error::PeerDead { .. } | Error::Port(_) => ERR_OTHER,
            Error::Native { code, .. } | Error::Called(code) => *code,
            Error::NotProvided(function) => code_of_missing(function),
        }
    }

    fn is_death(&self) -> bool {
        match self {
            Error::PeerDead { .. } => true,
            Error::InStatus(error) => error.is_death(),
            _ => false,
        }
    }
}

/// What happens when a call fails.
#[derive(Clone, Copy, Debug)]
pub enum Errhandler {
    /// `MPI_ERRORS_ARE_FATAL`: the job ends.
    Fatal,
    /// `MPI_ERRORS_RETURN`: the call returns the code.
    Return,
    /// The program's own function is called; then the call returns the code.
    Own(ErrhandlerKey, MPI_Comm_errhandler_function),
}

/// Lets the error handler of `comm` have the failure of `function`; gives what it returns. With no
/// communicator, outside Init and Finalize, failures are fatal.
pub fn raise(function: &'static str, error: &Error, comm: Option<&Arc<Comm>>) -> c_int {
    let handler = comm.map_or(Errhandler::Fatal, |comm| comm.errhandler());
    let returned = match error {
        // The call was to call the handler, and has.
        Error::Called(_) => SUCCESS,
        other => other.code(),
    };
    match handler {
        Errhandler::Return => returned,
        Errhandler::Own(_, own) => {
            let code = error.code();
            let handle = comm.map_or(std::ptr::null_mut(), |comm| comm.handle().0);
            abi::call_errhandler(own, MPI_Comm(handle), code);
            returned
        }
        Errhandler::Fatal => {
            let class = match error {
                Error::NotProvided(_) => ERR_UNSUPPORTED_OPERATION,
                other => other.code(),
            };
            if error.is_death() {
                ending::leave_it_to_the_launcher();
            }
            ending::end_job(class, &format!("{function}: {error}"))
        }
    }
}

/// Each function that is not provided has an error code of its own, made at its first failure, so
/// that `MPI_Error_string` can name it.
fn code_of_missing(function: &'static str) -> c_int {
    static CODES: Mutex<Option<(c_int, HashMap<&'static str, c_int>)>> = Mutex::new(None);
    if native::get().is_err() {
        return ERR_UNSUPPORTED_OPERATION;
    }
    let mut codes = CODES.lock();
    if codes.is_none() {
        let Ok(class) = functions::add_error_class() else {
            return ERR_UNSUPPORTED_OPERATION;
        };
        *codes = Some((class, HashMap::new()));
    }
    let Some((class, codes)) = codes.as_mut() else {
        return ERR_UNSUPPORTED_OPERATION;
    };
    if let Some(code) = codes.get(function) {
        return *code;
    }
    let text = Error::NotProvided(function).to_string();
    let code = functions::add_error_code(*class, &text).unwrap_or(ERR_UNSUPPORTED_OPERATION);
    codes.insert(function, code);
    code
}

//! What can go wrong.

use std::io;
use std::net::SocketAddr;

use crate::limits::{CHUNK_SLOTS, SLOT_BYTES};

/// An operation of verbs failed.
#[derive(Debug, thiserror::Error)]
pub enum VerbsError {
    /// A call failed.
    #[error("{verb} on {device}: {source}")]
    Call {
        /// The verb.
        verb: &'static str,
        /// The device's name.
        device: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A work request was posted and failed later.
    #[error("{device}: a {operation} completed with: {status} (vendor code {vendor:#x})")]
    Completion {
        /// The device's name.
        device: String,
        /// What was being done.
        operation: &'static str,
        /// The status, as `ibv_wc_status_str` words it.
        status: String,
        /// The vendor's own code.
        vendor: u32,
    },
    /// The device reported an event that ends a link or all of them.
    #[error("{device}: {event}")]
    Event {
        /// The device's name.
        device: String,
        /// What happened.
        event: &'static str,
    },
    /// The device, or this transport, has no more of something.
    #[error("{device}: no more {what} than {most}")]
    Limit {
        /// The device's name.
        device: String,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
}

impl From<VerbsError> for io::Error {
    fn from(error: VerbsError) -> io::Error {
        match &error {
            VerbsError::Call { source, .. } => io::Error::new(source.kind(), error),
            _ => io::Error::other(error),
        }
    }
}

/// Why there is no transport over verbs here.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// libibverbs can't be loaded.
    #[error(
        "{name} can't be loaded ({reason}): install libibverbs1 and ibverbs-providers, or do without verbs"
    )]
    NoLibrary {
        /// Its file name.
        name: String,
        /// The loader's reason.
        reason: String,
    },
    /// There is no RDMA device, or none that this process may use.
    #[error("no RDMA device: is the adapter's driver loaded, and is /dev/infiniband there?")]
    NoDevice,
    /// The configured device does not exist.
    #[error("no RDMA device {wanted}; there are: {present}")]
    NoSuchDevice {
        /// The device that was asked for.
        wanted: String,
        /// Those that there are.
        present: String,
    },
    /// No port is active.
    #[error("no port of {device} is active: is the cable in, is the interface up?")]
    NoActivePort {
        /// The device or devices.
        device: String,
    },
    /// No address of the port will do.
    #[error(
        "port {port} of {device} has no {wanted}: give the interface an IPv4 address, or choose a GID index"
    )]
    NoGid {
        /// The device.
        device: String,
        /// Its port.
        port: u8,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The device may not keep enough of this process's memory in place.
    #[error(
        "{device} can't register {bytes} bytes: locked memory is limited (`ulimit -l`); \
         it should be unlimited for who uses RDMA"
    )]
    LockedMemory {
        /// The device.
        device: String,
        /// What was to be registered.
        bytes: usize,
    },
    /// Making something failed.
    #[error(transparent)]
    Verbs(#[from] VerbsError),
    /// Listening for peers failed.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Another call failed.
    #[error("{operation} failed: {source}")]
    Io {
        /// The call.
        operation: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl OpenError {
    /// Of the first memory that is registered: the usual cause has a variant of its own.
    pub(crate) fn from_registration(error: VerbsError) -> OpenError {
        match error {
            VerbsError::Call {
                verb: "ibv_reg_mr",
                device,
                source,
            } if source.raw_os_error() == Some(libc::ENOMEM) => OpenError::LockedMemory {
                device,
                bytes: CHUNK_SLOTS * SLOT_BYTES,
            },
            other => OpenError::Verbs(other),
        }
    }
}

//! What lies between the frames of a link and its socket: nothing, or encryption.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use meander_core::transport::LinkError;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use crate::limits;
use crate::sealed::Sealed;

/// What lies between the frames of a link and its socket.
pub(crate) enum Wire {
    /// Nothing.
    Plain,
    /// Encryption.
    Sealed(Box<Sealed>),
}

/// What one read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes, and perhaps more are waiting.
    Some(usize),
    /// So many bytes, and the socket was empty then.
    Last(usize),
    /// None; the socket is empty.
    None,
}

impl Read {
    /// How many came.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Read::Some(count) | Read::Last(count) => count,
            Read::None => 0,
        }
    }
}

impl Wire {
    /// Reads once, into these parts, one after the other.
    pub(crate) fn read(
        &mut self,
        socket: BorrowedFd<'_>,
        parts: &mut [IoSliceMut<'_>],
    ) -> Result<Read, LinkError> {
        match self {
            Wire::Sealed(sealed) => sealed.read(socket, parts),
            Wire::Plain => {
                let asked = parts.iter().map(|part| part.len()).sum();
                let read = match parts {
                    [part] => recv(socket, &mut part[..], RecvFlags::DONTWAIT).map(|(n, _)| n),
                    _ => rustix::io::readv(socket, parts),
                };
                outcome(read, asked)
            }
        }
    }

    /// Takes some of the bytes of these parts, once. [`Errno::AGAIN`]: none now.
    pub(crate) fn write(
        &mut self,
        socket: BorrowedFd<'_>,
        parts: &[IoSlice<'_>],
    ) -> Result<usize, Errno> {
        match self {
            Wire::Sealed(sealed) => sealed.write(socket, parts),
            Wire::Plain => write_plain(socket, parts),
        }
    }

    /// Puts on the socket what was taken. Returns whether that is all of it.
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        match self {
            Wire::Sealed(sealed) => sealed.flush(socket),
            Wire::Plain => Ok(true),
        }
    }

    /// Whether bytes were taken that are not on the socket yet.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Wire::Sealed(sealed) => sealed.is_empty(),
            Wire::Plain => true,
        }
    }

    /// Whether it takes bytes since the last read, and did not before.
    pub(crate) fn has_opened(&mut self) -> bool {
        match self {
            Wire::Sealed(sealed) => sealed.has_opened(),
            Wire::Plain => false,
        }
    }
}

/// What it means that a read of at most `asked` bytes ended so.
pub(crate) fn outcome(read: Result<usize, Errno>, asked: usize) -> Result<Read, LinkError> {
    match read {
        Ok(0) => Err(LinkError::Closed),
        Ok(count) if count < asked => Ok(Read::Last(count)),
        Ok(count) => Ok(Read::Some(count)),
        Err(Errno::AGAIN) => Ok(Read::None),
        Err(Errno::INTR) => Ok(Read::Some(0)),
        Err(Errno::CONNRESET | Errno::PIPE) => Err(LinkError::Closed),
        Err(errno) => Err(LinkError::Io {
            operation: "read",
            source: errno.into(),
        }),
    }
}

/// How a link writes.
pub(crate) const WRITE_FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

fn write_plain(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    if bytes > limits::COPY_BYTES {
        return sendmsg(
            socket,
            parts,
            &mut SendAncillaryBuffer::default(),
            WRITE_FLAGS,
        );
    }
    // Copying a little is cheaper than having the system gather it.
    let mut whole = ArrayVec::<u8, { limits::COPY_BYTES }>::new();
    for part in parts {
        whole.try_extend_from_slice(part).expect("all of them fit");
    }
    send(socket, &whole, WRITE_FLAGS)
}

//! A link whose bytes come from a fuzzer.

use std::os::fd::{AsFd, OwnedFd};

use meander_core::LinkId;
use meander_core::transport::{FrameSink, LinkError};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use crate::incoming::{Incoming, Read};

/// The receiving half of a link, and the far end of its socket.
pub struct Feed {
    incoming: Incoming,
    near: OwnedFd,
    far: OwnedFd,
}

/// Bytes that the socket takes at once in any case.
const PIECE_BYTES: usize = 32 * 1024;

impl Default for Feed {
    fn default() -> Feed {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .expect("a process may have two more descriptors");
        Feed {
            incoming: Incoming::new(),
            near,
            far,
        }
    }
}

impl Feed {
    /// Hands these bytes over as if they had come just now. An error breaks the link.
    pub fn feed<S: FrameSink>(
        &mut self,
        link: LinkId,
        bytes: &[u8],
        sink: &mut S,
    ) -> Result<(), LinkError> {
        for piece in bytes.chunks(PIECE_BYTES) {
            let taken = send(&self.far, piece, SendFlags::NOSIGNAL);
            assert_eq!(taken, Ok(piece.len()), "the socket is read empty");
            while let Read::Some(_) = self.incoming.receive(link, self.near.as_fd(), sink)? {}
        }
        Ok(())
    }
}

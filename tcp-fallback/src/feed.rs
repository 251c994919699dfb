//! A link whose bytes come from a fuzzer.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use meander_core::LinkId;
use meander_core::transport::{FrameSink, LinkError};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::incoming::Incoming;
use crate::sealed::{Psk, Sealed};
use crate::wire::{Read, Wire};

/// The receiving half of a link, and the far end of its socket.
pub struct Feed {
    incoming: Incoming,
    wire: Wire,
    near: OwnedFd,
    far_wire: Wire,
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
            wire: Wire::Plain,
            near,
            far_wire: Wire::Plain,
            far,
        }
    }
}

impl Feed {
    /// Of an encrypted link: what is fed is sealed and opened on its way.
    pub fn encrypted() -> Feed {
        let psk = Psk([7; 32]);
        let mut feed = Feed {
            wire: Wire::Sealed(Box::new(Sealed::acceptor(&psk))),
            far_wire: Wire::Sealed(Box::new(Sealed::dialler(&psk))),
            ..Feed::default()
        };
        let mut nothing = [0; 64];
        let _ = feed.far_wire.flush(feed.far.as_fd());
        for (wire, socket) in [
            (&mut feed.wire, &feed.near),
            (&mut feed.far_wire, &feed.far),
        ] {
            let read = wire.read(socket.as_fd(), &mut [IoSliceMut::new(&mut nothing)]);
            assert!(matches!(read, Ok(read) if read.bytes() == 0));
        }
        feed
    }

    /// From now on bytes are fed as they are, whatever the near end makes of them.
    pub fn feed_raw(&mut self) {
        self.far_wire = Wire::Plain;
    }

    /// Hands these bytes over as if they had come just now. An error breaks the link.
    pub fn feed<S: FrameSink>(
        &mut self,
        link: LinkId,
        bytes: &[u8],
        sink: &mut S,
    ) -> Result<(), LinkError> {
        for piece in bytes.chunks(PIECE_BYTES) {
            let taken = self
                .far_wire
                .write(self.far.as_fd(), &[IoSlice::new(piece)]);
            assert_eq!(taken, Ok(piece.len()), "the socket is read empty");
            let socket = self.near.as_fd();
            while let Read::Some(_) = self.incoming.receive(link, &mut self.wire, socket, sink)? {}
        }
        Ok(())
    }
}

//! Streams for programs: blocking calls, owned bytes.

use std::time::Duration;

use crate::Error;
use crate::handler::StreamKey;

/// One end of a reliable, ordered connection between two ports, which carries messages
/// ([`Stream::send`], [`Stream::recv`]) or bytes ([`std::io::Read`], [`std::io::Write`]).
///
/// Dropping it finishes this side and discards what the peer still sends.
pub struct Stream {}

impl Stream {
    /// Names the stream; the same before and after a move of either end.
    pub fn key(&self) -> StreamKey {
        todo!()
    }

    /// The service it was opened for.
    pub fn service(&self) -> u32 {
        todo!()
    }

    /// Sends a message. Blocks only while the port retains as much as its limit allows.
    pub fn send(&self, message: &[u8]) -> Result<(), Error> {
        let _ = message;
        todo!()
    }

    /// Sends a message without copying it: large ones go out straight from this memory.
    pub fn send_owned(&self, message: Vec<u8>) -> Result<(), Error> {
        let _ = message;
        todo!()
    }

    /// The next message; `None` when the peer has finished. `timeout` of `None` waits for ever.
    pub fn recv(&self, timeout: Option<Duration>) -> Result<Option<Vec<u8>>, Error> {
        let _ = timeout;
        todo!()
    }

    /// Nothing more comes from this side; the peer sees the end after all that was sent. This
    /// side may go on receiving.
    pub fn finish(&self) -> Result<(), Error> {
        todo!()
    }
}

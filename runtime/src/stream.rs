//! Streams for programs: blocking calls, owned bytes.

use std::io;
use std::time::Duration;

use meander_core::wire::AppHeader;
use meander_core::{PortId, StreamKind};

use crate::engine::buffers::{Buffer, Retained};
use crate::engine::ends::{End, Front};
use crate::handler::StreamKey;
use crate::shared::Guard;
use crate::{Error, Port};

/// One end of a reliable, ordered connection between two ports, which carries messages
/// ([`Stream::send`], [`Stream::recv`]) or bytes ([`Stream::read`], [`Stream::write`], and
/// [`io::Read`], [`io::Write`]).
///
/// The calls wait through a move of either end. Several threads may use one stream; each message is
/// received by one of them. Dropping the stream finishes this side and discards what the peer still
/// sends.
pub struct Stream {
    port: Port,
    key: StreamKey,
    service: u32,
    kind: StreamKind,
}

/// Bytes of one stream that may wait for the peer's acknowledgement before a send blocks; one
/// message is always taken.
const SEND_BYTES: u64 = 8 << 20;
/// Bytes of a byte stream that travel as one item.
const CHUNK_BYTES: usize = 16 * 1024;

impl Stream {
    pub(crate) fn new(port: &Port, key: StreamKey, service: u32, kind: StreamKind) -> Stream {
        Stream {
            port: port.clone(),
            key,
            service,
            kind,
        }
    }

    /// Names the stream; the same before and after a move of either end.
    pub fn key(&self) -> StreamKey {
        self.key
    }

    /// The port at the other end.
    pub fn peer(&self) -> PortId {
        self.key.peer
    }

    /// The service it was opened for.
    pub fn service(&self) -> u32 {
        self.service
    }

    /// Whether it carries messages or bytes.
    pub fn kind(&self) -> StreamKind {
        self.kind
    }

    /// Sends a message; the port keeps a copy until the peer has it. Blocks while 8 MiB of this
    /// stream are not acknowledged, or the port retains as much as its limit allows.
    pub fn send(&self, message: &[u8]) -> Result<(), Error> {
        self.expect(StreamKind::Messages, "send")?;
        self.send_with(message.len(), |state| state.engine.buffers.copy(message))
    }

    /// Sends a message without copying it: it goes out straight from this memory, which the port
    /// keeps until the peer has it. Blocks as [`Stream::send`] does.
    pub fn send_owned(&self, message: Vec<u8>) -> Result<(), Error> {
        self.expect(StreamKind::Messages, "send")?;
        let (len, mut message) = (message.len(), Some(message));
        self.send_with(len, |_| message.take().unwrap_or_default())
    }

    /// The next message; `None` when the peer has finished. A `timeout` of `None` waits for ever.
    pub fn recv(&self, timeout: Option<Duration>) -> Result<Option<Vec<u8>>, Error> {
        self.expect(StreamKind::Messages, "recv")?;
        self.take("recv", timeout, |state, key| {
            let max = state.engine.message_bytes_max;
            let end = state.engine.ends.ends.get_mut(&key).ok_or(Error::Finished);
            match end.map(End::take) {
                Ok(Front::Message {
                    bytes,
                    window_bytes,
                }) => {
                    state.engine.core.consumed(key, window_bytes);
                    Some(Ok(Some(bytes)))
                }
                Ok(Front::TooLong(len)) => Some(Err(Error::TooLong { len, max })),
                Ok(Front::End) => Some(Ok(None)),
                Ok(Front::Nothing) => None,
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// Copies what has come of a byte stream into `into`, and waits for some if there is nothing.
    /// Returns the bytes copied: 0 at the end of the stream. A `timeout` of `None` waits for ever.
    pub fn read(&self, into: &mut [u8], timeout: Option<Duration>) -> Result<usize, Error> {
        self.expect(StreamKind::Bytes, "read")?;
        self.take("read", timeout, |state, key| {
            let max = state.engine.message_bytes_max;
            let Some(end) = state.engine.ends.ends.get_mut(&key) else {
                return Some(Err(Error::Finished));
            };
            if let Some(len) = end.too_long() {
                return Some(Err(Error::TooLong { len, max }));
            }
            let (copied, window_bytes) = end.read(into)?;
            state.engine.core.consumed(key, window_bytes);
            Some(Ok(copied))
        })
    }

    /// Sends all of `bytes` on a byte stream. Blocks as [`Stream::send`] does.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        self.expect(StreamKind::Bytes, "write")?;
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.send_with(chunk.len(), |state| state.engine.buffers.copy(chunk))?;
        }
        Ok(())
    }

    /// Nothing more comes from this side; the peer sees the end after all that was sent. This
    /// side may go on receiving.
    pub fn finish(&self) -> Result<(), Error> {
        let shared = self.port.shared();
        let mut state = shared.enter()?;
        let now = state.engine.now();
        let finished = state.engine.core.finish(now, self.key);
        if let Some(end) = state.engine.ends.ends.get_mut(&self.key) {
            end.finished = true;
        }
        shared.settle(&mut state);
        Ok(finished?)
    }

    fn expect(&self, kind: StreamKind, operation: &'static str) -> Result<(), Error> {
        if self.kind == kind {
            Ok(())
        } else {
            Err(Error::WrongKind { operation })
        }
    }

    /// Waits for room, then sends what `make` gives.
    fn send_with(
        &self,
        len: usize,
        mut make: impl FnMut(&mut Guard<'_>) -> Vec<u8>,
    ) -> Result<(), Error> {
        let (key, len) = (self.key, len as u64);
        let sent = self.port.shared().wait_for(None, false, |state| {
            if let Some(why) = state.engine.dead.get(&key.peer) {
                return Some(Err(Error::PeerDead {
                    peer: key.peer,
                    why: why.clone(),
                }));
            }
            // What never fits goes alone, as memory that its sender has parted with.
            let core = &state.engine.core;
            let full = core.retained_bytes() > 0 && !core.takes_copy(len);
            match state.engine.ends.ends.get(&key) {
                None => return Some(Err(Error::Finished)),
                Some(end) if end.finished => return Some(Err(Error::Finished)),
                Some(end) if end.unacknowledged > 0 && end.unacknowledged + len > SEND_BYTES => {
                    return None;
                }
                Some(_) if full => return None,
                Some(_) => {}
            }
            let bytes = make(state);
            Some(send_now(state, key, bytes))
        })?;
        sent.unwrap_or(Err(Error::TimedOut { operation: "send" }))
    }

    /// Waits for what `next` takes from the stream, fetching what it needs.
    fn take<T>(
        &self,
        operation: &'static str,
        timeout: Option<Duration>,
        mut next: impl FnMut(&mut Guard<'_>, StreamKey) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let key = self.key;
        let taken = self.port.shared().wait_for(timeout, false, |state| {
            let taken = next(state, key);
            state.engine.fetch(key, taken.is_none());
            if taken.is_none()
                && let Some(why) = state.engine.dead.get(&key.peer)
            {
                return Some(Err(Error::PeerDead {
                    peer: key.peer,
                    why: why.clone(),
                }));
            }
            taken
        })?;
        if let Some(taken) = taken {
            return taken;
        }
        let peer = key.peer;
        match self.port.shared().look()?.engine.core.is_linked(peer) {
            true => Err(Error::TimedOut { operation }),
            false => Err(Error::Moving { peer, operation }),
        }
    }
}

fn send_now(state: &mut Guard<'_>, to: StreamKey, bytes: Vec<u8>) -> Result<(), Error> {
    let len = bytes.len() as u64;
    let engine = &mut state.engine;
    if len == 0 {
        return Ok(engine.send(to, AppHeader::new(), None, false, false)?);
    }
    let retained = Retained {
        bytes,
        at: to,
        notify: None,
    };
    let buffer = engine.buffers.insert(Buffer::Retained(retained));
    let copied = engine.core.takes_copy(len);
    if let Err(error) = engine.send(to, AppHeader::new(), Some((buffer, len)), copied, false) {
        engine.buffers.remove(buffer);
        return Err(error.into());
    }
    if let Some(end) = engine.ends.ends.get_mut(&to) {
        end.unacknowledged += len;
    }
    Ok(())
}

impl Drop for Stream {
    fn drop(&mut self) {
        let shared = self.port.shared();
        let Ok(mut state) = shared.look() else { return };
        // Where the port has become a value, the stream goes on with that.
        if state.standing == crate::shared::Standing::Gone {
            return;
        }
        let engine = &mut state.engine;
        let Some(end) = engine.ends.ends.remove(&self.key) else {
            return;
        };
        let now = engine.now();
        if !end.finished {
            // It fails only where there is nobody to tell.
            let _ = engine.core.finish(now, self.key);
        }
        let (eager_bytes, unanswered) = end.discard();
        engine.core.consumed(self.key, eager_bytes);
        for seq in unanswered {
            let _ = engine.core.decline(now, self.key, seq);
        }
        shared.settle(&mut state);
    }
}

impl io::Read for &Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Stream::read(self, into, None).map_err(io::Error::other)
    }
}

impl io::Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Stream::write(self, bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    /// Does nothing: bytes are on their way already. [`Port::flush`] waits for their arrival.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut &*self, into)
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut &*self, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

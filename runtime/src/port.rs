//! A process's attachment to the fabric.

use std::time::Duration;

use meander_core::{Contact, Epoch, Limits, NodeName, PortId};

use crate::handler::{EventHandler, MessageKey, Outgoing, Posted, SendMode, Sink, StreamKey};
use crate::{Config, Error, Stream};

/// A process's attachment to the fabric: owns its streams and the data they retain.
///
/// Clones are handles of the same port; the last one closes it. A background thread makes progress
/// when the program does not.
#[derive(Clone)]
pub struct Port {}

impl Port {
    /// Opens a port: listens, and starts the background thread.
    pub fn open(config: Config) -> Result<Port, Error> {
        let _ = config;
        todo!()
    }

    /// The address, which never changes.
    pub fn id(&self) -> PortId {
        todo!()
    }

    /// How often the port has moved.
    pub fn epoch(&self) -> Epoch {
        todo!()
    }

    /// The bounds the port was opened with.
    pub fn limits(&self) -> Limits {
        todo!()
    }

    /// What a peer needs to reach this port, apart from the key.
    pub fn contact(&self) -> Contact {
        todo!()
    }

    /// Teaches where a peer is. Older knowledge than the port has is ignored.
    pub fn add_peer(&self, contact: &Contact) {
        let _ = contact;
        todo!()
    }

    /// The peer is dead for certain. Its streams end in [`Error::PeerDead`].
    pub fn peer_is_dead(&self, peer: PortId, why: &str) {
        let _ = (peer, why);
        todo!()
    }

    // --- streams of a program

    /// Takes connections to `service`, a number the two programs agree on, from now on.
    pub fn listen(&self, service: u32) {
        let _ = service;
        todo!()
    }

    /// The next stream that a peer has opened. `None` waits for ever.
    pub fn accept(&self, timeout: Option<Duration>) -> Result<Stream, Error> {
        let _ = timeout;
        todo!()
    }

    /// Opens a stream of messages and waits until the peer takes it.
    pub fn connect(&self, to: &Contact, service: u32) -> Result<Stream, Error> {
        let _ = (to, service);
        todo!()
    }

    /// Opens a stream of bytes and waits until the peer takes it.
    pub fn connect_bytes(&self, to: &Contact, service: u32) -> Result<Stream, Error> {
        let _ = (to, service);
        todo!()
    }

    /// Waits until every retained byte is acknowledged, also through a peer's move.
    pub fn flush(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let _ = timeout;
        todo!()
    }

    // --- moving as a value

    /// Takes the port off the fabric and makes a value of it, with its streams and what they
    /// retain. The value holds the key: keep it secret, and attach it once.
    pub fn suspend(self) -> Result<Vec<u8>, Error> {
        todo!()
    }

    /// Puts a suspended port on the fabric here, one epoch later. Its streams come back, in the
    /// order of [`Stream::key`]. `config` says where to listen; key and limits are the value's.
    pub fn attach(config: Config, value: &[u8]) -> Result<(Port, Vec<Stream>), Error> {
        let _ = (config, value);
        todo!()
    }

    // --- moving in place

    /// Takes the port off the fabric and leaves it in memory, for a process that is about to be
    /// checkpointed. Afterwards the port holds no socket, and calls on it block. Gives the peers
    /// it is connected to.
    pub fn suspend_in_place(&self) -> Result<Vec<PortId>, Error> {
        todo!()
    }

    /// Puts the port on the fabric again after its process was moved.
    pub fn attach_in_place(&self, epoch: Epoch, node: NodeName) -> Result<(), Error> {
        let _ = (epoch, node);
        todo!()
    }

    /// Puts the port on the fabric again where it was: the move did not happen.
    pub fn resume_in_place(&self) -> Result<(), Error> {
        todo!()
    }

    // --- the driver interface

    /// The stream to a peer that both ends name without opening it. Its messages go to the
    /// [`EventHandler`].
    pub fn fixed_stream(&self, peer: PortId) -> StreamKey {
        let _ = peer;
        todo!()
    }

    /// Sends a message with an application header of at most 64 bytes. Never blocks.
    /// [`Error::Full`] only for [`Outgoing::Bytes`].
    pub fn post(
        &self,
        to: StreamKey,
        app: &[u8],
        body: Outgoing<'_>,
        mode: SendMode,
    ) -> Result<Posted, Error> {
        let _ = (to, app, body, mode);
        todo!()
    }

    /// Asks for the payload of an envelope, at most `max_len` bytes of it, into `sink`.
    /// [`EventHandler::pulled`] follows.
    pub fn pull(&self, message: MessageKey, sink: Box<dyn Sink>, max_len: u64) {
        let _ = (message, sink, max_len);
        todo!()
    }

    /// Tells the sender of an envelope that its payload is not wanted.
    pub fn decline(&self, message: MessageKey) {
        let _ = message;
        todo!()
    }

    /// Does what can be done now, and delivers what has happened. Returns whether anything did.
    /// Never blocks, unless the port is suspended.
    pub fn progress(&self, handler: &mut dyn EventHandler) -> bool {
        let _ = handler;
        todo!()
    }

    /// Waits until there may be something for [`Port::progress`] to deliver: spins briefly, yields,
    /// then sleeps.
    pub fn wait(&self, timeout: Duration) {
        let _ = timeout;
        todo!()
    }

    /// Wakes a thread that is in [`Port::wait`].
    pub fn wake(&self) {
        todo!()
    }
}

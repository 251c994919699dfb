//! Taking a port off the fabric and putting it on again, as a value or in place.

use meander_core::port::{self, Snapshot};
use meander_core::{Epoch, NodeName, PortId, StreamKind};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::engine::buffers::{self, Buffers};
use crate::engine::ends::End;
use crate::engine::inbox::{self, Inbox};
use crate::handler::StreamKey;
use crate::port::{random, settings};
use crate::shared::{Guard, Standing};
use crate::{Config, Error, Port, Stream};

impl Port {
    /// Takes the port off the fabric and makes a value of it, with its streams and all they retain.
    /// Other handles, and its streams, then fail with [`Error::Suspended`]; keep the streams until
    /// then, for a dropped stream is finished.
    ///
    /// The value holds the key: keep it secret. Attach it once: of two ports made of it, the peers
    /// would talk to whichever came last.
    pub fn suspend(self) -> Result<Vec<u8>, Error> {
        let mut state = self.shared().enter()?;
        state.engine.suspend();
        let value = Value::take(&mut state.engine);
        self.shared().set_standing(&mut state, Standing::Gone);
        Ok(value.encode())
    }

    /// Puts a suspended port on the fabric here, one epoch later. Its streams come back, in the
    /// order of [`Stream::key`]; those that waited for [`Port::accept`] wait again. `config` says
    /// where to listen; key and limits are the value's.
    pub fn attach(config: Config, value: &[u8]) -> Result<(Port, Vec<Stream>), Error> {
        let value = Value::decode(value)?;
        let epoch = value.snapshot.epoch().next();
        let engine = value.restore(&config)?;
        let ends = engine
            .ends
            .ends
            .iter()
            .filter(|(key, _)| !engine.ends.offered.contains(key));
        let streams: Vec<(StreamKey, u32, StreamKind)> = ends
            .map(|(key, end)| (*key, end.service, end.kind))
            .collect();
        let port = Port::with(engine)?;
        port.start(epoch)?;
        let streams = streams
            .into_iter()
            .map(|(key, service, kind)| Stream::new(&port, key, service, kind));
        let streams = streams.collect();
        Ok((port, streams))
    }

    /// Takes the port off the fabric and leaves it in memory, for a process that is about to be
    /// checkpointed. Afterwards the port holds no socket, and calls on it block until it is
    /// attached or resumed. Gives the peers it is connected to.
    pub fn suspend_in_place(&self) -> Result<Vec<PortId>, Error> {
        let mut state = self.shared().look()?;
        match state.standing {
            Standing::Gone => return Err(Error::Suspended),
            Standing::Suspended => {}
            Standing::Attached => {
                state.engine.suspend();
                self.shared().set_standing(&mut state, Standing::Suspended);
            }
        }
        Ok(state.engine.core.connected_peers())
    }

    /// Puts the port on the fabric again after its process was moved to `node`. The epoch must be
    /// higher than the port's.
    pub fn attach_in_place(&self, epoch: Epoch, node: NodeName) -> Result<(), Error> {
        let mut state = self.suspended()?;
        if epoch <= state.engine.core.epoch() {
            return Err(Error::StaleEpoch(epoch));
        }
        state.engine.node = node;
        self.put_on(state, epoch)
    }

    /// Puts the port on the fabric again where it was: the move did not happen.
    pub fn resume_in_place(&self) -> Result<(), Error> {
        let state = self.suspended()?;
        let epoch = state.engine.core.epoch();
        self.put_on(state, epoch)
    }

    fn suspended(&self) -> Result<Guard<'_>, Error> {
        let state = self.shared().look()?;
        match state.standing {
            Standing::Suspended => Ok(state),
            Standing::Attached => Err(Error::NotSuspended),
            Standing::Gone => Err(Error::Suspended),
        }
    }

    fn put_on(&self, mut state: Guard<'_>, epoch: Epoch) -> Result<(), Error> {
        state.engine.attach(epoch)?;
        self.shared().set_standing(&mut state, Standing::Attached);
        // Threads in `wait` look again: what they wait for may have been lost on the way.
        drop(state);
        self.shared().wake();
        Ok(())
    }
}

/// First bytes of a value, with its version.
const MAGIC: &[u8; 8] = b"meander\x03";

/// A port that is suspended, as plain data.
#[derive(Serialize, Deserialize)]
struct Value {
    snapshot: Snapshot,
    buffers: Vec<buffers::Saved>,
    inbox: inbox::Saved,
    ends: Vec<(StreamAt, End)>,
    offered: Vec<StreamAt>,
    services: Vec<u32>,
    next_send: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct StreamAt(PortId, meander_core::StreamId);

impl From<StreamAt> for StreamKey {
    fn from(StreamAt(peer, stream): StreamAt) -> StreamKey {
        StreamKey { peer, stream }
    }
}

impl From<StreamKey> for StreamAt {
    fn from(key: StreamKey) -> StreamAt {
        StreamAt(key.peer, key.stream)
    }
}

impl Value {
    /// Empties a suspended engine.
    fn take(engine: &mut Engine) -> Value {
        let ends = std::mem::take(&mut engine.ends);
        Value {
            snapshot: engine.core.snapshot(),
            buffers: std::mem::take(&mut engine.buffers).into_saved(),
            inbox: std::mem::take(&mut *engine.inbox).into_saved(),
            ends: ends
                .ends
                .into_iter()
                .map(|(key, end)| (key.into(), end))
                .collect(),
            offered: ends.offered.into_iter().map(StreamAt::from).collect(),
            services: ends.services.into_iter().collect(),
            next_send: *engine.next_send(),
        }
    }

    /// An engine that continues where the suspended one stopped.
    fn restore(self, config: &Config) -> Result<Engine, Error> {
        let core = port::Port::from_snapshot(self.snapshot, random()?);
        let mut engine = Engine::new(core, settings(config));
        engine.buffers = Buffers::from_saved(self.buffers).ok_or(Error::BadValue)?;
        *engine.inbox = Inbox::from_saved(self.inbox);
        engine.ends.ends = self
            .ends
            .into_iter()
            .map(|(key, end)| (key.into(), end))
            .collect();
        engine.ends.offered = self.offered.into_iter().map(StreamKey::from).collect();
        engine.ends.services = self.services.into_iter().collect();
        *engine.next_send() = self.next_send;
        Ok(engine)
    }

    fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, MAGIC.to_vec()).expect("plain data can be encoded")
    }

    fn decode(bytes: &[u8]) -> Result<Value, Error> {
        let body = bytes.strip_prefix(MAGIC).ok_or(Error::BadValue)?;
        postcard::from_bytes(body).map_err(|_| Error::BadValue)
    }
}

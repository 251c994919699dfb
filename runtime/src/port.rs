//! A process's attachment to the fabric.

use std::sync::Arc;
use std::time::Duration;

use meander_core::port;
use meander_core::{Contact, Epoch, Limits, PortId, StreamKind, TransportKind};

use crate::engine::ends::{End, State};
use crate::engine::{Engine, Settings};
use crate::handler::StreamKey;
use crate::shared::{Shared, Standing};
use crate::transports::TransportConfig;
use crate::{Config, Error, Stream, background};

/// A process's attachment to the fabric: owns its streams and the data they retain.
///
/// Clones are handles of the same port, and so is every [`Stream`]; when the last one is dropped
/// the port is closed and what it retains is gone: [`Port::flush`] first. A background thread makes
/// progress when the program does not.
#[derive(Clone)]
pub struct Port {
    pub(crate) handle: Arc<Handle>,
}

/// Closes the port with its last handle.
pub(crate) struct Handle {
    pub shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // In a forked child the port is the parent's: there, nothing of it is touched.
        if let Ok(mut state) = self.shared.look() {
            if state.standing == Standing::Attached {
                state.engine.suspend();
            }
            self.shared.set_standing(&mut state, Standing::Gone);
        }
    }
}

impl Port {
    /// Opens a port: listens, and starts the background thread.
    pub fn open(config: Config) -> Result<Port, Error> {
        let id = PortId(u128::from_le_bytes(random()?));
        let Config { key, limits, .. } = config.clone();
        let core = port::Port::new(port::Config {
            id,
            key,
            limits,
            seed: random()?,
        });
        let port = Port::with(Engine::new(core, settings(&config)))?;
        port.start(Epoch(0))?;
        Ok(port)
    }

    /// A port that is not on the fabric yet.
    pub(crate) fn with(engine: Engine) -> Result<Port, Error> {
        let shared = Arc::new(Shared::new(engine)?);
        Ok(Port {
            handle: Arc::new(Handle { shared }),
        })
    }

    /// Puts a new port on the fabric.
    pub(crate) fn start(&self, epoch: Epoch) -> Result<(), Error> {
        let mut state = self.shared().look()?;
        state.engine.attach(epoch)?;
        self.shared().set_standing(&mut state, Standing::Attached);
        drop(state);
        background::start(Arc::clone(self.shared()))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The address, which never changes.
    pub fn id(&self) -> PortId {
        self.shared().id()
    }

    /// How often the port has moved.
    pub fn epoch(&self) -> Epoch {
        self.contact().epoch
    }

    /// The bounds the port was opened with.
    pub fn limits(&self) -> Limits {
        self.shared().limits().clone()
    }

    /// What a peer needs to reach this port, apart from the key. While the port is suspended, the
    /// location has no cards.
    pub fn contact(&self) -> Contact {
        self.shared().contact()
    }

    /// By what the peer is linked now; `None` while it is not.
    pub fn linked_by(&self, peer: PortId) -> Option<TransportKind> {
        let state = self.shared().look().ok()?;
        let link = state.engine.core.link_to(peer)?;
        Some(state.engine.transports()?.kind_of(link))
    }

    /// What the port's verbs have done so far: what a message costs, whatever the machine's speed.
    /// `None` without them.
    pub fn verbs_counters(&self) -> Option<crate::VerbsCounters> {
        let state = self.shared().look().ok()?;
        state.engine.transports()?.verbs_counters()
    }

    /// Teaches where a peer is. Older knowledge than the port has is ignored.
    pub fn add_peer(&self, contact: &Contact) {
        if let Ok(mut state) = self.shared().look() {
            let now = state.engine.now();
            state.engine.lookups.remove(&contact.port);
            state.engine.core.learn(now, contact);
            if state.standing == Standing::Attached {
                self.shared().drive(&mut state);
            }
        }
    }

    /// The peer is dead for certain, for whoever calls knows that its process has ended. Its
    /// streams end in [`Error::PeerDead`].
    pub fn peer_is_dead(&self, peer: PortId) {
        if let Ok(mut state) = self.shared().look() {
            state.engine.core.declare_dead(peer);
            self.shared().settle(&mut state);
        }
    }

    /// Takes connections to `service`, a number the two programs agree on, from now on.
    pub fn listen(&self, service: u32) {
        if let Ok(mut state) = self.shared().look() {
            state.engine.ends.services.insert(service);
        }
    }

    /// The next stream that a peer has opened to a service that this port listens for. `None` waits
    /// for ever.
    pub fn accept(&self, timeout: Option<Duration>) -> Result<Stream, Error> {
        let accepted = self.shared().wait_for(timeout, false, |state| {
            let key = state.engine.ends.offered.pop_front()?;
            let end = &state.engine.ends.ends[&key];
            Some(Stream::new(self, key, end.service, end.kind))
        })?;
        accepted.ok_or(Error::TimedOut {
            operation: "accept",
        })
    }

    /// Opens a stream of messages and waits until the peer takes it. The peer may be on its way
    /// elsewhere: it fails when the peer refuses, is dead, or is out of reach for
    /// `Limits::peer_timeout`.
    pub fn connect(&self, to: &Contact, service: u32) -> Result<Stream, Error> {
        self.connect_kind(to, service, StreamKind::Messages)
    }

    /// Opens a stream of bytes, otherwise as [`Port::connect`].
    pub fn connect_bytes(&self, to: &Contact, service: u32) -> Result<Stream, Error> {
        self.connect_kind(to, service, StreamKind::Bytes)
    }

    fn connect_kind(&self, to: &Contact, service: u32, kind: StreamKind) -> Result<Stream, Error> {
        let peer = to.port;
        let mut state = self.shared().enter()?;
        let now = state.engine.now();
        state.engine.unproved.remove(&peer);
        state.engine.core.learn(now, to);
        let stream = state.engine.core.open(now, peer, service, kind)?;
        let key = StreamKey { peer, stream };
        state
            .engine
            .ends
            .ends
            .insert(key, End::new(service, kind, State::Asked));
        drop(state);
        let answer = self.shared().wait_for(None, false, |state| {
            let engine = &mut state.engine;
            match engine.ends.ends.get(&key).map(|end| end.state) {
                Some(State::Open) => return Some(Ok(())),
                Some(State::Asked) => {}
                Some(State::Refused) | None => return Some(Err(refused(peer, NOBODY_LISTENS))),
            }
            if let Some(why) = engine.dead.get(&peer) {
                return Some(Err(Error::PeerDead {
                    peer,
                    why: why.clone(),
                }));
            }
            let why = engine.unproved.get(&peer)?;
            Some(Err(refused(peer, why)))
        });
        // Without a time-out there is always an answer, if the port stays.
        let answer = answer.and_then(|answer| answer.unwrap_or(Err(Error::Finished)));
        if answer.is_err() {
            self.shared().look()?.engine.ends.ends.remove(&key);
        }
        answer.map(|()| Stream::new(self, key, service, kind))
    }

    /// Waits until the peers have acknowledged every retained byte, also through a peer's move.
    /// `None` waits for ever. Messages that wait at this side to be pulled count too.
    pub fn flush(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let mut state = self.shared().enter()?;
        state.engine.core.solicit();
        self.shared().settle(&mut state);
        drop(state);
        let drained = self.shared().wait_for(timeout, false, |state| {
            state.engine.core.is_drained().then_some(())
        })?;
        drained.ok_or(Error::TimedOut { operation: "flush" })
    }

    /// Breaks every link, as a cut cable would: for tests of what follows.
    #[doc(hidden)]
    pub fn cut_links(&self) {
        if let Ok(mut state) = self.shared().look() {
            state.engine.cut_links();
            self.shared().settle(&mut state);
        }
    }
}

const NOBODY_LISTENS: &str = "nobody listens for that service there";

fn refused(peer: PortId, why: &str) -> Error {
    Error::Refused {
        peer,
        why: why.to_owned(),
    }
}

pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        node: config.node.clone(),
        transports: TransportConfig {
            allowed: config.transports.clone(),
            tcp: config.tcp.clone(),
            verbs: config.verbs.clone(),
        },
        message_bytes_max: config.message_bytes_max,
    }
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Io {
        operation: "getrandom",
        source: error.into(),
    })?;
    Ok(bytes)
}

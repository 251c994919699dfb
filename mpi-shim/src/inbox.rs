//! What comes in from the port, and the requests that wait for it.

use std::sync::Arc;

use meander::{EventHandler, MessageKey, Payload, Port, PortId, SendId, Sink, Source, StreamKey};
use rustc_hash::FxHashMap;
use slotmap::SlotMap;

use crate::comm::Comm;
use crate::ending;
use crate::envelope::Envelope;
use crate::errors::Error;
use crate::handles::RequestKey;
use crate::init::UNEXPECTED_VARIABLE;
use crate::matching::Matcher;
use crate::request::{Outcome, Request, State};

/// A message that no receive has met yet.
pub enum Arrival {
    /// Its payload is here.
    Here {
        /// The payload.
        bytes: Box<[u8]>,
        /// A synchronous send of this same rank that waits for the match.
        sender: Option<RequestKey>,
    },
    /// Its payload waits at the sender.
    There {
        /// The port's name for it.
        message: MessageKey,
        /// Its length in bytes.
        len: u64,
    },
}

impl Arrival {
    /// The payload's length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Arrival::Here { bytes, .. } => bytes.len() as u64,
            Arrival::There { len, .. } => *len,
        }
    }
}

/// Requests, and messages without a receive.
pub struct Inbox {
    port: Port,
    /// This rank, in the world.
    pub rank: u32,
    ranks: FxHashMap<PortId, u32>,
    /// Receives without a message, messages without a receive.
    pub matcher: Matcher<RequestKey, Arrival>,
    /// Every request that the program or a collective has.
    pub requests: SlotMap<RequestKey, Request>,
    /// Sends that the port will report.
    pub sends: FxHashMap<SendId, RequestKey>,
    pulls: FxHashMap<MessageKey, RequestKey>,
    dead: FxHashMap<u32, String>,
    unexpected_bytes: u64,
    unexpected_bytes_max: u64,
}

impl Inbox {
    /// For the rank that has this port.
    pub fn new(port: Port, rank: u32, peers: &[PortId], unexpected_bytes_max: u64) -> Inbox {
        Inbox {
            port,
            rank,
            ranks: peers
                .iter()
                .zip(0..)
                .map(|(peer, rank)| (*peer, rank))
                .collect(),
            matcher: Matcher::new(),
            requests: SlotMap::with_key(),
            sends: FxHashMap::default(),
            pulls: FxHashMap::default(),
            dead: FxHashMap::default(),
            unexpected_bytes: 0,
            unexpected_bytes_max,
        }
    }

    /// The outcome of a request, if it is complete; it is forgotten then.
    pub fn take_if_done(&mut self, key: RequestKey) -> Option<Outcome> {
        if !matches!(self.requests.get(key)?.state, State::Done(_)) {
            return None;
        }
        match self.requests.remove(key)?.state {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Whether a request is complete.
    pub fn is_done(&self, key: RequestKey) -> bool {
        self.requests
            .get(key)
            .is_none_or(|request| matches!(request.state, State::Done(_)))
    }

    /// The program has no more interest in a request; it completes all the same.
    pub fn detach(&mut self, key: RequestKey) {
        if self.is_done(key) {
            self.requests.remove(key);
        } else if let Some(request) = self.requests.get_mut(key) {
            request.detached = true;
        }
    }

    /// Withdraws a receive that no message has met. Anything else goes its way.
    pub fn cancel(&mut self, key: RequestKey) {
        let Some(Request {
            state: State::Posted { pattern, .. },
            ..
        }) = self.requests.get(key)
        else {
            return;
        };
        if self.matcher.withdraw(*pattern, key) {
            self.complete(key, Outcome::cancelled());
        }
    }

    /// A receive and a message have met.
    pub fn meet(&mut self, key: RequestKey, envelope: Envelope, arrival: Arrival) {
        match arrival {
            Arrival::Here { bytes, sender } => {
                self.unexpected_bytes -= bytes.len() as u64;
                self.deliver(key, envelope, &bytes);
                if let Some(sender) = sender {
                    self.complete(sender, Outcome::sent());
                }
            }
            Arrival::There { message, len } => self.pull(key, envelope, message, len),
        }
    }

    /// Puts a payload into the buffer of a receive.
    pub fn deliver(&mut self, key: RequestKey, envelope: Envelope, bytes: &[u8]) {
        let Some(State::Posted { view, .. }) = self.requests.get(key).map(|r| &r.state) else {
            return;
        };
        let room = view.bytes() as u64;
        let outcome = match view.unpack(bytes) {
            Ok(taken) => Outcome::received(&envelope, taken as u64, bytes.len() as u64, room),
            Err(error) => Outcome::failed(&envelope, error),
        };
        self.complete(key, outcome);
    }

    /// Keeps a message that no receive has met.
    pub fn keep(&mut self, envelope: Envelope, arrival: Arrival) {
        if let Arrival::Here { bytes, .. } = &arrival {
            self.unexpected_bytes += bytes.len() as u64;
            if self.unexpected_bytes > self.unexpected_bytes_max {
                ending::end_job(
                    crate::constants::ERR_NO_MEM,
                    &format!(
                        "more than {} bytes of messages have come that no receive has asked for; \
                         set {UNEXPECTED_VARIABLE} to allow more",
                        self.unexpected_bytes_max
                    ),
                );
            }
        }
        self.matcher.keep(envelope, arrival);
    }

    /// Complains where a rank of the world is dead.
    pub fn check_alive(&self, rank: u32) -> Result<(), Error> {
        match self.dead.get(&rank) {
            None => Ok(()),
            Some(why) => Err(Error::PeerDead {
                rank,
                why: why.clone(),
            }),
        }
    }

    /// Why a receive from `rank`, or from any member of `comm`, can't complete, if that is so.
    pub fn dead_for(&self, comm: &Comm, rank: Option<u32>) -> Option<Error> {
        if self.dead.is_empty() {
            return None;
        }
        let concerned = |dead: &u32| match rank {
            Some(rank) => rank == *dead,
            None => comm.group.rank_of(*dead).is_some(),
        };
        let dead = self.dead.keys().copied().find(concerned)?;
        self.check_alive(dead).err()
    }

    fn pull(&mut self, key: RequestKey, envelope: Envelope, message: MessageKey, len: u64) {
        let Some(request) = self.requests.get_mut(key) else {
            return;
        };
        let State::Posted { view, .. } = &request.state else {
            return;
        };
        let view = view.clone();
        let room = view.bytes() as u64;
        if let Some(rank) = self.ranks.get(&message.peer)
            && let Some(why) = self.dead.get(rank)
        {
            let (rank, why) = (*rank, why.clone());
            self.complete(
                key,
                Outcome::failed(&envelope, Error::PeerDead { rank, why }),
            );
            return;
        }
        if len == 0 || room == 0 {
            self.port.decline(message);
            self.complete(key, Outcome::received(&envelope, 0, len, room));
            return;
        }
        let wanted = len.min(room);
        let sink: Box<dyn Sink> = match view.lend() {
            Some(lent) => Box::new(lent),
            None => Box::new(vec![0; wanted as usize]),
        };
        request.state = State::Pulling {
            envelope,
            view,
            len,
        };
        self.pulls.insert(message, key);
        self.port.pull(message, sink, wanted);
    }

    fn complete(&mut self, key: RequestKey, outcome: Outcome) {
        let Some(request) = self.requests.get_mut(key) else {
            return;
        };
        if request.detached {
            self.requests.remove(key);
        } else {
            request.state = State::Done(outcome);
        }
    }

    fn decode(app: &[u8]) -> Envelope {
        Envelope::decode(app).unwrap_or_else(|| {
            let text = "a message came without an MPI envelope of this version; \
                        all ranks must run the same libmeander_mpi.so";
            ending::end_job(crate::constants::ERR_INTERN, text)
        })
    }
}

impl EventHandler for Inbox {
    fn message(&mut self, _from: StreamKey, app: &[u8], payload: Payload<'_>) {
        let envelope = Inbox::decode(app);
        match self.matcher.arrive(&envelope) {
            Some(key) => self.deliver(key, envelope, &payload),
            None => {
                let bytes = payload.to_vec().into_boxed_slice();
                let sender = None;
                self.keep(envelope, Arrival::Here { bytes, sender });
            }
        }
    }

    fn envelope(&mut self, _from: StreamKey, app: &[u8], message: MessageKey, len: u64) {
        let envelope = Inbox::decode(app);
        match self.matcher.arrive(&envelope) {
            Some(key) => self.pull(key, envelope, message, len),
            None => self.keep(envelope, Arrival::There { message, len }),
        }
    }

    fn sent(&mut self, id: SendId, _source: Option<Box<dyn Source>>) {
        if let Some(key) = self.sends.remove(&id) {
            self.complete(key, Outcome::sent());
        }
    }

    fn pulled(&mut self, message: MessageKey, mut sink: Box<dyn Sink>, len: u64) {
        let Some(key) = self.pulls.remove(&message) else {
            return;
        };
        let state = self.requests.get(key).map(|request| &request.state);
        let Some(State::Pulling {
            envelope,
            view,
            len: whole,
        }) = state
        else {
            return;
        };
        let room = view.bytes() as u64;
        let unpacked = match view.region() {
            Some(_) => Ok(len as usize),
            None => view.unpack(&sink.bytes_mut()[..len as usize]),
        };
        let outcome = match unpacked {
            Ok(taken) => Outcome::received(envelope, taken as u64, *whole, room),
            Err(error) => Outcome::failed(envelope, error),
        };
        self.complete(key, outcome);
    }

    fn peer_dead(&mut self, peer: PortId, why: String) {
        let Some(&rank) = self.ranks.get(&peer) else {
            return;
        };
        self.dead.insert(rank, why);
        let mut lost = Vec::new();
        for (key, request) in &self.requests {
            let waits = !matches!(request.state, State::Done(_));
            if waits && let Some(error) = self.dead_for(&request.comm, request.peer) {
                lost.push((key, error));
            }
        }
        for (key, error) in lost {
            if let Some(request) = self.requests.get(key)
                && let State::Posted { pattern, .. } = request.state
            {
                self.matcher.withdraw(pattern, key);
            }
            self.complete(key, Outcome::lost(error));
        }
    }
}

/// The communicator on whose error handler the failure of a request falls.
pub fn comm_of(inbox: &Inbox, key: RequestKey) -> Option<Arc<Comm>> {
    inbox.requests.get(key).map(|request| request.comm.clone())
}

//! What comes in from the port, and the requests that wait for it.

use std::collections::VecDeque;
use std::sync::Arc;

use meander::{
    Credit, EventHandler, MessageKey, Payload, Port, PortId, SendId, Sink, Source, StreamKey,
};
use rustc_hash::FxHashMap;
use slotmap::SlotMap;

use crate::comm::Comm;
use crate::datatype::View;
use crate::ending;
use crate::envelope::{Envelope, Header};
use crate::errors::Error;
use crate::handles::RequestKey;
use crate::matching::Matcher;
use crate::request::{Outcome, Request, State};

/// Payloads on their way that no receive has asked for; others queue.
const FETCHES: usize = 64;

/// A message that no receive has met yet.
pub enum Arrival {
    /// Its payload is here.
    Here {
        /// The payload.
        bytes: Box<[u8]>,
        /// A synchronous send of this same rank that waits for the match.
        sender: Option<RequestKey>,
        /// Whose credit for it has been held back.
        owed: Option<StreamKey>,
    },
    /// Its payload waits at the sender.
    There {
        /// The port's name for it.
        message: MessageKey,
        /// Its length in bytes.
        len: u64,
    },
    /// Its payload is on its way, or here: see [`Ahead`].
    Ahead {
        /// The port's name for it.
        message: MessageKey,
        /// Its length in bytes.
        len: u64,
    },
}

/// A payload that is fetched before a receive asks for it.
enum Ahead {
    /// Others come first, and nobody wants it yet.
    Queued,
    /// It is on its way, and nobody wants it yet.
    Coming,
    /// It is on its way, and this receive has met it.
    Wanted(RequestKey),
    /// It is here.
    Here(Box<dyn Sink>),
}

impl Arrival {
    /// The payload's length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Arrival::Here { bytes, .. } => bytes.len() as u64,
            Arrival::There { len, .. } | Arrival::Ahead { len, .. } => *len,
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
    ahead: FxHashMap<MessageKey, Ahead>,
    fetch_queue: VecDeque<(MessageKey, u64)>,
    fetching: usize,
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
            ahead: FxHashMap::default(),
            fetch_queue: VecDeque::new(),
            fetching: 0,
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
            Arrival::Here {
                bytes,
                sender,
                owed,
            } => {
                self.unexpected_bytes -= bytes.len() as u64;
                self.deliver(key, envelope, &bytes);
                if let Some(sender) = sender {
                    self.complete(sender, Outcome::sent());
                }
                if let Some(from) = owed {
                    self.port.return_credit(from, bytes.len() as u64);
                }
            }
            Arrival::There { message, len } => self.pull(key, envelope, message, len),
            Arrival::Ahead { message, len } => self.meet_ahead(key, envelope, message, len),
        }
    }

    /// A receive has met a message whose payload was sent for before.
    fn meet_ahead(&mut self, key: RequestKey, envelope: Envelope, message: MessageKey, len: u64) {
        self.unexpected_bytes -= len;
        match self.ahead.remove(&message) {
            Some(Ahead::Here(mut sink)) => {
                self.deliver(key, envelope, &sink.bytes_mut()[..len as usize]);
            }
            Some(Ahead::Queued) => self.pull(key, envelope, message, len),
            _ if self.fail_if_dead(key, envelope, message.peer) => {}
            _ => {
                self.ahead.insert(message, Ahead::Wanted(key));
                self.begin_pulling(key, envelope, len);
            }
        }
    }

    /// Sends for a small payload that no receive has asked for, so that there is no round trip for
    /// each when they do. Past the bound it stays with the sender.
    fn fetch(&mut self, envelope: Envelope, message: MessageKey, len: u64) {
        if self.unexpected_bytes + len > self.unexpected_bytes_max {
            return self.matcher.keep(envelope, Arrival::There { message, len });
        }
        self.unexpected_bytes += len;
        self.matcher.keep(envelope, Arrival::Ahead { message, len });
        self.ahead.insert(message, Ahead::Queued);
        self.fetch_queue.push_back((message, len));
        self.fetch_more();
    }

    fn fetch_more(&mut self) {
        while self.fetching < FETCHES
            && let Some((message, len)) = self.fetch_queue.pop_front()
        {
            // A receive may have met it meanwhile, and pulled it itself.
            if let Some(queued @ Ahead::Queued) = self.ahead.get_mut(&message) {
                *queued = Ahead::Coming;
                self.fetching += 1;
                self.port
                    .pull(message, Box::new(vec![0; len as usize]), len);
            }
        }
    }

    /// A receive waits for its payload from now on; gives where to.
    fn begin_pulling(&mut self, key: RequestKey, envelope: Envelope, len: u64) -> Option<View> {
        let request = self.requests.get_mut(key)?;
        let State::Posted { view, .. } = &request.state else {
            return None;
        };
        let view = view.clone();
        request.state = State::Pulling {
            envelope,
            view: view.clone(),
            len,
        };
        Some(view)
    }

    fn fail_if_dead(&mut self, key: RequestKey, envelope: Envelope, peer: PortId) -> bool {
        let rank = self.ranks.get(&peer).copied();
        let Some(error) = rank.and_then(|rank| self.check_alive(rank).err()) else {
            return false;
        };
        self.complete(key, Outcome::failed(&envelope, error));
        true
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

    /// Keeps a message that no receive has met. `from` is where the credit for it is due; past the
    /// bound that waits for the receive, so that more payload stays with its sender.
    pub fn keep(
        &mut self,
        envelope: Envelope,
        bytes: Box<[u8]>,
        sender: Option<RequestKey>,
        from: Option<StreamKey>,
    ) -> Credit {
        self.unexpected_bytes += bytes.len() as u64;
        let owed = from.filter(|_| self.unexpected_bytes > self.unexpected_bytes_max);
        let arrival = Arrival::Here {
            bytes,
            sender,
            owed,
        };
        self.matcher.keep(envelope, arrival);
        owed.map_or(Credit::Return, |_| Credit::Hold)
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
        if self.fail_if_dead(key, envelope, message.peer) {
            return;
        }
        let Some(view) = self.begin_pulling(key, envelope, len) else {
            return;
        };
        let room = view.bytes() as u64;
        if len == 0 || room == 0 {
            self.port.decline(message);
            return self.complete(key, Outcome::received(&envelope, 0, len, room));
        }
        let wanted = len.min(room);
        let sink: Box<dyn Sink> = match view.lend() {
            Some(lent) => Box::new(lent),
            None => Box::new(vec![0; wanted as usize]),
        };
        self.pulls.insert(message, key);
        self.port.pull(message, sink, wanted);
    }

    /// The payload is in the receive's buffer, or beside it where that has gaps.
    fn finish_pull(&mut self, key: RequestKey, sink: &mut dyn Sink, len: u64) {
        let Some((envelope, view, whole)) = self.pulling(key) else {
            return;
        };
        let room = view.bytes() as u64;
        let unpacked = match view.region() {
            Some(_) => Ok(len as usize),
            None => view.unpack(&sink.bytes_mut()[..len as usize]),
        };
        let outcome = match unpacked {
            Ok(taken) => Outcome::received(&envelope, taken as u64, whole, room),
            Err(error) => Outcome::failed(&envelope, error),
        };
        self.complete(key, outcome);
    }

    /// The payload was sent for before the receive asked for it.
    fn finish_ahead(&mut self, key: RequestKey, bytes: &[u8]) {
        let Some((envelope, view, whole)) = self.pulling(key) else {
            return;
        };
        let outcome = match view.unpack(bytes) {
            Ok(taken) => Outcome::received(&envelope, taken as u64, whole, view.bytes() as u64),
            Err(error) => Outcome::failed(&envelope, error),
        };
        self.complete(key, outcome);
    }

    fn pulling(&self, key: RequestKey) -> Option<(Envelope, View, u64)> {
        match &self.requests.get(key)?.state {
            State::Pulling {
                envelope,
                view,
                len,
            } => Some((*envelope, view.clone(), *len)),
            _ => None,
        }
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

    fn decode(app: &[u8]) -> Header {
        Header::decode(app).unwrap_or_else(|| {
            let text = "a message came without an MPI envelope of this version; \
                        all ranks must run the same libmeander_mpi.so";
            ending::end_job(crate::constants::ERR_INTERN, text)
        })
    }
}

impl EventHandler for Inbox {
    fn message(&mut self, from: StreamKey, app: &[u8], payload: Payload<'_>) -> Credit {
        let Header { envelope, .. } = Inbox::decode(app);
        match self.matcher.arrive(&envelope) {
            Some(key) => {
                self.deliver(key, envelope, &payload);
                Credit::Return
            }
            None => self.keep(envelope, payload.to_vec().into(), None, Some(from)),
        }
    }

    fn envelope(&mut self, _from: StreamKey, app: &[u8], message: MessageKey, len: u64) {
        let Header {
            envelope,
            fetch_ahead,
        } = Inbox::decode(app);
        match self.matcher.arrive(&envelope) {
            Some(key) => self.pull(key, envelope, message, len),
            None if fetch_ahead && len > 0 => self.fetch(envelope, message, len),
            None => self.matcher.keep(envelope, Arrival::There { message, len }),
        }
    }

    fn sent(&mut self, id: SendId, _source: Option<Box<dyn Source>>) {
        if let Some(key) = self.sends.remove(&id) {
            self.complete(key, Outcome::sent());
        }
    }

    fn pulled(&mut self, message: MessageKey, mut sink: Box<dyn Sink>, len: u64) {
        match self.ahead.remove(&message) {
            None => {
                if let Some(key) = self.pulls.remove(&message) {
                    self.finish_pull(key, &mut *sink, len);
                }
            }
            Some(Ahead::Wanted(key)) => {
                self.finish_ahead(key, &sink.bytes_mut()[..len as usize]);
                self.fetching -= 1;
                self.fetch_more();
            }
            Some(_) => {
                self.ahead.insert(message, Ahead::Here(sink));
                self.fetching -= 1;
                self.fetch_more();
            }
        }
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

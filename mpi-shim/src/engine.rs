//! The traffic of a rank: messages out, messages in, and waiting for them.

use std::sync::Arc;
use std::time::Duration;

use meander::{Outgoing, Port, Posted, SendMode, StreamKey};

use crate::comm::Comm;
use crate::datatype::View;
use crate::envelope::{Context, Envelope, Header};
use crate::errors::Error;
use crate::handles::RequestKey;
use crate::inbox::Inbox;
use crate::matching::Pattern;
use crate::request::{Outcome, Request, State};

/// Longest sleep before a blocked call looks around again; something arriving ends it at once.
const NAP: Duration = Duration::from_millis(100);

/// Drives the port for MPI.
pub struct Engine {
    port: Port,
    streams: Vec<StreamKey>,
    /// A payload up to this length is copied into the port.
    eager_bytes: usize,
    /// What comes in, and the requests that wait for it.
    pub inbox: Inbox,
}

/// A send that was begun.
#[derive(Clone, Copy)]
pub enum Started {
    /// It is complete already: the buffer is free.
    Complete,
    /// The request tells.
    Pending(RequestKey),
}

impl Engine {
    /// For a port whose peers, in the order of their ranks, are at `peers`.
    pub fn new(port: Port, rank: u32, peers: &[meander::PortId], unexpected_bytes: u64) -> Engine {
        let streams = peers.iter().map(|peer| port.fixed_stream(*peer)).collect();
        Engine {
            streams,
            eager_bytes: port.limits().eager_bytes,
            inbox: Inbox::new(port.clone(), rank, peers, unexpected_bytes),
            port,
        }
    }

    /// The port.
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// Begins to send `view` to a member of `comm`.
    pub fn start_send(
        &mut self,
        comm: &Arc<Comm>,
        context: Context,
        dest: usize,
        tag: i32,
        view: &View,
        mode: SendMode,
    ) -> Result<Started, Error> {
        let envelope = Envelope {
            context,
            source: comm.rank as u32,
            tag,
        };
        let rank = comm.group.world_rank(dest);
        if rank == self.inbox.rank {
            return self.send_to_self(comm, envelope, view, mode);
        }
        self.inbox.check_alive(rank)?;
        match self.post(rank, envelope, view, mode)? {
            Posted::Complete => Ok(Started::Complete),
            Posted::Pending(id) => {
                let request = Request::new(comm.clone(), Some(rank), State::Sending);
                let key = self.inbox.requests.insert(request);
                self.inbox.sends.insert(id, key);
                Ok(Started::Pending(key))
            }
        }
    }

    /// Begins to receive what fits `pattern` into `view`.
    pub fn start_receive(
        &mut self,
        comm: &Arc<Comm>,
        pattern: Pattern,
        view: View,
    ) -> Result<RequestKey, Error> {
        let rank = pattern
            .source
            .map(|source| comm.group.world_rank(source as usize));
        let request = Request::new(comm.clone(), rank, State::Posted { pattern, view });
        let key = self.inbox.requests.insert(request);
        if let Some((envelope, arrival)) = self.inbox.matcher.post(pattern, key) {
            self.inbox.meet(key, envelope, arrival);
        } else if let Some(why) = self.inbox.dead_for(comm, rank) {
            self.inbox.matcher.withdraw(pattern, key);
            self.inbox.requests.remove(key);
            return Err(why);
        }
        Ok(key)
    }

    /// Delivers what has arrived; never blocks. Whether anything happened.
    pub fn progress(&mut self) -> bool {
        self.port.progress(&mut self.inbox)
    }

    /// Makes progress until `done` gives something.
    pub fn block_until<T>(&mut self, mut done: impl FnMut(&mut Inbox) -> Option<T>) -> T {
        loop {
            if let Some(result) = done(&mut self.inbox) {
                return result;
            }
            if !self.progress() {
                self.port.wait(NAP);
            }
        }
    }

    /// Waits for a request and forgets it.
    pub fn finish(&mut self, key: RequestKey) -> Outcome {
        self.block_until(|inbox| inbox.take_if_done(key))
    }

    /// Waits for a send.
    pub fn finish_send(&mut self, started: Started) -> Result<(), Error> {
        match started {
            Started::Complete => Ok(()),
            Started::Pending(key) => self.finish(key).result().map(drop),
        }
    }

    /// The message that a receive with this pattern would take, and its length.
    pub fn probe(&mut self, pattern: Pattern) -> Option<(Envelope, u64)> {
        let found = self.inbox.matcher.probe(pattern);
        found.map(|(envelope, arrival)| (envelope, arrival.len()))
    }

    fn post(
        &mut self,
        rank: u32,
        envelope: Envelope,
        view: &View,
        mode: SendMode,
    ) -> Result<Posted, Error> {
        let small = view.bytes() <= self.eager_bytes;
        let fetch_ahead = small && mode == SendMode::Standard;
        let app = Header {
            envelope,
            fetch_ahead,
        }
        .encode();
        let to = self.streams[rank as usize];
        if small {
            let posted = match view.region() {
                Some(region) => {
                    region.with(|bytes| self.port.post(to, &app, Outgoing::Bytes(bytes), mode))
                }
                None => self
                    .port
                    .post(to, &app, Outgoing::Bytes(&view.pack()?), mode),
            };
            if !matches!(posted, Err(meander::Error::Full)) {
                return Ok(posted?);
            }
        }
        let source = match view.lend() {
            Some(lent) => Outgoing::Source(Box::new(lent)),
            None => Outgoing::Source(Box::new(view.pack()?)),
        };
        Ok(self.port.post(to, &app, source, mode)?)
    }

    /// A rank's messages to itself are copied, and never reach the port.
    fn send_to_self(
        &mut self,
        comm: &Arc<Comm>,
        envelope: Envelope,
        view: &View,
        mode: SendMode,
    ) -> Result<Started, Error> {
        let bytes = view.pack()?;
        if let Some(key) = self.inbox.matcher.arrive(&envelope) {
            self.inbox.deliver(key, envelope, &bytes);
            return Ok(Started::Complete);
        }
        let sender = match mode {
            SendMode::Standard => None,
            SendMode::Synchronous => {
                let request = Request::new(comm.clone(), Some(self.inbox.rank), State::Sending);
                Some(self.inbox.requests.insert(request))
            }
        };
        let bytes = bytes.into_boxed_slice();
        self.inbox.keep(envelope, bytes, sender, None);
        Ok(sender.map_or(Started::Complete, Started::Pending))
    }
}

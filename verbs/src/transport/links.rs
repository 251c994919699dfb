//! Links come and go.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

use meander_core::transport::{LinkError, LinkEvent};
use meander_core::{Card, LinkId};
use rustix::event::epoll;
use slotmap::Key;

use super::{LinkKey, VerbsTransport, id};
use crate::card::Contents;
use crate::link::{Link, Stage};
use crate::objects::{AsyncEvent, QueuePair};
use crate::{limits, socket};

impl VerbsTransport {
    /// Dials the first address of a card.
    pub(super) fn start(&mut self, card: &Card) -> Result<LinkId, LinkError> {
        let contents = Contents::parse(card).ok_or(LinkError::BadCard)?;
        if let Some(what) = self.down {
            return Err(self.event(what).into());
        }
        if contents.link_layer != self.device.state.link_layer {
            return Err(failed(
                "InfiniBand to Ethernet",
                ErrorKind::Unsupported.into(),
            ));
        }
        let mut rest: VecDeque<SocketAddr> = contents.addresses.into();
        let mut failure = io::Error::from(ErrorKind::AddrNotAvailable);
        while let Some(address) = rest.pop_front() {
            match socket::connect(address) {
                Ok(socket) => {
                    let next_at = Instant::now() + limits::DIAL_TIMEOUT;
                    let link = Link::new(socket, Stage::Dialling { rest, next_at });
                    return self.insert(link).map(id);
                }
                Err(error) => failure = error,
            }
        }
        Err(failed("connect", failure))
    }

    /// Watches a new connection; edge-triggered, so that it costs nothing while nothing happens.
    fn insert(&mut self, link: Link) -> Result<LinkKey, LinkError> {
        let key = self.links.insert(link);
        if let Err(errno) = self.watch(key) {
            self.links.remove(key);
            return Err(failed("epoll_ctl", errno.into()));
        }
        self.setting_up += 1;
        Ok(key)
    }

    pub(super) fn watch(&self, key: LinkKey) -> rustix::io::Result<()> {
        use epoll::EventFlags as it;
        let data = epoll::EventData::new_u64(key.data().as_ffi());
        let flags = it::IN | it::OUT | it::RDHUP | it::ET;
        epoll::add(&*self.epoll, &self.links[key].socket, data, flags)
    }

    pub(super) fn accept_waiting(&mut self) {
        for number in 0..self.listeners.len() {
            let listener = &mut self.listeners[number];
            let (more, behind) = (&mut listener.more, &mut listener.behind);
            if std::mem::take(more) | std::mem::take(behind) {
                self.accept_some(number);
            }
        }
    }

    fn accept_some(&mut self, number: usize) {
        for _ in 0..limits::ACCEPT_BURST {
            match socket::accept(&self.listeners[number].socket) {
                // Whom we have no room for goes, and may try again.
                Ok(Some(_)) if self.setting_up >= limits::SETUPS => {}
                Ok(Some(socket)) => {
                    let _ = self.insert(Link::new(socket, Stage::Silent));
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("accept failed: {error}");
                    self.listeners[number].behind = true;
                    return;
                }
            }
        }
        self.listeners[number].more = true;
    }

    /// Something happened to a link's connection.
    pub(super) fn note_ready(&mut self, key: LinkKey, flags: epoll::EventFlags) {
        use epoll::EventFlags as it;
        let ended = it::RDHUP | it::HUP | it::ERR;
        let Some(link) = self.links.get(key) else {
            return;
        };
        if matches!(link.stage, Stage::Dialling { .. }) {
            if !flags.intersects(it::OUT | ended) {
                return;
            }
            if let Err(error) = socket::connected(&link.socket) {
                return self.dial_next(key, error);
            }
            if let Err(error) = self.introduce(key) {
                return self.end(key, error);
            }
        }
        if flags.intersects(it::IN | ended)
            && let Err(error) = self.listen_to(key)
        {
            self.end(key, error);
        }
    }

    /// A link is of no use any more. One that is open says so when it is read, after what came before;
    /// one that was dialled at the next poll; of one that was only being accepted nobody knows.
    pub(super) fn end(&mut self, key: LinkKey, error: LinkError) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        if link.is_setting_up() {
            tracing::debug!("a link could not be set up: {error}");
            let dialled = link.dialled;
            if let Some(link) = self.links.remove(key) {
                self.retire(link);
            }
            if dialled {
                self.happened.push_back(LinkEvent::Broken(id(key), error));
            }
            return;
        }
        if link.ended.is_none() {
            link.ended = Some(error);
            self.mark_readable(key);
        }
    }

    pub(super) fn mark_readable(&mut self, key: LinkKey) {
        if let Some(link) = self.links.get_mut(key) {
            link.readable = true;
            if !std::mem::replace(&mut link.listed, true) {
                self.readable.push(key);
            }
        }
    }

    /// Ends a link that is in no list any more. When this returns nothing of it can touch memory: its
    /// queue pair is destroyed, and only then is the memory let go that it could reach. `[R20]`
    pub(super) fn retire(&mut self, mut link: Link) {
        self.setting_up -= usize::from(link.is_setting_up());
        // Also where a forked child still has the descriptor.
        let _ = link.socket.shutdown(std::net::Shutdown::Both);
        for arrived in link.inbox.drain(..) {
            self.receives.give_back(arrived);
        }
        let Some(pair) = link.pair.take() else { return };
        let number = pair.number();
        self.pairs.remove(&number);
        let drained = self.drain(&pair, number);
        pair.destroy(&mut self.slots);
        // What it completed to the last, of which nobody wants to know.
        self.take_completions();
        if drained {
            self.receives.forget(link.credits.promised());
        } else {
            // Slots that it took may be lost with it: they stay promised, to nobody.
            self.counters.undrained += 1;
            tracing::warn!(
                "{}: queue pair {number} was not drained in time",
                self.device()
            );
        }
        // Links that wait for a slot find those that came back at the next poll.
        if let Err(error) = self.receives.post() {
            self.fail_all(&error);
        }
    }

    /// Takes out of the receive queue what a queue pair has begun to take from it: a provider may drop
    /// completions of a queue pair that is destroyed, and the slots with them.
    fn drain(&mut self, pair: &QueuePair, number: u32) -> bool {
        if !pair.is_connected() {
            return true;
        }
        if pair.fail().is_err() {
            return false;
        }
        let until = Instant::now() + limits::DRAIN_TIMEOUT;
        loop {
            self.take_completions();
            while let Some(event) = self.device.context.next_event() {
                if event == AsyncEvent::LastReceive(number) {
                    self.take_completions();
                    return true;
                }
                self.events.push(event);
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::yield_now();
        }
    }
}

pub(super) fn failed(operation: &'static str, source: io::Error) -> LinkError {
    LinkError::Io { operation, source }
}

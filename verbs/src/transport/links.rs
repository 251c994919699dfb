//! Links come and go.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use meander_core::transport::{LinkError, LinkEvent};
use meander_core::wire::Violation;
use meander_core::{Card, LinkId};
use rustix::event::epoll;
use slotmap::Key;
use socket2::Socket;

use super::{LinkKey, VerbsTransport, id};
use crate::card::Contents;
use crate::credits::Credits;
use crate::device::ETHERNET;
use crate::link::{Link, Stage};
use crate::objects::{AsyncEvent, Path, QueuePair};
use crate::setup::{INTRODUCTION_BYTES, Introduction, READY};
use crate::{limits, socket};

impl Link {
    /// When something must have happened.
    pub(super) fn next_at(&self) -> Instant {
        match &self.stage {
            Stage::Dialling { next_at, .. } => (*next_at).min(self.deadline),
            _ => self.deadline,
        }
    }
}

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

    fn watch(&self, key: LinkKey) -> rustix::io::Result<()> {
        use epoll::EventFlags as it;
        let data = epoll::EventData::new_u64(key.data().as_ffi());
        let flags = it::IN | it::OUT | it::RDHUP | it::ET;
        epoll::add(&*self.epoll, &self.links[key].socket, data, flags)
    }

    pub(super) fn accept_waiting(&mut self) {
        for number in 0..self.listeners.len() {
            if !self.listeners[number].more {
                continue;
            }
            for _ in 0..limits::ACCEPT_BURST {
                match socket::accept(&self.listeners[number].socket) {
                    // Whom we have no room for goes, and may try again.
                    Ok(Some(_)) if self.setting_up >= limits::SETUPS => {}
                    Ok(Some(socket)) => {
                        let _ = self.insert(Link::new(socket, Stage::Silent));
                    }
                    Ok(None) => {
                        self.listeners[number].more = false;
                        break;
                    }
                    Err(error) => {
                        // For want of descriptors, say: tried again at a later poll.
                        tracing::warn!("accept failed: {error}");
                        break;
                    }
                }
            }
        }
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

    /// The dialler's connection stands: it says who it is.
    fn introduce(&mut self, key: LinkKey) -> Result<(), LinkError> {
        self.make_pair(key)?;
        let introduction = self.introduction(key);
        self.say(key, &introduction.encode())?;
        self.links[key].stage = Stage::Asked;
        Ok(())
    }

    /// Reads what has come over a link's connection.
    fn listen_to(&mut self, key: LinkKey) -> Result<(), LinkError> {
        let mut bytes = [0; INTRODUCTION_BYTES];
        loop {
            let Some(link) = self.links.get_mut(key) else {
                return Ok(());
            };
            let missing = match link.stage {
                Stage::Dialling { .. } => return Ok(()),
                Stage::Asked | Stage::Silent => link.introduction.remaining_capacity(),
                Stage::Answered | Stage::Open => 1,
            };
            let count = match (&link.socket).read(&mut bytes[..missing]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Err(LinkError::Closed);
                }
                Err(error) => return Err(failed("read", error)),
            };
            match link.stage {
                Stage::Answered if bytes[0] == READY => self.opened(key),
                // It may have come after the first packet, which opened the link.
                Stage::Open if bytes[0] == READY && !link.dialled => {}
                Stage::Asked | Stage::Silent => {
                    let taken = link.introduction.try_extend_from_slice(&bytes[..count]);
                    taken.map_err(|_| Violation::Malformed)?;
                    if let Ok(whole) = link.introduction.clone().into_inner() {
                        self.introduced(key, &whole)?;
                    }
                }
                _ => return Err(Violation::Malformed.into()),
            }
        }
    }

    /// The peer has said who it is: the queue pair can be connected.
    fn introduced(
        &mut self,
        key: LinkKey,
        bytes: &[u8; INTRODUCTION_BYTES],
    ) -> Result<(), LinkError> {
        let peer = Introduction::parse(bytes)?;
        if peer.link_layer != self.device.state.link_layer {
            return Err(failed(
                "InfiniBand to Ethernet",
                ErrorKind::Unsupported.into(),
            ));
        }
        let dialled = self.links[key].dialled;
        if !dialled {
            self.make_pair(key)?;
        }
        let path = self.path(&peer, self.links[key].psn);
        let link = &mut self.links[key];
        if let Some(pair) = &mut link.pair {
            pair.connect(&path)?;
        }
        link.credits = Credits::new(u32::from(peer.credits), limits::FIRST_CREDITS);
        if dialled {
            self.say(key, &[READY])?;
            self.opened(key);
        } else {
            let introduction = self.introduction(key);
            self.say(key, &introduction.encode())?;
            self.links[key].stage = Stage::Answered;
        }
        Ok(())
    }

    /// Makes the queue pair of a link, and promises its peer slots.
    fn make_pair(&mut self, key: LinkKey) -> Result<(), LinkError> {
        let refreshed = self.device.refresh(&self.config);
        refreshed.map_err(|error| failed("look up the port's address", io::Error::other(error)))?;
        let slots = self.receives.slots_with(limits::FIRST_CREDITS);
        self.reserve(slots, 1)?;
        let pair = QueuePair::new(
            &self.domain,
            &self.completions,
            &self.receives,
            self.device.port,
        )?;
        self.receives.promise(limits::FIRST_CREDITS)?;
        self.pairs.insert(pair.number(), key);
        let psn = getrandom::u32().unwrap_or(pair.number()) & 0xff_ffff;
        let link = &mut self.links[key];
        link.credits = Credits::new(0, limits::FIRST_CREDITS);
        link.psn = psn;
        link.pair = Some(pair);
        Ok(())
    }

    fn introduction(&self, key: LinkKey) -> Introduction {
        let link = &self.links[key];
        Introduction {
            pair: link.pair.as_ref().map_or(0, QueuePair::number),
            psn: link.psn,
            gid: self.device.gid,
            lid: self.device.state.lid,
            credits: limits::FIRST_CREDITS as u16,
            mtu: self.device.mtu as u8,
            link_layer: self.device.state.link_layer,
        }
    }

    fn path(&self, peer: &Introduction, psn: u32) -> Path {
        let gid = self.device.gid;
        let other_subnet = peer.gid[..8] != gid[..8];
        Path {
            port: self.device.port,
            gid_index: self.device.gid_index,
            mtu: self.device.mtu.min(u32::from(peer.mtu)),
            service_level: self.config.service_level,
            traffic_class: self.config.traffic_class,
            global: peer.link_layer == ETHERNET || other_subnet,
            timeout: self.config.timeout,
            retries: self.config.retries,
            psn,
            peer_psn: peer.psn,
            peer_pair: peer.pair,
            peer_gid: peer.gid,
            peer_lid: peer.lid,
        }
    }

    /// Says something short over a new connection, which always has room for it.
    fn say(&self, key: LinkKey, bytes: &[u8]) -> Result<(), LinkError> {
        let mut socket: &Socket = &self.links[key].socket;
        socket
            .write_all(bytes)
            .map_err(|error| failed("write", error))
    }

    /// The link is open at both ends, as far as this side can know.
    pub(super) fn opened(&mut self, key: LinkKey) {
        let link = &mut self.links[key];
        link.stage = Stage::Open;
        self.setting_up -= 1;
        let event = match link.dialled {
            true => LinkEvent::Connected(id(key)),
            false => LinkEvent::Accepted(id(key)),
        };
        self.happened.push_back(event);
    }

    /// One address did not answer; tries the next.
    fn dial_next(&mut self, key: LinkKey, mut failure: io::Error) {
        loop {
            let Some(link) = self.links.get_mut(key) else {
                return;
            };
            let Stage::Dialling { rest, next_at } = &mut link.stage else {
                return;
            };
            let Some(address) = rest.pop_front() else {
                return self.end(key, failed("connect", failure));
            };
            *next_at = Instant::now() + limits::DIAL_TIMEOUT;
            match socket::connect(address) {
                Ok(socket) => {
                    // Closing the old one takes it out of the epoll set.
                    link.socket = socket;
                    match self.watch(key) {
                        Ok(()) => return,
                        Err(errno) => failure = errno.into(),
                    }
                }
                Err(error) => failure = error,
            }
        }
    }

    /// Gives up on what takes too long. `[R60]`
    pub(super) fn set_ups_overdue(&mut self) {
        if self.setting_up == 0 {
            return;
        }
        let now = Instant::now();
        let overdue = |link: &Link| link.is_setting_up() && link.next_at() <= now;
        let links = self.links.iter().filter(|(_, link)| overdue(link));
        let overdue: Vec<(LinkKey, bool)> = links
            .map(|(key, link)| (key, link.deadline <= now))
            .collect();
        for (key, over) in overdue {
            match over {
                true => self.end(
                    key,
                    failed("setting the link up", ErrorKind::TimedOut.into()),
                ),
                false => self.dial_next(key, ErrorKind::TimedOut.into()),
            }
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

fn failed(operation: &'static str, source: io::Error) -> LinkError {
    LinkError::Io { operation, source }
}

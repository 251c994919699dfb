//! A link is set up: what is said over its connection, and what that makes of its queue pair.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use meander_core::transport::{LinkError, LinkEvent};
use meander_core::wire::Violation;
use socket2::Socket;

use super::links::failed;
use super::{LinkKey, VerbsTransport, id};
use crate::credits::Credits;
use crate::device::ETHERNET;
use crate::link::{Link, Stage};
use crate::objects::{Path, QueuePair};
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
    /// The dialler's connection stands: it says who it is.
    pub(super) fn introduce(&mut self, key: LinkKey) -> Result<(), LinkError> {
        self.make_pair(key)?;
        let introduction = self.introduction(key);
        self.say(key, &introduction.encode())?;
        self.links[key].stage = Stage::Asked;
        Ok(())
    }

    /// Reads what has come over a link's connection.
    pub(super) fn listen_to(&mut self, key: LinkKey) -> Result<(), LinkError> {
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
    pub(super) fn dial_next(&mut self, key: LinkKey, mut failure: io::Error) {
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
}

//! Frames go out as packets, and packets come in as frames.

use std::sync::Arc;

use meander_core::Slice;
use meander_core::transport::{FrameSink, LinkError, LinkEvent, Memory};
use meander_core::wire::FrameHeader;

use super::registered::Registered;
use super::{LinkKey, VerbsTransport, id};
use crate::limits;
use crate::objects::{Region, SendRequest};
use crate::outgoing::{Payload, Written};
use crate::packet::{PREFIX_BYTES, Prefix, RemotePlaces, SmallPacket};

/// Work requests that are left for what must not wait behind data: a packet of credits.
const RESERVED_REQUESTS: usize = 1;

impl VerbsTransport {
    /// Puts on the wire what the link has taken, as far as credits and the send queue go, with one
    /// call of the device.
    pub(super) fn write(&mut self, key: LinkKey, memory: &dyn Memory) {
        if let Err(error) = self
            .fill_chain(key, memory)
            .and_then(|()| self.post_chain(key))
        {
            self.chain.abandon(&mut self.slots);
            self.end(key, error);
        }
        self.tell_credits(key);
        if let Some(link) = self.links.get_mut(key)
            && link.outgoing.has_room_again()
        {
            self.happened.push_back(LinkEvent::Writable(id(key)));
        }
    }

    /// Sends a packet of one frame that the device takes with the request, if nothing is before it.
    pub(super) fn write_at_once(
        &mut self,
        key: LinkKey,
        header: &FrameHeader,
        app: &[u8],
        body: &[u8],
    ) -> bool {
        let Some(link) = self.links.get_mut(key).filter(|link| link.is_open()) else {
            return false;
        };
        let Some(pair) = &mut link.pair else {
            return false;
        };
        let clear =
            link.outgoing.is_empty() && link.credits.may_send() && pair.room() > RESERVED_REQUESTS;
        let packet = SmallPacket::new(header, app, body)
            .filter(|packet| clear && pair.takes_inline(packet.len()));
        let Some(mut packet) = packet else {
            return false;
        };
        // Slots are posted in batches; credits that are not backed by one yet go back with a later
        // packet. [R62]
        if link.credits.should_ride() && self.receives.post().is_err() {
            return false;
        }
        let credits = match self.receives.has_waiting(1) {
            true => link.credits.used(),
            false => link.credits.sent(),
        };
        match pair.post_inline(packet.with_credits(credits)) {
            Ok(posted) => self.counters.count(&posted),
            Err(error) => self.end(key, error.into()),
        }
        true
    }

    fn fill_chain(&mut self, key: LinkKey, memory: &dyn Memory) -> Result<(), LinkError> {
        let Some(link) = self.links.get_mut(key).filter(|link| link.is_open()) else {
            return Ok(());
        };
        let Some(pair) = &link.pair else {
            return Ok(());
        };
        // What a packet gives back must be there. [R62]
        self.receives.post()?;
        link.blocked = false;
        let room = pair.room();
        while !link.outgoing.is_empty() {
            if !link.credits.may_send() || self.chain.len() + RESERVED_REQUESTS >= room {
                link.blocked = true;
                break;
            }
            let Some(mut slot) = self.slots.take() else {
                link.blocked = true;
                self.starved.push(key);
                break;
            };
            let (chain, registered, named) =
                (&mut self.chain, &mut self.registered, &mut link.named);
            let counters = &mut self.counters;
            let filled = link.outgoing.fill(slot.bytes_mut(), memory, |payload| {
                // The write, and the packet that tells of it.
                if chain.len() + 1 + RESERVED_REQUESTS >= room {
                    return Written::Later;
                }
                match write_request(&payload, memory, named, registered) {
                    // On one queue pair the packet comes after what is written before it. [R64]
                    Ok(Some(request)) => chain.push(request),
                    Ok(None) => return Written::No,
                    Err(Unregistered) => {
                        counters.unregistered += 1;
                        return Written::No;
                    }
                }
                counters.written_bytes += payload.bytes as u64;
                named.sent(payload.message, payload.offset + payload.bytes as u64);
                Written::Yes
            });
            let filled = match filled {
                Ok(filled) => filled,
                Err(errno) => {
                    self.slots.give_back(slot);
                    return Err(LinkError::Io {
                        operation: "read what is to be sent",
                        source: errno.into(),
                    });
                }
            };
            if filled.bytes == PREFIX_BYTES {
                // Its first frame must wait for room in the send queue.
                self.slots.give_back(slot);
                link.blocked = true;
                break;
            }
            let credits = link.credits.sent();
            let prefix = Prefix {
                credits,
                bytes: (filled.bytes - PREFIX_BYTES) as u32,
            };
            slot.bytes_mut()[..PREFIX_BYTES].copy_from_slice(&prefix.encode());
            self.counters.copied_bytes += filled.copied as u64;
            self.chain.push(SendRequest::send(slot, filled.bytes));
        }
        Ok(())
    }

    fn post_chain(&mut self, key: LinkKey) -> Result<(), LinkError> {
        if self.chain.is_empty() {
            return Ok(());
        }
        let pair = self.links.get_mut(key).and_then(|link| link.pair.as_mut());
        let Some(pair) = pair else { return Ok(()) };
        let posted = pair.post(&mut self.chain, &mut self.slots)?;
        self.counters.count(&posted);
        Ok(())
    }

    /// Sends a packet of credits where enough are owed. `[R63]`
    pub(super) fn tell_credits(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(key).filter(|link| link.is_open()) else {
            return;
        };
        let Some(pair) = &link.pair else { return };
        // Without room the completion of what is outstanding brings us back.
        if !link.credits.should_tell() || pair.room() == 0 {
            return;
        }
        let Some(mut slot) = self.slots.take() else {
            return self.starved.push(key);
        };
        let credits = link.credits.sent();
        let prefix = Prefix { credits, bytes: 0 };
        slot.bytes_mut()[..PREFIX_BYTES].copy_from_slice(&prefix.encode());
        self.chain.push(SendRequest::send(slot, PREFIX_BYTES));
        self.counters.credit_packets += 1;
        // What it gives back must be there. [R62]
        let posted = self.receives.post().map_err(LinkError::from);
        if let Err(error) = posted.and_then(|()| self.post_chain(key)) {
            self.chain.abandon(&mut self.slots);
            self.end(key, error);
        }
    }

    /// Hands over what has arrived, a bounded amount.
    pub(super) fn read<S: FrameSink>(
        &mut self,
        key: LinkKey,
        sink: &mut S,
    ) -> Result<bool, LinkError> {
        let mut read_bytes = 0;
        while read_bytes < limits::RECEIVE_BURST_BYTES {
            let Some(link) = self.links.get_mut(key) else {
                return Ok(false);
            };
            let Some(arrived) = link.inbox.pop_front() else {
                link.readable = false;
                let ended = link.ended.take();
                return ended.map_or(Ok(false), Err);
            };
            let packet = self.receives.bytes(&arrived);
            let records = &packet[PREFIX_BYTES..];
            read_bytes += packet.len();
            let (places, named) = (&mut link.places, &mut link.named);
            let handed = link.incoming.packet(id(key), records, places, named, sink);
            self.receives.give_back(arrived);
            handed?;
            if link.credits.is_generous() && self.receives.is_tight() {
                link.credits.withdraw();
                self.receives.forget(1);
            } else {
                link.credits.read();
            }
            if link.credits.should_tell() || self.receives.has_waiting(limits::COMPLETIONS) {
                self.receives.post()?;
                self.tell_credits(key);
            }
        }
        Ok(true)
    }
}

/// The memory of payload can't be registered.
struct Unregistered;

/// The request that writes payload into its place; `None` where the peer has named none.
fn write_request(
    payload: &Payload,
    memory: &dyn Memory,
    named: &mut RemotePlaces<Arc<Region>>,
    registered: &mut Registered,
) -> Result<Option<SendRequest>, Unregistered> {
    let Payload {
        message,
        offset,
        slice,
        address,
        bytes,
    } = *payload;
    let Some(target) = named.find(message, offset, bytes as u64) else {
        return Ok(None);
    };
    let kept = target
        .kept
        .take()
        .filter(|region| region.covers(address, bytes));
    let region = kept.or_else(|| {
        // All that the peer has asked for is registered at once.
        let all = memory.read(Slice {
            len: target.rest,
            ..slice
        });
        let whole = all.len() as u64 == target.rest && all.as_ptr() as usize == address;
        registered.region(address, if whole { all.len() } else { bytes })
    });
    let region = region.ok_or(Unregistered)?;
    *target.kept = Some(Arc::clone(&region));
    let (to, rkey) = (target.address, target.rkey);
    SendRequest::write(region, address, bytes, to, rkey)
        .map(Some)
        .ok_or(Unregistered)
}

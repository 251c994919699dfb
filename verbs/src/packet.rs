//! What is in a packet: a prefix, then records (`docs/protocol.md`, section "Verbs").

use meander_core::transport::LinkError;
use meander_core::wire::{FrameHeader, HEADER_BYTES, Violation};
use rustc_hash::FxHashMap;
use zerocopy::IntoBytes;

use crate::card::VERSION;
use crate::limits::{INLINE_BYTES, PLACES};

/// Bytes of a packet's prefix.
pub(crate) const PREFIX_BYTES: usize = 8;
/// Bytes of a place in a record.
pub(crate) const PLACE_BYTES: usize = 20;

/// The prefix of every packet. `[R61]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// Credits that the sender gives back.
    pub credits: u16,
    /// Bytes of records that follow.
    pub bytes: u32,
}

impl Prefix {
    pub fn encode(self) -> [u8; PREFIX_BYTES] {
        let mut bytes = [0; PREFIX_BYTES];
        bytes[0] = VERSION;
        bytes[2..4].copy_from_slice(&self.credits.to_le_bytes());
        bytes[4..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// The prefix of a packet, and its records.
    pub fn parse(packet: &[u8]) -> Result<(Prefix, &[u8]), LinkError> {
        let Some((first, rest)) = packet.split_first_chunk::<PREFIX_BYTES>() else {
            return Err(Violation::Length(packet.len() as u64).into());
        };
        if first[0] != VERSION {
            return Err(Violation::Version(first[0]).into());
        }
        let [_, _, a, b, c, d, e, f] = *first;
        let prefix = Prefix {
            credits: u16::from_le_bytes([a, b]),
            bytes: u32::from_le_bytes([c, d, e, f]),
        };
        if rest.len() != prefix.bytes as usize {
            return Err(Violation::Length(prefix.bytes.into()).into());
        }
        Ok((prefix, rest))
    }
}

/// What a record is; its first byte. `[R61]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Record {
    /// A frame.
    Frame = 0,
    /// A pull, after the place that its payload belongs to.
    Pull = 1,
    /// A data frame without its body, which was written into its place before.
    Written = 2,
}

impl Record {
    pub fn parse(byte: u8) -> Result<Record, LinkError> {
        match byte {
            0 => Ok(Record::Frame),
            1 => Ok(Record::Pull),
            2 => Ok(Record::Written),
            other => Err(Violation::Kind(other).into()),
        }
    }
}

/// A packet of one frame, so small that a device may take it with the work request.
pub(crate) struct SmallPacket {
    bytes: [u8; INLINE_BYTES as usize],
    len: usize,
}

impl SmallPacket {
    /// `None` for a frame that is too large.
    pub fn new(header: &FrameHeader, app: &[u8], body: &[u8]) -> Option<SmallPacket> {
        const APP: usize = PREFIX_BYTES + 1 + HEADER_BYTES;
        let mut bytes = [0; INLINE_BYTES as usize];
        let body_at = APP + app.len();
        let len = body_at + body.len();
        bytes.get_mut(body_at..len)?.copy_from_slice(body);
        bytes[PREFIX_BYTES] = Record::Frame as u8;
        bytes[PREFIX_BYTES + 1..APP].copy_from_slice(header.as_bytes());
        bytes[APP..body_at].copy_from_slice(app);
        Some(SmallPacket { bytes, len })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The packet as it is sent, with credits that are given back.
    pub fn with_credits(&mut self, credits: u16) -> &[u8] {
        let prefix = Prefix {
            credits,
            bytes: (self.len - PREFIX_BYTES) as u32,
        };
        self.bytes[..PREFIX_BYTES].copy_from_slice(&prefix.encode());
        &self.bytes[..self.len]
    }
}

/// Which message of which stream a pull and its data are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Message {
    pub stream: u32,
    pub seq: u64,
}

/// A place in the peer's memory, for the payload of a message from `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RemotePlace {
    pub offset: u64,
    pub address: u64,
    pub bytes: u64,
    pub rkey: u32,
}

impl RemotePlace {
    pub fn encode(&self) -> [u8; PLACE_BYTES] {
        let mut bytes = [0; PLACE_BYTES];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[16..].copy_from_slice(&self.rkey.to_le_bytes());
        bytes
    }

    pub fn parse(bytes: &[u8; PLACE_BYTES], offset: u64) -> RemotePlace {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        RemotePlace {
            offset,
            address: number(0),
            bytes: number(8),
            rkey: u32::from_le_bytes(std::array::from_fn(|byte| bytes[16 + byte])),
        }
    }

    /// Where payload of the message at `offset` belongs; `None` where that is outside.
    fn at(&self, offset: u64, bytes: u64) -> Option<u64> {
        let from = offset.checked_sub(self.offset)?;
        let fits = from.checked_add(bytes)? <= self.bytes;
        fits.then(|| self.address.wrapping_add(from))
    }
}

/// The places that a peer has named and not yet got all for, each with what this side keeps for it: the
/// region that its payload comes out of.
pub(crate) struct RemotePlaces<R>(FxHashMap<Message, (RemotePlace, Option<R>)>);

impl<R> Default for RemotePlaces<R> {
    fn default() -> Self {
        RemotePlaces(FxHashMap::default())
    }
}

/// Where payload is to be written.
pub(crate) struct Target<'a, R> {
    /// The address there.
    pub address: u64,
    /// The key for it.
    pub rkey: u32,
    /// Bytes from there to the place's end.
    pub rest: u64,
    /// What is kept for the place.
    pub kept: &'a mut Option<R>,
}

impl<R> RemotePlaces<R> {
    /// The peer has named a place. Past a bound it is not kept: its payload is sent then.
    pub fn named(&mut self, message: Message, place: RemotePlace) {
        if self.0.len() < PLACES || self.0.contains_key(&message) {
            self.0.insert(message, (place, None));
        }
    }

    /// Where to write so much payload; `None` where nobody has said that, or it does not fit.
    pub fn find(&mut self, message: Message, offset: u64, bytes: u64) -> Option<Target<'_, R>> {
        let (place, kept) = self.0.get_mut(&message)?;
        Some(Target {
            address: place.at(offset, bytes)?,
            rkey: place.rkey,
            rest: place.bytes - (offset - place.offset),
            kept,
        })
    }

    /// Payload up to `end` is on its way: a place that has all is forgotten.
    pub fn sent(&mut self, message: Message, end: u64) {
        let all = |place: &RemotePlace| end >= place.offset.saturating_add(place.bytes);
        if self.0.get(&message).is_some_and(|(place, _)| all(place)) {
            self.0.remove(&message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [R61]
    #[test]
    fn a_prefix_survives_the_wire_and_lies_are_found() {
        let prefix = Prefix {
            credits: 0x1234,
            bytes: 3,
        };
        let mut packet = [&prefix.encode()[..], &[7, 8, 9]].concat();
        assert_eq!(Prefix::parse(&packet).unwrap(), (prefix, &[7, 8, 9][..]));
        for wrong in [&packet[..7], &packet[..10], &[&packet[..], &[0]].concat()] {
            assert!(matches!(
                Prefix::parse(wrong),
                Err(LinkError::Protocol(Violation::Length(_)))
            ));
        }
        packet[0] = 9;
        assert!(matches!(
            Prefix::parse(&packet),
            Err(LinkError::Protocol(Violation::Version(9)))
        ));
        assert!(Record::parse(3).is_err());
    }

    #[test]
    fn a_place_survives_the_wire_and_bounds_what_is_written() {
        let place = RemotePlace {
            offset: 100,
            address: 0x7fff_0000,
            bytes: 50,
            rkey: 77,
        };
        assert_eq!(RemotePlace::parse(&place.encode(), 100), place);
        let message = Message { stream: 1, seq: 2 };
        let mut places = RemotePlaces::<()>::default();
        places.named(message, place);
        let mut find = |offset, bytes| {
            let found = places.find(message, offset, bytes)?;
            Some((found.address, found.rkey, found.rest))
        };
        assert_eq!(find(100, 50), Some((0x7fff_0000, 77, 50)));
        assert_eq!(find(149, 1), Some((0x7fff_0031, 77, 1)));
        for (offset, bytes) in [(99, 1), (100, 51), (150, 1), (u64::MAX, 1), (101, u64::MAX)] {
            assert_eq!(find(offset, bytes), None);
        }
        places.sent(message, 149);
        assert!(places.find(message, 149, 1).is_some());
        places.sent(message, 150);
        assert!(places.find(message, 149, 1).is_none());
    }

    #[test]
    fn places_are_bounded() {
        let place = RemotePlace {
            offset: 0,
            address: 0,
            bytes: 1,
            rkey: 0,
        };
        let mut places = RemotePlaces::<()>::default();
        for seq in 0..2 * PLACES as u64 {
            places.named(Message { stream: 0, seq }, place);
        }
        assert_eq!(places.0.len(), PLACES);
    }
}

//! What travels in the application header of every message between two ranks.

/// Which receives a message can meet: MPI's communicator, source and tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// The communicator and its half (point-to-point or collective).
    pub context: Context,
    /// The sender's rank in that communicator.
    pub source: u32,
    /// The tag.
    pub tag: i32,
}

/// One half of a communicator's traffic. The same number at all its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Context(pub u32);

/// An envelope, and how its payload may be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which receives it can meet.
    pub envelope: Envelope,
    /// The sender does not wait for a match, and the payload is small: where it could not come
    /// along, it may be fetched before a receive asks for it.
    pub fetch_ahead: bool,
}

/// Bytes of an encoded header.
pub const HEADER_BYTES: usize = 16;

const VERSION: u8 = 1;
const FETCH_AHEAD: u8 = 1;

impl Header {
    /// Version, flags, two zeros; then, little-endian, context, source and tag, four bytes each.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = VERSION;
        bytes[1] = if self.fetch_ahead { FETCH_AHEAD } else { 0 };
        bytes[4..8].copy_from_slice(&self.envelope.context.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.envelope.source.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.envelope.tag.to_le_bytes());
        bytes
    }

    /// The header in an application header; `None` where it is none of this version.
    pub fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if bytes[0] != VERSION {
            return None;
        }
        Some(Header {
            envelope: Envelope {
                context: Context(u32::from_le_bytes(word(4))),
                source: u32::from_le_bytes(word(8)),
                tag: i32::from_le_bytes(word(12)),
            },
            fetch_ahead: bytes[1] & FETCH_AHEAD != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        for fetch_ahead in [false, true] {
            let envelope = Envelope {
                context: Context(0xfedc_ba98),
                source: 77,
                tag: i32::MAX,
            };
            let header = Header {
                envelope,
                fetch_ahead,
            };
            assert_eq!(Header::decode(&header.encode()), Some(header));
            assert_eq!(Header::decode(&header.encode()[..15]), None);
        }
        assert_eq!(Header::decode(&[9; HEADER_BYTES]), None);
    }
}

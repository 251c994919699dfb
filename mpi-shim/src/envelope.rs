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

/// Bytes of an encoded envelope.
pub const ENVELOPE_BYTES: usize = 16;

const VERSION: u32 = 1;

impl Envelope {
    /// Little-endian: version, context, source, tag, four bytes each.
    pub fn encode(&self) -> [u8; ENVELOPE_BYTES] {
        let mut bytes = [0; ENVELOPE_BYTES];
        bytes[0..4].copy_from_slice(&VERSION.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.context.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.source.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.tag.to_le_bytes());
        bytes
    }

    /// The envelope in an application header; `None` where it is none of this version.
    pub fn decode(bytes: &[u8]) -> Option<Envelope> {
        let bytes: &[u8; ENVELOPE_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if u32::from_le_bytes(word(0)) != VERSION {
            return None;
        }
        Some(Envelope {
            context: Context(u32::from_le_bytes(word(4))),
            source: u32::from_le_bytes(word(8)),
            tag: i32::from_le_bytes(word(12)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_survives_the_wire() {
        let envelope = Envelope {
            context: Context(0xfedc_ba98),
            source: 77,
            tag: i32::MAX,
        };
        assert_eq!(Envelope::decode(&envelope.encode()), Some(envelope));
        assert_eq!(Envelope::decode(&envelope.encode()[..15]), None);
        assert_eq!(Envelope::decode(&[9; ENVELOPE_BYTES]), None);
    }
}

//! What two ports tell each other of a link's queue pairs, over the connection that the dialler makes.
//!
//! ```text
//! dialler                                     acceptor
//! introduction                          ──▶   connects its queue pair
//!                                       ◀──   introduction
//! connects its queue pair; ready        ──▶   the link is open
//! ```
//!
//! Nothing here is secret and nothing is proved: that is for the frames on the link itself. `[R60]`

use meander_core::wire::Violation;

use crate::card::VERSION;
use crate::device::ETHERNET;
use crate::limits::SLOT_BYTES;

/// Bytes of an introduction.
pub(crate) const INTRODUCTION_BYTES: usize = 48;
/// What the dialler says when its queue pair is connected.
pub(crate) const READY: u8 = 1;

/// The first word of an introduction.
const MAGIC: [u8; 4] = *b"mdrv";

/// One side's queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Introduction {
    /// The queue pair's number.
    pub pair: u32,
    /// The first packet sequence number.
    pub psn: u32,
    /// The port's address.
    pub gid: [u8; 16],
    /// The port's local identifier.
    pub lid: u16,
    /// Credits that the other side may use.
    pub credits: u16,
    /// Largest path MTU, as verbs number it.
    pub mtu: u8,
    /// 1 is InfiniBand, 2 is Ethernet.
    pub link_layer: u8,
}

impl Introduction {
    pub fn encode(&self) -> [u8; INTRODUCTION_BYTES] {
        let mut bytes = [0; INTRODUCTION_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.mtu;
        bytes[6] = self.link_layer;
        bytes[8..12].copy_from_slice(&self.pair.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.psn.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.gid);
        bytes[32..34].copy_from_slice(&self.lid.to_le_bytes());
        bytes[34..36].copy_from_slice(&self.credits.to_le_bytes());
        bytes[36..40].copy_from_slice(&(SLOT_BYTES as u32).to_le_bytes());
        bytes
    }

    /// Decodes and checks: another version, or one that packets are not made for, is refused. `[R60]`
    pub fn parse(bytes: &[u8; INTRODUCTION_BYTES]) -> Result<Introduction, Violation> {
        if bytes[..4] != MAGIC {
            return Err(Violation::Malformed);
        }
        if bytes[4] != VERSION {
            return Err(Violation::Version(bytes[4]));
        }
        let long = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let introduction = Introduction {
            pair: long(8),
            psn: long(12),
            gid: std::array::from_fn(|byte| bytes[16 + byte]),
            lid: short(32),
            credits: short(34),
            mtu: bytes[5],
            link_layer: bytes[6],
        };
        let right = (1..=5).contains(&introduction.mtu)
            && (1..=ETHERNET).contains(&introduction.link_layer)
            && introduction.pair < 1 << 24
            && introduction.psn < 1 << 24
            && introduction.credits >= LEAST_CREDITS
            && long(36) == SLOT_BYTES as u32;
        right.then_some(introduction).ok_or(Violation::Malformed)
    }
}

/// Credits that a link needs so as not to get stuck; see `credits`.
const LEAST_CREDITS: u16 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Introduction = Introduction {
        pair: 0x12_3456,
        psn: 0xab_cdef,
        gid: [9; 16],
        lid: 0x1234,
        credits: 8,
        mtu: 5,
        link_layer: 2,
    };

    /// [R60]
    #[test]
    fn an_introduction_survives_the_wire_and_nonsense_is_refused() {
        let bytes = ONE.encode();
        assert_eq!(Introduction::parse(&bytes), Ok(ONE));
        let with = |at: usize, byte: u8| {
            let mut wrong = bytes;
            wrong[at] = byte;
            Introduction::parse(&wrong)
        };
        assert_eq!(with(0, 0), Err(Violation::Malformed));
        assert_eq!(with(4, VERSION + 1), Err(Violation::Version(VERSION + 1)));
        // MTU, link layer, numbers of more than 24 bits, too few credits, slots of another size.
        for (at, byte) in [(5, 6), (5, 0), (6, 3), (11, 1), (15, 1), (34, 3), (37, 1)] {
            assert_eq!(with(at, byte), Err(Violation::Malformed), "byte {at}");
        }
    }
}

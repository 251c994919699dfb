//! What two sides say to each other before their rings begin: `docs/protocol.md`, "Shared memory".

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::card::VERSION;
use crate::limits;
use crate::pull::{NONCE_BYTES, Nonce, Process};

/// The one record that each side sends; the dialler's comes with the segment. `[R70]`
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Record {
    magic: [u8; 8],
    version: U32,
    slots: U32,
    slot_bytes: U32,
    body_bytes: U32,
    nonce_at: U64,
    nonce: [u8; NONCE_BYTES],
}

/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = size_of::<Record>();

const MAGIC: [u8; 8] = *b"meandshm";

impl Record {
    /// What this side says.
    pub(crate) fn new(nonce: &Nonce) -> Record {
        let (nonce_at, nonce) = nonce.tell();
        Record {
            magic: MAGIC,
            version: u32::from(VERSION).into(),
            slots: (limits::SLOTS as u32).into(),
            slot_bytes: (limits::SLOT_BYTES as u32).into(),
            body_bytes: (limits::BODY_BYTES as u32).into(),
            nonce_at: nonce_at.into(),
            nonce,
        }
    }

    /// What the other side has said, if it speaks as this one does.
    pub(crate) fn parse(bytes: &[u8; RECORD_BYTES]) -> Option<Record> {
        let said = Record::read_from_bytes(bytes).expect("the array has the right size");
        let same = said.magic == MAGIC
            && said.version.get() == u32::from(VERSION)
            && said.slots.get() as usize == limits::SLOTS
            && said.slot_bytes.get() as usize == limits::SLOT_BYTES
            && said.body_bytes.get() as usize == limits::BODY_BYTES;
        same.then_some(said)
    }

    /// The process that has said so, if its memory can be read.
    pub(crate) fn probe(&self, pid: i32) -> Option<Process> {
        Process::probe(pid, self.nonce_at.get(), &self.nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_differs_in_anything_is_refused() {
        let nonce = Nonce::random().unwrap();
        let bytes: [u8; RECORD_BYTES] = Record::new(&nonce).as_bytes().try_into().unwrap();
        assert!(Record::parse(&bytes).is_some());
        for at in 0..24 {
            let mut other = bytes;
            other[at] ^= 1;
            assert!(Record::parse(&other).is_none(), "{at}");
        }
    }
}

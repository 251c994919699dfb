//! A buffer is not touched after it was given back.

use std::collections::BTreeMap;

use meander_core::{BufferId, Slice};

use super::{Checker, Fault};

/// What an application has lent to its port.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Buffers {
    lent: BTreeMap<BufferId, Vec<u8>>,
    last: u64,
}

impl Buffers {
    /// Lends a buffer. No two have the same name.
    pub fn lend(&mut self, bytes: Vec<u8>) -> BufferId {
        self.last += 1;
        let id = BufferId(self.last);
        self.lent.insert(id, bytes);
        id
    }

    /// The port did not take it.
    pub fn take_back(&mut self, buffer: BufferId) {
        self.lent.remove(&buffer);
    }

    /// The port gives it back.
    pub fn give_back(&mut self, buffer: BufferId, checker: &mut Checker) -> Vec<u8> {
        self.lent.remove(&buffer).unwrap_or_else(|| {
            checker.fault(Fault::TouchedAfterCompletion(buffer));
            Vec::new()
        })
    }

    /// The port sends a part of it.
    pub fn read(&self, slice: Slice, checker: &mut Checker) -> Vec<u8> {
        match self.lent.get(&slice.buffer) {
            Some(bytes) => bytes[slice.offset as usize..][..slice.len as usize].to_vec(),
            None => {
                checker.fault(Fault::TouchedAfterCompletion(slice.buffer));
                vec![0; slice.len as usize]
            }
        }
    }

    /// The port receives into it.
    pub fn write(&mut self, slice: Slice, bytes: &[u8], checker: &mut Checker) {
        match self.lent.get_mut(&slice.buffer) {
            Some(memory) => memory[slice.offset as usize..][..bytes.len()].copy_from_slice(bytes),
            None => checker.fault(Fault::TouchedAfterCompletion(slice.buffer)),
        }
    }

    /// How many are lent.
    pub fn len(&self) -> usize {
        self.lent.len()
    }
}

//! Memory of the port's that the device may read or write.

use std::sync::Arc;

use meander_core::Slice;
use meander_core::transport::Memory;

use crate::incoming::LocalPlace;
use crate::limits::PLACE_BYTES_MIN;
use crate::objects::{Domain, Region, UserMemory};
use crate::packet::RemotePlace;

/// Registers memory that frames name.
pub(super) struct Registered {
    memory: UserMemory,
    /// Payloads that could not be registered.
    pub failures: u64,
}

impl Registered {
    pub fn new(domain: &Arc<Domain>) -> Registered {
        Registered {
            memory: UserMemory::new(domain),
            failures: 0,
        }
    }

    /// A region that has this memory; `None` where it can't be registered (locked memory is limited).
    pub fn region(&mut self, address: usize, bytes: usize) -> Option<Arc<Region>> {
        match self.memory.register(address, bytes) {
            Ok(region) => Some(Arc::new(region)),
            Err(error) => {
                if self.failures == 0 {
                    tracing::warn!("{error}: payload is copied instead; is `ulimit -l` unlimited?");
                }
                self.failures += 1;
                None
            }
        }
    }

    /// The place of a pull's payload, where it pays to have it written there.
    pub fn place(&mut self, slice: Slice, memory: &mut dyn Memory) -> Option<LocalPlace> {
        if slice.len < PLACE_BYTES_MIN {
            return None;
        }
        let place = memory.write(slice);
        if place.len() as u64 != slice.len {
            return None;
        }
        let (address, bytes) = (place.as_mut_ptr() as usize, place.len());
        let region = self.region(address, bytes)?;
        Some(LocalPlace {
            slice,
            address,
            region,
        })
    }
}

impl LocalPlace {
    /// What the peer is told of it; the offset is the pull's own.
    pub fn remote(&self) -> RemotePlace {
        RemotePlace {
            offset: self.slice.offset,
            address: self.address as u64,
            bytes: self.slice.len,
            rkey: self.region.rkey(),
        }
    }
}

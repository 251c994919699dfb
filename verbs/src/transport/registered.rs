//! Memory of the port's that the device may read or write.

use std::sync::Arc;

use meander_core::Slice;
use meander_core::transport::Memory;

use crate::VerbsError;
use crate::incoming::LocalPlace;
use crate::limits::PLACE_BYTES_MIN;
use crate::objects::{Domain, Region, UserMemory};
use crate::packet::RemotePlace;
use crate::registration::{Cache, CacheLimits, Counters, Registrar};

/// Registers memory that frames name, and keeps it registered for the next frames.
pub(super) struct Registered {
    cache: Cache<UserMemory>,
    /// It was said that memory can't be registered.
    warned: bool,
}

impl Registrar for UserMemory {
    type Region = Region;
    type Error = VerbsError;

    fn register(&self, address: usize, bytes: usize) -> Result<Region, VerbsError> {
        UserMemory::register(self, address, bytes)
    }
}

impl Registered {
    pub fn new(domain: &Arc<Domain>) -> Registered {
        Registered {
            cache: Cache::open(UserMemory::new(domain), CacheLimits::from_env()),
            warned: false,
        }
    }

    /// A region that has this memory; `None` where it can't be registered (locked memory is limited).
    pub fn region(&mut self, address: usize, bytes: usize) -> Option<Arc<Region>> {
        let failed = |error: &VerbsError| {
            if !std::mem::replace(&mut self.warned, true) {
                tracing::warn!("{error}: payload is copied instead; is `ulimit -l` unlimited?");
            }
        };
        self.cache.get(address, bytes).inspect_err(failed).ok()
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

    /// Lets go of what the program has given back since.
    pub fn tidy(&mut self) {
        self.cache.tidy();
    }

    pub fn counters(&self) -> Counters {
        self.cache.counters()
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

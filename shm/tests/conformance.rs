//! Shared memory passes the suite that every transport must pass.

use meander_shm::{ShmConfig, ShmTransport};
use meander_sim::conformance::Fabric;

struct Here;

impl Fabric for Here {
    type Transport = ShmTransport;
    fn open(&self) -> ShmTransport {
        ShmTransport::open(ShmConfig::default()).expect("a Linux system has what it takes")
    }
}

meander_sim::conformance!(Here);

//! Verbs passes the suite that every transport must pass. It needs an RDMA device: the rxe lab's test runs
//! this program on a machine that has one.

use meander_sim::conformance::Fabric;
use meander_verbs::{VerbsConfig, VerbsTransport};

struct Device;

impl Fabric for Device {
    type Transport = VerbsTransport;
    fn open(&self) -> VerbsTransport {
        VerbsTransport::open(&VerbsConfig::default()).expect("a device with an active port")
    }
}

meander_sim::conformance!(
    Device; ignore = "needs an RDMA device: cargo xtask rxe test runs it"
);

//! The simulator's own transport passes the suite.

use meander_sim::conformance::Fabric;
use meander_sim::{Ether, SimTransport};

#[derive(Default)]
struct Sim(Ether);

impl Fabric for Sim {
    type Transport = SimTransport;
    fn open(&self) -> SimTransport {
        self.0.open()
    }
}

meander_sim::conformance!(Sim::default());

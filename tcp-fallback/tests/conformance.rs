//! TCP over loopback passes the suite that every transport must pass.

use std::net::{IpAddr, Ipv4Addr};

use meander_sim::conformance::Fabric;
use meander_tcp::TcpTransport;

struct Loopback;

impl Fabric for Loopback {
    type Transport = TcpTransport;
    fn open(&self) -> TcpTransport {
        TcpTransport::open(&[IpAddr::V4(Ipv4Addr::LOCALHOST)]).expect("loopback can be bound")
    }
}

meander_sim::conformance!(Loopback);

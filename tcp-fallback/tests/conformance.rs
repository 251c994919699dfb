//! TCP over loopback passes the suite that every transport must pass; encrypted as well.

use std::net::{IpAddr, Ipv4Addr};

use meander_sim::conformance::Fabric;
use meander_tcp::{Psk, TcpTransport};

const LOOPBACK: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::LOCALHOST)];

struct Loopback;

impl Fabric for Loopback {
    type Transport = TcpTransport;
    fn open(&self) -> TcpTransport {
        TcpTransport::open(&LOOPBACK).expect("loopback can be bound")
    }
}

meander_sim::conformance!(Loopback);

mod encrypted {
    use super::*;

    struct Encrypted;

    impl Fabric for Encrypted {
        type Transport = TcpTransport;
        fn open(&self) -> TcpTransport {
            let opened = TcpTransport::open_encrypted(&LOOPBACK, Psk([7; 32]));
            opened.expect("loopback can be bound")
        }
    }

    meander_sim::conformance!(Encrypted);
}

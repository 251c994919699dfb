//! One transport of several: an enum at the choice, so that the data path has no virtual calls.

use meander_core::TransportKind;
use meander_shm::{ShmConfig, ShmTransport};
use meander_tcp::{Psk, TcpTransport};
use meander_verbs::VerbsTransport;

use super::TransportConfig;
use crate::Error;

/// A transport that is open.
pub(super) enum Member {
    Tcp(TcpTransport),
    Verbs(Box<VerbsTransport>),
    Shm(ShmTransport),
}

impl Member {
    /// Opens the transport of this kind.
    pub fn open(kind: TransportKind, config: &TransportConfig, psk: &Psk) -> Result<Member, Error> {
        let bind = &config.tcp.bind;
        match kind {
            TransportKind::Tcp if config.tcp.encryption => {
                let opened = TcpTransport::open_encrypted(bind, psk.clone());
                opened.map(Member::Tcp).map_err(Error::Listen)
            }
            TransportKind::Tcp => TcpTransport::open(bind)
                .map(Member::Tcp)
                .map_err(Error::Listen),
            TransportKind::Shm => ShmTransport::open(ShmConfig::default())
                .map(Member::Shm)
                .map_err(Error::SharedMemory),
            TransportKind::Verbs => VerbsTransport::open(&config.verbs)
                .map(|verbs| Member::Verbs(Box::new(verbs)))
                .map_err(Error::Verbs),
            TransportKind::Sim => Err(Error::NoTransport),
        }
    }
}

/// Does the same with whichever transport it is.
macro_rules! on_member {
    ($member:expr, $it:ident => $body:expr) => {
        match $member {
            $crate::transports::member::Member::Tcp($it) => $body,
            $crate::transports::member::Member::Verbs($it) => $body,
            $crate::transports::member::Member::Shm($it) => $body,
        }
    };
}
pub(super) use on_member;

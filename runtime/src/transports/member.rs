//! One transport of several: an enum at the choice, so that the data path has no virtual calls.

use meander_shm::ShmTransport;
use meander_tcp::TcpTransport;
use meander_verbs::VerbsTransport;

/// A transport that is open.
pub(super) enum Member {
    Tcp(TcpTransport),
    Verbs(Box<VerbsTransport>),
    Shm(ShmTransport),
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

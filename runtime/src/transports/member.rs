//! One transport of several: an enum at the choice, so that the data path has no virtual calls.

use meander_tcp::TcpTransport;

/// A transport that is open.
pub(super) enum Member {
    Tcp(TcpTransport),
}

/// Does the same with whichever transport it is.
macro_rules! on_member {
    ($member:expr, $it:ident => $body:expr) => {
        match $member {
            $crate::transports::member::Member::Tcp($it) => $body,
        }
    };
}
pub(super) use on_member;

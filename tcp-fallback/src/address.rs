//! Which addresses to listen on, and the card that lists them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use meander_core::{Card, TransportKind};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::{limits, socket};

/// Why the transport could not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The node's addresses can't be listed.
    #[error("the addresses of this node can't be listed: {0}")]
    Addresses(#[source] io::Error),
    /// Listening failed.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Nowhere to listen, or no epoll.
    #[error("{operation} failed: {source}")]
    Io {
        /// The call.
        operation: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// Listens on `addresses`, all with one port number. Addresses that this node does not have (the
/// process has moved) are left out; where none remains, the node's own are taken.
pub(crate) fn listen(addresses: &[IpAddr]) -> Result<Vec<(OwnedFd, SocketAddr)>, BindError> {
    if !addresses.is_empty() {
        let listeners = listen_with_one_number(addresses)?;
        if !listeners.is_empty() {
            return Ok(listeners);
        }
        tracing::warn!(
            ?addresses,
            "none of these addresses is on this node; listening on its own"
        );
    }
    listen_with_one_number(&node_addresses()?)
}

/// What a card says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    /// Where.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Every link is encrypted.
    pub(crate) encrypted: bool,
}

/// Behind the addresses of a port whose links are encrypted. `[R54]`
const ENCRYPTED: u8 = 1;

/// The card of a port that listens so.
pub(crate) fn card(listening: &Listening) -> Card {
    let mut bytes = postcard::to_stdvec(&listening.addresses).expect("addresses can be encoded");
    bytes.extend(listening.encrypted.then_some(ENCRYPTED));
    if bytes.len() > meander_core::limits::CARD_BYTES {
        bytes.clear();
    }
    Card {
        transport: TransportKind::Tcp,
        bytes,
    }
}

/// What a card says; `None` where it is not one of ours.
pub(crate) fn parse_card(card: &Card) -> Option<Listening> {
    if card.transport != TransportKind::Tcp || card.bytes.len() > meander_core::limits::CARD_BYTES {
        return None;
    }
    let (addresses, rest) = postcard::take_from_bytes::<Vec<SocketAddr>>(&card.bytes).ok()?;
    let encrypted = match rest {
        [] => false,
        [ENCRYPTED] => true,
        _ => return None,
    };
    let some = !addresses.is_empty() && addresses.len() <= limits::ADDRESSES;
    some.then_some(Listening {
        addresses,
        encrypted,
    })
}

/// How often another port number is tried when the one the system gave for the first address is
/// taken on another.
const NUMBERS_TRIED: usize = 16;

fn listen_with_one_number(addresses: &[IpAddr]) -> Result<Vec<(OwnedFd, SocketAddr)>, BindError> {
    let mut taken = None;
    'number: for _ in 0..NUMBERS_TRIED {
        let mut listeners: Vec<(OwnedFd, SocketAddr)> = Vec::new();
        for &address in addresses.iter().take(limits::ADDRESSES) {
            let number = listeners.first().map_or(0, |(_, bound)| bound.port());
            let wanted = SocketAddr::new(address, number);
            match socket::listen(wanted) {
                Ok(listener) => listeners.push(listener),
                Err(rustix::io::Errno::ADDRNOTAVAIL) => continue,
                Err(rustix::io::Errno::ADDRINUSE) => {
                    taken = Some(wanted);
                    continue 'number;
                }
                Err(errno) => {
                    return Err(BindError::Listen {
                        address: wanted,
                        source: errno.into(),
                    });
                }
            }
        }
        return Ok(listeners);
    }
    let address = taken.expect("the loop ends only when a number was taken");
    Err(BindError::Listen {
        address,
        source: rustix::io::Errno::ADDRINUSE.into(),
    })
}

/// Every address of this node but loopback, IPv4 first; loopback where there is no other.
fn node_addresses() -> Result<Vec<IpAddr>, BindError> {
    let interfaces = getifaddrs().map_err(|errno| BindError::Addresses(errno.into()))?;
    let mut addresses: Vec<IpAddr> = interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !address.is_loopback() && !is_link_local(address))
        .collect();
    addresses.sort_by_key(|address| address.is_ipv6());
    addresses.dedup();
    if addresses.is_empty() {
        addresses.push(IpAddr::from([127, 0, 0, 1]));
    }
    Ok(addresses)
}

/// Link-local IPv6 addresses mean nothing without the name of an interface here.
fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_survives_encoding() {
        for encrypted in [false, true] {
            let listening = Listening {
                addresses: vec![
                    "10.0.0.1:7".parse().unwrap(),
                    "[fd00::1]:7".parse().unwrap(),
                ],
                encrypted,
            };
            assert_eq!(parse_card(&card(&listening)).unwrap(), listening);
        }
    }

    #[test]
    fn foreign_empty_and_broken_cards_are_refused() {
        let mut listening = Listening {
            addresses: Vec::new(),
            encrypted: false,
        };
        assert_eq!(parse_card(&card(&listening)), None);
        listening.addresses.push("10.0.0.1:7".parse().unwrap());
        let good = card(&listening);
        for more in [&[0][..], &[2], &[1, 1]] {
            let mut longer = good.clone();
            longer.bytes.extend(more);
            assert_eq!(parse_card(&longer), None);
        }
        let mut broken = good;
        broken.bytes[0] = 200;
        assert_eq!(parse_card(&broken), None);
        let foreign = Card {
            transport: TransportKind::Shm,
            bytes: broken.bytes,
        };
        assert_eq!(parse_card(&foreign), None);
    }

    #[test]
    fn an_address_of_another_node_is_left_out() {
        let elsewhere = IpAddr::from([192, 0, 2, 1]);
        let here = IpAddr::from([127, 0, 0, 1]);
        let listeners = listen(&[elsewhere, here]).unwrap();
        assert_eq!(listeners.len(), 1);
        assert_eq!(listeners[0].1.ip(), here);
        assert!(!listen(&[elsewhere]).unwrap().is_empty());
    }

    #[test]
    fn all_addresses_have_one_number() {
        let two = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let listeners = listen(&two).unwrap();
        assert_eq!(listeners.len(), 2);
        assert_eq!(listeners[0].1.port(), listeners[1].1.port());
    }
}

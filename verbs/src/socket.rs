//! The connections over which links are set up, and which live as long as they do.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::device::is_ipv4;
use crate::{OpenError, limits};

/// Listens where peers are to find us: on `wanted`; where none of that is on this node (the process has
/// moved), on the address of the RDMA port; where that has none, on the node's own.
pub(crate) fn listen(
    wanted: &[IpAddr],
    gid: &[u8; 16],
) -> Result<Vec<(Socket, SocketAddr)>, OpenError> {
    let port: Vec<IpAddr> = address_of(gid).into_iter().collect();
    for addresses in [wanted, &port] {
        let listeners = listen_on(addresses)?;
        if !listeners.is_empty() {
            return Ok(listeners);
        }
    }
    listen_on(&node_addresses()?)
}

/// The address of a GID, where it is one that a socket can have.
fn address_of(gid: &[u8; 16]) -> Option<IpAddr> {
    if is_ipv4(gid) {
        let [.., a, b, c, d] = *gid;
        return Some(IpAddr::from([a, b, c, d]));
    }
    let global = gid[0] & 0xe0 == 0x20 || gid[0] & 0xfe == 0xfc;
    global.then(|| IpAddr::from(*gid))
}

fn listen_on(addresses: &[IpAddr]) -> Result<Vec<(Socket, SocketAddr)>, OpenError> {
    let mut listeners = Vec::new();
    for address in addresses.iter().take(limits::ADDRESSES) {
        let address = SocketAddr::new(*address, 0);
        match listen_at(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(source) => return Err(OpenError::Listen { address, source }),
        }
    }
    Ok(listeners)
}

fn listen_at(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = new_socket(address)?;
    socket.bind(&address.into())?;
    socket.listen(limits::BACKLOG)?;
    let bound = socket.local_addr()?.as_socket();
    Ok((socket, bound.ok_or(io::ErrorKind::AddrNotAvailable)?))
}

/// A socket that is being connected; it becomes writable when it is, or has failed.
pub(crate) fn connect(address: SocketAddr) -> io::Result<Socket> {
    let socket = new_socket(address)?;
    set_up(&socket)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Whether a socket from [`connect`] is connected now.
pub(crate) fn connected(socket: &Socket) -> io::Result<()> {
    socket.take_error()?.map_or(Ok(()), Err)
}

/// The next waiting connection, if there is one.
pub(crate) fn accept(listener: &Socket) -> io::Result<Option<Socket>> {
    match listener.accept() {
        Ok((socket, _)) => {
            socket.set_nonblocking(true)?;
            set_up(&socket)?;
            Ok(Some(socket))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A peer that vanished without a word is noticed.
fn set_up(socket: &Socket) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(limits::USER_TIMEOUT))?;
    let probes = TcpKeepalive::new()
        .with_time(limits::KEEPALIVE)
        .with_interval(limits::KEEPALIVE);
    socket.set_tcp_keepalive(&probes)
}

/// Every address of this node that another can reach, or loopback.
fn node_addresses() -> Result<Vec<IpAddr>, OpenError> {
    let interfaces = getifaddrs().map_err(|errno| OpenError::Io {
        operation: "getifaddrs",
        source: errno.into(),
    })?;
    let up = interfaces.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
    let mut addresses: Vec<IpAddr> = up
        .filter_map(|interface| {
            let address = interface.address?;
            let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
            four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(four) => !four.is_loopback(),
            IpAddr::V6(six) => !six.is_loopback() && !six.is_unicast_link_local(),
        })
        .collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    if addresses.is_empty() {
        addresses.push(IpAddr::from([127, 0, 0, 1]));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(text: &str) -> [u8; 16] {
        let address: std::net::Ipv6Addr = text.parse().unwrap();
        address.octets()
    }

    #[test]
    fn the_port_s_own_address_is_listened_on_first() {
        let here = IpAddr::from([127, 0, 0, 1]);
        let listeners = listen(&[], &gid("::ffff:127.0.0.1")).unwrap();
        assert_eq!(listeners.len(), 1);
        assert_eq!(listeners[0].1.ip(), here);
        let elsewhere = IpAddr::from([192, 0, 2, 1]);
        let listeners = listen(&[elsewhere], &gid("::ffff:127.0.0.1")).unwrap();
        assert_eq!(listeners[0].1.ip(), here);
        assert!(!listen(&[elsewhere], &gid("fe80::1")).unwrap().is_empty());
    }

    #[test]
    fn a_gid_is_an_address_or_not() {
        assert_eq!(
            address_of(&gid("::ffff:10.1.2.3")),
            Some(IpAddr::from([10, 1, 2, 3]))
        );
        assert_eq!(address_of(&gid("fe80::1")), None);
        assert_eq!(
            address_of(&gid("fd00::1")),
            Some("fd00::1".parse().unwrap())
        );
    }
}

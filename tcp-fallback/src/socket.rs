//! The sockets of links: how they are made and set up.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use crate::limits;

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// A listening socket and the address it got; port number 0 asks the system for one.
pub(crate) fn listen(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), Errno> {
    let socket = new_socket(address)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, limits::BACKLOG)?;
    let bound = SocketAddr::try_from(net::getsockname(&socket)?).map_err(|_| Errno::AFNOSUPPORT)?;
    Ok((socket, bound))
}

/// A socket that is being connected; it becomes writable when it is, or has failed.
pub(crate) fn connect(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = new_socket(address)?;
    set_up(&socket)?;
    match net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// The next waiting connection, if there is one.
pub(crate) fn accept(listener: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    loop {
        match net::accept_with(listener, FLAGS) {
            Ok(socket) => {
                set_up(&socket)?;
                return Ok(Some(socket));
            }
            Err(Errno::AGAIN) => return Ok(None),
            // The peer gave up while it waited; see accept(2).
            Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether a socket from [`connect`] is connected now.
pub(crate) fn connected(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::socket_error(socket)?
}

fn new_socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = net::socket_with(family, SocketType::STREAM, FLAGS, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// No delay for small frames; a peer that vanished without a word is noticed.
fn set_up(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_tcp_user_timeout(socket, limits::USER_TIMEOUT.as_millis() as u32)?;
    sockopt::set_tcp_keepidle(socket, limits::KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(socket, limits::KEEPALIVE)?;
    sockopt::set_socket_keepalive(socket, true)
}

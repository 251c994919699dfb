//! The sockets of links: their names, who is at the other end, and what is passed through them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::card::Name;
use crate::limits;

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Who is at the other end of a socket.
pub(crate) struct Peer {
    /// As this process would call it; 0 where it can't see it.
    pub(crate) pid: i32,
    /// Whether it is this process's user.
    pub(crate) is_us: bool,
}

/// A listener of this name.
pub(crate) fn listen(name: Name) -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    net::bind(&socket, &address(name)?)?;
    net::listen(&socket, limits::BACKLOG)?;
    Ok(socket)
}

/// A socket that is connected to this listener; `AGAIN` where its backlog is full, `CONNREFUSED`
/// where there is none in this network namespace.
pub(crate) fn connect(name: Name) -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    net::connect(&socket, &address(name)?)?;
    Ok(socket)
}

/// The next waiting connection, if there is one.
pub(crate) fn accept(listener: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    loop {
        match net::accept_with(listener, FLAGS) {
            Ok(socket) => return Ok(Some(socket)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Who listens or connected there.
pub(crate) fn peer(socket: &OwnedFd) -> Result<Peer, Errno> {
    let credentials = getsockopt(socket, PeerCredentials)
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
    let us = rustix::process::geteuid().as_raw();
    Ok(Peer {
        pid: credentials.pid(),
        is_us: credentials.uid() == us,
    })
}

/// Sends a record, and a descriptor with it. A socket that was just connected takes it whole.
pub(crate) fn send_record(
    socket: &OwnedFd,
    record: &[u8],
    file: Option<&OwnedFd>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = file.map(|file| [file.as_fd()]);
    if let Some(files) = &files {
        control.push(SendAncillaryMessage::ScmRights(files));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = net::sendmsg(socket, &[IoSlice::new(record)], &mut control, flags)?;
    (sent == record.len()).then_some(()).ok_or(Errno::AGAIN)
}

/// Receives some bytes and the descriptor that may come with them. No bytes: the other side has ended.
pub(crate) fn receive(
    socket: &OwnedFd,
    bytes: &mut [u8],
) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    let mut file = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            // All of them are ours now; all but one are closed here.
            file = files.last();
        }
    }
    Ok((got.bytes, file))
}

/// Wakes the other side, which sleeps on its end. If the socket is full it has been woken often
/// enough, and if it has ended that is seen elsewhere.
pub(crate) fn wake(socket: &OwnedFd) {
    let _ = net::send(socket, &[1], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Ends a connection even while a forked child still holds the descriptor.
pub(crate) fn end(socket: &OwnedFd) {
    let _ = net::shutdown(socket, Shutdown::Both);
}

fn new_socket() -> Result<OwnedFd, Errno> {
    net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)
}

fn address(name: Name) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new_abstract_name(&name.address())
}

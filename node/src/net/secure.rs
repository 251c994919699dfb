//! A connection between two processes that know the cluster key: Noise over TCP.
//!
//! `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s` with the cluster key as the pre-shared key: each side
//! proves it by encrypting with it, the traffic has forward secrecy, nobody else learns anything.
//! A message is postcard, cut into Noise messages of at most 64 KiB, each preceded by its length
//! as a little-endian `u16` and starting with a byte that says whether more follow.
//!
//! Before a stranger has proved himself he costs one thread and [`HANDSHAKE_BYTES`], for
//! [`HANDSHAKE_TIMEOUT`]; there are at most [`STRANGERS`] at a time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meander::Key;
use serde::Serialize;
use serde::de::DeserializeOwned;
use snow::TransportState;

use crate::Error;

/// Longest message, in bytes.
pub const MESSAGE_BYTES: usize = 8 << 20;
/// Longest message of the handshake.
pub const HANDSHAKE_BYTES: usize = 256;
/// How long connecting and proving may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have proved nothing yet; further ones are closed at once.
pub const STRANGERS: usize = 64;
/// Connections in all; further ones are closed at once.
pub const CONNECTIONS: usize = 4096;

const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"meander node 1";
const CHUNK_BYTES: usize = 65_535 - 16 - 1;

/// A connection to someone who knows the cluster key.
pub struct Secure {
    stream: TcpStream,
    noise: TransportState,
    peer: String,
}

impl Secure {
    /// Connects. `peer` names the other side in errors.
    pub fn connect(peer: &str, address: SocketAddr, key: &Key) -> Result<Secure, Error> {
        let unreachable = |source| Error::Unreachable {
            peer: format!("{peer} ({address})"),
            source,
        };
        let stream =
            TcpStream::connect_timeout(&address, HANDSHAKE_TIMEOUT).map_err(unreachable)?;
        Secure::handshake(stream, peer.into(), key, true)
    }

    /// The answering side of a connection that a listener has taken.
    pub fn accept(stream: TcpStream, key: &Key) -> Result<Secure, Error> {
        let peer = stream
            .peer_addr()
            .map_or_else(|_| "a stranger".into(), |a| a.to_string());
        Secure::handshake(stream, peer, key, false)
    }

    /// Who is on the other side, for people.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Sends a message.
    pub fn send<T: Serialize>(&mut self, message: &T) -> Result<(), Error> {
        let bytes = postcard::to_stdvec(message).map_err(|e| self.violation(e.to_string()))?;
        if bytes.len() > MESSAGE_BYTES {
            return Err(self.violation(format!("a message of {} bytes is too long", bytes.len())));
        }
        let mut wire = Vec::with_capacity(bytes.len() + 64);
        let mut sealed = vec![0; 65_535];
        let mut chunks = bytes.chunks(CHUNK_BYTES).peekable();
        let mut first = true;
        while first || chunks.peek().is_some() {
            first = false;
            let chunk = chunks.next().unwrap_or_default();
            let mut plain = Vec::with_capacity(1 + chunk.len());
            plain.push(u8::from(chunks.peek().is_some()));
            plain.extend_from_slice(chunk);
            let len = self
                .noise
                .write_message(&plain, &mut sealed)
                .map_err(|error| self.violation(error.to_string()))?;
            wire.extend_from_slice(&(len as u16).to_le_bytes());
            wire.extend_from_slice(&sealed[..len]);
        }
        self.stream
            .write_all(&wire)
            .map_err(|error| self.broken(error))
    }

    /// The next message; waits at most `timeout`, or for ever.
    pub fn receive<T: DeserializeOwned>(&mut self, timeout: Option<Duration>) -> Result<T, Error> {
        let bytes = self.receive_bytes(timeout)?;
        postcard::from_bytes(&bytes)
            .map_err(|_| self.violation("sent what can't be decoded".into()))
    }

    fn receive_bytes(&mut self, timeout: Option<Duration>) -> Result<Vec<u8>, Error> {
        self.stream
            .set_read_timeout(timeout)
            .map_err(|error| self.broken(error))?;
        let mut message = Vec::new();
        let mut plain = vec![0; 65_535];
        loop {
            let sealed = read_sealed(&mut self.stream, 65_535).map_err(|e| self.broken(e))?;
            let len = self
                .noise
                .read_message(&sealed, &mut plain)
                .map_err(|_| self.violation("sent what does not decrypt".into()))?;
            let Some((more, chunk)) = plain[..len].split_first() else {
                return Err(self.violation("sent an empty chunk".into()));
            };
            if message.len() + chunk.len() > MESSAGE_BYTES {
                return Err(self.violation("sent a message that is too long".into()));
            }
            message.extend_from_slice(chunk);
            if *more == 0 {
                return Ok(message);
            }
        }
    }

    fn handshake(
        mut stream: TcpStream,
        peer: String,
        key: &Key,
        initiator: bool,
    ) -> Result<Secure, Error> {
        let broken = |error: io::Error| match error.kind() {
            // What a peer does that finds our key wrong.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                Error::NotTrusted { peer: peer.clone() }
            }
            _ => Error::Unreachable {
                peer: peer.clone(),
                source: error,
            },
        };
        stream
            .set_read_timeout(Some(HANDSHAKE_TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT)))
            .and_then(|()| stream.set_nodelay(true))
            .map_err(broken)?;
        let builder = snow::Builder::new(NOISE.parse().expect("a valid pattern"))
            .psk(0, &key.0)
            .prologue(PROLOGUE);
        let built = if initiator {
            builder.build_initiator()
        } else {
            builder.build_responder()
        };
        let mut noise = built.expect("the pattern needs no keys but the shared one");
        let untrusted = || Error::NotTrusted { peer: peer.clone() };
        let mut buffer = [0; HANDSHAKE_BYTES];
        for turn in 0..2 {
            if (turn == 0) == initiator {
                let len = noise
                    .write_message(&[], &mut buffer)
                    .map_err(|_| untrusted())?;
                let mut frame = (len as u16).to_le_bytes().to_vec();
                frame.extend_from_slice(&buffer[..len]);
                stream.write_all(&frame).map_err(broken)?;
            } else {
                let sealed = read_sealed(&mut stream, HANDSHAKE_BYTES).map_err(broken)?;
                noise
                    .read_message(&sealed, &mut buffer)
                    .map_err(|_| untrusted())?;
            }
        }
        let noise = noise.into_transport_mode().map_err(|_| untrusted())?;
        Ok(Secure {
            stream,
            noise,
            peer,
        })
    }

    fn violation(&self, why: String) -> Error {
        Error::Protocol {
            peer: self.peer.clone(),
            why,
        }
    }

    fn broken(&self, error: io::Error) -> Error {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "does not answer".into(),
            io::ErrorKind::UnexpectedEof => "closed the connection".into(),
            _ => format!("the connection broke: {error}"),
        };
        self.violation(why)
    }
}

fn read_sealed(stream: &mut TcpStream, max: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message is too long",
        ));
    }
    let mut sealed = vec![0; length];
    stream.read_exact(&mut sealed)?;
    Ok(sealed)
}

/// Takes connections and gives those that prove the key to `serve`, each on a thread of its own.
/// Never returns unless the listener fails.
pub fn serve(
    listener: &TcpListener,
    key: &Key,
    serve: impl Fn(Secure) + Send + Sync + 'static,
) -> io::Error {
    let serve = Arc::new(serve);
    let strangers = Arc::new(AtomicUsize::new(0));
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if is_passing(&error) => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            Err(error) => return error,
        };
        let Some(stranger) = Ticket::take(&strangers, STRANGERS) else {
            continue;
        };
        let Some(connection) = Ticket::take(&connections, CONNECTIONS) else {
            continue;
        };
        let (key, serve) = (key.clone(), serve.clone());
        let spawned = std::thread::Builder::new()
            .name("peer".into())
            .spawn(move || {
                let accepted = Secure::accept(stream, &key);
                drop(stranger);
                match accepted {
                    Ok(secure) => serve(secure),
                    Err(error) => tracing::warn!("refused a connection: {error}"),
                }
                drop(connection);
            });
        if let Err(error) = spawned {
            tracing::warn!("no thread for a connection: {error}");
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted};
    let full = [
        rustix::io::Errno::MFILE,
        rustix::io::Errno::NFILE,
        rustix::io::Errno::NOMEM,
    ];
    matches!(error.kind(), ConnectionAborted | Interrupted)
        || full
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// One of a bounded number of places; given back when it is dropped.
struct Ticket(Arc<AtomicUsize>);

impl Ticket {
    fn take(count: &Arc<AtomicUsize>, max: usize) -> Option<Ticket> {
        let ticket = Ticket(count.clone());
        (count.fetch_add(1, Ordering::Relaxed) < max).then_some(ticket)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyfile;

    fn listen(key: &Key) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let key = key.clone();
        std::thread::spawn(move || {
            serve(&listener, &key, |mut secure| {
                while let Ok(message) = secure.receive::<Vec<u8>>(None) {
                    if secure.send(&message).is_err() {
                        break;
                    }
                }
            })
        });
        address
    }

    #[test]
    fn messages_of_every_size_come_back() {
        let key = keyfile::random();
        let mut secure = Secure::connect("echo", listen(&key), &key).unwrap();
        for len in [
            0,
            1,
            100,
            CHUNK_BYTES - 3,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            1_000_000,
        ] {
            let message: Vec<u8> = (0..len).map(|at| at as u8).collect();
            secure.send(&message).unwrap();
            let back: Vec<u8> = secure.receive(Some(Duration::from_secs(10))).unwrap();
            assert!(back == message, "{len}");
        }
    }

    #[test]
    fn another_key_is_refused_on_both_sides() {
        let address = listen(&keyfile::random());
        match Secure::connect("echo", address, &keyfile::random()) {
            Err(Error::NotTrusted { peer }) => assert_eq!(peer, "echo"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("taken"),
        }
    }

    #[test]
    fn strangers_are_bounded_and_do_not_starve_friends() {
        let key = keyfile::random();
        let address = listen(&key);
        let strangers: Vec<_> = (0..STRANGERS + 10)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let mut closed = 0;
        for mut stranger in strangers.iter().rev().take(5) {
            stranger
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            closed += usize::from(is_closed(&mut stranger));
        }
        assert_eq!(closed, 5);
        drop(strangers);
        let tries = (0..50).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            Secure::connect("echo", address, &key).ok()
        });
        assert!(
            tries.is_some(),
            "no room for a friend once the strangers have gone"
        );
    }

    #[test]
    fn a_long_first_message_is_refused_before_it_is_read() {
        let address = listen(&keyfile::random());
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&[255, 255, 1, 2, 3]).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        assert!(is_closed(&mut &stream));
    }

    fn is_closed(stream: &mut &TcpStream) -> bool {
        match stream.read(&mut [0; 1]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

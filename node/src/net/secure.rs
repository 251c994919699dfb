//! A connection between two processes that know the cluster key: Noise over TCP.
//!
//! `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s` with the cluster key as the pre-shared key: each side
//! proves it by encrypting with it, the traffic has forward secrecy, nobody else learns anything. A
//! third message, empty, shows that the initiator is there now: the first one could be a recorded one.
//! A message is postcard, cut into Noise messages of at most 64 KiB, each preceded by its length
//! as a little-endian `u16` and starting with a byte that says whether more follow.
//!
//! Before a stranger has proved himself he costs one thread and [`HANDSHAKE_BYTES`], for
//! [`HANDSHAKE_TIMEOUT`] in all; there are at most [`STRANGERS`] at a time, and for each further one the
//! oldest is closed: who knows the key is quick, and a flood must not keep him out. `[R43]`

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
/// Connections that have proved nothing yet; for each further one the oldest is closed.
pub const STRANGERS: usize = 64;
/// Connections in all; further ones are closed at once.
pub const CONNECTIONS: usize = 4096;

const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"meander node 2";
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
        stream: TcpStream,
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
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        stream
            .set_write_timeout(Some(HANDSHAKE_TIMEOUT))
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
        let say = |len: usize, buffer: &[u8]| {
            let mut frame = (len as u16).to_le_bytes().to_vec();
            frame.extend_from_slice(&buffer[..len]);
            (&stream).write_all(&frame)
        };
        let hear = || {
            let stream = &stream;
            read_sealed(&mut Hurried { stream, deadline }, HANDSHAKE_BYTES)
        };
        for turn in 0..2 {
            if (turn == 0) == initiator {
                let len = noise
                    .write_message(&[], &mut buffer)
                    .map_err(|_| untrusted())?;
                say(len, &buffer).map_err(broken)?;
            } else {
                let sealed = hear().map_err(broken)?;
                noise
                    .read_message(&sealed, &mut buffer)
                    .map_err(|_| untrusted())?;
            }
        }
        let mut noise = noise.into_transport_mode().map_err(|_| untrusted())?;
        let alive = if initiator {
            let len = noise.write_message(&[], &mut buffer);
            let len = len.map_err(|_| untrusted())?;
            say(len, &buffer).map_err(broken)?;
            0
        } else {
            let sealed = hear().map_err(broken)?;
            let len = noise.read_message(&sealed, &mut buffer);
            len.map_err(|_| untrusted())?
        };
        if alive != 0 {
            return Err(untrusted());
        }
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

/// A connection of which everything must come before a point in time, however small the pieces.
struct Hurried<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Read for Hurried<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

fn read_sealed(stream: &mut impl Read, max: usize) -> io::Result<Vec<u8>> {
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
    let strangers = Arc::new(Strangers::default());
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
        let Some(connection) = Ticket::take(&connections, CONNECTIONS) else {
            continue;
        };
        let Ok(number) = strangers.admit(&stream) else {
            continue;
        };
        let (key, serve, strangers) = (key.clone(), serve.clone(), strangers.clone());
        let spawned = std::thread::Builder::new()
            .name("peer".into())
            .spawn(move || {
                let accepted = Secure::accept(stream, &key);
                // Of a flood, those that made way are not worth a line each.
                let evicted = !strangers.dismiss(number);
                match accepted {
                    Ok(secure) => serve(secure),
                    Err(error) if evicted => tracing::debug!("refused a connection: {error}"),
                    Err(error) => tracing::warn!("refused a connection: {error}"),
                }
                drop(connection);
            });
        if let Err(error) = spawned {
            tracing::warn!("no thread for a connection: {error}");
        }
    }
}

/// Whether accepting a connection may be tried again after such an error.
pub(crate) fn is_passing(error: &io::Error) -> bool {
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

/// The connections that have proved nothing yet, the oldest first.
#[derive(Default)]
struct Strangers(Mutex<(VecDeque<(u64, TcpStream)>, u64)>);

impl Strangers {
    /// Takes one in; the oldest of too many is closed, and its thread ends of that.
    fn admit(&self, stream: &TcpStream) -> io::Result<u64> {
        let stream = stream.try_clone()?;
        let (waiting, next) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= STRANGERS
            && let Some((_, oldest)) = waiting.pop_front()
        {
            let _ = oldest.shutdown(Shutdown::Both);
        }
        *next += 1;
        waiting.push_back((*next, stream));
        Ok(*next)
    }

    /// It is a stranger no more, or gone. Returns whether it had not made way for another.
    fn dismiss(&self, number: u64) -> bool {
        let (waiting, _) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = waiting.len();
        waiting.retain(|(other, _)| *other != number);
        waiting.len() < before
    }
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

    /// While strangers come without end, friends get in. `[R43]`
    #[test]
    fn strangers_are_bounded_and_do_not_keep_friends_out() {
        let key = keyfile::random();
        let address = listen(&key);
        let flooding = AtomicUsize::new(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut held = VecDeque::new();
                while flooding.load(Ordering::Relaxed) == 1 {
                    // Some say nothing, some begin and never end.
                    if let Ok(mut stream) = TcpStream::connect(address) {
                        let _ = stream.write_all(&[48, 0, 7][..held.len() % 4]);
                        held.push_back(stream);
                    }
                    if held.len() > 4 * STRANGERS {
                        held.pop_front();
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(200));
            for _ in 0..5 {
                let friend = (0..50).find_map(|_| Secure::connect("echo", address, &key).ok());
                let mut friend = friend.expect("no room for a friend");
                friend.send(&vec![7u8; 100]).unwrap();
                let back: Vec<u8> = friend.receive(Some(Duration::from_secs(10))).unwrap();
                assert_eq!(back, [7; 100]);
            }
            flooding.store(0, Ordering::Relaxed);
        });
    }

    /// Of very many strangers all but the last are closed. `[R43]`
    #[test]
    fn the_oldest_stranger_makes_way() {
        let address = listen(&keyfile::random());
        let strangers: Vec<_> = (0..2 * STRANGERS)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        for mut stranger in &strangers[..STRANGERS] {
            stranger
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            assert!(is_closed(&mut stranger));
        }
    }

    /// A stranger who says a byte now and then has no more time than others. `[R43]`
    #[test]
    fn a_slow_stranger_is_gone_in_time() {
        let address = listen(&keyfile::random());
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let started = Instant::now();
        stream.write_all(&[200, 0]).unwrap();
        let mut closed = false;
        while !closed && started.elapsed() < 2 * HANDSHAKE_TIMEOUT {
            closed = stream.write_all(&[1]).is_err() || is_closed(&mut &stream);
        }
        assert!(closed, "it may go on for ever");
        assert!(started.elapsed() >= HANDSHAKE_TIMEOUT - Duration::from_secs(1));
    }

    /// What a friend once said first, said again by someone who does not know the key. `[R43]`
    #[test]
    fn a_recorded_handshake_is_worth_nothing() {
        let key = keyfile::random();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (served, heard) = std::sync::mpsc::channel();
        let serving = key.clone();
        std::thread::spawn(move || serve(&listener, &serving, move |_| served.send(()).unwrap()));
        // The friend's first message is real, and so is the answer to it.
        let mut friend = snow::Builder::new(NOISE.parse().unwrap())
            .psk(0, &key.0)
            .prologue(PROLOGUE)
            .build_initiator()
            .unwrap();
        let mut first = [0; HANDSHAKE_BYTES];
        let len = friend.write_message(&[], &mut first).unwrap();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&(len as u16).to_le_bytes()).unwrap();
            stream.write_all(&first[..len]).unwrap();
            let answer = read_sealed(&mut stream, HANDSHAKE_BYTES).unwrap();
            assert!(!answer.is_empty());
            // He can't make the third: another's, or none, is all he has.
            stream.write_all(&[16, 0]).unwrap();
            stream.write_all(&[9; 16]).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            assert!(is_closed(&mut &stream));
        }
        assert!(heard.try_recv().is_err(), "a stranger was served");
        drop(Secure::connect("it", address, &key).unwrap());
        heard.recv_timeout(Duration::from_secs(10)).unwrap();
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

//! The encrypted link: Noise between the socket and the frames. `[R54]` `[R55]`
//!
//! `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`: both sides know a key of the job's and prove it by what they
//! seal; what is sealed depends on secrets that neither keeps after the link. After the two messages of the
//! pattern come records, each preceded by its length: the bytes of the frames, cut anywhere, sealed whole.
//! They open in the order in which they were sealed, each once; what does not open breaks the link.
//!
//! A stranger costs [`HANDSHAKE_BYTES`]; with a recorded first message, [`FIRST_RECORD_BYTES`](crate::limits::FIRST_RECORD_BYTES).

mod opener;
mod sealer;

#[cfg(test)]
mod tests;

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use meander_core::transport::LinkError;
use meander_core::wire::{FrameKind, VERSION, Violation};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv, send};
use snow::{HandshakeState, TransportState};

use crate::wire::{Read, WRITE_FLAGS, outcome};
use opener::Opener;
use sealer::Sealer;

/// A key that both ends of an encrypted link know: made from the job's, for this and nothing else.
#[derive(Clone)]
pub struct Psk(pub [u8; 32]);

const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"meander tcp 1";
/// Bytes of either message of the pattern: a public key and a seal.
const HANDSHAKE_BYTES: usize = 32 + SEAL_BYTES;
/// Bytes by which a sealed record is longer than what is in it.
const SEAL_BYTES: usize = 16;
/// Bytes of the length before a message or a record.
const LENGTH_BYTES: usize = 2;
/// The length of no message: what an acceptor says that can't open the first one.
const REFUSAL: [u8; LENGTH_BYTES] = [0; LENGTH_BYTES];

/// The encryption of one link.
pub(crate) struct Sealed {
    state: State,
    opener: Opener,
    sealer: Sealer,
    /// The last read has emptied the socket.
    drained: bool,
    /// It has begun to take bytes, and nobody has been told yet.
    opened: bool,
}

enum State {
    /// The peer's message of the pattern is awaited.
    Greeting(Box<HandshakeState>),
    Open(Box<TransportState>),
    /// The peer's message was not what it had to be.
    Failed,
}

impl Sealed {
    /// The side that dials: its message goes out with the first flush.
    pub(crate) fn dialler(psk: &Psk) -> Sealed {
        let built = builder(psk).build_initiator();
        let mut noise = built.expect("the pattern needs no keys but the shared one");
        let mut message = [0; HANDSHAKE_BYTES];
        noise
            .write_message(&[], &mut message)
            .expect("it is the dialler's turn, and the message has this length");
        let mut sealed = Sealed::with(noise);
        sealed.sealer.say(&message);
        sealed
    }

    /// The side that is dialled.
    pub(crate) fn acceptor(psk: &Psk) -> Sealed {
        let built = builder(psk).build_responder();
        Sealed::with(built.expect("the pattern needs no keys but the shared one"))
    }

    fn with(noise: HandshakeState) -> Sealed {
        Sealed {
            state: State::Greeting(Box::new(noise)),
            opener: Opener::new(),
            sealer: Sealer::default(),
            drained: false,
            opened: false,
        }
    }

    /// Reads from the socket unless a record is there already, and opens what there is room for.
    pub(crate) fn read(
        &mut self,
        socket: BorrowedFd<'_>,
        parts: &mut [IoSliceMut<'_>],
    ) -> Result<Read, LinkError> {
        if !self.opener.has_more()? {
            let room = self.opener.room();
            let asked = room.len();
            let read = outcome(
                recv(socket, room, RecvFlags::DONTWAIT).map(|(n, _)| n),
                asked,
            )?;
            match read {
                Read::None => return Ok(Read::None),
                Read::Some(count) | Read::Last(count) => self.opener.arrived(count),
            }
            self.drained = matches!(read, Read::Last(_));
        }
        if let State::Greeting(_) = self.state {
            self.greet(socket)?;
        }
        let mut count = 0;
        if let State::Open(noise) = &mut self.state {
            count = self.opener.open(noise, parts)?;
        }
        Ok(match self.drained && !self.opener.has_more()? {
            true => Read::Last(count),
            false => Read::Some(count),
        })
    }

    /// Seals some of these bytes and puts them on the socket. None while it is not open, or while earlier
    /// ones are not all on it.
    pub(crate) fn write(
        &mut self,
        socket: BorrowedFd<'_>,
        parts: &[IoSlice<'_>],
    ) -> Result<usize, Errno> {
        let empty = self.flush(socket)?;
        let State::Open(noise) = &mut self.state else {
            return Err(Errno::AGAIN);
        };
        if !empty {
            return Err(Errno::AGAIN);
        }
        let count = self.sealer.seal(noise, parts);
        self.flush(socket)?;
        Ok(count)
    }

    /// See [`crate::wire::Wire::flush`].
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        while !self.sealer.waiting().is_empty() {
            match send(socket, self.sealer.waiting(), WRITE_FLAGS) {
                Ok(count) => self.sealer.advance(count),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }

    /// Whether all that was sealed is on the socket.
    pub(crate) fn is_empty(&self) -> bool {
        self.sealer.waiting().is_empty()
    }

    /// See [`crate::wire::Wire::has_opened`].
    pub(crate) fn has_opened(&mut self) -> bool {
        std::mem::take(&mut self.opened)
    }

    /// Takes the peer's message of the pattern, if all of it is there, and answers it.
    fn greet(&mut self, socket: BorrowedFd<'_>) -> Result<(), LinkError> {
        let begins_plain = self.opener.begins_with([VERSION, FrameKind::Hello as u8]);
        if begins_plain {
            return Err(LinkError::Differs(UNLIKE_THEIRS));
        }
        let Some(message) = self.opener.greeting()? else {
            return Ok(());
        };
        let State::Greeting(mut noise) = std::mem::replace(&mut self.state, State::Failed) else {
            return Ok(());
        };
        let dialled = noise.is_initiator();
        let read = noise.read_message(&message, &mut []);
        if read.is_err() {
            if !dialled {
                // So that he learns why, and is not left to guess.
                let _ = send(socket, &REFUSAL, WRITE_FLAGS);
            }
            return Err(LinkError::Protocol(Violation::Proof));
        }
        if !dialled {
            let mut answer = [0; HANDSHAKE_BYTES];
            noise
                .write_message(&[], &mut answer)
                .expect("it is the acceptor's turn, and the message has this length");
            self.sealer.say(&answer);
        }
        let open = noise.into_transport_mode();
        self.state = State::Open(Box::new(open.expect("both messages are through")));
        self.opened = true;
        let failed = |errno: Errno| LinkError::Io {
            operation: "send",
            source: errno.into(),
        };
        self.flush(socket).map(|_| ()).map_err(failed)
    }
}

/// Why two ports can't talk of which one encrypts.
pub(crate) const UNLIKE_THEIRS: &str = "its TCP links are not encrypted, and this port's are";
/// See [`UNLIKE_THEIRS`].
pub(crate) const UNLIKE_OURS: &str = "its TCP links are encrypted, and this port's are not";

fn builder(psk: &Psk) -> snow::Builder<'_> {
    snow::Builder::new(NOISE.parse().expect("a valid pattern"))
        .psk(0, &psk.0)
        .prologue(PROLOGUE)
}

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Psk(..)")
    }
}

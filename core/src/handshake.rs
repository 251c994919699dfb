//! Setting up a link: who is there, and does he know the job's key? `docs/protocol.md`, "Set-up".
//!
//! The dialler says hello with a nonce; the acceptor answers with its own nonce and a proof over
//! both; the dialler proves itself over both. No secret travels, and neither side believes a word
//! of the other's (epoch, location, window) before the proof over these words has been verified.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, PortId};
use crate::key::Key;
use crate::limits;
use crate::location::Location;
use crate::transport::{Body, Frame};
use crate::wire::{AppHeader, FrameHeader, FrameKind, Violation, le32};

/// What each side says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Introduction {
    pub port: PortId,
    /// Whom it means to talk to.
    pub to: PortId,
    pub epoch: Epoch,
    pub location: Location,
    /// Eager bytes it grants to each stream.
    pub window: u64,
    pub nonce: [u8; 32],
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ChallengeBody {
    /// The acceptor's [`Introduction`], encoded: exactly these bytes are proved.
    introduction: Vec<u8>,
    proof: [u8; 32],
}

/// Why a proved link was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// The hello was meant for another port, which lived at this address before.
    WrongPort,
    /// The dialler has been replaced by a copy of itself with a higher epoch. `[R6]`
    StaleEpoch,
    /// The acceptor is dialling too, and its attempt goes first. `[R7]`
    Crossing,
}

/// Both introductions as they went over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Transcript {
    hello: Vec<u8>,
    challenge: Vec<u8>,
}

pub(crate) fn hello(me: &Introduction) -> (Frame, Vec<u8>) {
    let body = encode(me);
    (frame(FrameKind::Hello, body.clone()), body)
}

/// The acceptor's answer to a hello.
pub(crate) fn challenge(key: &Key, hello: &[u8], me: &Introduction) -> (Frame, Transcript) {
    let introduction = encode(me);
    let proof = key.proof("accept", &[hello, &introduction]);
    let transcript = Transcript {
        hello: hello.to_vec(),
        challenge: introduction.clone(),
    };
    let body = encode(&ChallengeBody {
        introduction,
        proof,
    });
    (frame(FrameKind::Challenge, body), transcript)
}

/// The dialler's side of a challenge: who answered, once proved, and the proof to send back.
pub(crate) fn prove(
    key: &Key,
    hello: &[u8],
    body: &[u8],
) -> Result<(Introduction, Frame), Violation> {
    let answer: ChallengeBody = decode(body)?;
    let parts = [hello, &answer.introduction];
    if !key.verify(&answer.proof, "accept", &parts) {
        return Err(Violation::Proof);
    }
    let proof = key.proof("dial", &parts);
    Ok((
        introduction(&answer.introduction)?,
        frame(FrameKind::Prove, proof.to_vec()),
    ))
}

/// The acceptor's check of the dialler's proof.
pub(crate) fn check(key: &Key, transcript: &Transcript, body: &[u8]) -> Result<(), Violation> {
    let proof: &[u8; 32] = body.try_into().map_err(|_| Violation::Malformed)?;
    if key.verify(proof, "dial", &[&transcript.hello, &transcript.challenge]) {
        Ok(())
    } else {
        Err(Violation::Proof)
    }
}

pub(crate) fn welcome() -> Frame {
    frame(FrameKind::Welcome, Vec::new())
}

pub(crate) fn refuse(why: Refusal) -> Frame {
    frame(FrameKind::Refuse, encode(&why))
}

pub(crate) fn refusal(body: &[u8]) -> Result<Refusal, Violation> {
    decode(body)
}

pub(crate) fn introduction(body: &[u8]) -> Result<Introduction, Violation> {
    let said: Introduction = decode(body)?;
    let cards = &said.location.cards;
    let too_much = said.location.node.0.len() > limits::NAME_BYTES
        || cards.len() > limits::CARDS
        || cards
            .iter()
            .any(|card| card.bytes.len() > limits::CARD_BYTES);
    if too_much || said.window < limits::FIRST_WINDOW_BYTES {
        return Err(Violation::Malformed);
    }
    Ok(said)
}

fn frame(kind: FrameKind, body: Vec<u8>) -> Frame {
    let mut header = FrameHeader::new(kind);
    header.body_len = le32(body.len() as u32);
    Frame {
        header,
        app: AppHeader::new(),
        body: Body::Own(body),
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data can be encoded")
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Violation> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(Violation::Malformed),
    }
}

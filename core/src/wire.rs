//! The frame header, as it is on the wire (`docs/protocol.md`, section "Frames").

use arrayvec::ArrayVec;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits;

/// The version this code speaks; a frame of another one breaks its link.
pub const VERSION: u8 = 1;
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = size_of::<FrameHeader>();

/// The application's own header of a message.
pub type AppHeader = ArrayVec<u8, { limits::APP_HEADER_BYTES }>;

/// The fixed part of every frame, little-endian. What `seq` and `arg` mean depends on the kind.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct FrameHeader {
    /// [`VERSION`].
    pub version: u8,
    /// A [`FrameKind`].
    pub kind: u8,
    /// Bytes of application header that follow.
    pub app_len: u8,
    /// Bits of [`flags`].
    pub flags: u8,
    /// The stream, where the kind has one.
    pub stream: U32,
    /// The item's place in its stream; for pulls and data the message they belong to.
    pub seq: U64,
    /// The next item the sender of this frame expects in the other direction.
    pub ack: U64,
    /// Eager bytes of the other direction that the application has read, from the stream's start.
    pub credit: U64,
    /// Offset or length, by kind.
    pub arg: U64,
    /// Bytes of body after the application header.
    pub body_len: U32,
    /// Zero; a later version may use it.
    pub reserved: U32,
}

/// Bits of [`FrameHeader::flags`].
pub mod flags {
    /// The sender asks for an acknowledgement at once.
    pub const SOLICIT: u8 = 1;
    /// The payload completes only when the peer has matched it (rendezvous).
    pub const SYNCHRONOUS: u8 = 2;
    /// A byte stream, not a message stream (on opens).
    pub const BYTES: u8 = 4;
}

macro_rules! frame_kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// The kinds of frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FrameKind { $($(#[$doc])* $name = $value,)* }

        impl FrameKind {
            /// Every kind, for coverage counts.
            pub const ALL: &'static [FrameKind] = &[$(FrameKind::$name,)*];

            fn from_byte(byte: u8) -> Option<FrameKind> {
                match byte { $($value => Some(FrameKind::$name),)* _ => None }
            }
        }
    };
}

frame_kinds! {
    /// First frame of the side that dialled.
    Hello = 1,
    /// The acceptor's nonce and proof.
    Challenge = 2,
    /// The dialler's proof.
    Prove = 3,
    /// The acceptor takes the link.
    Welcome = 4,
    /// The acceptor does not take the link, and says why.
    Refuse = 5,
    /// What this side expects next of one stream, on a new link.
    Resume = 6,
    /// All resume frames of this side have been sent.
    Resumed = 7,
    /// Acknowledgement and credit on their own.
    Ack = 8,
    /// Item: opens a stream.
    Open = 16,
    /// Item: the stream is accepted.
    Accept = 17,
    /// Item: the stream is refused.
    Reject = 18,
    /// Item: a message with its payload.
    Eager = 19,
    /// Item: a message whose payload waits at the sender; `arg` is its length.
    Envelope = 20,
    /// Item: the payload of the other direction's message `arg` has been received, or is not wanted.
    Done = 21,
    /// Item: nothing more comes in this direction.
    Finish = 22,
    /// Asks for the payload of message `seq` from offset `arg`.
    Pull = 32,
    /// Payload of message `seq` at offset `arg`.
    Data = 33,
}

impl FrameKind {
    /// Whether frames of this kind set a link up; nothing else is taken before it has proved itself.
    pub fn is_setup(self) -> bool {
        (FrameKind::Hello as u8..=FrameKind::Refuse as u8).contains(&(self as u8))
    }

    /// Whether frames of this kind have a sequence number of their own and are retained.
    pub fn is_item(self) -> bool {
        (FrameKind::Open as u8..=FrameKind::Finish as u8).contains(&(self as u8))
    }
}

/// What a peer did that the protocol forbids. It breaks the link, never the process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Another version of the protocol.
    #[error("frame of version {0}, this side speaks {VERSION}")]
    Version(u8),
    /// A kind that does not exist, or not in this state of the link.
    #[error("unexpected frame of kind {0}")]
    Kind(u8),
    /// A length field outside its bound.
    #[error("a length of {0} bytes is out of bounds")]
    Length(u64),
    /// A sequence number that leaves a gap or lies beyond what was sent.
    #[error("sequence number {0} out of place")]
    Sequence(u64),
    /// A stream that does not exist.
    #[error("no stream {0}")]
    Stream(u32),
    /// More eager payload than the window allows.
    #[error("the window was overrun")]
    Window,
    /// The body of a set-up or resume frame can't be decoded.
    #[error("the body can't be decoded")]
    Malformed,
    /// The peer did not prove the key.
    #[error("the peer did not prove that it knows the job's key")]
    Proof,
    /// What came over an encrypted link is not what was sent, or not in its place.
    #[error("what came does not decrypt: it was altered on its way")]
    Seal,
    /// Who answers is the peer, but not at the address that was dialled: somebody passes it on.
    #[error("the peer does not live where it was dialled")]
    Elsewhere,
    /// The peer is a copy that a move has left behind.
    #[error("the peer has epoch {0}, which a move has ended")]
    StaleEpoch(u64),
    /// The link took too long to prove itself.
    #[error("the peer did not prove itself in time")]
    TooSlow,
}

impl FrameHeader {
    /// A header of this kind, all else zero.
    pub fn new(kind: FrameKind) -> FrameHeader {
        FrameHeader {
            version: VERSION,
            kind: kind as u8,
            ..FrameHeader::default()
        }
    }

    /// Decodes a header and checks version, kind and lengths. `[R2]`
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<FrameHeader, Violation> {
        let header = FrameHeader::read_from_bytes(bytes).expect("the array has the right size");
        if header.version != VERSION {
            return Err(Violation::Version(header.version));
        }
        let kind = header.frame_kind()?;
        if usize::from(header.app_len) > limits::APP_HEADER_BYTES {
            return Err(Violation::Length(header.app_len.into()));
        }
        let body_max = match kind {
            FrameKind::Eager => limits::EAGER_BYTES_MAX,
            FrameKind::Data => limits::DATA_FRAME_BYTES,
            FrameKind::Hello | FrameKind::Challenge => limits::SETUP_BODY_BYTES,
            FrameKind::Prove => limits::PROOF_BYTES,
            FrameKind::Refuse => limits::REFUSAL_BYTES,
            _ => 0,
        };
        if header.body_bytes() > body_max {
            return Err(Violation::Length(header.body_bytes() as u64));
        }
        Ok(header)
    }

    /// The kind.
    pub fn frame_kind(&self) -> Result<FrameKind, Violation> {
        FrameKind::from_byte(self.kind).ok_or(Violation::Kind(self.kind))
    }

    /// Bytes of body.
    pub fn body_bytes(&self) -> usize {
        self.body_len.get() as usize
    }

    /// The header as it goes on the wire.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        zerocopy::transmute!(*self)
    }
}

/// Shorthand for the little-endian fields.
pub(crate) fn le64(value: u64) -> U64 {
    U64::new(value)
}
/// See [`le64`].
pub(crate) fn le32(value: u32) -> U32 {
    U32::new(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        let mut header = FrameHeader::new(FrameKind::Data);
        header.seq = le64(u64::MAX - 1);
        header.body_len = le32(limits::DATA_FRAME_BYTES as u32);
        assert_eq!(FrameHeader::parse(&header.to_bytes()), Ok(header));
        assert_eq!(HEADER_BYTES, 48);
    }

    #[test]
    fn versions_kinds_and_lengths_are_checked() {
        let parse = |change: fn(&mut FrameHeader)| {
            let mut header = FrameHeader::new(FrameKind::Eager);
            change(&mut header);
            FrameHeader::parse(&header.to_bytes())
        };
        assert_eq!(parse(|it| it.version = 9), Err(Violation::Version(9)));
        assert_eq!(parse(|it| it.kind = 99), Err(Violation::Kind(99)));
        assert_eq!(parse(|it| it.app_len = 65), Err(Violation::Length(65)));
        assert_eq!(
            parse(|it| it.body_len = le32(65_537)),
            Err(Violation::Length(65_537))
        );
        assert!(parse(|it| it.body_len = le32(65_536)).is_ok());
    }
}

//! A frame's head in a slot: its headers in as few bytes as they need, so that a frame with a small
//! body is one cache line.
//!
//! | bytes | what |
//! | --- | --- |
//! | 2 | widths of the numbers, two bits each: stream, seq, ack, credit, arg; then a bit for the rest |
//! | 1 | kind |
//! | 1 | bytes of application header |
//! | 1 | flags |
//! | 0, 1, 2 or 4 | stream |
//! | 0, 2, 4 or 8 each | seq, ack, credit, arg |
//! | 5, if its bit is set | version and reserved, where they are not what this version sends |
//! | as said | application header |
//!
//! The length of the body is in the slot's ready word.

use meander_core::wire::{AppHeader, FrameHeader, VERSION, Violation};

/// Bytes of a slot beside its ready word.
pub(crate) const ITEM_BYTES: usize = crate::limits::SLOT_BYTES - 8;
/// Bytes of them in the cache line of the ready word.
pub(crate) const LINE_BYTES: usize = 64 - 8;
/// The longest head: everything there, at full width.
pub(crate) const HEAD_BYTES_MAX: usize = 5 + 4 + 4 * 8 + 5 + meander_core::limits::APP_HEADER_BYTES;

/// The content of a slot, with room to write whole words past its end.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    bytes: [u8; ITEM_BYTES + 8],
    len: usize,
}

const ODD: u16 = 1 << 10;

impl Item {
    pub(crate) const fn new() -> Item {
        Item {
            bytes: [0; ITEM_BYTES + 8],
            len: 0,
        }
    }

    /// The head of a frame.
    pub(crate) fn encode(header: &FrameHeader, app: &[u8]) -> Item {
        let mut item = Item::new();
        item.len = 5;
        let mut widths = item.number(0, u64::from(header.stream.get()), 0);
        for (place, value) in [header.seq, header.ack, header.credit, header.arg]
            .into_iter()
            .enumerate()
        {
            widths |= item.number(1, value.get(), 2 * (place as u32 + 1));
        }
        if header.version != VERSION || header.reserved.get() != 0 {
            widths |= ODD;
            item.extend(&[header.version]);
            item.extend(&header.reserved.get().to_le_bytes());
        }
        item.bytes[..2].copy_from_slice(&widths.to_le_bytes());
        item.bytes[2] = header.kind;
        item.bytes[3] = header.app_len;
        item.bytes[4] = header.flags;
        item.extend(app);
        item
    }

    /// The headers of a frame, and where its head ends. Anything may stand in the item.
    pub(crate) fn decode(
        &self,
        body_len: u32,
    ) -> Result<(FrameHeader, AppHeader, usize), Violation> {
        let mut at = 5;
        let widths = u16::from_le_bytes([self.bytes[0], self.bytes[1]]);
        let mut number = |scale: u32, shift: u32| {
            let width = width(u32::from(widths >> shift) & 3, scale);
            let word = self.word(at);
            at += width;
            match width {
                0 => 0,
                width => word & (u64::MAX >> (64 - 8 * width)),
            }
        };
        let mut header = FrameHeader {
            version: VERSION,
            kind: self.bytes[2],
            app_len: self.bytes[3],
            flags: self.bytes[4],
            stream: (number(0, 0) as u32).into(),
            seq: number(1, 2).into(),
            ack: number(1, 4).into(),
            credit: number(1, 6).into(),
            arg: number(1, 8).into(),
            body_len: body_len.into(),
            reserved: 0.into(),
        };
        if widths & ODD != 0 {
            header.version = self.bytes[at];
            header.reserved = (self.word(at + 1) as u32).into();
            at += 5;
        }
        let header = FrameHeader::parse(&header.to_bytes())?;
        let end = at + usize::from(header.app_len);
        let too_long = || Violation::Length(end as u64);
        let app = self.bytes[..ITEM_BYTES].get(at..end).ok_or_else(too_long)?;
        let app = AppHeader::try_from(app).map_err(|_| too_long())?;
        Ok((header, app, end))
    }

    /// Appends a number in as few bytes as it needs; returns its width for the head.
    fn number(&mut self, scale: u32, value: u64, shift: u32) -> u16 {
        let code = code(value, scale);
        self.bytes[self.len..][..8].copy_from_slice(&value.to_le_bytes());
        self.len += width(code, scale);
        (code as u16) << shift
    }

    /// Appends bytes; whoever does so knows that they fit.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Eight bytes, of which some may lie past the end.
    pub(crate) fn word(&self, at: usize) -> u64 {
        let bytes = self.bytes.get(at..at + 8);
        bytes.map_or(0, |it| {
            u64::from_le_bytes(it.try_into().expect("it is eight"))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What is written to the slot, and read from it.
    pub(crate) fn bytes(&self) -> &[u8; ITEM_BYTES] {
        self.bytes.first_chunk().expect("it is longer")
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; ITEM_BYTES] {
        self.bytes.first_chunk_mut().expect("it is longer")
    }
}

/// How wide a number is: nothing, or 1 << scale bytes, or twice, or four times that.
fn code(value: u64, scale: u32) -> u32 {
    let bytes = (64 - value.leading_zeros()).div_ceil(8);
    match bytes {
        0 => 0,
        bytes if bytes <= 1 << scale => 1,
        bytes if bytes <= 2 << scale => 2,
        _ => 3,
    }
}

fn width(code: u32, scale: u32) -> usize {
    match code {
        0 => 0,
        code => 1 << (scale + code - 1),
    }
}

#[cfg(test)]
mod tests {
    use meander_core::limits::APP_HEADER_BYTES;
    use meander_core::wire::FrameKind;
    use proptest::prelude::*;

    use super::*;

    /// Numbers of every width.
    fn numbers() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0u32..=64).prop_map(|(value, bits)| value.checked_shr(bits).unwrap_or(0))
    }

    proptest! {
        #[test]
        fn a_head_comes_back_as_it_was(
            kind in prop::sample::select(FrameKind::ALL),
            flags: u8,
            numbers in [numbers(), numbers(), numbers(), numbers(), numbers()],
            reserved in prop::sample::select(vec![0, 1, u32::MAX]),
            app in prop::collection::vec(any::<u8>(), 0..=APP_HEADER_BYTES),
        ) {
            let [stream, seq, ack, credit, arg] = numbers;
            let header = FrameHeader {
                flags,
                app_len: app.len() as u8,
                stream: (stream as u32).into(),
                seq: seq.into(),
                ack: ack.into(),
                credit: credit.into(),
                arg: arg.into(),
                reserved: reserved.into(),
                ..FrameHeader::new(kind)
            };
            let item = Item::encode(&header, &app);
            prop_assert!(item.len() <= HEAD_BYTES_MAX);
            let (decoded, got, end) = item.decode(0).unwrap();
            prop_assert_eq!((decoded, &got[..], end), (header, &app[..], item.len()));
        }

        #[test]
        fn nonsense_is_an_error_or_a_frame(bytes: [u8; 32], rest: u8, body_len in 0u32..1 << 24) {
            let mut item = Item::new();
            item.bytes_mut().fill(rest);
            item.bytes_mut()[..32].copy_from_slice(&bytes);
            if let Ok((header, app, end)) = item.decode(body_len) {
                prop_assert!(end <= ITEM_BYTES);
                prop_assert_eq!(usize::from(header.app_len), app.len());
            }
        }
    }

    #[test]
    fn a_small_message_is_one_line() {
        let header = FrameHeader {
            app_len: 16,
            stream: 3.into(),
            seq: (u64::from(u32::MAX)).into(),
            ack: (u64::from(u32::MAX)).into(),
            credit: u64::MAX.into(),
            ..FrameHeader::new(FrameKind::Eager)
        };
        let head = Item::encode(&header, &[0; 16]).len();
        assert!(head + 8 <= LINE_BYTES, "{head}");
    }

    #[test]
    fn versions_and_kinds_are_seen() {
        let other = FrameHeader {
            version: VERSION + 1,
            ..FrameHeader::new(FrameKind::Ack)
        };
        let wrong = Item::encode(&other, &[]).decode(0);
        assert_eq!(wrong.unwrap_err(), Violation::Version(VERSION + 1));
        let other = FrameHeader {
            kind: 200,
            ..FrameHeader::new(FrameKind::Ack)
        };
        let wrong = Item::encode(&other, &[]).decode(0);
        assert_eq!(wrong.unwrap_err(), Violation::Kind(200));
    }
}

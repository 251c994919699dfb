//! The card of a port that is reached by verbs.

use std::net::SocketAddr;

use meander_core::{Card, TransportKind};
use serde::{Deserialize, Serialize};

use crate::limits;

/// What is in a card; encoded in postcard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    /// [`VERSION`].
    pub version: u8,
    /// 1 is InfiniBand, 2 is Ethernet: links are between equals.
    pub link_layer: u8,
    /// The port's address.
    pub gid: [u8; 16],
    /// Where its listener is.
    pub addresses: Vec<SocketAddr>,
}

/// The version of cards, of what is said over the set-up connection, and of packets.
pub(crate) const VERSION: u8 = 1;

impl Contents {
    /// The card.
    pub fn encode(&self) -> Card {
        let bytes = postcard::to_stdvec(self).expect("numbers and addresses can be encoded");
        debug_assert!(bytes.len() <= meander_core::limits::CARD_BYTES);
        Card {
            transport: TransportKind::Verbs,
            bytes,
        }
    }

    /// The contents of a card; `None` where it is not one of ours. `[R60]`
    pub fn parse(card: &Card) -> Option<Contents> {
        if card.transport != TransportKind::Verbs
            || card.bytes.len() > meander_core::limits::CARD_BYTES
        {
            return None;
        }
        let (contents, rest) = postcard::take_from_bytes::<Contents>(&card.bytes).ok()?;
        let right = contents.version == VERSION && rest.is_empty();
        let addressed = (1..=limits::ADDRESSES).contains(&contents.addresses.len());
        (right && addressed).then_some(contents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(addresses: usize) -> Contents {
        Contents {
            version: VERSION,
            link_layer: 2,
            gid: [7; 16],
            addresses: vec!["[fd00::1]:65535".parse().unwrap(); addresses],
        }
    }

    #[test]
    fn a_card_survives_encoding_and_fits() {
        let card = contents(limits::ADDRESSES).encode();
        assert!(card.bytes.len() <= meander_core::limits::CARD_BYTES);
        assert_eq!(Contents::parse(&card), Some(contents(limits::ADDRESSES)));
    }

    /// [R60]
    #[test]
    fn foreign_empty_and_broken_cards_are_refused() {
        let good = contents(1).encode();
        let with = |bytes: Vec<u8>| Card {
            bytes,
            ..good.clone()
        };
        assert_eq!(Contents::parse(&contents(0).encode()), None);
        assert_eq!(
            Contents::parse(&contents(limits::ADDRESSES + 1).encode()),
            None
        );
        let foreign = Card {
            transport: TransportKind::Tcp,
            ..good.clone()
        };
        assert_eq!(Contents::parse(&foreign), None);
        assert_eq!(Contents::parse(&with(vec![0xff; 40])), None);
        let newer = [&[VERSION + 1], &good.bytes[1..]].concat();
        assert_eq!(Contents::parse(&with(newer)), None);
        let longer = [&good.bytes[..], &[0]].concat();
        assert_eq!(Contents::parse(&with(longer)), None);
        assert!(Contents::parse(&good).is_some());
    }
}

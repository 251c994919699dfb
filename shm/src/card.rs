//! A port's card: the name of its listener.

use meander_core::{Card, TransportKind};

/// The version of set-up and segment; another one is another transport.
pub(crate) const VERSION: u8 = 1;

/// A listener's name in the abstract namespace, which nobody can guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) [u8; 16]);

impl Name {
    /// A name that nobody has had before.
    pub(crate) fn random() -> Result<Name, getrandom::Error> {
        let mut name = [0; 16];
        getrandom::fill(&mut name)?;
        Ok(Name(name))
    }

    /// The name as the system knows it.
    pub(crate) fn address(self) -> Vec<u8> {
        let hexadecimal = self.0.iter().map(|byte| format!("{byte:02x}"));
        format!("meander-{}", hexadecimal.collect::<String>()).into_bytes()
    }

    /// The card of this listener: the version, and the name.
    pub(crate) fn card(self) -> Card {
        let mut bytes = vec![VERSION];
        bytes.extend(self.0);
        Card {
            transport: TransportKind::Shm,
            bytes,
        }
    }

    /// The listener of a card; `None` where it is not one of ours.
    pub(crate) fn of(card: &Card) -> Option<Name> {
        let (version, name) = card.bytes.split_first()?;
        let ours = card.transport == TransportKind::Shm && *version == VERSION;
        ours.then(|| name.try_into().ok().map(Name)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_survives_and_others_are_refused() {
        let name = Name::random().unwrap();
        let card = name.card();
        assert_eq!(Name::of(&card), Some(name));
        for len in 0..card.bytes.len() {
            let bytes = card.bytes[..len].to_vec();
            let short = Card {
                bytes,
                ..card.clone()
            };
            assert_eq!(Name::of(&short), None);
        }
        let mut later = card.clone();
        later.bytes[0] = VERSION + 1;
        assert_eq!(Name::of(&later), None);
        let foreign = Card {
            transport: TransportKind::Tcp,
            ..card
        };
        assert_eq!(Name::of(&foreign), None);
    }
}

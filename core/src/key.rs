//! The key of a job, and proofs that one knows it.

use std::fmt;

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// What every port of one job shares and nobody else knows. It never travels over a link: links
/// prove it by challenge and response ([`Key::proof`]).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// HMAC-SHA256 over `label` and `parts`, each preceded by its length.
    pub fn proof(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any key length is valid");
        for part in std::iter::once(&label.as_bytes()).chain(parts) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Whether `proof` is the one this key gives, compared in constant time.
    pub fn verify(&self, proof: &[u8; 32], label: &str, parts: &[&[u8]]) -> bool {
        self.proof(label, parts).ct_eq(proof).into()
    }

    /// A key for another purpose, from which this one can't be told.
    pub fn derive(&self, label: &str) -> Key {
        Key(self.proof("derive", &[label.as_bytes()]))
    }
}

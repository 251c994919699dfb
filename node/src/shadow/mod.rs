//! What stays at the original pid so that the launcher still has its child.

pub(crate) mod relay;

use meander::{Contact, Key};
use serde::{Deserialize, Serialize};

/// What a shadow is told: where its rank's guardian is. Made by the guardian
/// ([`crate::guardian::Prepared::shadow_config`]), carried to the source in the confirmation.
/// Holds a key: secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The key of the one stream between shadow and guardian.
    pub key: Key,
    /// Where the guardian is now.
    pub guardian: Contact,
}

/// The hidden subcommand.
pub(crate) fn main() -> std::process::ExitCode {
    todo!()
}

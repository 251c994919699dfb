//! The transports that can be chosen.

use clap::ValueEnum;
use meander::{TransportKind, VerbsConfig};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    Verbs,
    Shm,
    Tcp,
}

impl Transport {
    pub fn kind(self) -> TransportKind {
        match self {
            Transport::Verbs => TransportKind::Verbs,
            Transport::Shm => TransportKind::Shm,
            Transport::Tcp => TransportKind::Tcp,
        }
    }
}

/// What is measured in one run: what was asked for; else what the environment says, which is `None`; else
/// every transport that there is.
pub fn chosen(asked: &[Transport], from_environment: bool) -> Vec<Option<Transport>> {
    if !asked.is_empty() {
        return asked.iter().copied().map(Some).collect();
    }
    if from_environment || std::env::var_os("MEANDER_TRANSPORT").is_some() {
        return vec![None];
    }
    let verbs = meander::verbs_here(&VerbsConfig::default()).is_ok();
    let verbs = verbs.then_some(Transport::Verbs);
    let all = verbs.into_iter().chain([Transport::Shm, Transport::Tcp]);
    all.map(Some).collect()
}

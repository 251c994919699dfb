//! What a port is opened with.

use std::net::IpAddr;
use std::str::FromStr;

use meander_core::{Key, Limits, NodeName, TransportKind};

use meander_verbs::VerbsConfig;

use crate::Error;

/// What a port is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the ports of one job share; links prove that both ends know it.
    pub key: Key,
    /// The bounds of the protocol.
    pub limits: Limits,
    /// The node, where it is known; an agent tells it otherwise.
    pub node: NodeName,
    /// The transports to use, each of which must work here. `None`: every one that does.
    pub transports: Option<Vec<TransportKind>>,
    /// The TCP transport.
    pub tcp: TcpConfig,
    /// The transport over InfiniBand and RoCE.
    pub verbs: VerbsConfig,
    /// Longest message that [`crate::Stream::recv`] takes, in bytes; a longer one is declined.
    pub message_bytes_max: u64,
}

/// How the port is reached over TCP.
#[derive(Clone, Debug, Default)]
pub struct TcpConfig {
    /// The addresses to listen on, all with one port number that the system chooses. Empty: every
    /// address of the node but loopback, and loopback where there is no other.
    pub bind: Vec<IpAddr>,
    /// Encrypts every link, for a network on which others can read or alter what passes. A port that does
    /// can only talk to ports that do; the key of the encryption comes from the job's.
    pub encryption: bool,
}

impl Config {
    /// The defaults, with this key.
    pub fn new(key: Key) -> Config {
        Config {
            key,
            limits: Limits::default(),
            node: NodeName::default(),
            transports: None,
            tcp: TcpConfig::default(),
            verbs: VerbsConfig::default(),
            message_bytes_max: 1 << 30,
        }
    }

    /// The defaults, with this key and what the environment says: `MEANDER_TRANSPORT`, names of
    /// transports separated by commas, is what to use; `MEANDER_TCP_ADDR`, IP addresses separated by commas,
    /// is where to listen; `MEANDER_TCP_ENCRYPTION`, `on` or `off`, is whether TCP links are encrypted;
    /// `MEANDER_VERBS_DEVICE`, `_PORT`, `_GID_INDEX`, `_MTU`, `_SERVICE_LEVEL` and `_TRAFFIC_CLASS` are the
    /// fields of [`VerbsConfig`] of these names.
    pub fn from_env(key: Key) -> Result<Config, Error> {
        let mut config = Config::new(key);
        if let Ok(text) = std::env::var("MEANDER_TRANSPORT") {
            let names = words(&text).map(|word| {
                transport_named(word).ok_or_else(|| Error::BadTransport(word.to_owned()))
            });
            config.transports = Some(names.collect::<Result<_, _>>()?);
        }
        if let Ok(text) = std::env::var("MEANDER_TCP_ADDR") {
            config.tcp.bind = words(&text)
                .map(|word| word.parse().map_err(|_| Error::BadAddress(word.to_owned())))
                .collect::<Result<_, _>>()?;
        }
        config.tcp.encryption = TcpConfig::encryption_from_env()?;
        config.verbs = verbs_from_env()?;
        Ok(config)
    }
}

impl TcpConfig {
    /// What `MEANDER_TCP_ENCRYPTION` says; `off` where it says nothing.
    pub fn encryption_from_env() -> Result<bool, Error> {
        match std::env::var_os("MEANDER_TCP_ENCRYPTION") {
            None => Ok(false),
            Some(word) if word.is_empty() || word == "off" => Ok(false),
            Some(word) if word == "on" => Ok(true),
            Some(word) => Err(Error::BadEncryption(word.to_string_lossy().into_owned())),
        }
    }
}

fn verbs_from_env() -> Result<VerbsConfig, Error> {
    let default = VerbsConfig::default();
    Ok(VerbsConfig {
        device: std::env::var("MEANDER_VERBS_DEVICE").ok(),
        port: number("MEANDER_VERBS_PORT", "the number of a port, from 1")?,
        gid_index: number("MEANDER_VERBS_GID_INDEX", "the index of a GID, from 0")?,
        mtu_bytes: number("MEANDER_VERBS_MTU", "a number of bytes, 256 to 4096")?,
        service_level: number("MEANDER_VERBS_SERVICE_LEVEL", "a number from 0 to 15")?
            .unwrap_or(default.service_level),
        traffic_class: number("MEANDER_VERBS_TRAFFIC_CLASS", "a number from 0 to 255")?
            .unwrap_or(default.traffic_class),
        ..default
    })
}

/// The number that a variable says, if it says anything.
fn number<T: FromStr>(variable: &'static str, wanted: &'static str) -> Result<Option<T>, Error> {
    let Ok(value) = std::env::var(variable) else {
        return Ok(None);
    };
    let parsed = value.trim().parse();
    parsed.map(Some).map_err(|_| Error::BadVariable {
        variable,
        value,
        wanted,
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

/// The transports by the names they have in the environment.
fn transport_named(name: &str) -> Option<TransportKind> {
    match name {
        "shm" => Some(TransportKind::Shm),
        "tcp" => Some(TransportKind::Tcp),
        "verbs" => Some(TransportKind::Verbs),
        _ => None,
    }
}

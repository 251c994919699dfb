//! Hearing the other side of a move, and noticing that it is gone.
//!
//! A stream waits for ever for a peer that is out of reach, as long as it owes the peer nothing: it
//! may be moving. Movers and guardians do not move.

use std::time::{Duration, Instant};

use meander::Stream;

/// How long the other side may be out of reach before it counts as lost.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(10);

/// What was heard.
pub enum Heard {
    /// A message.
    Message(Vec<u8>),
    /// Nothing in that time.
    Nothing,
    /// Nothing will be heard any more.
    Lost(String),
}

/// Keeps count of how long the other side has been out of reach.
#[derive(Default)]
pub struct Hearing {
    silent_since: Option<Instant>,
}

impl Hearing {
    /// Waits at most so long for the next message.
    pub fn hear(&mut self, stream: &Stream, wait: Duration) -> Heard {
        match stream.recv(Some(wait)) {
            Ok(Some(message)) => {
                self.silent_since = None;
                Heard::Message(message)
            }
            Ok(None) => Heard::Lost("it has ended".into()),
            Err(meander::Error::TimedOut { .. }) => {
                self.silent_since = None;
                Heard::Nothing
            }
            Err(meander::Error::Moving { .. }) => {
                let since = self.silent_since.get_or_insert_with(Instant::now);
                match since.elapsed() > PEER_TIMEOUT {
                    true => Heard::Lost(format!("it was out of reach for {PEER_TIMEOUT:?}")),
                    false => Heard::Nothing,
                }
            }
            Err(error) => Heard::Lost(error.to_string()),
        }
    }
}

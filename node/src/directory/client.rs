//! Asking the directory.

use std::sync::Mutex;
use std::time::Duration;

use meander::{Key, PortId};
use meander_core::directory::{Entry, Reply, Request};
use meander_core::moves::Asked;

use crate::Error;
use crate::cluster::Cluster;
use crate::net::secure::Secure;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the directory, made when it is needed and made again when it breaks.
pub struct Client {
    cluster: Cluster,
    key: Key,
    connection: Mutex<Option<Secure>>,
}

impl Client {
    /// For the directory of this cluster. Does not connect yet.
    pub fn new(cluster: Cluster, key: Key) -> Client {
        Client {
            cluster,
            key,
            connection: Mutex::new(None),
        }
    }

    /// Asks once, and says how sure it is that the question did not arrive.
    pub fn ask(&self, request: &Request) -> Asked {
        let mut connection = self.connection.lock().expect("nothing panics while asking");
        // A kept connection may have died of a restarted directory. That the question went into
        // it does not mean that it arrived, nor that it did not.
        let kept = connection.take();
        let was_kept = kept.is_some();
        let mut secure = match kept.map_or_else(|| self.connect(), Ok) {
            Ok(secure) => secure,
            Err(error) => return Asked::NotSent(error.to_string()),
        };
        let answer = secure
            .send(request)
            .and_then(|()| secure.receive::<Reply>(Some(ANSWER_TIMEOUT)));
        match answer {
            Ok(reply) => {
                *connection = Some(secure);
                Asked::Answered(reply)
            }
            Err(error) => {
                tracing::debug!(was_kept, "asking the directory: {error}");
                Asked::Unknown(error.to_string())
            }
        }
    }

    /// Asks a question that does no harm when it is asked twice: twice.
    pub fn request(&self, request: &Request) -> Result<Reply, Error> {
        let mut asked = self.ask(request);
        if let Asked::Unknown(_) = asked {
            asked = self.ask(request);
        }
        match asked {
            Asked::Answered(reply) => Ok(reply),
            Asked::NotSent(why) | Asked::Unknown(why) => Err(Error::NoDirectory { why }),
        }
    }

    /// What is known of a port.
    pub fn lookup(&self, port: PortId) -> Result<Option<Entry>, Error> {
        match self.request(&Request::Lookup { port })? {
            Reply::Found(entry) => Ok(entry),
            Reply::Ended(_) => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    /// Everything.
    pub fn list(&self) -> Result<Vec<(PortId, Entry)>, Error> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            match self.request(&Request::List { after })? {
                Reply::Listed { ports, more } => {
                    let empty = ports.is_empty();
                    all.extend(ports);
                    after = all.last().map(|(port, _)| *port);
                    if !more || empty {
                        return Ok(all);
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    fn connect(&self) -> Result<Secure, Error> {
        let peer = format!("the directory on {}", self.cluster.directory_node());
        Secure::connect(&peer, self.cluster.directory_address()?, &self.key)
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Protocol {
        peer: "the directory".into(),
        why: format!("answered {reply:?}"),
    }
}

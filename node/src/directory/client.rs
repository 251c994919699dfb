//! Asking the directory, whatever it is made of.

use std::collections::BTreeSet;
use std::time::Duration;

use meander::{Key, NodeName, PortId};
use meander_core::directory::{Entry, Reply, Request};
use meander_core::moves::Asked;

use super::backend::Backend;
use super::{embedded, etcd};
use crate::Error;
use crate::cluster::{Cluster, Holder};

/// The directory of a cluster.
pub struct Client {
    backend: Box<dyn Backend>,
    lease: Duration,
}

impl Client {
    /// For the directory of this cluster. Does not connect yet.
    pub fn new(cluster: &Cluster, key: &Key) -> Client {
        let backend: Box<dyn Backend> = match cluster.holder() {
            Holder::Node(_) => Box::new(embedded::Connection::new(cluster.clone(), key.clone())),
            Holder::Etcd(endpoints) => Box::new(etcd::Etcd::new(endpoints, key)),
        };
        Client::over(backend, cluster.lease())
    }

    /// Over any backend; `lease` is how long a node counts as alive that was not heard of.
    pub fn over(backend: Box<dyn Backend>, lease: Duration) -> Client {
        Client { backend, lease }
    }

    /// How long a node counts as alive that was not heard of.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Asks once, and says how sure it is that the question did not arrive.
    pub fn ask(&self, request: &Request) -> Asked {
        self.backend.ask(request)
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

    /// See [`Backend::wait_change`].
    pub fn wait_change(
        &self,
        port: PortId,
        seen: Option<&Entry>,
        wait: Duration,
    ) -> Result<Option<Entry>, Error> {
        self.backend.wait_change(port, seen, wait)
    }

    /// Renews a node's lease, once.
    pub fn hold_lease(&self, node: &NodeName) -> Result<(), Error> {
        self.backend.hold_lease(node, self.lease)
    }

    /// The nodes whose lease has not run out.
    pub fn alive(&self) -> Result<BTreeSet<NodeName>, Error> {
        self.backend.alive()
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Protocol {
        peer: "the directory".into(),
        why: format!("answered {reply:?}"),
    }
}

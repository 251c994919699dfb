//! Asking the directory's process, wherever it is.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use meander::{Key, NodeName, PortId};
use meander_core::directory::{Entry, Request};
use meander_core::moves::Asked;

use super::place::{Place, Places};
use super::wire::{Answer, Question, Role, connect, exchange, role_at, unexpected};
use crate::Error;
use crate::cluster::Cluster;
use crate::directory::backend::{ANSWER_TIMEOUT, Backend, WAIT_MAX};
use crate::net::secure::Secure;

/// How long a directory that is being handed over is waited for.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(3);
/// Pause before one that is being handed over is asked again.
const HANDOVER_PAUSE: Duration = Duration::from_millis(20);
/// How long a hand-over may take.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(120);
/// Nodes that may be followed from one to the next.
const HOPS: usize = 8;

/// A connection to the directory, made when it is needed and made again when it breaks.
pub struct Connection {
    cluster: Cluster,
    key: Key,
    places: Places,
    kept: Mutex<Option<Secure>>,
}

/// Why a question was not answered.
enum Lost {
    /// It has certainly not arrived.
    NotSent(String),
    /// It may have.
    Unknown(String),
}

/// How a question was answered.
enum Told {
    Answer(Answer),
    /// The process that has it does not hold the directory (now), and has done nothing.
    NotHolder(Role),
}

impl Connection {
    /// For the directory of this cluster. Does not connect yet.
    pub fn new(cluster: Cluster, key: Key) -> Connection {
        let places = Places::open(&cluster, &key);
        Connection::from(places, cluster, key)
    }

    /// The same, with the places that were learned elsewhere.
    pub fn from(places: Places, cluster: Cluster, key: Key) -> Connection {
        Connection {
            places,
            cluster,
            key,
            kept: Mutex::new(None),
        }
    }

    /// Who holds the directory, after asking.
    pub fn place(&self) -> Result<Place, Error> {
        self.reach().map(|_| self.places.last())
    }

    /// Has the holder hand the directory over. `to` runs a directory's process already.
    pub fn hand_over(&self, to: &NodeName) -> Result<Place, Error> {
        let question = Question::HandOver { to: to.clone() };
        let mut secure = self.reach()?;
        match exchange(&mut secure, &question, HANDOVER_TIMEOUT)? {
            Answer::Role(Role::Gone { term, to: node }) => {
                let place = Place { term, node };
                self.places.learn(place.clone());
                Ok(place)
            }
            Answer::Failed(why) => Err(Error::Trouble(why)),
            other => Err(unexpected(&secure, &other)),
        }
    }

    /// Asks over the kept connection, or a new one.
    fn over_kept(&self, question: &Question) -> Result<Told, Lost> {
        let mut connection = self.kept.lock().expect("nothing panics while asking");
        // A kept connection may have died of a restarted directory. That the question went into
        // it does not mean that it arrived, nor that it did not.
        let mut secure = match connection.take().map_or_else(|| self.reach(), Ok) {
            Ok(secure) => secure,
            Err(error) => return Err(Lost::NotSent(error.to_string())),
        };
        match exchange(&mut secure, question, ANSWER_TIMEOUT) {
            Ok(Answer::NotHolder(role)) => Ok(Told::NotHolder(role)),
            Ok(answer) => {
                *connection = Some(secure);
                Ok(Told::Answer(answer))
            }
            Err(error) => {
                tracing::debug!("asking the directory: {error}");
                Err(Lost::Unknown(error.to_string()))
            }
        }
    }

    /// Asks until whoever is asked holds the directory.
    fn follow(&self, mut ask: impl FnMut() -> Result<Told, Lost>) -> Result<Answer, Lost> {
        let started = Instant::now();
        loop {
            let role = match ask()? {
                Told::Answer(answer) => return Ok(answer),
                Told::NotHolder(role) => role,
            };
            match role {
                Role::Gone { term, to } => self.places.learn(Place { term, node: to }),
                _ => std::thread::sleep(HANDOVER_PAUSE),
            }
            if started.elapsed() > HANDOVER_PATIENCE {
                return Err(Lost::NotSent("it is being handed over".into()));
            }
        }
    }

    /// For questions that do no harm when they are asked twice.
    fn settled(&self, question: &Question) -> Result<Answer, Error> {
        let mut asked = self.follow(|| self.over_kept(question));
        if let Err(Lost::Unknown(_)) = asked {
            asked = self.follow(|| self.over_kept(question));
        }
        asked.map_err(lost)
    }

    /// A connection to the node that holds the directory. `[R52]`
    fn reach(&self) -> Result<Secure, Error> {
        let started = Instant::now();
        let mut place = self.places.last();
        let mut hops = 0;
        loop {
            let why = match connect(&self.cluster, &self.key, &place.node) {
                Ok((secure, Role::Holder { term })) if term >= place.term => {
                    let node = place.node;
                    self.places.learn(Place { term, node });
                    return Ok(secure);
                }
                Ok((_, Role::Gone { term, to })) if term >= place.term && hops < HOPS => {
                    hops += 1;
                    place = Place { term, node: to };
                    continue;
                }
                Ok((_, Role::Taking { .. } | Role::Giving { .. }))
                    if started.elapsed() < HANDOVER_PATIENCE =>
                {
                    std::thread::sleep(HANDOVER_PAUSE);
                    continue;
                }
                Ok((_, role)) => Error::NoDirectory {
                    why: format!("{} should hold it, and says {role:?}", place.node),
                },
                Err(error) => error,
            };
            match ask_around(&self.cluster, &self.key, None) {
                Some(other) if other.term > place.term && hops < HOPS => {
                    hops += 1;
                    place = other;
                }
                _ => return Err(why),
            }
        }
    }
}

impl Backend for Connection {
    fn ask(&self, request: &Request) -> Asked {
        let question = Question::Ask(request.clone());
        match self.follow(|| self.over_kept(&question)) {
            Ok(Answer::Reply(reply)) => Asked::Answered(reply),
            Ok(other) => Asked::Unknown(format!("the directory answered {other:?}")),
            Err(Lost::NotSent(why)) => Asked::NotSent(why),
            Err(Lost::Unknown(why)) => Asked::Unknown(why),
        }
    }

    fn wait_change(
        &self,
        port: PortId,
        seen: Option<&Entry>,
        wait: Duration,
    ) -> Result<Option<Entry>, Error> {
        let until = Instant::now() + wait.min(WAIT_MAX);
        let answer = self.follow(|| {
            // A connection of its own: others must not wait for it.
            let mut secure = self.reach().map_err(|e| Lost::NotSent(e.to_string()))?;
            let wait = until.saturating_duration_since(Instant::now());
            let question = Question::WaitChange {
                port,
                seen: seen.cloned(),
                wait,
            };
            match exchange(&mut secure, &question, wait + ANSWER_TIMEOUT) {
                Ok(Answer::NotHolder(role)) => Ok(Told::NotHolder(role)),
                Ok(answer) => Ok(Told::Answer(answer)),
                Err(error) => Err(Lost::Unknown(error.to_string())),
            }
        });
        match answer.map_err(lost)? {
            Answer::Changed(entry) => Ok(entry),
            other => Err(strange(&other)),
        }
    }

    fn hold_lease(&self, node: &NodeName, lease: Duration) -> Result<(), Error> {
        let node = node.clone();
        match self.settled(&Question::HoldLease { node, lease })? {
            Answer::Done => Ok(()),
            other => Err(strange(&other)),
        }
    }

    fn alive(&self) -> Result<BTreeSet<NodeName>, Error> {
        match self.settled(&Question::Alive)? {
            Answer::Alive(nodes) => Ok(nodes.into_iter().collect()),
            other => Err(strange(&other)),
        }
    }
}

/// Asks all nodes (but one) at once whether they hold the directory, or know who does.
pub(super) fn ask_around(cluster: &Cluster, key: &Key, but: Option<&NodeName>) -> Option<Place> {
    let nodes: Vec<NodeName> = cluster.nodes().filter(|node| Some(node) != but).collect();
    let told: Vec<Option<Place>> = std::thread::scope(|scope| {
        let threads: Vec<_> = nodes
            .into_iter()
            .map(|node| {
                scope.spawn(move || match role_at(cluster, key, &node).ok()? {
                    Role::Holder { term } => Some(Place { term, node }),
                    Role::Gone { term, to } => Some(Place { term, node: to }),
                    _ => None,
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(Result::unwrap_or_default).collect()
    });
    told.into_iter().flatten().max_by_key(|place| place.term)
}

fn lost(lost: Lost) -> Error {
    let (Lost::NotSent(why) | Lost::Unknown(why)) = lost;
    Error::NoDirectory { why }
}

fn strange(answer: &Answer) -> Error {
    Error::Protocol {
        peer: "the directory".into(),
        why: format!("answered {answer:?}"),
    }
}

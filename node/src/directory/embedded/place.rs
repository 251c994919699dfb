//! Who holds the directory, as far as this node knows.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use meander::{Key, NodeName};

use super::state_dir;
use crate::cluster::Cluster;
use crate::keyfile;

/// Who holds the directory, and since which term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The term.
    pub term: u64,
    /// The node.
    pub node: NodeName,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "on {}, in its term {}", self.node, self.term)
    }
}

/// The last place that was learned, which is kept in a file: `TERM NODE`. Before the first
/// hand-over there is none, and the cluster file says it.
pub struct Places {
    path: PathBuf,
    known: Mutex<Place>,
}

impl Places {
    /// As this node last learned it.
    pub fn open(cluster: &Cluster, key: &Key) -> Places {
        Places::open_in(&state_dir(), cluster, key)
    }

    /// The same, kept in another directory.
    pub fn open_in(directory: &Path, cluster: &Cluster, key: &Key) -> Places {
        let name = format!("directory-{}.place", keyfile::fingerprint(key));
        let path = directory.join(name);
        let first = Place {
            term: 0,
            node: cluster.first_holder(),
        };
        // A node that the cluster file does not name any more can't be asked.
        let named = |place: &Place| cluster.nodes().any(|node| node == place.node);
        let kept = fs::read_to_string(&path).ok().and_then(|text| parse(&text));
        Places {
            path,
            known: Mutex::new(kept.filter(named).unwrap_or(first)),
        }
    }

    /// The last one.
    pub fn last(&self) -> Place {
        self.lock().clone()
    }

    /// Remembers a later one. A file that can't be written costs a detour after a restart, no more.
    pub fn learn(&self, place: Place) {
        let mut known = self.lock();
        if place.term <= known.term {
            return;
        }
        tracing::info!(
            "the directory is on {}, in its term {}",
            place.node,
            place.term
        );
        let text = format!("{} {}\n", place.term, place.node);
        // Beside it first: several processes of a node write it.
        let beside = self
            .path
            .with_extension(format!("place.{}", std::process::id()));
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let kept = fs::create_dir_all(directory)
            .and_then(|()| fs::write(&beside, text))
            .and_then(|()| fs::rename(&beside, &self.path));
        if let Err(error) = kept {
            tracing::debug!("keeping the directory's place: {error}");
        }
        *known = place;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Place> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(text: &str) -> Option<Place> {
    let (term, node) = text.trim_end().split_once(' ')?;
    Some(Place {
        term: term.parse().ok()?,
        node: NodeName(node.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_damaged_is_none() {
        let node = NodeName("c".into());
        assert_eq!(parse("7 c\n"), Some(Place { term: 7, node }));
        for text in ["", "7", "x c\n", "-1 c\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}

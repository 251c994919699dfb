//! The cluster file: which nodes there are, where their agents listen, who holds the directory.
//!
//! ```toml
//! directory = "a"                         # or "etcd://10.77.0.1:2379,10.77.0.2:2379"
//! lease_s = 30                            # optional: silence after which a node counts as dead
//! [nodes.a]
//! address = "10.77.0.1:7117"
//! directory_address = "10.77.0.1:7118"   # optional: the address with its port plus one
//! [nodes.b]
//! address = "10.77.0.2:7117"
//! ```

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use meander::NodeName;
use meander_core::limits::NAME_BYTES;
use serde::Deserialize;

use crate::Error;

/// Where the cluster file is looked for.
pub const DEFAULT_PATH: &str = "/etc/meander/cluster.toml";

/// How long a node counts as alive that was not heard of, if the file does not say.
pub const LEASE: Duration = Duration::from_secs(30);
/// What an etcd directory begins with.
const ETCD: &str = "etcd://";

/// A cluster, as its file describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The node that holds the directory, or etcd's members.
    directory: String,
    lease_s: Option<u32>,
    nodes: BTreeMap<String, Node>,
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip, default = "nobody")]
    holder: Holder,
}

/// What holds the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A node; this one until it is handed over.
    Node(NodeName),
    /// etcd, with these members as `host:port`.
    Etcd(Vec<String>),
}

fn nobody() -> Holder {
    Holder::Node(NodeName::default())
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    address: String,
    directory_address: Option<String>,
}

impl Cluster {
    /// Reads and checks a cluster file.
    pub fn read(path: &Path) -> Result<Cluster, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::NoClusterFile { path: path.into() },
            _ => Error::Io {
                operation: format!("reading {}", path.display()),
                source,
            },
        })?;
        Cluster::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Cluster, Error> {
        let bad = |why: String| Error::BadClusterFile {
            path: path.into(),
            why,
        };
        let mut cluster: Cluster =
            toml::from_str(text).map_err(|error| bad(error.to_string().trim_end().to_owned()))?;
        cluster.path = path.into();
        cluster.holder = cluster
            .parse_holder(&cluster.directory)
            .map_err(|why| bad(format!("`directory = \"{}\"` {why}", cluster.directory)))?;
        if cluster.lease_s == Some(0) {
            return Err(bad("`lease_s` is at least 1".into()));
        }
        for (name, node) in &cluster.nodes {
            if name.is_empty() || name.len() > NAME_BYTES {
                return Err(bad(format!(
                    "a node's name has 1 to {NAME_BYTES} bytes: `{name}`"
                )));
            }
            for address in std::iter::once(&node.address).chain(&node.directory_address) {
                if !is_address(address) {
                    let why = format!("node {name}: `{address}` is no HOST:PORT");
                    return Err(bad(why));
                }
            }
        }
        Ok(cluster)
    }

    /// The same with another directory, if one is named: a node, or `etcd://host:port,...`.
    pub fn with_directory(mut self, directory: Option<&str>) -> Result<Cluster, Error> {
        if let Some(directory) = directory {
            self.holder = self.parse_holder(directory).map_err(|why| {
                let path = self.path.clone();
                let why = format!("the directory `{directory}` that was asked for {why}");
                Error::BadClusterFile { path, why }
            })?;
        }
        Ok(self)
    }

    fn parse_holder(&self, text: &str) -> Result<Holder, String> {
        let Some(members) = text.strip_prefix(ETCD) else {
            return match self.nodes.contains_key(text) {
                true => Ok(Holder::Node(NodeName(text.into()))),
                false => Err(format!("is none of the nodes ({})", self.names())),
            };
        };
        let members: Vec<String> = members
            .trim_end_matches('/')
            .split(',')
            .map(String::from)
            .collect();
        match members.iter().find(|member| !is_address(member)) {
            Some(wrong) => Err(format!("has `{wrong}`, which is no HOST:PORT")),
            None => Ok(Holder::Etcd(members)),
        }
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What holds the directory.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// The node that holds the directory until it is handed over; with etcd it is none.
    pub fn first_holder(&self) -> NodeName {
        match &self.holder {
            Holder::Node(node) => node.clone(),
            Holder::Etcd(_) => NodeName::default(),
        }
    }

    /// How long a node counts as alive that was not heard of.
    pub fn lease(&self) -> Duration {
        self.lease_s
            .map_or(LEASE, |seconds| Duration::from_secs(seconds.into()))
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = NodeName> + '_ {
        self.nodes.keys().cloned().map(NodeName)
    }

    /// Where a node's agent listens.
    pub fn address(&self, node: &NodeName) -> Result<SocketAddr, Error> {
        resolve(&self.node(node)?.address)
    }

    /// Where a node's directory process listens, if it runs one.
    pub fn directory_address(&self, node: &NodeName) -> Result<SocketAddr, Error> {
        let node = self.node(node)?;
        match &node.directory_address {
            Some(address) => resolve(address),
            None => {
                let mut address = resolve(&node.address)?;
                address.set_port(address.port().wrapping_add(1));
                Ok(address)
            }
        }
    }

    fn node(&self, node: &NodeName) -> Result<&Node, Error> {
        self.nodes.get(&node.0).ok_or_else(|| Error::UnknownNode {
            node: node.0.clone(),
            known: self.names(),
        })
    }

    fn names(&self) -> String {
        self.nodes.keys().cloned().collect::<Vec<_>>().join(", ")
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn resolve(address: &str) -> Result<SocketAddr, Error> {
    let unresolved = || Error::io(format!("resolving {address}"));
    address
        .to_socket_addrs()
        .map_err(unresolved())?
        .next()
        .ok_or_else(|| unresolved()(std::io::Error::other("it has no address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Cluster, Error> {
        Cluster::parse(Path::new("/c.toml"), text)
    }

    fn complaint(text: &str) -> String {
        parse(text).expect_err("should not parse").to_string()
    }

    #[test]
    fn the_directory_listens_one_port_further() {
        let cluster = parse("directory='a'\n[nodes.a]\naddress='127.0.0.1:7117'").unwrap();
        assert_eq!(
            cluster.directory_address(&NodeName("a".into())).unwrap(),
            "127.0.0.1:7118".parse().unwrap()
        );
        assert_eq!(
            cluster.address(&NodeName("a".into())).unwrap(),
            "127.0.0.1:7117".parse().unwrap()
        );
    }

    #[test]
    fn complaints_name_the_fault() {
        let text = complaint("directory='x'\n[nodes.a]\naddress='127.0.0.1:7117'");
        assert!(
            text.contains("`directory = \"x\"` is none of the nodes (a)"),
            "{text}"
        );
        let text = complaint("directory='a'\n[nodes.a]\naddress='127.0.0.1'");
        assert!(text.contains("`127.0.0.1` is no HOST:PORT"), "{text}");
        let text = complaint("directory='a'\n[nodes.a]\naddres='127.0.0.1:1'");
        assert!(text.contains("addres"), "{text}");
    }

    #[test]
    fn the_directory_may_be_in_etcd() {
        let nodes = "[nodes.a]\naddress='127.0.0.1:7117'";
        let members = |list: &[&str]| Holder::Etcd(list.iter().map(ToString::to_string).collect());
        let two = parse(&format!("directory='etcd://h:1,[::1]:2'\n{nodes}")).unwrap();
        assert_eq!(*two.holder(), members(&["h:1", "[::1]:2"]));
        let other = two.with_directory(Some("etcd://x:3")).unwrap();
        assert_eq!(*other.holder(), members(&["x:3"]));
        let back = other.with_directory(Some("a")).unwrap();
        assert_eq!(*back.holder(), Holder::Node(NodeName("a".into())));
        for wrong in ["etcd://", "etcd://h", "etcd://h:1,", "b", ""] {
            assert!(back.clone().with_directory(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_lease_can_be_set() {
        let nodes = "[nodes.a]\naddress='127.0.0.1:7117'";
        let lease =
            |line: &str| parse(&format!("directory='a'\n{line}\n{nodes}")).map(|c| c.lease());
        assert_eq!(lease("").unwrap(), LEASE);
        assert_eq!(lease("lease_s = 5").unwrap(), Duration::from_secs(5));
        assert!(lease("lease_s = 0").is_err());
    }

    #[test]
    fn an_unknown_node_is_named_with_those_there_are() {
        let cluster = parse("directory='a'\n[nodes.a]\naddress='127.0.0.1:7117'").unwrap();
        let text = cluster
            .address(&NodeName("z".into()))
            .unwrap_err()
            .to_string();
        assert_eq!(text, "the cluster file names no node `z`, only a");
    }
}

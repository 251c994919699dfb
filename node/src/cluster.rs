//! The cluster file: which nodes there are, where their agents listen, who holds the directory.
//!
//! ```toml
//! directory = "a"
//! [nodes.a]
//! address = "10.77.0.1:7117"
//! directory_address = "10.77.0.1:7118"   # optional: the address with its port plus one
//! [nodes.b]
//! address = "10.77.0.2:7117"
//! ```

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use meander::NodeName;
use meander_core::limits::NAME_BYTES;
use serde::Deserialize;

use crate::Error;

/// Where the cluster file is looked for.
pub const DEFAULT_PATH: &str = "/etc/meander/cluster.toml";

/// A cluster, as its file describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The node that holds the directory.
    directory: String,
    nodes: BTreeMap<String, Node>,
    #[serde(skip)]
    path: PathBuf,
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
        if !cluster.nodes.contains_key(&cluster.directory) {
            let why = format!(
                "`directory = \"{}\"` is none of the nodes ({})",
                cluster.directory,
                cluster.names()
            );
            return Err(bad(why));
        }
        for (name, node) in &cluster.nodes {
            if name.is_empty() || name.len() > NAME_BYTES {
                return Err(bad(format!(
                    "a node's name has 1 to {NAME_BYTES} bytes: `{name}`"
                )));
            }
            for address in std::iter::once(&node.address).chain(&node.directory_address) {
                let port = address
                    .rsplit_once(':')
                    .and_then(|(_, port)| port.parse::<u16>().ok());
                if port.is_none() {
                    let why = format!("node {name}: `{address}` is no HOST:PORT");
                    return Err(bad(why));
                }
            }
        }
        Ok(cluster)
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node that holds the directory.
    pub fn directory_node(&self) -> NodeName {
        NodeName(self.directory.clone())
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = NodeName> + '_ {
        self.nodes.keys().cloned().map(NodeName)
    }

    /// Where a node's agent listens.
    pub fn address(&self, node: &NodeName) -> Result<SocketAddr, Error> {
        resolve(&self.node(node)?.address)
    }

    /// Where the directory listens.
    pub fn directory_address(&self) -> Result<SocketAddr, Error> {
        let node = self.node(&self.directory_node())?;
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
            cluster.directory_address().unwrap(),
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
    fn an_unknown_node_is_named_with_those_there_are() {
        let cluster = parse("directory='a'\n[nodes.a]\naddress='127.0.0.1:7117'").unwrap();
        let text = cluster
            .address(&NodeName("z".into()))
            .unwrap_err()
            .to_string();
        assert_eq!(text, "the cluster file names no node `z`, only a");
    }
}

//! What the cluster brings: its file, its key, this node's agent, the others and the directory.

use std::path::Path;

use super::Finding;
use crate::cluster::{Cluster, Holder};
use crate::user::{self, FromUser, Status, ToUser};
use crate::{Error, keyfile};

/// Every check of the cluster.
pub(super) fn findings(cluster: &Path, key: &Path) -> Vec<Finding> {
    let mut findings = vec![cluster_file(cluster), key_file(key)];
    match status() {
        Ok(status) => findings.extend(agents(&status)),
        Err(error) => findings.push(failed("agent", &error)),
    }
    findings
}

fn cluster_file(path: &Path) -> Finding {
    match Cluster::read(path) {
        Ok(cluster) => {
            let names: Vec<String> = cluster.nodes().map(|node| node.0).collect();
            let directory = match cluster.holder() {
                Holder::Node(node) => format!("on {node}, unless it was moved"),
                Holder::Etcd(members) => format!("in etcd ({})", members.join(", ")),
            };
            let found = format!(
                "{} nodes ({}), directory {directory}",
                names.len(),
                names.join(", ")
            );
            Finding::ok("cluster", found)
        }
        Err(error) => failed("cluster", &error),
    }
}

fn key_file(path: &Path) -> Finding {
    match keyfile::read(path) {
        Ok(key) => Finding::ok("key", format!("fingerprint {}", keyfile::fingerprint(&key))),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Finding::warn(
                "key",
                "only root can read it, as it should be",
                "run as root to check it",
            )
        }
        Err(error) => failed("key", &error),
    }
}

fn status() -> Result<Status, Error> {
    let mut stream = user::ask(&FromUser::Status)?;
    match user::hear(&mut stream)? {
        Some(ToUser::Status(status)) => Ok(status),
        other => Err(Error::Protocol {
            peer: "the agent".into(),
            why: format!("said {other:?}"),
        }),
    }
}

fn agents(status: &Status) -> Vec<Finding> {
    let ours = env!("CARGO_PKG_VERSION");
    let found = format!(
        "serves node {}, {} ranks, key {}",
        status.node, status.ranks, status.fingerprint
    );
    let mut findings = vec![if status.version == ours {
        Finding::ok("agent", found)
    } else {
        let found = format!(
            "{found}; version {}, this command is {ours}",
            status.version
        );
        Finding::warn(
            "agent",
            found,
            "restart the agent with the program that is installed now",
        )
    }];
    findings.push(match &status.directory {
        None => Finding::ok("directory", "answers"),
        Some(trouble) => Finding::fail("directory", &trouble.what, &trouble.mend),
    });
    findings.extend(status.nodes.iter().map(|(node, trouble)| match trouble {
        None => Finding::ok("peer", format!("the agent of {node} answers")),
        Some(trouble) => Finding::warn(
            "peer",
            format!("node {node}: {}", trouble.what),
            &trouble.mend,
        ),
    }));
    findings
}

fn failed(check: &'static str, error: &Error) -> Finding {
    Finding::fail(check, error.to_string(), error.mend())
}

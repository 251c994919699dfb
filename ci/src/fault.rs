//! What goes wrong in a lab on purpose: a cut cable, a slow one.

use anyhow::Result;

use crate::Lab;
use crate::node::{self, INTERFACE};

impl Lab {
    /// Cuts a node's cable, or mends it.
    pub fn set_link(&self, node: &str, up: bool) -> Result<()> {
        let port = self.try_node(node)?.hub_port();
        let state = if up { "up" } else { "down" };
        node::ip(
            &node::hub_namespace(self.dir()),
            &["link", "set", &port, state],
        )
    }

    /// Limits what a node sends and what it receives, to a rate in the words of tc(8), such as `100mbit`;
    /// `None` takes the limit away.
    pub fn shape(&self, node: &str, rate: Option<&str>) -> Result<()> {
        let node = self.try_node(node)?;
        let port = node.hub_port();
        let ends = [
            (node.dir().join("net"), INTERFACE),
            (node::hub_namespace(self.dir()), port.as_str()),
        ];
        for (namespace, device) in ends {
            match rate {
                Some(rate) => {
                    let bucket = ["burst", "64kb", "latency", "400ms"];
                    let qdisc = [
                        "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate,
                    ];
                    node::in_network(&namespace, "tc", &[&qdisc[..], &bucket[..]].concat())?;
                }
                // Without a limit there is nothing to take away, which tc calls an error.
                None => {
                    let qdisc = ["qdisc", "del", "dev", device, "root"];
                    let _ = node::in_network(&namespace, "tc", &qdisc);
                }
            }
        }
        Ok(())
    }
}

//! Soft-RoCE on this machine's own kernel, where it has it, at the machine's own speed.
//!
//! There is ONE device, on a network card that leads nowhere, and all nodes use it: what it sends to its
//! own address it delivers itself. So it is, tried on Linux 6.12, because a device of each node's own
//! does not come about: `rdma link add` within a network namespace makes the device in the first
//! one, whose sockets are the only ones that rdma_rxe has. While `rdma system` says `netns shared`, as
//! it does unless somebody has changed it, processes of every namespace reach the one device, and queue
//! pairs of two of them reach each other.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::state::wait_until;

/// The device.
pub const DEVICE: &str = "meander_rxe";
/// Its network card.
const CARD: &str = "meander-rdma";
/// The card's address.
pub const ADDRESS: &str = "10.78.9.1";
/// How long the device may take to have that address.
const ADDRESS_LIMIT: Duration = Duration::from_secs(10);
/// More addresses than a device has that is an hour old.
const GIDS_MAX: usize = 16;

/// The device, which goes when this is dropped.
pub struct HostDevice {
    /// The index of its RoCE v2 address for IPv4.
    pub gid_index: String,
}

impl HostDevice {
    /// Makes the device and its card. One that is left from before is replaced.
    pub fn make() -> Result<HostDevice> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "only root may make RDMA devices: run this as root or by sudo"
        );
        // rdma_rxe asks for it by an alias that only a loaded module has.
        let _ = quietly("modprobe", &["crc32_generic"]);
        let loaded = quietly("modprobe", &["rdma_rxe"]);
        ensure!(
            Path::new("/sys/module/rdma_rxe").exists(),
            "this kernel ({}) has no rdma_rxe{}: without --host the same runs in virtual machines whose kernel has it",
            rustix::system::uname().release().to_string_lossy(),
            loaded
                .err()
                .map_or(String::new(), |error| format!(" ({error:#})")),
        );
        let _ = quietly("modprobe", &["rdma_ucm"]); // For rsockets.
        remove();
        let mut device = HostDevice {
            gid_index: String::new(),
        };
        let address = format!("{ADDRESS}/32");
        quietly("ip", &["link", "add", CARD, "type", "dummy"])?;
        quietly("ip", &["address", "add", &address, "dev", CARD])?;
        quietly("ip", &["link", "set", CARD, "up"])?;
        quietly(
            "rdma",
            &["link", "add", DEVICE, "type", "rxe", "netdev", CARD],
        )?;
        device.gid_index = wait_until("the device's address", ADDRESS_LIMIT, gid_index)?;
        Ok(device)
    }
}

impl Drop for HostDevice {
    fn drop(&mut self) {
        remove();
    }
}

fn remove() {
    let _ = quietly("rdma", &["link", "delete", DEVICE]);
    let _ = quietly("ip", &["link", "delete", CARD]);
}

/// Of the IPv4 address among the device's, for RoCE v2.
fn gid_index() -> Option<String> {
    let port = Path::new("/sys/class/infiniband")
        .join(DEVICE)
        .join("ports/1");
    let [a, b, c, d] = ADDRESS.parse::<std::net::Ipv4Addr>().ok()?.octets();
    let mapped = format!("0000:0000:0000:0000:0000:ffff:{a:02x}{b:02x}:{c:02x}{d:02x}");
    let read = |path: &str| fs::read_to_string(port.join(path)).unwrap_or_default();
    (0..GIDS_MAX)
        .find(|index| {
            let kind = read(&format!("gid_attrs/types/{index}"));
            read(&format!("gids/{index}")).trim() == mapped && kind.trim() == "RoCE v2"
        })
        .map(|index| index.to_string())
}

fn quietly(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let words = arguments.join(" ");
    ensure!(
        output.status.success(),
        "{program} {words}: {}",
        said.trim()
    );
    Ok(())
}

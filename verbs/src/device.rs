//! Which device, port and address to use.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::OpenError;
use crate::objects::{Context, DeviceLimits, PortState};

/// What a [`VerbsTransport`](crate::VerbsTransport) uses. The default is the first active port of the
/// first device that has one, and its RoCE v2 address that is an IPv4 address.
#[derive(Clone, Debug)]
pub struct VerbsConfig {
    /// The device, `mlx5_0` say.
    pub device: Option<String>,
    /// Its port, from 1.
    pub port: Option<u8>,
    /// The index of the port's address (GID), as `show_gids` or
    /// `/sys/class/infiniband/DEVICE/ports/PORT/gids` list them.
    pub gid_index: Option<u8>,
    /// Largest path MTU in bytes (256 to 4096); the port's own where it is smaller.
    pub mtu_bytes: Option<u32>,
    /// Service level, 0 to 15; on Ethernet the priority (PFC class).
    pub service_level: u8,
    /// Traffic class; on Ethernet its upper six bits are the DSCP.
    pub traffic_class: u8,
    /// 4.096 µs times two to this power is how long an acknowledgement may take before the
    /// device sends again.
    pub timeout: u8,
    /// How often it sends again, at most 7, before the link counts as broken.
    pub retries: u8,
    /// Addresses at which peers reach this one's listener; empty for the address of the RDMA port
    /// itself, or those of the node where that has none.
    pub addresses: Vec<IpAddr>,
}

impl Default for VerbsConfig {
    fn default() -> VerbsConfig {
        VerbsConfig {
            device: None,
            port: None,
            gid_index: None,
            mtu_bytes: None,
            service_level: 0,
            traffic_class: 0,
            timeout: 14,
            retries: 7,
            addresses: Vec::new(),
        }
    }
}

/// What was chosen.
pub(crate) struct Chosen {
    pub context: Arc<Context>,
    pub limits: DeviceLimits,
    pub port: u8,
    pub state: PortState,
    pub gid_index: u8,
    pub gid: [u8; 16],
    /// As verbs number it.
    pub mtu: u32,
}

impl Chosen {
    /// Looks up the port's address again where it is not at its index any more: an interface that was
    /// taken down and put up again may have it elsewhere in its table.
    pub fn refresh(&mut self, config: &VerbsConfig) -> Result<(), OpenError> {
        let index = i32::from(self.gid_index);
        if self.context.gid(self.port, index).ok() == Some(self.gid) {
            return Ok(());
        }
        self.state = self.context.port(self.port)?;
        (self.gid_index, self.gid) = choose_gid(config, &self.context, self.port, &self.state)?;
        Ok(())
    }
}

/// `link_layer` of Ethernet.
pub(crate) const ETHERNET: u8 = 2;

/// Opens what the configuration asks for.
pub(crate) fn choose(config: &VerbsConfig) -> Result<Chosen, OpenError> {
    let present = Context::devices()?;
    if present.is_empty() {
        return Err(OpenError::NoDevice);
    }
    let wanted = match &config.device {
        Some(wanted) if !present.contains(wanted) => {
            return Err(OpenError::NoSuchDevice {
                wanted: wanted.clone(),
                present: present.join(", "),
            });
        }
        Some(wanted) => vec![wanted.clone()],
        None => present,
    };
    let mut failure = None;
    for device in &wanted {
        match choose_port(config, device) {
            Ok(Some(chosen)) => return Ok(chosen),
            Ok(None) => {}
            // Another device may do.
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    let none = || OpenError::NoActivePort {
        device: wanted.join(", "),
    };
    Err(failure.unwrap_or_else(none))
}

/// The port of a device that is to be used, if one is active.
fn choose_port(config: &VerbsConfig, device: &str) -> Result<Option<Chosen>, OpenError> {
    let context = Arc::new(Context::open(device)?);
    let limits = context.limits()?;
    let ports = match config.port {
        Some(port) => port..=port,
        None => 1..=limits.ports,
    };
    for port in ports {
        let state = context.port(port)?;
        if state.active {
            let (gid_index, gid) = choose_gid(config, &context, port, &state)?;
            let asked = config.mtu_bytes.map_or(state.mtu, mtu_number);
            return Ok(Some(Chosen {
                mtu: asked.min(state.mtu),
                context,
                limits,
                port,
                state,
                gid_index,
                gid,
            }));
        }
    }
    Ok(None)
}

/// The bytes of an MTU as verbs number it.
pub(crate) fn mtu_number(bytes: u32) -> u32 {
    match bytes {
        0..512 => 1,
        512..1024 => 2,
        1024..2048 => 3,
        2048..4096 => 4,
        _ => 5,
    }
}

/// An address that is an IPv4 address.
pub(crate) fn is_ipv4(gid: &[u8; 16]) -> bool {
    gid[..10] == [0; 10] && gid[10..12] == [0xff; 2]
}

fn choose_gid(
    config: &VerbsConfig,
    context: &Context,
    port: u8,
    state: &PortState,
) -> Result<(u8, [u8; 16]), OpenError> {
    let found = if let Some(index) = config.gid_index {
        let gid = context.gid(port, i32::from(index))?;
        (gid != [0; 16]).then_some((index, gid))
    } else if state.link_layer == ETHERNET {
        let entries = (0..=u8::try_from(state.gids - 1).unwrap_or(u8::MAX)).filter_map(|index| {
            let gid = context.gid(port, i32::from(index)).ok()?;
            let usable = gid != [0; 16] && is_version_two(context.device(), port, index);
            usable.then_some((index, gid))
        });
        best(entries)
    } else {
        Some((0, context.gid(port, 0)?))
    };
    found.ok_or_else(|| OpenError::NoGid {
        device: context.device().to_owned(),
        port,
        wanted: match config.gid_index {
            Some(_) => "address at that GID index",
            None => "RoCE v2 address",
        },
    })
}

/// The first IPv4 address; else the first that is valid beyond its link; else the first. Tables are
/// long, and mostly empty after the first few entries.
fn best(entries: impl Iterator<Item = (u8, [u8; 16])>) -> Option<(u8, [u8; 16])> {
    let mut found: Option<(u8, [u8; 16])> = None;
    for entry in entries {
        if is_ipv4(&entry.1) {
            return Some(entry);
        }
        let local = |gid: &[u8; 16]| gid[..2] == [0xfe, 0x80];
        if found.is_none_or(|(_, gid)| local(&gid) && !local(&entry.1)) {
            found = Some(entry);
        }
    }
    found
}

/// Whether an entry of a port's table is for RoCE v2. An entry that has no type is none.
fn is_version_two(device: &str, port: u8, index: u8) -> bool {
    let kind = Path::new("/sys/class/infiniband")
        .join(device)
        .join(format!("ports/{port}/gid_attrs/types/{index}"));
    fs::read_to_string(kind).is_ok_and(|kind| kind.trim() == "RoCE v2")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_is_rounded_down_to_one_that_there_is() {
        let numbers = [256, 511, 512, 1024, 1500, 2048, 4096, 9000].map(mtu_number);
        assert_eq!(numbers, [1, 1, 2, 3, 3, 4, 5, 5]);
    }

    #[test]
    fn the_first_ipv4_address_is_best_then_one_beyond_its_link() {
        let gid = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let (local, global) = (gid("fe80::1"), gid("fd00::1"));
        let (four, other) = (gid("::ffff:10.0.0.1"), gid("::ffff:10.0.0.2"));
        let best_of = |gids: &[[u8; 16]]| best((0..).zip(gids.iter().copied())).map(|(at, _)| at);
        assert_eq!(best_of(&[local, global, four, other]), Some(2));
        assert_eq!(best_of(&[local, global, local]), Some(1));
        assert_eq!(best_of(&[local, local]), Some(0));
        assert_eq!(best_of(&[]), None);
    }

    #[test]
    fn an_ipv4_address_is_known() {
        let mut gid = [0; 16];
        assert!(!is_ipv4(&gid));
        gid[10..].copy_from_slice(&[0xff, 0xff, 10, 78, 1, 1]);
        assert!(is_ipv4(&gid));
        gid[0] = 0xfe;
        assert!(!is_ipv4(&gid));
    }
}

//! How the directory is written down in etcd.
//!
//! | key | value |
//! | --- | --- |
//! | `/meander/FINGERPRINT/ports/PORT` (32 hex digits) | the port's record, sealed |
//! | `/meander/FINGERPRINT/nodes/NODE` | nothing; it is there while the node's lease is |
//!
//! A sealed value is a version, the record in postcard, and an HMAC-SHA-256 under the cluster key of
//! the row's key and of what precedes: who can write to etcd but has no key can take records away,
//! or put an older one in a newer one's place, but can't make one.

use hmac::{Hmac, Mac};
use meander::{Key, NodeName, PortId};
use meander_core::directory::Record;
use sha2::Sha256;

use crate::keyfile;

const VERSION: u8 = 1;
const TAG_BYTES: usize = 32;

/// The rows of one cluster.
pub(super) struct Rows {
    prefix: String,
    key: Key,
}

impl Rows {
    pub(super) fn new(key: &Key) -> Rows {
        Rows {
            prefix: format!("/meander/{}", keyfile::fingerprint(key)),
            key: key.clone(),
        }
    }

    /// Where all ports are.
    pub(super) fn ports(&self) -> Vec<u8> {
        format!("{}/ports/", self.prefix).into_bytes()
    }

    /// Where a port is; in the order of the ports.
    pub(super) fn port(&self, port: PortId) -> String {
        format!("{}/ports/{port}", self.prefix)
    }

    /// What follows a port.
    pub(super) fn after(&self, port: PortId) -> Vec<u8> {
        [self.port(port).as_bytes(), &[0]].concat()
    }

    /// What follows all ports: `0` is next to `/`.
    pub(super) fn after_all_ports(&self) -> String {
        format!("{}/ports0", self.prefix)
    }

    /// Which port this key is of.
    pub(super) fn port_of(&self, key: &[u8]) -> Option<PortId> {
        let digits = key.strip_prefix(&*self.ports())?;
        let digits = std::str::from_utf8(digits).ok()?;
        u128::from_str_radix(digits, 16).ok().map(PortId)
    }

    /// Where all leases are.
    pub(super) fn nodes(&self) -> String {
        format!("{}/nodes/", self.prefix)
    }

    /// Where a node's lease is.
    pub(super) fn node(&self, node: &NodeName) -> String {
        format!("{}{node}", self.nodes())
    }

    /// Which node this key is of.
    pub(super) fn node_of(&self, key: &[u8]) -> Option<NodeName> {
        let name = key.strip_prefix(self.nodes().as_bytes())?;
        Some(NodeName(String::from_utf8(name.to_vec()).ok()?))
    }

    /// The number of a node's lease, the same for all who hold it.
    pub(super) fn lease(&self, node: &NodeName) -> i64 {
        self.lease_number(&self.node(node))
    }

    /// The number of the lease of what ended in this hour since 1970.
    pub(super) fn lease_of_the_ended(&self, hour: u64) -> i64 {
        self.lease_number(&format!("{}/ended/{hour}", self.prefix))
    }

    /// Never 0, never negative.
    fn lease_number(&self, name: &str) -> i64 {
        let tag = self.tag(name.as_bytes(), b"lease");
        let number = i64::from_le_bytes(tag[..8].try_into().expect("eight bytes"));
        (number & i64::MAX).max(1)
    }

    pub(super) fn seal(&self, port: PortId, record: &Record) -> Result<Vec<u8>, String> {
        let mut value = vec![VERSION];
        value = postcard::to_extend(record, value).map_err(|error| error.to_string())?;
        let tag = self.tag(self.port(port).as_bytes(), &value);
        value.extend_from_slice(&tag);
        Ok(value)
    }

    pub(super) fn open(&self, port: PortId, value: &[u8]) -> Result<Record, String> {
        let bad = |why: &str| format!("the record of port {port} {why}");
        let split = value.len().checked_sub(TAG_BYTES);
        let (text, tag) = value.split_at(split.ok_or_else(|| bad("is cut short"))?);
        let row = self.port(port);
        self.mac(row.as_bytes(), text)
            .verify_slice(tag)
            .map_err(|_| bad("was not written by one who has the cluster key"))?;
        match text.split_first() {
            Some((&VERSION, record)) => {
                postcard::from_bytes(record).map_err(|_| bad("can't be decoded"))
            }
            _ => Err(bad("is of another version of Meander")),
        }
    }

    fn tag(&self, row: &[u8], text: &[u8]) -> [u8; TAG_BYTES] {
        self.mac(row, text).finalize().into_bytes().into()
    }

    fn mac(&self, row: &[u8], text: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key.0).expect("takes any length");
        mac.update(b"meander directory in etcd");
        mac.update(&(row.len() as u64).to_le_bytes());
        mac.update(row);
        mac.update(text);
        mac
    }
}

#[cfg(test)]
mod tests {
    use meander::Epoch;
    use meander_core::directory::{Change, Directory, Request};

    use super::*;
    use crate::directory::an_entry;

    fn record(port: PortId) -> Record {
        let entry = an_entry(Epoch(2));
        match Directory::default()
            .handle(Request::Register { port, entry })
            .1
        {
            Some(Change { record, .. }) => *record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_who_has_the_key_makes_a_record_and_only_for_its_port() {
        let (port, other) = (PortId(7), PortId(8));
        let rows = Rows::new(&Key([1; 32]));
        let sealed = rows.seal(port, &record(port)).unwrap();
        assert_eq!(rows.open(port, &sealed), Ok(record(port)));
        assert!(rows.open(other, &sealed).is_err(), "another port's row");
        assert!(Rows::new(&Key([2; 32])).open(port, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(rows.open(port, &changed).is_err(), "byte {at}");
            assert!(rows.open(port, &sealed[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn keys_are_in_the_order_of_ports_and_can_be_read_back() {
        let rows = Rows::new(&Key([1; 32]));
        let ports = [PortId(0), PortId(9), PortId(10), PortId(u128::MAX)];
        let keys: Vec<String> = ports.iter().map(|port| rows.port(*port)).collect();
        assert!(keys.is_sorted());
        for (port, key) in ports.iter().zip(&keys) {
            assert_eq!(rows.port_of(key.as_bytes()), Some(*port));
            assert!(rows.after(*port) > key.clone().into_bytes());
            assert!(*key < rows.after_all_ports());
        }
        let node = NodeName("n1".into());
        assert_eq!(rows.node_of(rows.node(&node).as_bytes()), Some(node));
    }
}

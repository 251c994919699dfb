//! What agents, ranks, movers, guardians, shadows and the directory say to one another.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meander_core::directory::{Directory, Record, Reply, Request};
use meander_core::{PortId, limits};
use meander_node::fuzzing::DECODERS;
use std::collections::BTreeMap;

// The first byte says which message it is; 255: requests to a directory, one after another.
fuzz_target!(|bytes: &[u8]| {
    let Some((which, rest)) = bytes.split_first() else {
        return;
    };
    if *which == 255 {
        return directory(rest);
    }
    DECODERS[usize::from(*which) % DECODERS.len()](rest);
});

/// Whatever is asked, what is on the disk is what the directory knows, and is bounded. `[R23]`
fn directory(mut bytes: &[u8]) {
    let mut directory = Directory::default();
    let mut disk: BTreeMap<PortId, Record> = BTreeMap::new();
    while let Ok((request, rest)) = postcard::take_from_bytes::<Request>(bytes) {
        bytes = rest;
        let (reply, change) = directory.handle(request.clone());
        if let Some(change) = change {
            disk.insert(change.port, *change.record);
            if let Some(forget) = change.forget {
                disk.remove(&forget);
            }
        }
        let mut restarted = Directory::from_records(disk.clone());
        let ports = disk.keys().copied().collect::<Vec<_>>();
        for port in ports {
            let lookup = Request::Lookup { port };
            let known = directory.handle(lookup.clone()).0;
            assert_eq!(known, restarted.handle(lookup).0);
            if let Reply::Found(Some(entry)) = known {
                assert!(entry.identity.program.len() <= limits::NAME_BYTES);
                assert!(entry.location.cards.len() <= limits::CARDS);
            }
        }
        // Asked again, a commit answers as before. `[R24]`
        if let (Request::Commit { .. }, Reply::Committed { .. }) = (&request, &reply) {
            assert_eq!(directory.handle(request).0, reply);
        }
    }
}

//! Every message that comes over a socket, for the fuzzer.

use meander::control::{FromPort, ToPort};
use meander_core::directory::{Record, Reply, Request};
use meander_core::moves::{FromGuardian, ToGuardian};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::agent::{FromPeer, ToPeer};
use crate::guardian::control::{Demand, Reply as GuardianReply};
use crate::guardian::wire::{ToRank, ToShadow};
use crate::moves::image::Header;
use crate::moves::{GuardianOrder, Journal};
use crate::net::frame;
use crate::user::{FromUser, ToUser};

/// Decodes bytes as one of the messages. What can be decoded survives being encoded.
pub const DECODERS: &[fn(&[u8])] = &[
    decode::<FromPort>,
    decode::<ToPort>,
    decode::<FromPeer>,
    decode::<ToPeer>,
    decode::<FromUser>,
    decode::<ToUser>,
    decode::<Request>,
    decode::<Reply>,
    decode::<Record>,
    decode::<ToGuardian>,
    decode::<FromGuardian>,
    decode::<GuardianOrder>,
    decode::<Demand>,
    decode::<GuardianReply>,
    decode::<ToRank>,
    decode::<ToShadow>,
    decode::<Header>,
    |bytes| drop(serde_json::from_slice::<Journal>(bytes)),
    |mut bytes| while let Ok(Some(_)) = frame::read_bytes(&mut bytes) {},
];

fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = frame::decode::<T>(bytes) else {
        return;
    };
    let encoded = postcard::to_stdvec(&message).expect("plain data can be encoded");
    let again: T = frame::decode(&encoded).expect("it was just encoded");
    let twice = postcard::to_stdvec(&again).expect("plain data can be encoded");
    assert_eq!(encoded, twice);
}

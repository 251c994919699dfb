//! A rank that is none: a connection to an agent that says it is.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use meander::control::{CONTROL_VERSION, FromPort, ToPort};
use meander::{Contact, Epoch, JobId, Location, NodeName, PortId};
use meander_core::{Card, Identity, TransportKind};
use meander_node::net::frame;

/// A connection to an agent that says of itself that it is a rank.
pub struct FakeRank {
    stream: UnixStream,
}

impl FakeRank {
    /// Registers with the agent whose run directory this is.
    pub fn register(run_dir: &Path, job: &str, rank: u32, epoch: u64) -> FakeRank {
        let mut stream = UnixStream::connect(run_dir.join("agent.sock")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let port = PortId(u128::from(rank) + 1);
        let identity = Identity {
            job: JobId(job.into()),
            rank,
            size: 2,
            program: "fake".into(),
        };
        let card = Card {
            transport: TransportKind::Sim,
            bytes: vec![rank as u8],
        };
        let location = Location {
            node: NodeName::default(),
            cards: vec![card],
        };
        let contact = Contact {
            port,
            epoch: Epoch(epoch),
            location,
        };
        let register = FromPort::Register {
            version: CONTROL_VERSION,
            identity,
            contact,
        };
        frame::write(&mut stream, &register).unwrap();
        let mut rank = FakeRank { stream };
        assert!(matches!(rank.hear(), Some(ToPort::Registered { .. })));
        rank
    }

    pub fn say(&mut self, message: &FromPort) {
        frame::write(&mut self.stream, message).unwrap();
    }

    pub fn hear(&mut self) -> Option<ToPort> {
        frame::read(&mut self.stream).unwrap()
    }
}

//! A rank without a port: counts into a file and speaks the control protocol by hand. The tests of
//! moves use it where streams would only be in the way.
//!
//! `counter JOB RANK FILE SECONDS`

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use meander::control::{CONTROL_VERSION, FromPort, ToPort, agent_socket, verdict_socket};
use meander::{Contact, Epoch, JobId, Location, NodeName, PortId};
use meander_core::{Card, Identity, TransportKind};
use meander_node::net::frame;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let (job, rank) = (words[1].clone(), words[2].parse().expect("a rank"));
    let file = File::options()
        .append(true)
        .create(true)
        .open(&words[3])
        .expect("a log");
    let seconds: u64 = words[4].parse().expect("seconds");
    std::thread::spawn(move || control(job, rank));
    for count in 0..seconds * 100 {
        writeln!(&file, "{count}").expect("writing the log");
        if count % 100 == 0 {
            println!("counted to {count}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("done");
}

fn control(job: String, rank: u32) {
    let identity = Identity {
        job: JobId(job),
        rank,
        size: 2,
        program: "counter".into(),
    };
    let port = PortId(u128::from(std::process::id()) + 1);
    let mut epoch = Epoch(0);
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let Ok(mut agent) = UnixStream::connect(agent_socket()) else {
            continue;
        };
        let card = Card {
            transport: TransportKind::Sim,
            bytes: vec![1],
        };
        let location = Location {
            node: NodeName::default(),
            cards: vec![card],
        };
        let contact = Contact {
            port,
            epoch,
            location,
        };
        let register = FromPort::Register {
            version: CONTROL_VERSION,
            identity: identity.clone(),
            contact,
        };
        if frame::write(&mut agent, &register).is_err() {
            continue;
        }
        while let Ok(Some(message)) = frame::read::<ToPort>(&mut agent) {
            if message == ToPort::Suspend {
                let _ = frame::write(
                    &mut agent,
                    &FromPort::Suspended {
                        epoch,
                        peers: vec![],
                    },
                );
                drop(agent);
                epoch = verdict(port).unwrap_or(epoch);
                break;
            }
        }
    }
}

fn verdict(port: PortId) -> Option<Epoch> {
    loop {
        if let Ok(mut owner) = UnixStream::connect(verdict_socket(port))
            && let Ok(Some(message)) = frame::read::<ToPort>(&mut owner)
        {
            return match message {
                ToPort::Attach { epoch, .. } => Some(epoch),
                _ => None,
            };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

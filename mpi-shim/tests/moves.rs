//! Programs whose ranks are taken off the fabric and put on again all the time, by an agent that
//! this test plays. Nothing is copied here: that is the business of `node`; what the ranks live
//! through is the same.

mod common;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{command, expect_ok, preload, program};
use meander::control::{FromPort, ToPort};
use meander::{Contact, Epoch, NodeName, PortId};
use serde::Serialize;

#[test]
fn collectives_go_on_through_moves_of_their_ranks() {
    moved("collectives", 4, &["5"], 11);
}

#[test]
fn matching_order_holds_through_moves() {
    moved("matching", 3, &[], 12);
}

#[test]
fn a_flood_goes_on_through_moves() {
    moved("flood", 3, &["30000"], 13);
}

#[test]
fn large_messages_go_on_through_moves() {
    moved("ring", 4, &[], 14);
}

#[test]
fn derived_datatypes_go_on_through_moves() {
    moved("types", 4, &[], 15);
}

#[test]
fn moves_go_on_over_encrypted_links() {
    let on = [
        "-x",
        "MEANDER_TCP_ENCRYPTION=on",
        "-x",
        "MEANDER_TRANSPORT=tcp",
    ];
    moved_with(&on, "collectives", 3, &["2"], 16);
}

/// After so many moves the ranks are left alone.
const MOVES: u32 = 100;

fn moved(name: &str, ranks: u32, arguments: &[&str], seed: u64) {
    moved_with(&[], name, ranks, arguments, seed);
}

/// The same, with further options of `mpirun`.
fn moved_with(options: &[&str], name: &str, ranks: u32, arguments: &[&str], seed: u64) {
    let run_dir = tempfile::tempdir().expect("a directory");
    let moves = Arc::new(Mutex::new(0));
    let agent = Agent {
        run_dir: run_dir.path().into(),
        contacts: Arc::default(),
        moves: Arc::clone(&moves),
    };
    let listener = UnixListener::bind(run_dir.path().join("agent.sock")).expect("a socket");
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let (agent, random) = (agent.clone(), Random(seed * 1000 + number as u64 + 1));
            // A rank that ends breaks the connection; that is no failure.
            thread::spawn(move || agent.serve(stream, random));
        }
    });
    let (preload, program) = (preload(), program(name));
    let mut all = vec!["-x", &preload, "-x", "MEANDER_RUN_DIR", &program];
    all.extend(arguments);
    let all = [options, &all].concat();
    let mut command = command(ranks, &all);
    command
        .stdin(Stdio::null())
        .env("MEANDER_RUN_DIR", run_dir.path());
    let run = command.output().expect("mpirun starts");
    let moves = *moves.lock().expect("no panic in the agent");
    println!("{name}: {moves} moves, seed {seed}");
    expect_ok(name, ranks, &run);
    assert!(moves > 0, "no rank was moved");
}

#[derive(Clone)]
struct Agent {
    run_dir: Box<Path>,
    contacts: Arc<Mutex<HashMap<PortId, Contact>>>,
    moves: Arc<Mutex<u32>>,
}

impl Agent {
    /// Moves the rank once; it comes back with a new connection.
    fn serve(&self, mut rank: UnixStream, mut random: Random) -> io::Result<()> {
        let FromPort::Register { contact, .. } = read(&mut rank)? else {
            return Ok(());
        };
        let port = contact.port;
        self.contacts.lock().unwrap().insert(port, contact);
        write(
            &mut rank,
            &ToPort::Registered {
                node: NodeName("here".to_owned()),
            },
        )?;
        if *self.moves.lock().unwrap() >= MOVES {
            // From now on it is left alone, and must come to its end.
            loop {
                self.answer(&mut rank)?;
            }
        }
        let mut told = rank.try_clone()?;
        let delay = random.below(60);
        let order = thread::spawn(move || {
            thread::sleep(Duration::from_millis(delay));
            write(&mut told, &ToPort::Suspend)
        });
        let epoch = loop {
            match self.answer(&mut rank)? {
                FromPort::Suspended { epoch, .. } => break epoch,
                FromPort::SuspendRefused { why } => panic!("a rank can't be suspended: {why}"),
                FromPort::Lookup { .. } => {}
                _ => return Ok(()),
            }
        };
        let _ = order.join();
        thread::sleep(Duration::from_millis(random.below(40)));
        let verdict = match random.below(3) {
            0 => ToPort::Resume,
            _ => ToPort::Attach {
                epoch: Epoch(epoch.0 + 1),
                node: NodeName("there".to_owned()),
            },
        };
        let path = self.run_dir.join(format!("verdict-{port}.sock"));
        let listener = UnixListener::bind(&path)?;
        let (mut asked, _) = listener.accept()?;
        write(&mut asked, &verdict)?;
        *self.moves.lock().unwrap() += 1;
        drop(listener);
        std::fs::remove_file(path)
    }
}

impl Agent {
    /// What the rank says, after it was answered where it asks.
    fn answer(&self, rank: &mut UnixStream) -> io::Result<FromPort> {
        let said = read(rank)?;
        if let FromPort::Lookup { port } = said {
            let contact = self.contacts.lock().unwrap().get(&port).cloned();
            // It may have suspended since, and closed; what it said before that is still to read.
            let _ = write(rank, &ToPort::Found { port, contact });
        }
        Ok(said)
    }
}

fn write<T: Serialize>(to: &mut UnixStream, message: &T) -> io::Result<()> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
    let len = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    to.write_all(&frame)
}

fn read(from: &mut UnixStream) -> io::Result<FromPort> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let mut body = vec![0; u32::from_le_bytes(len) as usize];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}

/// xorshift: the same moves for the same seed, as far as the machine's own timing allows.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }
}

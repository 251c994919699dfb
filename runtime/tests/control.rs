//! The control thread against an agent that is played by the test.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{SERVICE, SOME_TIME, connect, open};
use meander::control::{Control, FromPort, Identity, ToPort, agent_socket, verdict_socket};
use meander::{Epoch, Error, JobId, NodeName};

/// Set in the process that the test runs itself in, for the directory of sockets comes from the
/// environment.
const INSIDE: &str = "MEANDER_TEST_INSIDE";

/// Its verdict is heard at a socket of its own, without any agent. `[R30]`
#[test]
fn a_port_is_registered_moved_looked_up_and_signed_off() {
    if std::env::var_os(INSIDE).is_some() {
        return play();
    }
    let directory = std::env::temp_dir().join(format!("meander-control-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_port_is_registered_moved_looked_up_and_signed_off",
            "--nocapture",
        ])
        .env("MEANDER_RUN_DIR", &directory)
        .env(INSIDE, "1")
        .status()
        .unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(status.success());
}

fn play() {
    let (port, peer) = (open(), open());
    let (near, far) = connect(&port, &peer);
    let identity = Identity {
        job: JobId("0badcafe".into()),
        rank: 3,
        size: 4,
        program: "play".into(),
    };
    let control = Control::start(&port, identity.clone()).unwrap();

    // The agent is started after the process.
    std::thread::sleep(Duration::from_millis(50));
    let listener = UnixListener::bind(agent_socket()).unwrap();
    let mut agent = registered(&listener, &identity, Epoch(0), "a");
    eventually(|| port.contact().location.node == NodeName("a".into()));

    tell(&mut agent, &ToPort::Suspend);
    let suspended = FromPort::Suspended {
        epoch: Epoch(0),
        peers: vec![peer.id()],
    };
    assert_eq!(hear(&mut agent), Some(suspended));
    assert_eq!(hear(&mut agent), None);
    assert!(port.contact().location.cards.is_empty());
    let verdict = UnixListener::bind(verdict_socket(port.id())).unwrap();
    let (mut owner, _) = verdict.accept().unwrap();
    tell(
        &mut owner,
        &ToPort::Attach {
            epoch: Epoch(1),
            node: NodeName("b".into()),
        },
    );
    assert_eq!(hear(&mut owner), None);
    drop(verdict);
    std::fs::remove_file(verdict_socket(port.id())).unwrap();

    let mut agent = registered(&listener, &identity, Epoch(1), "b");
    assert_eq!(port.contact().location.node, NodeName("b".into()));
    near.send(b"from b").unwrap();
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"from b");

    // The peer is not where it was: the directory knows.
    let old = peer.contact();
    peer.suspend_in_place().unwrap();
    port.suspend_in_place().unwrap();
    peer.resume_in_place().unwrap();
    port.resume_in_place().unwrap();
    assert_ne!(peer.contact().location, old.location);
    near.send(b"found").unwrap();
    let asked = FromPort::Lookup { port: peer.id() };
    assert_eq!(hear(&mut agent), Some(asked));
    tell(
        &mut agent,
        &ToPort::Found {
            port: peer.id(),
            contact: Some(peer.contact()),
        },
    );
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"found");

    // An agent that is restarted finds the process again; a move that fails changes nothing.
    drop(agent);
    let mut agent = registered(&listener, &identity, Epoch(1), "b");
    tell(&mut agent, &ToPort::Suspend);
    assert!(matches!(
        next_but_lookups(&mut agent),
        Some(FromPort::Suspended { .. })
    ));
    let verdict = UnixListener::bind(verdict_socket(port.id())).unwrap();
    let (owner, _) = verdict.accept().unwrap();
    drop(owner);
    let (mut owner, _) = verdict.accept().unwrap();
    tell(&mut owner, &ToPort::Resume);
    let mut agent = registered(&listener, &identity, Epoch(1), "b");
    far.send(b"back").unwrap();
    assert_eq!(near.recv(SOME_TIME).unwrap().unwrap(), b"back");

    tell(&mut agent, &ToPort::PeerDead { port: peer.id() });
    assert!(matches!(near.recv(SOME_TIME), Err(Error::PeerDead { .. })));
    assert!(matches!(
        port.connect(&peer.contact(), SERVICE),
        Err(Error::PeerDead { .. })
    ));

    drop(control);
    assert_eq!(next_but_lookups(&mut agent), Some(FromPort::Leaving));
    assert_eq!(hear(&mut agent), None);
}

/// Takes the process's next connection.
fn registered(listener: &UnixListener, who: &Identity, at: Epoch, node: &str) -> UnixStream {
    let (mut agent, _) = listener.accept().unwrap();
    match hear(&mut agent) {
        Some(FromPort::Register {
            version: 1,
            identity,
            contact,
        }) => {
            assert_eq!(identity, *who);
            assert_eq!(contact.epoch, at);
            assert!(!contact.location.cards.is_empty());
        }
        other => panic!("{other:?}"),
    }
    tell(
        &mut agent,
        &ToPort::Registered {
            node: NodeName(node.into()),
        },
    );
    agent
}

fn next_but_lookups(agent: &mut UnixStream) -> Option<FromPort> {
    loop {
        match hear(agent) {
            Some(FromPort::Lookup { .. }) => {}
            other => return other,
        }
    }
}

fn tell(stream: &mut UnixStream, message: &ToPort) {
    let body = postcard::to_stdvec(message).unwrap();
    stream
        .write_all(&(body.len() as u32).to_le_bytes())
        .unwrap();
    stream.write_all(&body).unwrap();
}

fn hear(stream: &mut UnixStream) -> Option<FromPort> {
    stream.set_read_timeout(SOME_TIME).unwrap();
    let mut len = [0; 4];
    if stream.read(&mut len[..1]).unwrap() == 0 {
        return None;
    }
    stream.read_exact(&mut len[1..]).unwrap();
    let mut body = vec![0; u32::from_le_bytes(len) as usize];
    stream.read_exact(&mut body).unwrap();
    Some(postcard::from_bytes(&body).unwrap())
}

fn eventually(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it never happens"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

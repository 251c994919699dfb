//! Two users on one node, really as two users. Needs root: `cargo xtask test` runs it.

use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use meander_core::transport::{LinkError, Transport};
use meander_core::{Card, TransportKind};
use meander_shm::{ShmConfig, ShmTransport};
use meander_sim::conformance::End;

const MALLORY: u32 = 2002;

/// What the process is to reach that the test runs itself in, as another user.
const CARD: &str = "MEANDER_TEST_CARD";

/// Not a test of its own: what another user does in the test below.
#[test]
#[ignore = "another user's part in the test below, which starts it"]
fn a_part_for_another_user() {
    let text = std::env::var(CARD).expect("the test below says whom to reach");
    let bytes: Vec<u8> = text.split(',').map(|it| it.parse().unwrap()).collect();
    let name: String = bytes[1..].iter().map(|it| format!("{it:02x}")).collect();
    let card = Card {
        transport: TransportKind::Shm,
        bytes,
    };
    let mut near = ShmTransport::open(ShmConfig::default()).unwrap();
    let refused = near.dial(&card);
    assert!(matches!(refused, Err(LinkError::NotHere)), "{refused:?}");
    // Without that courtesy.
    let address = SocketAddr::from_abstract_name(format!("meander-{name}")).unwrap();
    let mut socket = UnixStream::connect_addr(&address).unwrap();
    let wait = Some(Duration::from_secs(10));
    socket.set_read_timeout(wait).unwrap();
    let _ = socket.write_all(&b"meandshm".repeat(6));
    match socket.read(&mut [0; 64]) {
        Ok(count) => assert_eq!(count, 0, "an answer"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

/// `[R70]`
#[test]
#[ignore = "needs root: cargo xtask test unit runs it"]
fn another_users_port_is_out_of_reach() {
    assert!(rustix::process::geteuid().is_root(), "this needs root");
    let mut far = End::new(ShmTransport::open(ShmConfig::default()).unwrap());
    // Neither the sources nor what is built from them need be anybody's to read.
    let name = format!("meander-shm-users-{}", std::process::id());
    let program = std::env::temp_dir().join(name);
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let card: Vec<String> = far
        .transport
        .card()
        .bytes
        .iter()
        .map(u8::to_string)
        .collect();
    let mut child = Command::new(&program)
        .args(["--exact", "a_part_for_another_user", "--ignored"])
        .env(CARD, card.join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .current_dir("/")
        .uid(MALLORY)
        .gid(MALLORY)
        .spawn()
        .unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        far.drive();
        assert!(start.elapsed() < Duration::from_secs(20), "in vain");
    }
    std::fs::remove_file(&program).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    assert!(far.accepted.is_empty() && far.broken.is_empty());
    // Who is the same user is let in.
    let mut near = End::new(ShmTransport::open(ShmConfig::default()).unwrap());
    let link = near.dial(&far.transport);
    while !near.connected.contains(&link) || far.accepted.is_empty() {
        near.drive();
        far.drive();
        assert!(start.elapsed() < Duration::from_secs(40), "in vain");
    }
}

//! What only shared memory does: sleeping and waking, what is left of a link that is gone, what of a peer is not believed.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use meander_core::transport::{Body, Frame, LinkError, LinkEvent, Transport};
use meander_core::wire::{AppHeader, FrameHeader, FrameKind};
use meander_core::{Card, LinkId, TransportKind};
use meander_shm::{ShmConfig, ShmTransport, limits};
use meander_sim::conformance::End;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn open() -> ShmTransport {
    ShmTransport::open(ShmConfig::default()).unwrap()
}

/// Two ends, joined.
fn pair() -> (End<ShmTransport>, End<ShmTransport>, LinkId, LinkId) {
    let (mut near, mut far) = (End::new(open()), End::new(open()));
    let one = near.dial(&far.transport);
    until(|| {
        near.drive();
        far.drive();
        near.connected.contains(&one) && !far.accepted.is_empty()
    });
    let other = far.accepted[0];
    (near, far, one, other)
}

fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "in vain");
    }
}

fn frame(number: u64, body: Vec<u8>) -> Frame {
    let mut header = FrameHeader::new(FrameKind::Eager);
    header.seq = number.into();
    header.body_len = (body.len() as u32).into();
    Frame {
        header,
        app: AppHeader::new(),
        body: Body::Own(body),
    }
}

/// Whether the transport's readiness says that there is news, waiting so long for it.
fn is_ready(transport: &ShmTransport, wait: Duration) -> bool {
    let readiness = transport.readiness();
    let mut on = [PollFd::from_borrowed_fd(readiness.as_fd(), PollFlags::IN)];
    let wait = Timespec::try_from(wait).unwrap();
    poll(&mut on, Some(&wait)).unwrap() > 0
}

/// `[R73]`
#[test]
fn who_sleeps_is_woken_and_who_does_not_is_not_called() {
    let (mut near, mut far, one, other) = pair();
    let nothing = Duration::ZERO;
    for number in 0..100 {
        // Awake: the frame comes without a word on the socket.
        far.transport.poll(nothing, &mut Vec::new());
        while is_ready(&far.transport, nothing) {
            far.drive();
        }
        far.transport.poll(nothing, &mut Vec::new());
        assert!(near.try_send(one, frame(2 * number, vec![1; 8])));
        near.transport.flush(one, &near.record);
        assert!(!is_ready(&far.transport, nothing));
        assert!(!far.transport.is_idle(), "there is a frame");
        until(|| {
            far.drive();
            far.got(other).len() as u64 == 2 * number + 1
        });
        // Asleep: it wakes.
        until(|| {
            far.transport.poll(nothing, &mut Vec::new());
            far.transport.is_idle()
        });
        assert!(!is_ready(&far.transport, nothing));
        assert!(near.try_send(one, frame(2 * number + 1, vec![1; 8])));
        near.transport.flush(one, &near.record);
        assert!(is_ready(&far.transport, Duration::from_secs(5)));
        until(|| {
            far.drive();
            far.got(other).len() as u64 == 2 * number + 2
        });
    }
}

/// The same for a writer that found no room. `[R73]`
#[test]
fn who_sleeps_for_room_is_woken() {
    let (mut near, mut far, one, other) = pair();
    let mut sent = 0;
    while near.try_send(one, frame(sent, vec![1; 60_000])) {
        near.transport.flush(one, &near.record);
        sent += 1;
    }
    near.transport.poll(Duration::ZERO, &mut Vec::new());
    assert!(near.transport.is_idle());
    assert!(!is_ready(&near.transport, Duration::ZERO));
    far.drive();
    assert!(!far.got(other).is_empty());
    assert!(is_ready(&near.transport, Duration::from_secs(5)));
    until(|| {
        near.drive();
        far.drive();
        near.writable.contains(&one) && far.got(other).len() as u64 == sent
    });
}

/// Nothing of it is left in this process: neither a mapping nor a descriptor. `[R20]`
#[test]
fn a_link_that_is_closed_leaves_nothing() {
    let mappings = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.matches("meander-shm").count()
    };
    let own = |transport: &ShmTransport| {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&transport.as_fd());
        std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok()
    };
    // Other tests have mappings too: this one runs in a process of its own.
    if std::env::var_os(ALONE).is_none() {
        return alone("a_link_that_is_closed_leaves_nothing");
    }
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let (mut near, far, one, other) = pair();
    assert!(own(&near.transport));
    assert_eq!(mappings(), 2);
    let mut far = far;
    near.close(one);
    assert_eq!(mappings(), 1);
    until(|| {
        far.drive();
        far.broken.contains(&other)
    });
    assert_eq!(mappings(), 0);
    let (three, four, ..) = pair();
    assert_eq!(mappings(), 2);
    drop((near, far, three, four));
    assert_eq!((mappings(), descriptors()), (0, before));
}

const ALONE: &str = "MEANDER_TEST_ALONE";

/// Runs a test of this file in a process of its own.
fn alone(test: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

/// Connects as a process that is no port.
fn stranger(to: &ShmTransport) -> UnixStream {
    let card = to.card();
    let name: String = card.bytes[1..]
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect();
    let address = SocketAddr::from_abstract_name(format!("meander-{name}")).unwrap();
    let socket = UnixStream::connect_addr(&address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket
}

fn is_closed(mut socket: &UnixStream) -> bool {
    match socket.read(&mut [0; 16]) {
        Ok(count) => count == 0,
        // What it had sent was not all read.
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Records of no sense, and none at all; the port feels nothing. `[R70]` `[R71]`
#[test]
fn strangers_are_sent_away() {
    let mut far = End::new(open());
    for bytes in [vec![0; 48], vec![0xff; 100], b"meandshm".repeat(6)] {
        let mut socket = stranger(&far.transport);
        socket.write_all(&bytes).unwrap();
        for _ in 0..3 {
            far.drive();
        }
        assert!(is_closed(&socket));
    }
    // A record that is right, without a segment.
    let mut record = b"meandshm".to_vec();
    for number in [1u32, 128, 128, 256 * 1024] {
        record.extend(number.to_le_bytes());
    }
    record.extend([0; 24]);
    let mut socket = stranger(&far.transport);
    for byte in record {
        socket.write_all(&[byte]).unwrap();
        far.drive();
    }
    assert!(is_closed(&socket));
    assert!(far.accepted.is_empty() && far.broken.is_empty());
}

/// Of those that say nothing so many are held, and who comes after them is served. `[R70]`
#[test]
fn silent_strangers_make_way() {
    let mut far = End::new(open());
    let silent: Vec<UnixStream> = (0..limits::STRANGERS + 8)
        .map(|_| stranger(&far.transport))
        .collect();
    for _ in 0..silent.len() / limits::ACCEPT_BURST + 2 {
        far.drive();
    }
    for first in &silent[..8] {
        assert!(is_closed(first));
    }
    let mut near = End::new(open());
    let one = near.dial(&far.transport);
    until(|| {
        near.drive();
        far.drive();
        near.connected.contains(&one) && !far.accepted.is_empty()
    });
}

#[test]
fn a_port_that_is_not_here_is_told_at_once() {
    let gone = open().card();
    let mut near = open();
    let start = Instant::now();
    assert!(matches!(near.dial(&gone), Err(LinkError::NotHere)));
    assert!(start.elapsed() < Duration::from_millis(100));
    let foreign = Card {
        transport: TransportKind::Tcp,
        ..gone
    };
    assert!(matches!(near.dial(&foreign), Err(LinkError::BadCard)));
    assert!(near.next_timeout().is_none());
}

#[test]
fn a_cut_link_is_noticed_by_both() {
    let (mut near, mut far, one, other) = pair();
    near.transport.cut();
    until(|| {
        near.drive();
        far.drive();
        near.broken.contains(&one) && far.broken.contains(&other)
    });
}

/// A listener that nobody serves takes callers until its backlog is full; they give up in time.
#[test]
fn who_does_not_answer_holds_nobody() {
    let far = open();
    let mut near = open();
    let start = Instant::now();
    let link = near.dial(&far.card()).unwrap();
    let mut events = Vec::new();
    while start.elapsed() < limits::SETUP_TIMEOUT + Duration::from_secs(5) && events.is_empty() {
        let due = near.next_timeout().expect("a link is being set up");
        assert!(due <= start + limits::SETUP_TIMEOUT + Duration::from_secs(1));
        near.poll(Duration::from_millis(100), &mut events);
    }
    assert!(
        matches!(&events[..], [LinkEvent::Broken(broken, LinkError::Io { .. })] if *broken == link)
    );
    assert!(near.next_timeout().is_none());
}

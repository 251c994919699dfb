//! What is particular to verbs: payload that is written into its place, faults of queue pairs, what
//! is left when a transport is gone. All need an RDMA device; the rxe lab's test runs them on a
//! machine that has one.

mod device;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use device::{Verbs, data, eager, link, open, pattern, pull, send_all, until};
use meander_core::limits::DATA_FRAME_BYTES;
use meander_core::transport::{LinkEvent, Memory, Slice, Transport};
use meander_core::{Card, TransportKind};
use meander_verbs::{VerbsConfig, VerbsTransport};
use rustix::event::{PollFd, PollFlags, Timespec};

/// `far` pulls a message of `near`, which sends its payload.
fn rendezvous(near: &mut Verbs, far: &mut Verbs, bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let (one, other) = link(near, far);
    let from = near.buffer(1, pattern(3, bytes));
    let into = far.buffer(2, vec![0; bytes + 64]);
    far.record.place = Some(into);
    send_all(far, other, vec![pull(5, into, 0, bytes as u64)], near);
    until(&mut [near, far], "the pull", |ends| {
        !ends[0].got(one).is_empty()
    });
    let offsets = (0..bytes).step_by(DATA_FRAME_BYTES);
    let frames: Vec<_> = offsets
        .map(|offset| {
            data(
                5,
                from,
                offset as u64,
                DATA_FRAME_BYTES.min(bytes - offset) as u64,
            )
        })
        .collect();
    let count = frames.len();
    send_all(near, one, frames, far);
    until(&mut [near, far], "the payload", |ends| {
        ends[1].got(other).len() == count
    });
    let got = far.record.buffers[&into].clone();
    (got[..bytes].to_vec(), got[bytes..].to_vec())
}

#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn payload_is_written_into_its_place_without_a_copy() {
    let (mut near, mut far) = (open(), open());
    let bytes = 1_000_000;
    let (got, beyond) = rendezvous(&mut near, &mut far, bytes);
    assert_eq!(got, pattern(3, bytes));
    assert!(
        beyond.iter().all(|byte| *byte == 0),
        "written beyond the place"
    );
    let counters = near.transport.counters();
    assert_eq!(counters.written_bytes, bytes as u64, "{counters:?}");
    assert_eq!(counters.copied_bytes, 0, "{counters:?}");
    // One write, out of memory that was registered once, into a place that was.
    let requests = (counters.writes, counters.send_requests, counters.doorbells);
    assert_eq!(requests, (1, 2, 1), "{counters:?}");
    assert_eq!(counters.unregistered, 0);
    for end in [&near, &far] {
        let registrations = end.transport.registrations();
        assert_eq!(registrations.misses + registrations.unkept, 1);
    }
}

/// What messages cost in work requests, completions and doorbells does not depend on the machine.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn messages_cost_what_they_should() {
    let (mut near, mut far) = (open(), open());
    let (one, other) = link(&mut near, &mut far);
    let rounds = 64;
    let before = near.transport.counters();
    for number in 0..rounds {
        assert!(near.try_send(one, eager(number, vec![1; 8])));
        near.transport.flush(one, &near.record);
        until(&mut [&mut near, &mut far], "it", |ends| {
            ends[1].got(other).len() as u64 == number + 1
        });
    }
    let after = near.transport.counters();
    // Each one inline request and one doorbell; every sixteenth asks for a completion.
    assert_eq!(
        after.send_requests - before.send_requests,
        rounds,
        "{after:?}"
    );
    assert_eq!(after.doorbells - before.doorbells, rounds, "{after:?}");
    assert_eq!(after.inline - before.inline, rounds, "{after:?}");
    assert_eq!(after.signalled - before.signalled, rounds / 16, "{after:?}");
    // Those that wait together go together.
    for number in 0..rounds {
        assert!(near.try_send(one, eager(rounds + number, vec![1; 8])));
    }
    near.transport.flush(one, &near.record);
    let last = near.transport.counters();
    assert_eq!(last.doorbells - after.doorbells, 1, "{last:?}");
    assert_eq!(last.send_requests - after.send_requests, 1, "{last:?}");
}

#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn payload_below_the_bound_is_sent() {
    let (mut near, mut far) = (open(), open());
    let (got, _) = rendezvous(&mut near, &mut far, 1500);
    assert_eq!(got, pattern(3, 1500));
    let counters = near.transport.counters();
    assert_eq!((counters.written_bytes, counters.copied_bytes), (0, 1500));
}

/// A queue pair fails at whatever moment: both ends hear of it, what arrived before is a beginning of
/// what was sent, and the next link is as good as new.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn a_queue_pair_may_fail_at_any_moment() {
    let (mut near, mut far) = (open(), open());
    let bytes = 4 * DATA_FRAME_BYTES as u64;
    let from = near.buffer(1, pattern(8, bytes as usize));
    let into = far.buffer(2, vec![0; bytes as usize]);
    far.record.place = Some(into);
    for round in 0..24_u64 {
        let (one, other) = link(&mut near, &mut far);
        assert!(far.try_send(other, pull(round, into, 0, bytes)));
        let (mut forth, mut back, mut pulled) = (0, 0, 0);
        for step in 0..3 * round {
            if !near.got(one).is_empty() && pulled < 4 {
                let offset = pulled * DATA_FRAME_BYTES as u64;
                pulled += u64::from(
                    near.try_send(one, data(round, from, offset, DATA_FRAME_BYTES as u64)),
                );
            }
            let len = (step * 977 % 30_000) as usize;
            forth += u64::from(near.try_send(one, eager(forth, pattern(forth, len))));
            back += u64::from(far.try_send(other, eager(back, pattern(back, len / 3))));
            near.drive();
            far.drive();
        }
        if round % 2 == 0 {
            near.transport.cut();
        } else {
            far.transport.cut();
        }
        until(&mut [&mut near, &mut far], "both to hear of it", |ends| {
            ends[0].broken.contains(&one) && ends[1].broken.contains(&other)
        });
        for (end, link) in [(&near, one), (&far, other)] {
            let own = |kind: u8| {
                end.got(link)
                    .iter()
                    .filter(move |got| got.header.kind == kind)
            };
            let order = own(19).map(|got| got.header.seq.get());
            assert!(
                order.eq(0..own(19).count() as u64),
                "a gap in round {round}"
            );
            assert!(own(33).count() as u64 <= pulled);
        }
    }
    for end in [&near, &far] {
        let counters = end.transport.counters();
        assert!(
            counters.send_requests > 0 && counters.undrained == 0,
            "{counters:?}"
        );
    }
}

/// The name of the variable that makes `another_process` one that dials, and of what it dials.
const DIALS: &str = "MEANDER_TEST_DIALS";
/// The name of the variable that makes it one that only opens a device, and says how that went.
const OPENS: &str = "MEANDER_TEST_OPENS";

/// Not a test by itself: a process that other tests start.
#[test]
#[ignore = "part of other tests"]
fn another_process() {
    if std::env::var_os(OPENS).is_some() {
        match VerbsTransport::open(&VerbsConfig::default()) {
            Ok(_) => println!("it opened"),
            Err(error) => println!("error: {error}"),
        }
    }
    if let Ok(card) = std::env::var(DIALS) {
        dial_for_ever(&card);
    }
}

fn dial_for_ever(card: &str) {
    let bytes = card
        .split(',')
        .map(|byte| byte.parse().expect("a byte"))
        .collect();
    let transport = TransportKind::Verbs;
    let card = Card { transport, bytes };
    let mut end = open();
    let link = end.transport.dial(&card).expect("it is a card");
    until(&mut [&mut end], "a link", |ends| {
        ends[0].connected.contains(&link)
    });
    println!("linked");
    loop {
        end.try_send(link, eager(0, vec![7; 20_000]));
        end.drive();
    }
}

/// A user whose locked memory is limited is told so when the device is opened.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn too_little_locked_memory_is_an_error_that_says_so() {
    // Where any user can reach it.
    let program = std::env::temp_dir().join(format!("meander-limited-{}", std::process::id()));
    fs::copy(std::env::current_exe().expect("a program"), &program).expect("room for it");
    let said = Command::new("prlimit")
        .args([
            "--memlock=65536",
            "setpriv",
            "--reuid=65534",
            "--clear-groups",
        ])
        .args(["--inh-caps=-all", "--bounding-set=-all"])
        .arg(&program)
        .args(["--ignored", "--exact", "another_process", "--nocapture"])
        .env(OPENS, "1")
        .output();
    let _ = fs::remove_file(&program);
    let said = said.expect("prlimit and setpriv are there");
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(
        text.contains("error: rxe0 can't register 524288 bytes"),
        "{text}"
    );
    assert!(text.contains("ulimit -l"), "{text}");
}

#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn a_killed_peer_breaks_its_link_at_once() {
    let mut near = open();
    let card = near.transport.card().bytes;
    let card: Vec<String> = card.iter().map(u8::to_string).collect();
    let mut child = Command::new(std::env::current_exe().expect("a program"))
        .args(["--ignored", "--exact", "another_process", "--nocapture"])
        .env(DIALS, card.join(","))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let said = BufReader::new(child.stdout.take().expect("piped"));
    until(&mut [&mut near], "frames", |ends| {
        ends[0]
            .accepted
            .front()
            .is_some_and(|link| ends[0].got(*link).len() > 20)
    });
    let link = near.accepted[0];
    child.kill().expect("it runs");
    let killed = Instant::now();
    child.wait().expect("it was killed");
    until(&mut [&mut near], "the link to break", |ends| {
        ends[0].broken.contains(&link)
    });
    // The device would try again for longer than that.
    assert!(
        killed.elapsed() < Duration::from_secs(2),
        "{:?}",
        killed.elapsed()
    );
    assert!(
        said.lines()
            .any(|line| line.is_ok_and(|line| line.contains("linked")))
    );
}

fn descriptors() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").expect("it is there");
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mut targets: Vec<String> = targets.map(|to| to.display().to_string()).collect();
    targets.retain(|to| !to.starts_with("/proc/"));
    targets.sort();
    targets
}

/// Mappings of a device, or of anything that is not there when a process starts.
fn mappings() -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").expect("it is there");
    let special = |line: &&str| {
        line.contains("infiniband") || line.contains("uverbs") || line.contains("anon_inode")
    };
    maps.lines().filter(special).map(str::to_owned).collect()
}

/// CRIU takes a process only if nothing of a device is open or mapped.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn a_dropped_transport_leaves_no_descriptor_and_no_mapping() {
    // What the library itself opens once, it opens now.
    drop(open());
    let before = descriptors();
    assert_eq!(mappings(), Vec::<String>::new());
    let (mut near, mut far) = (open(), open());
    rendezvous(&mut near, &mut far, 300_000);
    // A link that is being set up, and an event that nobody takes.
    while !near.transport.is_idle() {
        near.drive();
    }
    far.dial(&near.transport);
    let (one, _) = link(&mut far, &mut near);
    assert!(far.try_send(one, eager(1, vec![1; 10])));
    far.transport.flush(one, &far.record);
    let during = descriptors();
    assert!(
        during.iter().any(|to| to.contains("infiniband")),
        "{during:?}"
    );
    assert!(!mappings().is_empty());
    drop(near);
    drop(far);
    assert_eq!(descriptors(), before);
    assert_eq!(mappings(), Vec::<String>::new());
}

/// A forked child that drops the transport it inherited takes nothing away from its parent.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn a_forked_child_leaves_the_link_alone() {
    let (mut near, mut far) = (open(), open());
    let (one, other) = link(&mut near, &mut far);
    // SAFETY: the child runs nothing but destructors of this test's values, whose locks nobody else
    // takes, and `_exit`.
    match unsafe { libc::fork() } {
        -1 => panic!("no child: {}", std::io::Error::last_os_error()),
        0 => {
            drop(near);
            drop(far);
            // SAFETY: it ends the process, and does nothing else.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // SAFETY: it writes the status.
            let waited = unsafe { libc::waitpid(child, &mut status, 0) };
            assert_eq!((waited, status), (child, 0));
        }
    }
    for number in 0..100 {
        assert!(near.try_send(one, eager(number, pattern(number, 9000))));
        until(&mut [&mut near, &mut far], "a frame", |ends| {
            ends[1].got(other).len() as u64 == number + 1
        });
        assert_eq!(far.got(other)[number as usize].body, pattern(number, 9000));
    }
}

/// A device has its bounds, and a link that is too much for it fails and says why; those that there are
/// go on.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn a_link_too_many_fails_and_says_why() {
    let mut near = open();
    let mut far = open();
    let (one, other) = link(&mut near, &mut far);
    let card = far.transport.card();
    let mut failure = None;
    let start = Instant::now();
    let mut links = 1;
    'dials: for _ in 0..1000 {
        let dialled = near.transport.dial(&card).expect("its card is good");
        loop {
            far.drive();
            let mut events = Vec::new();
            near.transport.poll(Duration::ZERO, &mut events);
            for event in events {
                match event {
                    LinkEvent::Connected(link) if link == dialled => {
                        links += 1;
                        continue 'dials;
                    }
                    LinkEvent::Broken(link, error) if link == dialled => {
                        failure = Some(error.to_string());
                        break 'dials;
                    }
                    _ => {}
                }
            }
            assert!(start.elapsed() < Duration::from_secs(120), "{links} links");
        }
    }
    let failure = failure.expect("no device has room for a thousand links of ours");
    assert!(
        failure.contains("no more work requests of all links than"),
        "{failure}"
    );
    assert!(links > 100, "only {links} links");
    near.connected.push(one);
    assert!(near.try_send(one, eager(1, vec![1; 100])));
    until(&mut [&mut near, &mut far], "a frame", |ends| {
        !ends[1].got(other).is_empty()
    });
}

/// Who sleeps is woken by a frame, and costs nothing meanwhile.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn an_idle_transport_sleeps_and_is_woken() {
    let (mut near, mut far) = (open(), open());
    let (one, other) = link(&mut near, &mut far);
    for round in 0..3 {
        let start = Instant::now();
        while !far.transport.is_idle() {
            far.drive();
            assert!(start.elapsed() < device::PATIENCE, "it is never idle");
        }
        let readiness = far.transport.readiness();
        let asleep = |limit: Duration| {
            let mut on = [PollFd::new(&readiness, PollFlags::IN)];
            let limit = Timespec {
                tv_sec: limit.as_secs() as i64,
                tv_nsec: limit.subsec_nanos().into(),
            };
            rustix::event::poll(&mut on, Some(&limit)).expect("it can be polled") == 0
        };
        let used = cpu_time();
        assert!(asleep(Duration::from_secs(1)), "woken by nothing");
        assert!(cpu_time() - used < Duration::from_millis(100));
        assert!(near.try_send(one, eager(round, vec![1; 100])));
        near.transport.flush(one, &near.record);
        assert!(!asleep(Duration::from_secs(5)), "not woken by a frame");
        until(&mut [&mut near, &mut far], "the frame", |ends| {
            ends[1].got(other).len() as u64 == round + 1
        });
    }
}

fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Strangers at the listener, silent ones and noisy ones, keep nobody out.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn strangers_at_the_listener_keep_nobody_out() {
    let (mut near, mut far) = (open(), open());
    let address = listener(&far.transport.card());
    let mut strangers: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(address).expect("it listens"))
        .collect();
    for (number, stranger) in strangers.iter_mut().enumerate() {
        let _ = stranger.write_all(&vec![number as u8; number * 3]);
    }
    until(&mut [&mut far], "a look at them", |ends| {
        ends[0].transport.next_timeout().is_some()
    });
    link(&mut near, &mut far);
    assert!(
        far.accepted.is_empty() && far.broken.is_empty(),
        "a stranger was taken for a link"
    );
    // Those that stay silent are sent away.
    until(&mut [&mut far], "nobody to be at the door", |ends| {
        ends[0].transport.next_timeout().is_none()
    });
}

/// The first address in a card; see `docs/protocol.md`, section "Verbs".
fn listener(card: &Card) -> SocketAddr {
    // Version, link layer, 16 bytes of GID, the number of addresses; then the first.
    let at = card.bytes.get(19..).expect("a card is longer");
    match at {
        [0, a, b, c, d, rest @ ..] => {
            let (low, high) = (rest[0], rest.get(1).copied().unwrap_or(0));
            let third = rest.get(2).copied().unwrap_or(0);
            let mut port = u32::from(low & 0x7f);
            if low & 0x80 != 0 {
                port |= u32::from(high & 0x7f) << 7;
            }
            if low & 0x80 != 0 && high & 0x80 != 0 {
                port |= u32::from(third) << 14;
            }
            SocketAddr::from(([*a, *b, *c, *d], port as u16))
        }
        other => panic!("not an IPv4 address: {other:?}"),
    }
}

/// A device that is not there, and one that is without an active port.
#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn what_is_asked_for_and_not_there_is_an_error() {
    let fails = |config: VerbsConfig| match VerbsTransport::open(&config) {
        Ok(_) => panic!("it opened"),
        Err(error) => error.to_string(),
    };
    let device = Some("mlx9_9".to_owned());
    let text = fails(VerbsConfig {
        device,
        ..VerbsConfig::default()
    });
    assert!(
        text.contains("no RDMA device mlx9_9; there are: rxe0"),
        "{text}"
    );
    let gid_index = Some(77);
    let text = fails(VerbsConfig {
        gid_index,
        ..VerbsConfig::default()
    });
    assert!(text.contains("rxe0"), "{text}");
    let port = Some(9);
    let text = fails(VerbsConfig {
        port,
        ..VerbsConfig::default()
    });
    assert!(text.contains("ibv_query_port on rxe0"), "{text}");
}

/// Memory that can't be registered: it is read-only, which a region of ours is not.
static UNREGISTRABLE: [u8; 100_000] = [0x5a; 100_000];

struct ReadOnly;

impl Memory for ReadOnly {
    fn read(&self, slice: Slice) -> &[u8] {
        &UNREGISTRABLE[slice.offset as usize..][..slice.len as usize]
    }
    fn write(&mut self, _: Slice) -> &mut [u8] {
        panic!("it is only sent from")
    }
}

#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn payload_that_cannot_be_registered_is_copied() {
    let (mut near, mut far) = (open(), open());
    let (one, other) = link(&mut near, &mut far);
    let len = UNREGISTRABLE.len() as u64;
    let into = far.buffer(2, vec![0; UNREGISTRABLE.len()]);
    far.record.place = Some(into);
    send_all(&mut far, other, vec![pull(5, into, 0, len)], &mut near);
    until(&mut [&mut near, &mut far], "the pull", |ends| {
        !ends[0].got(one).is_empty()
    });
    let frame = data(5, meander_core::BufferId(9), 0, len);
    near.transport
        .send(one, frame, &mut ReadOnly)
        .expect("it is open");
    let mut sent = Vec::new();
    until(&mut [&mut far], "the payload", |ends| {
        near.transport.flush(one, &ReadOnly);
        near.transport.poll(Duration::ZERO, &mut sent);
        !ends[0].got(other).is_empty()
    });
    assert_eq!(far.record.buffers[&into], UNREGISTRABLE);
    let counters = near.transport.counters();
    assert_eq!((counters.written_bytes, counters.copied_bytes), (0, len));
    assert_eq!(counters.unregistered, 1);
}

#[test]
#[ignore = "needs an RDMA device: cargo xtask rxe test runs it"]
fn the_receiver_is_never_not_ready() {
    let counters = || -> Vec<(String, u64)> {
        let names = ["rcvd_rnr_err", "send_rnr_err", "retry_rnr_exceeded_err"];
        let dir = "/sys/class/infiniband/rxe0/ports/1/hw_counters";
        let read = |name: &str| {
            let text = fs::read_to_string(format!("{dir}/{name}")).expect("rxe counts it");
            (name.to_owned(), text.trim().parse().expect("a number"))
        };
        names.map(read).into_iter().collect()
    };
    let before = counters();
    let (mut near, mut far) = (open(), open());
    let (one, other) = link(&mut near, &mut far);
    // Both send as fast as they can; one does not read for a long time.
    let (mut forth, mut back) = (0, 0);
    until(&mut [&mut near, &mut far], "all frames", |ends| {
        let lazy = forth < 500 && forth % 100 != 99;
        while forth < 600 && ends[0].try_send(one, eager(forth, pattern(forth, 9000))) {
            forth += 1;
        }
        while back < 3000 && ends[1].try_send(other, eager(back, pattern(back, 40))) {
            back += 1;
        }
        if lazy {
            ends[0].drive();
        }
        ends[1].got(other).len() == 600 && ends[0].got(one).len() == 3000
    });
    assert_eq!(counters(), before);
}

//! Two users on one node, really as two users: neither touches the other's ports or sockets. Needs root.

#[allow(dead_code)]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use meander::control::{CONTROL_VERSION, FromPort, ToPort, verdict_socket};
use meander::{Contact, Epoch, JobId, Location, PortId};
use meander_core::Identity;
use meander_node::moves::verdict::Verdict;
use meander_node::net::frame;
use meander_node::process::Process;
use support::{Cluster, copy_program, text_of, wait_until};

const ALICE: u32 = 2001;
const MALLORY: u32 = 2002;
const PORT: PortId = PortId(0xa11ce);

/// What the process is to do that a test runs itself in, as another user.
const PART: &str = "MEANDER_TEST_PART";

/// Runs a part of this file as a user.
fn as_user(cluster: &Cluster, uid: u32, part: &str) -> Command {
    // Neither the sources nor what is built from them need be anybody's to read.
    let program = cluster.path("users-test");
    if !program.exists() {
        copy_program(&std::env::current_exe().unwrap(), &program);
        for path in [&program, cluster.dir.path()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    let mut command = Command::new(program);
    command
        .args(["--exact", "a_part_for_another_user", "--nocapture"])
        .env(PART, part)
        .env("MEANDER_RUN_DIR", cluster.path("a"))
        .stdin(Stdio::null())
        .current_dir("/")
        .uid(uid)
        .gid(uid);
    command
}

fn played(cluster: &Cluster, uid: u32, part: &str) -> Output {
    let output = as_user(cluster, uid, part).output().unwrap();
    let text = text_of(&output);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{part}: {text}"
    );
    output
}

/// Not a test of its own: what other users do in the tests below.
#[test]
fn a_part_for_another_user() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    match &*part {
        // Registers and stays; every message is answered, as far as it can be.
        "be a rank" => {
            let (mut stream, answer) = register("job1", PORT, 0);
            assert!(matches!(answer, Some(ToPort::Registered { .. })));
            while let Ok(Some(heard)) = frame::read::<ToPort>(&mut stream) {
                println!("heard {heard:?}");
            }
        }
        "claim the port" => {
            for epoch in [0, 1, 7] {
                assert_eq!(register("job1", PORT, epoch).1, None, "taken");
                assert_eq!(register("mine", PORT, epoch).1, None, "taken");
            }
        }
        // The agent does not know it any more; the directory does.
        "inherit the port" => {
            let (mut stream, _) = register("job1", PORT, 0);
            let heard: Option<ToPort> = frame::read(&mut stream).unwrap();
            assert_eq!(heard, None, "he is taken for her");
        }
        "die in her job" => {
            let (_, answer) = register("job1", PortId(0xbad), 0);
            assert!(matches!(answer, Some(ToPort::Registered { .. })));
        }
        "hear the verdict" => {
            let heard = UnixStream::connect(verdict_socket(PORT));
            let kind = heard.expect_err("it is open to all").kind();
            assert_eq!(kind, std::io::ErrorKind::PermissionDenied);
        }
        "hear it herself" => {
            let mut stream = UnixStream::connect(verdict_socket(PORT)).unwrap();
            assert_eq!(frame::read(&mut stream).unwrap(), Some(ToPort::Resume));
        }
        "take the place of sockets" => {
            for name in [verdict_socket(PORT), meander::control::agent_socket()] {
                assert!(std::fs::remove_file(&name).is_err(), "removed {name:?}");
                let other = name.with_extension("mine");
                assert!(std::fs::write(&other, "").is_err(), "made {other:?}");
            }
        }
        // Several users at once; each byte is a sign of life, and no message is ever whole.
        "hold all connections" => {
            let connect = || UnixStream::connect(meander::control::agent_socket());
            let mut held: Vec<UnixStream> = (0..700).map_while(|_| connect().ok()).collect();
            assert!(held.len() > 600, "{} connections", held.len());
            println!("held");
            // The length of a message, byte by byte, and then the message.
            let lengthy = [255, 255, 0, 0].into_iter().chain(std::iter::repeat(0));
            for byte in lengthy {
                held.retain_mut(|it| it.write_all(&[byte]).is_ok());
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        "be served all the same" => {
            let (_, answer) = register("job2", PortId(0xfeed), 0);
            assert!(matches!(answer, Some(ToPort::Registered { .. })));
        }
        other => panic!("there is no part {other:?}"),
    }
}

fn register(job: &str, port: PortId, epoch: u64) -> (UnixStream, Option<ToPort>) {
    let mut stream = UnixStream::connect(meander::control::agent_socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let identity = Identity {
        job: JobId(job.into()),
        rank: 0,
        size: 1,
        program: "part".into(),
    };
    let contact = Contact {
        port,
        epoch: Epoch(epoch),
        location: Location::default(),
    };
    let register = FromPort::Register {
        version: CONTROL_VERSION,
        identity,
        contact,
    };
    frame::write(&mut stream, &register).unwrap();
    let answer = frame::read(&mut stream).ok().flatten();
    stream.set_read_timeout(None).unwrap();
    (stream, answer)
}

/// A rank of Alice's, until it is dropped.
struct Rank(Child);

impl Rank {
    fn of_alice(cluster: &Cluster) -> Rank {
        let rank = as_user(cluster, ALICE, "be a rank")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("her rank", || cluster.ps("a") == ["job1/0 a 0"]);
        Rank(rank)
    }

    fn is_there(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `[R44]`
#[test]
fn nobody_registers_another_users_port() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.start("a");
    let mut rank = Rank::of_alice(&cluster);
    played(&cluster, MALLORY, "claim the port");
    assert_eq!(cluster.ps("a"), ["job1/0 a 0"]);
    // Nor does a process of his that ends in her job end anything of hers.
    played(&cluster, MALLORY, "die in her job");
    std::thread::sleep(Duration::from_secs(2));
    assert!(rank.is_there());
    assert!(cluster.ps("a").contains(&"job1/0 a 0".to_owned()));
    // Not even when her rank is gone may he have its port.
    drop(rank);
    wait_until("her rank to be gone", || cluster.ps("a").is_empty());
    played(&cluster, MALLORY, "inherit the port");
    assert_eq!(cluster.ps("a"), [""; 0]);
}

/// Users who together take every connection there is, of an agent with few of them, keep nobody out who
/// comes later, nor root. `[R44]`
#[test]
fn many_users_together_do_not_take_the_agent_away() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.start_limited("a", 4096);
    let greedy: Vec<Rank> = (3001..3004)
        .map(|uid| {
            let mut command = as_user(&cluster, uid, "hold all connections");
            let mut one = command.stdout(Stdio::piped()).spawn().unwrap();
            let lines = BufReader::new(one.stdout.take().unwrap()).lines();
            let held = lines
                .map_while(Result::ok)
                .any(|line| line.contains("held"));
            assert!(held);
            Rank(one)
        })
        .collect();
    let log = cluster.path("a.log");
    for uid in 3001..3004 {
        let refused = format!("user {uid} has as many connections as he may");
        wait_until("all connections to be taken", || {
            std::fs::read_to_string(&log).unwrap().contains(&refused)
        });
    }
    for _ in 0..3 {
        played(&cluster, ALICE, "be served all the same");
        assert!(cluster.ps("a").len() <= 1, "root is answered");
    }
    drop(greedy);
}

/// `[R44]` `[R30]`
#[test]
fn nobody_hears_another_ranks_verdict_or_takes_its_place() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.start("a");
    let path = cluster.path("a").join(format!("verdict-{PORT}.sock"));
    let verdict = Verdict::bind_at(path.clone(), ALICE).unwrap();
    played(&cluster, MALLORY, "hear the verdict");
    played(&cluster, MALLORY, "take the place of sockets");
    let rank = Process::find(std::process::id()).unwrap();
    let mut alice = as_user(&cluster, ALICE, "hear it herself")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    verdict.deliver(&ToPort::Resume, &rank, || false).unwrap();
    assert!(alice.wait().unwrap().success());
    assert!(!path.exists());
}

//! What concerns the whole process: forks, descriptors, threads. Each test runs itself again as a
//! process of its own.

mod common;
mod fork;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{SOME_TIME, connect, open, open_over_shm};
use meander::{Error, TransportKind};

/// Set in the process that a test runs itself in.
const INSIDE: &str = "MEANDER_TEST_INSIDE";

/// Whether this is the process that the test is about; else runs it.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    assert!(command.env(INSIDE, "1").status().unwrap().success());
    false
}

#[test]
fn a_suspended_port_holds_no_socket() {
    if !inside("a_suspended_port_holds_no_socket") {
        return;
    }
    let (left, right) = (open_over_shm(), open_over_shm());
    let (near, far) = connect(&left, &right);
    assert_eq!(left.linked_by(right.id()), Some(TransportKind::Shm));
    assert!(descriptors("socket:") >= 4);
    assert_eq!(shared_segments(), 2);
    left.suspend_in_place().unwrap();
    right.suspend_in_place().unwrap();
    assert_eq!(descriptors("socket:"), 0);
    for kind in ["anon_inode:[timerfd]", "anon_inode:[pidfd]", "/memfd:"] {
        assert_eq!(descriptors(kind), 0, "{kind}");
    }
    assert_eq!(shared_segments(), 0);
    left.resume_in_place().unwrap();
    right.resume_in_place().unwrap();
    left.add_peer(&right.contact());
    near.send(b"here again").unwrap();
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"here again");
}

/// Mappings of memory that is shared with other ports.
fn shared_segments() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.matches("meander-shm").count()
}

fn descriptors(kind: &str) -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with(kind))
        .count()
}

#[test]
fn our_threads_take_no_signals_and_run_anywhere() {
    if !inside("our_threads_take_no_signals_and_run_anywhere") {
        return;
    }
    let all = field("/proc/self/status".as_ref(), "Cpus_allowed_list:");
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    let _port = open();
    std::thread::sleep(Duration::from_millis(100));
    let mut ours = 0;
    for thread in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let status = thread.path().join("status");
        if field(&status, "Name:") == "meander-port" {
            ours += 1;
            // All but SIGKILL, SIGSTOP and the two that the C library keeps for itself.
            let blocked = u64::from_str_radix(&field(&status, "SigBlk:"), 16).unwrap();
            assert_eq!(blocked.count_ones(), 60, "{blocked:x}");
            assert_eq!(field(&status, "Cpus_allowed_list:"), all);
        }
    }
    assert_eq!(ours, 1);
}

fn field(status: &Path, name: &str) -> String {
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_once('\t').unwrap().1.to_owned()
}

/// The child keeps its hands off the parent's port, and the parent's streams take no harm.
#[test]
fn a_forked_child_has_no_port() {
    if !inside("a_forked_child_has_no_port") {
        return;
    }
    let (left, right) = (open_over_shm(), open_over_shm());
    let (near, far) = connect(&left, &right);
    match fork::this_process() {
        nix::unistd::ForkResult::Child => {
            let as_it_should = matches!(near.send(b"x"), Err(Error::Forked))
                && matches!(left.flush(SOME_TIME), Err(Error::Forked))
                && matches!(left.suspend_in_place(), Err(Error::Forked));
            drop((near, far, left, right));
            std::process::exit(if as_it_should { 0 } else { 1 });
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
    near.send(b"fine").unwrap();
    assert_eq!(far.recv(SOME_TIME).unwrap().unwrap(), b"fine");
}

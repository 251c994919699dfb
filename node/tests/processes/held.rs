//! A process is held, dumped, restored held, and released or discarded: with no launcher, no
//! guardian and no shadow.

use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::launcher::{Output, Walker, can_move, images, wait};
use meander_node::checkpoint::{self, Ended, Error, Hold, Manifest, Obstacle, RunningCopy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const STEPS: u64 = 1500;

/// Lets a held copy run and collects what it says.
fn run(mut copy: checkpoint::HeldCopy) -> (RunningCopy, Output, Output, Option<File>) {
    let stdio = copy.take_stdio();
    let copy = copy.release().unwrap();
    let (stdout, stderr) = (Output::default(), Output::default());
    stdout.collect(File::from(stdio.stdout.unwrap()));
    stderr.collect(File::from(stdio.stderr.unwrap()));
    (copy, stdout, stderr, stdio.stdin.map(File::from))
}

fn hold_and_dump(pid: Pid) -> (Hold, tempfile::TempDir, Manifest) {
    let images = images();
    let hold = Hold::freeze(pid).unwrap();
    let dump = checkpoint::dump(&hold, images.path()).unwrap();
    assert!(dump.bytes > 0);
    assert!(hold.is_frozen().unwrap());
    (hold, images, dump.manifest)
}

#[test]
fn a_copy_goes_on_where_the_original_stood() {
    can_move();
    let walker = Walker::start(STEPS, 3);
    let (hold, images, manifest) = hold_and_dump(walker.pid());
    walker.stands_still();
    let copy = checkpoint::restore(images.path(), &manifest).unwrap();
    walker.stands_still();
    hold.kill().unwrap();
    let (copy, stdout, stderr, stdin) = run(copy);
    walker.wait_for_more();
    stdin.unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(copy.wait().unwrap(), Ended::Exited(3));
    walker.check_steps(STEPS);
    for echo in ["hello\n", "in: end\n"] {
        wait("its echo", || stdout.text().contains(echo));
    }
    let last = format!("err {}\n", STEPS - 10);
    wait("its last error", || stderr.text().ends_with(&last));
    // stdout was lost or doubled nowhere: what the original said and what the copy said add up.
    let both = walker.stdout.text().replace('\r', "") + &stdout.text();
    let lines: Vec<&str> = both
        .lines()
        .filter(|line| line.starts_with("out"))
        .collect();
    let wanted: Vec<String> = (0..STEPS)
        .step_by(10)
        .map(|step| format!("out {step}"))
        .collect();
    assert_eq!(lines, wanted);
}

#[test]
fn rolled_back_the_original_goes_on_and_the_copy_never_ran() {
    can_move();
    let mut walker = Walker::start(STEPS, 0);
    for _ in 0..2 {
        let (hold, images, manifest) = hold_and_dump(walker.pid());
        let copy = checkpoint::restore(images.path(), &manifest).unwrap();
        let pid = copy.pid();
        walker.stands_still();
        copy.discard();
        assert!(kill(pid, None).is_err(), "the copy is still there");
        walker.stands_still();
        hold.release().unwrap();
        walker.wait_for_more();
    }
    assert!(walker.wait().success());
    walker.check_steps(STEPS);
    walker.check_outputs(STEPS);
    no_group_is_left(walker.pid());
}

#[test]
fn a_copy_is_moved_again_out_of_its_namespace() {
    can_move();
    let walker = Walker::start(STEPS, -15);
    let (hold, images, manifest) = hold_and_dump(walker.pid());
    let first = checkpoint::restore(images.path(), &manifest).unwrap();
    hold.kill().unwrap();
    let (first, _out, _err, _in) = run(first);
    walker.wait_for_more();

    let (hold, images, again) = hold_and_dump(first.pid());
    assert_eq!(again.pid, manifest.pid);
    assert_eq!(again.threads, manifest.threads);
    walker.stands_still();
    let second = checkpoint::restore(images.path(), &again).unwrap();
    hold.kill().unwrap();
    drop(first);
    let (second, _out, _err, _in) = run(second);
    assert_eq!(second.wait().unwrap(), Ended::Killed(15));
    walker.check_steps(STEPS);
}

#[test]
fn a_file_that_someone_else_has_grown_is_no_obstacle() {
    can_move();
    let walker = Walker::start(STEPS, 0);
    let (hold, images, manifest) = hold_and_dump(walker.pid());
    let data = fs::OpenOptions::new()
        .write(true)
        .open(walker.data())
        .unwrap();
    data.set_len(1 << 20).unwrap();
    let copy = checkpoint::restore(images.path(), &manifest).unwrap();
    hold.kill().unwrap();
    let (copy, ..) = run(copy);
    assert_eq!(copy.wait().unwrap(), Ended::Exited(0));
    walker.check_steps(STEPS);
    assert_eq!(fs::metadata(walker.data()).unwrap().len(), 1 << 20);
}

#[test]
fn sigcont_wakes_neither() {
    can_move();
    let walker = Walker::start(STEPS, 0);
    let original = walker.pid();
    let stop = Arc::new(AtomicBool::new(false));
    let storm = {
        let stop = stop.clone();
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = kill(original, Signal::SIGCONT);
                thread::sleep(Duration::from_millis(31));
            }
        })
    };
    let (hold, images, manifest) = hold_and_dump(original);
    walker.stands_still();
    let copy = checkpoint::restore(images.path(), &manifest).unwrap();
    for _ in 0..50 {
        kill(copy.pid(), Signal::SIGCONT).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    walker.stands_still();
    stop.store(true, Ordering::Relaxed);
    storm.join().unwrap();
    hold.kill().unwrap();
    let (copy, ..) = run(copy);
    assert_eq!(copy.wait().unwrap(), Ended::Exited(0));
    walker.check_steps(STEPS);
}

#[test]
fn a_hold_is_found_again() {
    can_move();
    let walker = Walker::start(100_000, 0);
    assert!(Hold::find(walker.pid()).unwrap().is_none());
    let _lost = Hold::freeze(walker.pid()).unwrap();
    walker.stands_still();
    let hold = Hold::find(walker.pid()).unwrap().expect("it is held");
    hold.release().unwrap();
    walker.wait_for_more();
    no_group_is_left(walker.pid());
    // A held process that is killed goes when the hold is ended, and not before.
    let hold = Hold::freeze(walker.pid()).unwrap();
    hold.kill().unwrap();
}

#[test]
fn what_cannot_move_is_named() {
    can_move();
    let walker = Walker::start(100_000, 0);
    let inventory = checkpoint::inspect(walker.pid()).unwrap();
    assert_eq!(inventory.obstacles, []);
    assert_eq!(inventory.needs.missing_here(), []);
    assert_eq!(inventory.threads, 2);
    assert!(inventory.memory_bytes > 0);

    // This very process holds all sorts of things.
    let me = std::process::id() as i32;
    let _socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _memory = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    let _watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
    let inventory = checkpoint::inspect(Pid::from_raw(me)).unwrap();
    let all = inventory.obstacles.iter().chain(&inventory.until_suspended);
    let text: Vec<String> = all.map(Obstacle::to_string).collect();
    let has = |word: &str| {
        assert!(
            text.iter().any(|line| line.contains(word)),
            "{word}: {text:?}"
        )
    };
    has("a TCP socket of its own");
    has("/dev/shm/");
    has("a watch on files");
    has("forked children");
    drop(walker);

    let gone = checkpoint::inspect(Pid::from_raw(1 << 29)).unwrap_err();
    assert!(matches!(gone, Error::Gone { .. }));
}

#[test]
fn a_failed_restore_says_why_and_leaves_nothing() {
    can_move();
    let walker = Walker::start(STEPS, 0);
    let (hold, images, manifest) = hold_and_dump(walker.pid());
    fs::remove_file(images.path().join("pagemap-1.img")).unwrap_or_default();
    let gone = walker.files.path().join("gone");
    fs::rename(walker.data(), &gone).unwrap();
    let error = checkpoint::restore(images.path(), &manifest).unwrap_err();
    assert!(error.to_string().contains("data"), "{error}");
    fs::rename(gone, walker.data()).unwrap();
    hold.release().unwrap();
    walker.wait_for_more();
    no_group_is_left(walker.pid());
}

fn no_group_is_left(pid: Pid) {
    let held = std::path::PathBuf::from(format!("/sys/fs/cgroup/freezer/meander-hold-{pid}"));
    assert!(!held.exists(), "{held:?}");
}

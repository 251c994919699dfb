//! What a process holds that can't be moved is named, before it is stopped or at the dump.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use meander_node::checkpoint::{self, Hold, Inventory, Obstacle};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;

use super::launcher::{can_move, compiled, images};

/// A process that holds one thing (see `holder.c`).
struct Holder(Child);

impl Holder {
    fn of(what: &str, path: &Path) -> Holder {
        let mut child = Command::new(compiled("holder"))
            .arg(what)
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{what}");
        child.stdout = Some(stdout.into_inner());
        Holder(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    fn inventory(&self) -> Inventory {
        checkpoint::inspect(self.pid()).unwrap()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        for child in children.split_whitespace() {
            let _ = kill(Pid::from_raw(child.parse().unwrap()), Signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(obstacles: &[Obstacle]) -> String {
    let lines: Vec<String> = obstacles.iter().map(Obstacle::to_string).collect();
    lines.join("; ")
}

#[test]
fn what_cannot_move_is_named_before_anything_is_stopped() {
    can_move();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let disk = tempfile::tempdir_in("/var/tmp").unwrap();
    let gpu = Path::new("/dev/nvidia-of-a-test");
    let _ = std::fs::remove_file(gpu);
    mknod(
        gpu,
        SFlag::S_IFCHR,
        Mode::S_IRUSR | Mode::S_IWUSR,
        makedev(1, 3),
    )
    .unwrap();
    let cases = [
        ("nothing", Path::new("-"), ""),
        ("inotify", Path::new("-"), "is a watch on files"),
        ("device", gpu, "is the GPU device /dev/nvidia-of-a-test"),
        (
            "file",
            &memory.path().join("file"),
            "in this node's memory (node-local path)",
        ),
        ("lock", &disk.path().join("lock"), "is a file lock on"),
        ("sysv", Path::new("-"), "maps the System V segment"),
        (
            "segment",
            &disk.path().join("segment"),
            "(a foreign shared mapping)",
        ),
        ("child", Path::new("-"), "it has forked children: ["),
        ("pipe", Path::new("-"), "is a pipe to another process"),
    ];
    for (what, path, wanted) in cases {
        let holder = Holder::of(what, path);
        let found = text(&holder.inventory().obstacles);
        assert!(
            found.contains(wanted) && found.is_empty() == wanted.is_empty(),
            "{what}: {found}"
        );
    }
    std::fs::remove_file(gpu).unwrap();
}

#[test]
fn a_session_that_began_outside_the_pid_namespace_is_named() {
    can_move();
    let mut outer = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child"])
        .arg("sh")
        .args(["-c", "echo ready; exec sleep 1000"])
        .stdout(Stdio::piped())
        // It may say there what it made of its caller's signal mask.
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(outer.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", outer.id());
    let inner = std::fs::read_to_string(children).unwrap();
    let inner = Pid::from_raw(inner.trim().parse().unwrap());
    let found = text(&checkpoint::inspect(inner).unwrap().obstacles);
    kill(inner, Signal::SIGKILL).unwrap();
    outer.wait().unwrap();
    assert!(found.contains("`setsid --wait mpirun ...`"), "{found}");
}

#[test]
fn what_a_port_gives_up_is_named_at_the_dump() {
    can_move();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let segment = memory.path().join("segment");
    for (what, wanted) in [
        ("socket", "a TCP socket of its own"),
        ("segment", "(a foreign shared mapping)"),
    ] {
        let holder = Holder::of(what, &segment);
        let inventory = holder.inventory();
        assert!(
            text(&inventory.until_suspended).contains(wanted),
            "{inventory:?}"
        );
        let hold = Hold::freeze(holder.pid()).unwrap();
        let images = images();
        let error = checkpoint::dump(&hold, images.path())
            .unwrap_err()
            .to_string();
        hold.release().unwrap();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn what_the_destination_lacks_is_named() {
    can_move();
    let disk = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = disk.path().join("output");
    let holder = Holder::of("file", &path);
    let needs = holder.inventory().needs;
    assert_eq!(text(&needs.missing_here()), "");
    // Another file of that name, and none.
    let away = disk.path().join("away");
    std::fs::rename(&path, &away).unwrap();
    assert!(text(&needs.missing_here()).contains("output is open and missing here (node-local"));
    std::fs::write(&path, "").unwrap();
    assert!(text(&needs.missing_here()).contains("is another file here (node-local path)"));

    let directory = disk.path().join("directory");
    std::fs::create_dir(&directory).unwrap();
    let holder = Holder::of("directory", &directory);
    let needs = holder.inventory().needs;
    std::fs::rename(&directory, disk.path().join("elsewhere")).unwrap();
    assert!(text(&needs.missing_here()).contains("directory is missing"));
}

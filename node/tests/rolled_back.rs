//! Moves that do not happen, for every reason that can be had on one machine: the command says why,
//! and the rank goes on where it was without having lost or doubled a step. Needs root.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use meander_node::process::{self, Process};
use support::{Cluster, MEANDER, copy_program, text_of, wait_until};

/// A process that counts into a file, and is a rank as far as the agent of node a can see.
struct Counter {
    child: Child,
    log: PathBuf,
}

impl Counter {
    fn start(cluster: &Cluster) -> Counter {
        let program = PathBuf::from(MEANDER)
            .with_file_name("examples")
            .join("counter");
        let log = cluster.path("count");
        let child = Command::new("bash")
            // What this test has open is nothing that the rank should hold.
            .args([
                "-c",
                "for fd in $(seq 3 300); do eval \"exec $fd>&-\"; done; exec \"$@\"",
                "sh",
            ])
            .arg(program)
            .args(["job1", "0"])
            .arg(&log)
            .arg("120")
            .env("MEANDER_RUN_DIR", cluster.path("a"))
            .stdin(Stdio::null())
            .stdout(fs::File::create(cluster.path("counter.out")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the counter", || cluster.ps("a") == ["job1/0 a 0"]);
        Counter { child, log }
    }

    fn count(&self) -> usize {
        let text = fs::read_to_string(&self.log).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            assert_eq!(line.parse(), Ok(at), "a step is lost or doubled");
        }
        lines.len()
    }

    /// It runs, and is listed as if nothing had happened.
    fn goes_on(&self, cluster: &Cluster) {
        let before = self.count();
        wait_until("the counter to go on", || self.count() > before + 5);
        wait_until("the rank to be listed", || {
            cluster.ps("a") == ["job1/0 a 0"]
        });
        wait_until("the images to be gone", || {
            fs::read_dir(cluster.path("images")).unwrap().count() == 0
        });
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A CRIU that fails at `what`, and does everything else.
fn failing_criu(cluster: &Cluster, what: &str) -> String {
    let real =
        meander_node::checkpoint::criu_program().expect("CRIU: `cargo xtask setup` makes it");
    let path = cluster.path("criu");
    let script = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" = {what} ] && {{ echo made to fail >&2; exit 1; }}; done\n\
         exec {} \"$@\"\n",
        real.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn a_destination_without_an_agent() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.start("a");
    let counter = Counter::start(&cluster);
    let output = cluster.run("a", &["migrate", "job1/0", "b"]);
    let text = text_of(&output);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("check failed: the agent of b"), "{text}");
    assert!(text.contains("goes on at a"), "{text}");
    counter.goes_on(&cluster);
}

#[test]
fn a_rank_larger_than_the_memory_limit() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.start("a");
    cluster.start_with("b", &["--memory-limit", "1KiB"], &[]);
    let counter = Counter::start(&cluster);
    let output = cluster.run("a", &["migrate", "job", "b"]);
    assert_eq!(output.status.code(), Some(2));
    let output = cluster.run("a", &["migrate", "job/0", "b"]);
    let text = text_of(&output);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("memory limit of the agent on b"), "{text}");
    assert!(text.contains("raise --memory-limit"), "{text}");
    counter.goes_on(&cluster);
}

#[test]
fn a_criu_that_fails_on_either_side() {
    for (what, node) in [("dump", "a"), ("restore", "b")] {
        let mut cluster = Cluster::new(&["a", "b"]);
        let criu = failing_criu(&cluster, what);
        for name in ["a", "b"] {
            let environment = [("MEANDER_CRIU", criu.as_str())];
            let chosen = if name == node { &environment[..] } else { &[] };
            cluster.start_with(name, &[], chosen);
        }
        let counter = Counter::start(&cluster);
        let output = cluster.run("a", &["migrate", "job1/0", "b"]);
        let text = text_of(&output);
        assert_eq!(output.status.code(), Some(5), "{what}: {text}");
        assert!(
            text.contains("criu") && text.contains(what),
            "{what}: {text}"
        );
        counter.goes_on(&cluster);
    }
}

#[test]
fn another_users_command() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.start("a");
    cluster.start("b");
    let counter = Counter::start(&cluster);
    // The directories on the way to the socket are root's.
    fs::set_permissions(cluster.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = cluster.path("meander");
    copy_program(MEANDER.as_ref(), &program);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args(["migrate", "job1/0", "b"])
        .env("MEANDER_RUN_DIR", cluster.path("a"))
        .output()
        .unwrap();
    let text = text_of(&output);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains("only its owner or root"), "{text}");
    counter.goes_on(&cluster);
}

/// Starts the move and does not wait for it.
fn spawn(cluster: &Cluster) -> Child {
    let mut command = cluster.command("a");
    command
        .args(["migrate", "job1/0", "b"])
        .stdin(Stdio::null());
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The owner of the move is killed while it waits at `point`: the agent has another one find out
/// that nothing was committed, and the rank goes on.
fn owner_killed_at(point: &str) {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.start_with("a", &[], &[("MEANDER_TEST_PAUSE", point)]);
    cluster.start("b");
    let counter = Counter::start(&cluster);
    let mut command = spawn(&cluster);
    let paused = cluster.path("a").join(format!("paused-{point}"));
    wait_until("the move to pause", || paused.exists());
    let owner = fs::read_to_string(&paused).unwrap().parse().unwrap();
    assert!(
        process::arguments(owner)
            .iter()
            .any(|word| word == "move-source")
    );
    // The next owner must not wait there as well.
    Process::find(owner).unwrap().kill();
    counter.goes_on(&cluster);
    let _ = fs::remove_file(&paused);
    assert_eq!(
        command.wait().unwrap().code(),
        Some(3),
        "the command has lost sight"
    );
    // It is over for the agent too: the next move gets as far as asking the destination.
    cluster.kill("b");
    wait_until("the move to be over", || {
        let output = cluster.run("a", &["migrate", "job1/0", "b"]);
        text_of(&output).contains("the agent of b")
    });
}

#[test]
fn an_owner_that_is_killed_before_the_commit() {
    for point in ["suspend", "copy"] {
        owner_killed_at(point);
    }
}

#[test]
fn an_agent_that_is_killed_before_the_commit() {
    for point in ["suspend", "copy"] {
        let mut cluster = Cluster::new(&["a", "b"]);
        let criu = failing_criu(&cluster, "restore");
        cluster.start_with("a", &[], &[("MEANDER_TEST_PAUSE", point)]);
        cluster.start_with("b", &[], &[("MEANDER_CRIU", &criu)]);
        let counter = Counter::start(&cluster);
        let mut command = spawn(&cluster);
        let paused = cluster.path("a").join(format!("paused-{point}"));
        wait_until("the move to pause", || paused.exists());
        cluster.kill("a");
        fs::remove_file(&paused).unwrap();
        // Mover and command need no agent: the command hears how it ends.
        assert_eq!(command.wait().unwrap().code(), Some(5), "{point}");
        let before = counter.count();
        wait_until("the counter to go on", || counter.count() > before + 5);
        cluster.start("a");
        counter.goes_on(&cluster);
    }
}

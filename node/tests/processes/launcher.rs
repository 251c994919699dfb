//! A program to move, and the launcher it has: pipes and a terminal, as `mpirun` makes them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use meander_node::checkpoint::Hold;
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use tempfile::TempDir;

/// How long anything may take here.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Fails where processes can't be moved, and says what to do.
pub fn can_move() {
    meander_node::hidden::use_program(env!("CARGO_BIN_EXE_meander").into());
    assert!(
        nix::unistd::geteuid().is_root(),
        "only root can move processes; `cargo xtask test unit` runs this test by sudo"
    );
    let criu = meander_node::checkpoint::criu_program();
    assert!(
        criu.is_ok(),
        "there is no CRIU; `cargo xtask setup` makes one"
    );
}

/// A running walker (see `walker.c`), and what it has said.
pub struct Walker {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    pub stdout: Output,
    pub stderr: Output,
    pub files: TempDir,
}

/// What was written to one standard stream.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<Vec<u8>>>);

impl Walker {
    pub fn start(steps: u64, code: i32) -> Walker {
        Walker::start_as(0, steps, code)
    }

    pub fn start_as(uid: u32, steps: u64, code: i32) -> Walker {
        let files = tempfile::Builder::new()
            .prefix("walker")
            .tempdir_in("/var/tmp")
            .unwrap();
        std::os::unix::fs::chown(files.path(), Some(uid), Some(uid)).unwrap();
        let (master, slave) = terminal();
        let mut command = Command::new(compiled("walker"));
        command
            .arg(files.path().join("trace"))
            .arg(files.path().join("data"));
        command.args([steps.to_string(), code.to_string()]);
        command
            .stdin(Stdio::piped())
            .stdout(slave)
            .stderr(Stdio::piped())
            .process_group(0)
            .uid(uid)
            .gid(uid);
        let mut child = command.spawn().unwrap();
        drop(command); // it holds the terminal open
        let (stdout, stderr) = (Output::default(), Output::default());
        stdout.collect(File::from(master));
        stderr.collect(child.stderr.take().unwrap());
        let walker = Walker {
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
            files,
        };
        walker.wait_for_step(20);
        walker
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub fn trace(&self) -> PathBuf {
        self.files.path().join("trace")
    }

    pub fn data(&self) -> PathBuf {
        self.files.path().join("data")
    }

    /// The steps that its trace shows.
    pub fn steps(&self) -> u64 {
        fs::metadata(self.trace()).map_or(0, |data| data.len() / 9)
    }

    pub fn wait_for_step(&self, step: u64) {
        wait("a step", || self.steps() > step);
    }

    pub fn wait_for_more(&self) {
        self.wait_for_step(self.steps() + 20);
    }

    /// It takes no step for a while.
    pub fn stands_still(&self) {
        let before = self.steps();
        sleep(Duration::from_millis(60));
        assert_eq!(self.steps(), before, "it ran while it was held");
    }

    pub fn say(&mut self, text: &str) {
        self.stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait("its end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Every step ran once and in order, in both files.
    pub fn check_steps(&self, steps: u64) {
        let wanted: String = (0..steps).map(|step| format!("{step:08}\n")).collect();
        assert!(
            fs::read_to_string(self.trace()).unwrap() == wanted,
            "a step is lost or doubled"
        );
        let data = fs::read_to_string(self.data()).unwrap();
        assert!(data.starts_with(&wanted), "a write by offset is lost");
    }

    /// stdout and stderr are whole and in order; `between` are lines that may stand between.
    pub fn check_outputs(&self, steps: u64) {
        for (output, word) in [(&self.stdout, "out"), (&self.stderr, "err")] {
            let wanted: Vec<String> = (0..steps)
                .step_by(10)
                .map(|step| format!("{word} {step}"))
                .collect();
            let mut seen = Vec::new();
            wait("the last output", || {
                let text = output.text().replace('\r', "");
                let lines = text.lines().filter(|line| line.starts_with(word));
                seen = lines.map(String::from).collect();
                seen.len() >= wanted.len()
            });
            assert_eq!(seen, wanted, "{word} is lost or doubled");
        }
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        // A test that failed leaves it held, and a held process does not die.
        if let Ok(Some(hold)) = Hold::find(self.pid()) {
            let _ = hold.kill();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    pub fn collect(&self, mut from: impl Read + Send + 'static) {
        let output = self.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                output.0.lock().unwrap().extend(&buffer[..len]);
            }
        });
    }
}

/// A directory for images, in memory.
pub fn images() -> TempDir {
    tempfile::Builder::new()
        .prefix("meander-images")
        .tempdir_in("/dev/shm")
        .unwrap()
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        sleep(Duration::from_millis(2));
    }
}

/// The program made of `NAME.c` here.
pub fn compiled(name: &str) -> PathBuf {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processes");
    let source = here.join(format!("{name}.c"));
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let age = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    if age(&made) < age(&source) {
        let fresh = made.with_extension(std::process::id().to_string());
        let status = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
            .arg(&fresh)
            .arg(source)
            .status();
        assert!(status.unwrap().success(), "{name}.c does not compile");
        fs::rename(fresh, &made).unwrap();
    }
    made
}

fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    (master, slave)
}

//! What stays at the original pid so that the launcher still has its child.
//!
//! It is the launcher's end of the rank's standard streams, signals and exit code. A child of its
//! own, the `relay`, has the port: so the launcher may stop or kill the shadow, with its whole
//! process group, and the guardian still learns of it.

pub(crate) mod relay;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use meander::{Contact, Key};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::getpid;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Ended, channel};
use crate::guardian::wire::{CHUNK_BYTES, STDIN_WINDOW_BYTES, ToRank, ToShadow};
use crate::hidden;

/// What a shadow is told: where its rank's guardian is. Made by the guardian
/// ([`crate::guardian::Prepared::shadow_config`]), carried to the source in the confirmation.
/// Holds a key: secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The key of the one stream between shadow and guardian.
    pub key: Key,
    /// Where the guardian is now.
    pub guardian: Contact,
}

/// The variable that holds a shadow's [`Config`]; only its owner and root can read it.
const VARIABLE: &str = "MEANDER_SHADOW";
/// Variables that a shadow gets from the process that makes it.
const PASSED_ON: [&str; 4] = [
    "PATH",
    "MEANDER_RUN_DIR",
    "MEANDER_TCP_ADDR",
    "MEANDER_TCP_ENCRYPTION",
];
/// Exit code of a shadow that lost its relay, as of a program that can't go on.
const LOST: i32 = 255;

/// The environment of a shadow.
pub(crate) fn environment(config: &Config) -> Vec<String> {
    let bytes = postcard::to_stdvec(config).expect("plain data can be encoded");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let passed = PASSED_ON.iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        Some(format!("{name}={value}"))
    });
    passed.chain([format!("{VARIABLE}={hex}")]).collect()
}

/// The hidden subcommand. It is entered with all signals blocked and no descriptors above 2.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(ended) => end_as(ended),
        Err(error) => {
            eprintln!("meander: the shadow of a moved rank failed: {error}");
            std::process::exit(LOST)
        }
    }
}

fn run() -> io::Result<Ended> {
    let config = config().ok_or_else(|| io::Error::other(format!("{VARIABLE} is not set")))?;
    std::env::set_current_dir("/")?;
    let (relay, theirs) = UnixStream::pair()?;
    // Out of the launcher's process group, and holding none of its pipes.
    hidden::command(hidden::SHADOW_RELAY)
        .map_err(io::Error::other)?
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .env_remove(VARIABLE)
        .process_group(0)
        .spawn()?;
    channel::send(&relay, &config)?;
    let relay = Arc::new(Relay {
        socket: relay,
        sending: Mutex::new(()),
        credit: Credit::default(),
    });
    relay.credit.give(STDIN_WINDOW_BYTES);
    spawn(&relay, forward_signals);
    spawn(&relay, forward_stdin);
    let ended = write_outputs(&relay)?;
    // The relay is left to itself: it sees the end of this process and acknowledges the rank's.
    Ok(ended)
}

fn config() -> Option<Config> {
    let hex = std::env::var(VARIABLE).ok()?;
    let digits = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(digits).collect();
    postcard::from_bytes(&bytes?).ok()
}

/// The socket to the relay.
struct Relay {
    socket: UnixStream,
    sending: Mutex<()>,
    /// Bytes of stdin that the guardian still takes.
    credit: Credit,
}

impl Relay {
    fn send(&self, message: &ToRank) -> io::Result<()> {
        let _turn = self
            .sending
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        channel::send(&self.socket, message)
    }
}

fn spawn(relay: &Arc<Relay>, work: fn(&Relay) -> io::Result<()>) {
    let relay = relay.clone();
    thread::spawn(move || work(&relay));
}

fn forward_signals(relay: &Relay) -> io::Result<()> {
    let mut mask = SigSet::all();
    mask.remove(Signal::SIGCHLD);
    let signals = SignalFd::new(&mask)?;
    loop {
        if let Some(found) = signals.read_signal()? {
            relay.send(&ToRank::Signal(found.ssi_signo as i32))?;
        }
    }
}

fn forward_stdin(relay: &Relay) -> io::Result<()> {
    let mut stdin = io::stdin();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let room = relay.credit.take(CHUNK_BYTES as u64) as usize;
        match stdin.read(&mut buffer[..room]) {
            Ok(0) | Err(_) => return relay.send(&ToRank::StdinEnd),
            Ok(len) => {
                relay.credit.give((room - len) as u64);
                relay.send(&ToRank::Stdin(buffer[..len].to_vec()))?;
            }
        }
    }
}

/// Writes what the rank wrote, until it has ended.
fn write_outputs(relay: &Relay) -> io::Result<Ended> {
    let mut outputs = [
        File::from(io::stdout().as_fd().try_clone_to_owned()?),
        File::from(io::stderr().as_fd().try_clone_to_owned()?),
    ];
    loop {
        match channel::receive(&relay.socket)? {
            Some(ToShadow::Output { fd, bytes }) => {
                // Where nobody reads any more the rank is not told: as through a shell's pipe, it
                // would be told by SIGPIPE, and much later.
                let _ = outputs[usize::from(fd == 2)].write_all(&bytes);
                relay.send(&ToRank::Taken(bytes.len() as u64))?;
            }
            Some(ToShadow::StdinTaken(bytes)) => relay.credit.give(bytes),
            Some(ToShadow::Ended(ended)) => return Ok(ended),
            None => return Err(io::Error::other("its relay was killed")),
        }
    }
}

/// Ends as the rank did.
fn end_as(ended: Ended) -> ExitCode {
    if let Ended::Killed(number) = ended
        && let Ok(signal) = Signal::try_from(number)
    {
        // The rank has left a core file if anyone has.
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        let _ = setrlimit(Resource::Core, none);
        let mut mask = SigSet::empty();
        mask.add(signal);
        let _ = mask.thread_unblock();
        // Twice: at SIGSEGV and SIGBUS the first only takes away a handler of the Rust library's.
        let _ = kill(getpid(), signal);
        let _ = kill(getpid(), signal);
        // Its default was not to end a process: as shells tell it.
        std::process::exit(128 + number);
    }
    match ended {
        Ended::Exited(code) => std::process::exit(code),
        Ended::Killed(number) => std::process::exit(128 + number),
    }
}

/// A number of bytes that may be sent, shared by who gives and who takes.
#[derive(Default)]
pub(crate) struct Credit {
    bytes: Mutex<u64>,
    given: Condvar,
}

impl Credit {
    pub fn give(&self, bytes: u64) {
        *self.lock() += bytes;
        self.given.notify_all();
    }

    /// Waits for some and takes at most `wanted`.
    pub fn take(&self, wanted: u64) -> u64 {
        let mut bytes = self.lock();
        while *bytes == 0 {
            bytes = self
                .given
                .wait(bytes)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        let taken = wanted.min(*bytes);
        *bytes -= taken;
        taken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, u64> {
        self.bytes
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

//! `meander shadow-relay`: the shadow's child, which has its port.
//!
//! It passes frames on between its standard input, a socket to the shadow, and the stream to the
//! guardian; and it tells the guardian when the shadow was stopped, woken or killed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use meander::{Port, Stream};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid};

use super::Config;
use crate::checkpoint::channel;
use crate::guardian::wire::{SERVICE, ToRank, ToShadow, port_config};

/// How often it is looked whether the shadow stands still: a stop can't be caught.
const LOOK: Duration = Duration::from_millis(200);
/// How long the last words to the guardian may take.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// The hidden subcommand.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    // What the launcher sends to many is not meant for this process.
    SigSet::all().thread_block()?;
    let shadow = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let config: Config =
        channel::receive(&shadow)?.ok_or_else(|| io::Error::other("the shadow is gone"))?;
    let parent = getppid();
    thread::spawn(move || end_after(parent));
    let settings = port_config(config.key.clone(), None).map_err(io::Error::other)?;
    let port = Port::open(settings).map_err(io::Error::other)?;
    let stream = port
        .connect(&config.guardian, SERVICE)
        .map_err(io::Error::other)?;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| from_guardian(&stream, &shadow, &ended));
        scope.spawn(|| watch(parent, &stream, &ended));
        to_guardian(&shadow, &stream, &ended);
        let _ = port.flush(Some(LAST_WORDS));
        // The other threads wait for ever; the process ends without them.
        std::process::exit(0)
    })
}

fn to_guardian(shadow: &UnixStream, stream: &Stream, ended: &AtomicBool) {
    while let Ok(Some(message)) = channel::receive::<ToRank>(shadow) {
        if send(stream, &message).is_err() {
            return;
        }
    }
    // The second says nothing, but carries the acknowledgement that the guardian waits for.
    let last = match ended.load(Ordering::Acquire) {
        false => ToRank::ShadowDied,
        true => ToRank::Taken(0),
    };
    let _ = send(stream, &last);
}

fn from_guardian(stream: &Stream, shadow: &UnixStream, ended: &AtomicBool) {
    while let Ok(Some(bytes)) = stream.recv(None) {
        let Ok(message) = postcard::from_bytes::<ToShadow>(&bytes) else {
            break;
        };
        if matches!(message, ToShadow::Ended(_)) {
            ended.store(true, Ordering::Release);
        }
        if channel::send(shadow, &message).is_err() {
            return;
        }
    }
    let _ = shadow.shutdown(std::net::Shutdown::Write);
}

/// A relay does not outlive its shadow for long, whatever it waits for.
fn end_after(shadow: Pid) {
    while getppid() == shadow {
        thread::sleep(LOOK);
    }
    thread::sleep(LAST_WORDS);
    std::process::exit(1)
}

/// Stops the rank when the launcher has stopped the shadow, and wakes it with it.
fn watch(shadow: Pid, stream: &Stream, ended: &AtomicBool) {
    let mut stopped = false;
    while !ended.load(Ordering::Acquire) {
        thread::sleep(LOOK);
        let is_stopped = state(shadow) == Some('T');
        if is_stopped != stopped {
            stopped = is_stopped;
            let signal = if stopped {
                Signal::SIGSTOP
            } else {
                Signal::SIGCONT
            };
            if send(stream, &ToRank::Signal(signal as i32)).is_err() {
                return;
            }
        }
    }
}

fn state(pid: Pid) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

fn send(stream: &Stream, message: &ToRank) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    stream.send(&bytes).map_err(io::Error::other)
}

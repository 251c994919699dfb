//! Between a rank and its shadow: outputs, stdin and signals, until the rank ends or leaves.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use meander::{Port, Stream};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::ioctl_fionbio;
use serde::{Deserialize, Serialize};

use super::wire::{OUTPUT_WINDOW_BYTES, ToRank, ToShadow};
use super::{outputs, stdin};
use crate::checkpoint::{Ended, Error, Hold, RunningCopy, Stdio};

/// The outer ends of the rank's standard streams, none of them blocking.
#[derive(Clone)]
pub(super) struct Ends {
    /// Taken away when the rank is to see the end of its stdin.
    pub stdin: Arc<Mutex<Option<OwnedFd>>>,
    pub stdin_inner: Option<Arc<OwnedFd>>,
    pub outputs: [Option<Arc<OwnedFd>>; 2],
}

impl Ends {
    pub fn new(stdio: Stdio) -> Result<Ends, Error> {
        let Stdio {
            stdin,
            stdin_inner,
            stdout,
            stderr,
        } = stdio;
        for end in [&stdin, &stdin_inner, &stdout, &stderr]
            .into_iter()
            .flatten()
        {
            ioctl_fionbio(end, true)
                .map_err(|errno| Error::os("set up the rank's standard streams")(errno.into()))?;
        }
        Ok(Ends {
            stdin: Arc::new(Mutex::new(stdin)),
            stdin_inner: stdin_inner.map(Arc::new),
            outputs: [stdout.map(Arc::new), stderr.map(Arc::new)],
        })
    }
}

/// How long a guardian stays on the fabric after the last word, to acknowledge the shadow's.
const FAREWELL: Duration = Duration::from_millis(50);

/// What is on its way between rank and shadow, when a guardian hands over to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Carry {
    /// Stdin that the rank has not read.
    pub stdin: Vec<u8>,
    /// How much of that, from the beginning, the shadow knows to be taken.
    pub stdin_taken: usize,
    /// Nothing follows on it.
    pub stdin_ended: bool,
    /// Output that has not been sent, by descriptor.
    pub outputs: Vec<(u8, Vec<u8>)>,
    /// Bytes of output that may be sent before the shadow has written some.
    pub output_credit: u64,
    /// Signals that came while the rank was held.
    pub signals: Vec<i32>,
    /// The rank is to be killed.
    pub shadow_died: bool,
}

impl Default for Carry {
    fn default() -> Carry {
        Carry {
            stdin: Vec::new(),
            stdin_taken: 0,
            stdin_ended: false,
            outputs: Vec::new(),
            output_credit: OUTPUT_WINDOW_BYTES,
            signals: Vec::new(),
            shadow_died: false,
        }
    }
}

/// What the outputs' thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Send what comes.
    Relay,
    /// Take in what is there and stop: the rank is frozen.
    Drain,
    /// Send what is there and stop: the rank has ended.
    End,
}

/// Shared by the threads of a relay.
pub(super) struct Shared {
    pub stream: Stream,
    pub state: Mutex<Progress>,
    pub changed: Condvar,
    /// Readable once [`Progress::mode`] has changed.
    pub stop: OwnedFd,
}

pub(super) struct Progress {
    pub mode: Mode,
    pub carry: Carry,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Progress> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until something changes, at most so long.
    pub fn wait<'a>(
        &self,
        guard: MutexGuard<'a, Progress>,
        most: Duration,
    ) -> MutexGuard<'a, Progress> {
        match self.changed.wait_timeout(guard, most) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    pub fn send(&self, message: &ToShadow) -> Result<(), meander::Error> {
        let bytes = postcard::to_stdvec(message).expect("plain data can be encoded");
        self.stream.send(&bytes)
    }

    fn set_mode(&self, mode: Mode) {
        self.lock().mode = mode;
        self.changed.notify_all();
        // It can't fail: the counter is far from full.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

/// A relay at work.
pub(super) struct Relay {
    port: Port,
    copy: Arc<RunningCopy>,
    ends: Ends,
    shared: Arc<Shared>,
    outputs: JoinHandle<()>,
    stdin: JoinHandle<()>,
    receiver: JoinHandle<()>,
}

impl Relay {
    pub fn start(
        port: Port,
        stream: Stream,
        copy: Arc<RunningCopy>,
        ends: Ends,
        carry: Carry,
    ) -> Relay {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .expect("a process may have a descriptor more");
        if carry.shadow_died {
            let _ = copy.kill();
        }
        let progress = Progress {
            mode: Mode::Relay,
            carry,
        };
        let shared = Arc::new(Shared {
            stream,
            state: Mutex::new(progress),
            changed: Condvar::new(),
            stop,
        });
        let with = |work: fn(&Shared, &Ends)| {
            let (shared, ends) = (shared.clone(), ends.clone());
            thread::spawn(move || work(&shared, &ends))
        };
        let (outputs, stdin) = (with(outputs::relay), with(stdin::relay));
        let receiver = {
            let (shared, copy) = (shared.clone(), copy.clone());
            thread::spawn(move || receive(&shared, &copy))
        };
        let relay = Relay {
            port,
            copy,
            ends,
            shared,
            outputs,
            stdin,
            receiver,
        };
        relay.deliver_kept_signals();
        relay
    }

    /// Signals that came while the rank was held reach it when it is not any more.
    pub fn deliver_kept_signals(&self) {
        let none = self.shared.lock().carry.signals.is_empty();
        if none || is_held(&self.copy) {
            return;
        }
        let kept = std::mem::take(&mut self.shared.lock().carry.signals);
        for number in kept {
            signal(&self.copy, number);
        }
    }

    /// The rank is frozen: stops, and gives the port as a value and what is on its way.
    pub fn depart(self) -> Result<(Vec<u8>, Carry), meander::Error> {
        self.shared.set_mode(Mode::Drain);
        let _ = self.outputs.join();
        let _ = self.stdin.join();
        let value = self.port.suspend()?;
        // It has noted all that came before the port was suspended, and ends by that.
        let _ = self.receiver.join();
        let mut carry = self.shared.lock().carry.clone();
        if let Some(inner) = &self.ends.stdin_inner {
            stdin::take_back(inner, &mut carry);
        }
        Ok((value, carry))
    }

    /// The rank has ended: sends the rest and waits, at most so long, until the shadow has it.
    pub fn finish(self, ended: Ended, most: Duration) {
        let shadow_died = self.shared.lock().carry.shadow_died;
        if !shadow_died {
            self.shared.set_mode(Mode::End);
            let _ = self.outputs.join();
            if self.shared.send(&ToShadow::Ended(ended)).is_ok() {
                let _ = self.port.flush(Some(most));
                thread::sleep(FAREWELL);
            }
        }
        let _ = self.port.suspend();
    }
}

fn receive(shared: &Shared, copy: &RunningCopy) {
    while let Ok(Some(bytes)) = shared.stream.recv(None) {
        let Ok(message) = postcard::from_bytes::<ToRank>(&bytes) else {
            tracing::error!("the shadow says what can't be decoded");
            return;
        };
        match message {
            ToRank::Stdin(bytes) => shared.lock().carry.stdin.extend(bytes),
            ToRank::StdinEnd => shared.lock().carry.stdin_ended = true,
            ToRank::Taken(bytes) => shared.lock().carry.output_credit += bytes,
            // A rank that is held may be in an image already, without this signal.
            ToRank::Signal(number) if is_held(copy) => shared.lock().carry.signals.push(number),
            ToRank::Signal(number) => signal(copy, number),
            ToRank::ShadowDied => {
                tracing::warn!("the shadow was killed; so is the rank");
                shared.lock().carry.shadow_died = true;
                let _ = copy.kill();
            }
        }
        shared.changed.notify_all();
    }
}

fn is_held(copy: &RunningCopy) -> bool {
    matches!(Hold::find(copy.pid()), Ok(Some(_)))
}

fn signal(copy: &RunningCopy, number: i32) {
    if let Err(error) = copy.signal(number) {
        tracing::warn!("signal {number} did not reach the rank: {error}");
    }
}

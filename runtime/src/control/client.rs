//! A process's side of the control protocol: a thread that serves its node's agent.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use meander_core::NodeName;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{CONTROL_VERSION, FromPort, Identity, ToPort, agent_socket, frame, verdict_socket};
use crate::{Error, Port, background};

/// The thread that registers a port with its node's agent, suspends it at the agent's word and
/// puts it on the fabric again at the word of the move's owner. It also looks peers up in the
/// directory.
///
/// Dropping it tells the agent that the process ends in good order, after a move that is under way.
pub struct Control {
    shared: Arc<Shared>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

struct Shared {
    stop: AtomicBool,
    /// A move is under way.
    suspended: AtomicBool,
    /// Written when there is something to ask the directory, and to stop.
    wake: Arc<OwnedFd>,
}

/// Time between two attempts to reach an agent.
const AGENT_RETRY: Duration = Duration::from_secs(1);
/// First and longest pause between two looks for the verdict.
const VERDICT_FIRST: Duration = Duration::from_millis(2);
const VERDICT_MAX: Duration = Duration::from_millis(20);
/// How long a frame that has begun may take.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two attempts to listen again after a move, where that fails.
const ATTACH_RETRY: Duration = Duration::from_millis(100);
/// How long dropping waits for the thread while no move is under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

impl Control {
    /// Starts the thread. There need be no agent yet: it tries once a second.
    pub fn start(port: &Port, identity: Identity) -> Result<Control, Error> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = eventfd(0, flags).map_err(|errno| Error::Io {
            operation: "eventfd",
            source: errno.into(),
        })?;
        let wake = Arc::new(wake);
        port.shared().look()?.asked = Some(Arc::clone(&wake));
        let (stop, suspended) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared {
            stop,
            suspended,
            wake,
        });
        let (end, ended) = sync_channel(1);
        let client = Client {
            port: port.clone(),
            identity,
            shared: Arc::clone(&shared),
            _end: end,
        };
        background::spawn("meander-control", move || client.run())?;
        Ok(Control { shared, ended })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = rustix::io::write(&*self.shared.wake, &1u64.to_ne_bytes());
        // An agent that hangs must not keep the process from ending; a move does, for a process
        // that ends while it is being copied would live on in the copy.
        let ended = || self.ended.recv_timeout(STOP_TIMEOUT) != Err(RecvTimeoutError::Timeout);
        while !ended() && self.shared.suspended.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }
}

/// The thread's own.
struct Client {
    port: Port,
    identity: Identity,
    shared: Arc<Shared>,
    _end: SyncSender<()>,
}

/// How serving an agent ended.
enum Served {
    /// The port is suspended: its fate is told elsewhere.
    Suspended,
    /// The agent has gone.
    Disconnected,
    Stopped,
}

impl Client {
    fn run(self) {
        loop {
            match self.serve() {
                Ok(Served::Suspended) => {
                    self.await_verdict();
                    self.shared.suspended.store(false, Ordering::Relaxed);
                }
                Ok(Served::Stopped) => return,
                Ok(Served::Disconnected) | Err(_) if self.is_stopping() => return,
                Ok(Served::Disconnected) => self.pause(AGENT_RETRY),
                Err(error) => {
                    tracing::debug!("no agent: {error}");
                    self.pause(AGENT_RETRY);
                }
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn pause(&self, time: Duration) {
        if !self.is_stopping() {
            wait(&[&*self.shared.wake], Some(time));
            self.drain_wake();
        }
    }

    /// Serves the node's agent until one of the two has enough.
    fn serve(&self) -> io::Result<Served> {
        let mut agent = connect(&agent_socket())?;
        let register = FromPort::Register {
            version: CONTROL_VERSION,
            identity: self.identity.clone(),
            contact: self.port.contact(),
        };
        frame::write(&mut agent, &register)?;
        loop {
            if self.is_stopping() {
                frame::write(&mut agent, &FromPort::Leaving)?;
                return Ok(Served::Stopped);
            }
            for port in self.port.take_lookups() {
                frame::write(&mut agent, &FromPort::Lookup { port })?;
            }
            let ready = wait(&[&agent, &*self.shared.wake], None);
            if ready[1] {
                self.drain_wake();
            }
            if !ready[0] {
                continue;
            }
            match frame::read(&mut agent)? {
                ToPort::Registered { node } => self.port.set_node(node),
                ToPort::Found {
                    contact: Some(contact),
                    ..
                } => self.port.add_peer(&contact),
                ToPort::Found { contact: None, .. } => {}
                ToPort::PeerDead { port } => self.port.peer_is_dead(port),
                ToPort::Suspend => match self.port.suspend_in_place() {
                    Ok(peers) => {
                        self.shared.suspended.store(true, Ordering::Relaxed);
                        let epoch = self.port.epoch();
                        // Heard or not, only a verdict puts the port on again.
                        let _ = frame::write(&mut agent, &FromPort::Suspended { epoch, peers });
                        return Ok(Served::Suspended);
                    }
                    Err(error) => {
                        let why = error.to_string();
                        frame::write(&mut agent, &FromPort::SuspendRefused { why })?;
                    }
                },
                // Said at the verdict socket only.
                ToPort::Attach { .. } | ToPort::Resume => return Ok(Served::Disconnected),
            }
        }
    }

    fn drain_wake(&self) {
        let _ = rustix::io::read(&*self.shared.wake, &mut [0; 8]);
    }

    /// Waits for whoever owns the move to say how it ended, and does so. Only then are there
    /// sockets again: a process that is being copied must hold none.
    fn await_verdict(&self) {
        let path = verdict_socket(self.port.id());
        let mut pause = VERDICT_FIRST;
        loop {
            let verdict = path.exists().then(|| hear(&path));
            match verdict {
                Some(Ok(ToPort::Attach { epoch, node })) => {
                    return self.insist(|| self.port.attach_in_place(epoch, node.clone()));
                }
                Some(Ok(ToPort::Resume)) => return self.insist(|| self.port.resume_in_place()),
                Some(Ok(other)) => tracing::warn!("not a verdict: {other:?}"),
                Some(Err(error)) => tracing::debug!("no verdict yet: {error}"),
                None => {}
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(VERDICT_MAX);
        }
    }

    /// The verdict is known; what keeps the port from following it can only be passing.
    fn insist(&self, put_on: impl Fn() -> Result<(), Error>) {
        loop {
            match put_on() {
                Ok(()) | Err(Error::NotSuspended | Error::Suspended) => return,
                Err(error) => tracing::warn!("can't attach the port: {error}"),
            }
            std::thread::sleep(ATTACH_RETRY);
        }
    }
}

/// Hears the verdict; closing the connection tells its giver that it was heard.
fn hear(path: &Path) -> io::Result<ToPort> {
    frame::read(&mut connect(path)?)
}

/// Connects to a socket of root's, or of our own user's; nobody else is to order us about.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    // Not rustix's: a moved rank sees an agent outside its pid namespace as process 0, for which that
    // has no value.
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?;
    if peer.uid() != 0 && peer.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    stream.set_read_timeout(Some(FRAME_TIMEOUT))?;
    stream.set_write_timeout(Some(FRAME_TIMEOUT))?;
    Ok(stream)
}

/// Waits until one of these can be read; says which.
fn wait<const N: usize>(on: &[&dyn AsFd; N], time: Option<Duration>) -> [bool; N] {
    let mut fds = on.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
    let time = time.map(|time| Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    });
    // An interrupted wait is one that found nothing.
    let _ = poll(&mut fds, time.as_ref());
    fds.each_ref().map(|fd| !fd.revents().is_empty())
}

impl Port {
    /// The node as its agent calls it.
    fn set_node(&self, node: NodeName) {
        if let Ok(mut state) = self.shared().look() {
            state.engine.core.set_node(node.clone());
            state.engine.node = node;
        }
    }

    fn take_lookups(&self) -> Vec<meander_core::PortId> {
        let state = self.shared().look();
        state.map_or_else(
            |_| Vec::new(),
            |mut state| {
                std::mem::take(&mut state.engine.lookups)
                    .into_iter()
                    .collect()
            },
        )
    }
}

//! The ranks of this node: each has a connection to the agent and a thread there, which also
//! waits for the process to end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use meander::control::{CONTROL_VERSION, FromPort, ToPort};
use meander::{JobId, PortId};
use meander_core::directory::{Ending, Entry, Refusal, Reply, Request};
use meander_core::moves::Trouble;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{Agent, following, nodes};
use crate::net::frame;
use crate::process::{self, Peer, Process};

/// How long a rank may take over one frame, and over taking what it is told.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two attempts to list a rank while the directory can't be reached.
const LIST_RETRY: Duration = Duration::from_secs(1);
/// How long the launcher has to act on a death before the other ranks hear of it: it knows the exit
/// code, they would end the job with one of their own.
const LAUNCHERS_TURN: Duration = Duration::from_secs(1);
/// Attempts to have a rank that has ended forgotten.
const UNLIST_TRIES: usize = 600;

/// The ranks that have registered with this agent.
#[derive(Default)]
pub struct Ranks {
    table: Mutex<HashMap<PortId, Arc<Rank>>>,
    moving: Mutex<HashSet<PortId>>,
}

/// A rank of this node.
pub struct Rank {
    entry: Mutex<Entry>,
    orders: Mutex<VecDeque<Order>>,
    wake: OwnedFd,
    /// Whether it has a connection: then its port is not suspended.
    connected: AtomicBool,
}

/// What the thread of a rank is told to do.
enum Order {
    /// Give the connection away, if there is one.
    HandOver(mpsc::Sender<Option<UnixStream>>),
    /// Tell the rank.
    Tell(ToPort),
    /// Stop: another thread has the rank now, or it is on another node.
    Stop,
}

impl Ranks {
    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.table).len()
    }

    /// A rank.
    pub fn get(&self, port: PortId) -> Option<Arc<Rank>> {
        lock(&self.table).get(&port).cloned()
    }

    /// Tells every rank of a job.
    pub fn tell_job(&self, job: &JobId, message: &ToPort) {
        let table = lock(&self.table);
        for rank in table
            .values()
            .filter(|rank| rank.entry().identity.job == *job)
        {
            rank.tell(message.clone());
        }
    }

    /// Marks a rank as being moved. Only one move at a time can have the mark.
    pub fn begin_move(&self, port: PortId) -> bool {
        lock(&self.moving).insert(port)
    }

    /// Whether a rank has that mark.
    pub fn is_moving(&self, port: PortId) -> bool {
        lock(&self.moving).contains(&port)
    }

    /// Takes the mark away.
    pub fn end_move(&self, port: PortId) {
        lock(&self.moving).remove(&port);
    }

    /// The rank, as it was, is on another node now.
    pub fn moved_away(&self, port: PortId, rank: &Arc<Rank>) {
        let mut table = lock(&self.table);
        if table.get(&port).is_some_and(|now| Arc::ptr_eq(now, rank)) {
            table.remove(&port);
        }
        rank.order(Order::Stop);
    }

    /// Takes the place of whoever had it; refused where that is another user's live process.
    fn enter(&self, port: PortId, rank: &Arc<Rank>) -> bool {
        let mut table = lock(&self.table);
        if let Some(old) = table.get(&port) {
            if old.entry().uid != rank.entry().uid {
                return false;
            }
            old.order(Order::Stop);
        }
        table.insert(port, rank.clone());
        true
    }

    fn leave(&self, port: PortId, rank: &Arc<Rank>) {
        let mut table = lock(&self.table);
        if table.get(&port).is_some_and(|now| Arc::ptr_eq(now, rank)) {
            table.remove(&port);
        }
    }
}

impl Rank {
    /// What is known of it.
    pub fn entry(&self) -> Entry {
        lock(&self.entry).clone()
    }

    /// Whether it has a connection to this agent: then its port is not suspended.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Takes over the connection to the rank; `None` where it has none.
    pub fn hand_over(&self) -> Option<UnixStream> {
        let (sender, receiver) = mpsc::channel();
        self.order(Order::HandOver(sender));
        receiver.recv_timeout(2 * FRAME_TIMEOUT).ok().flatten()
    }

    /// Tells it, if it has a connection.
    pub fn tell(&self, message: ToPort) {
        self.order(Order::Tell(message));
    }

    fn order(&self, order: Order) {
        lock(&self.orders).push_back(order);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn next_order(&self) -> Option<Order> {
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        lock(&self.orders).pop_front()
    }
}

/// Serves a process that has connected, beginning with its first frame, until it has ended or
/// another thread takes over.
pub fn serve(agent: &Arc<Agent>, stream: UnixStream, first: FromPort) -> Result<(), Trouble> {
    let Peer { uid, host_pid } = Peer::of(&stream)
        .map_err(|error| Trouble::new(format!("asking who is on a socket: {error}")))?;
    let FromPort::Register {
        version,
        identity,
        contact,
    } = first
    else {
        return Err(Trouble::new(
            "a process did not begin by introducing itself",
        ));
    };
    if version != CONTROL_VERSION {
        let why = format!(
            "process {host_pid} speaks version {version} of the control protocol, this agent \
             {CONTROL_VERSION}"
        );
        return Err(Trouble::new(why).mend("install one version of Meander on this node"));
    }
    let process = Process::find(host_pid).ok_or_else(|| {
        let why = format!("process {host_pid} can't be watched: it is gone, or out of sight");
        Trouble::new(why).mend("the agent must run in the machine's own pid namespace")
    })?;
    let mut entry = Entry {
        identity,
        epoch: contact.epoch,
        location: contact.location,
        uid,
        pid: process::inner_pid(host_pid).unwrap_or(host_pid),
        host_pid,
        shadow: None,
    };
    entry.location.node = agent.node().clone();
    let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
        .map_err(|errno| Trouble::new(format!("making an eventfd: {errno}")))?;
    let rank = Arc::new(Rank {
        entry: Mutex::new(entry),
        orders: Mutex::default(),
        wake,
        connected: AtomicBool::new(true),
    });
    if !agent.ranks.enter(contact.port, &rank) {
        let why = format!("process {host_pid} claims the port of another user's process");
        return Err(Trouble::new(why));
    }
    let service = Service {
        agent,
        port: contact.port,
        rank,
        process,
        connection: Some(stream),
        listed: false,
        leaving: false,
    };
    service.run();
    Ok(())
}

/// The thread of a rank.
struct Service<'a> {
    agent: &'a Arc<Agent>,
    port: PortId,
    rank: Arc<Rank>,
    process: Process,
    connection: Option<UnixStream>,
    /// Whether the directory has what this agent knows.
    listed: bool,
    /// Whether it has said that it ends in good order.
    leaving: bool,
}

enum Next {
    Continue,
    Stop,
}

impl Service<'_> {
    fn run(mut self) {
        let registered = ToPort::Registered {
            node: self.agent.node().clone(),
        };
        self.tell(&registered);
        loop {
            if !self.listed && !self.leaving && !self.list() {
                self.agent.ranks.leave(self.port, &self.rank);
                return;
            }
            match self.wait() {
                Ok(Next::Continue) => {}
                Ok(Next::Stop) => return,
                Err(error) => {
                    tracing::debug!("rank {}: {error}", self.name());
                    self.connection = None;
                }
            }
        }
    }

    /// Waits for the process, an order, or a frame, and does what it asks for.
    fn wait(&mut self) -> io::Result<Next> {
        let connected = self.connection.is_some();
        self.rank.connected.store(connected, Ordering::Relaxed);
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.process.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.rank.wake.as_fd(), PollFlags::IN),
        ];
        if let Some(connection) = &self.connection {
            fds.push(PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN));
        }
        let retry = Timespec::try_from(LIST_RETRY).expect("a short time");
        match poll(&mut fds, (!self.listed && !self.leaving).then_some(&retry)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[1] {
            while let Some(order) = self.rank.next_order() {
                if let Next::Stop = self.obey(order) {
                    return Ok(Next::Stop);
                }
            }
        }
        if ready.get(2) == Some(&true) {
            let last = self.read()?;
            if ready[0] && last {
                self.connection = None;
            }
        } else if ready[0] {
            self.ended();
            return Ok(Next::Stop);
        }
        Ok(Next::Continue)
    }

    fn obey(&mut self, order: Order) -> Next {
        match order {
            Order::Stop => return Next::Stop,
            Order::Tell(message) => self.tell(&message),
            Order::HandOver(to) => {
                // Nothing but whole frames was read from it, so the next owner misses nothing.
                let connection = self.connection.take();
                self.rank.connected.store(false, Ordering::Relaxed);
                let _ = to.send(connection);
            }
        }
        Next::Continue
    }

    /// Reads one frame, if the connection was not given away meanwhile. Returns whether it was
    /// the last.
    fn read(&mut self) -> io::Result<bool> {
        let Some(connection) = &mut self.connection else {
            return Ok(true);
        };
        connection.set_read_timeout(Some(FRAME_TIMEOUT))?;
        let Some(message) = frame::read::<FromPort>(connection)? else {
            self.connection = None;
            return Ok(true);
        };
        match message {
            FromPort::Lookup { port } => {
                let asked = self.agent.directory.request(&Request::Lookup { port });
                let entry = match asked {
                    Ok(Reply::Found(entry)) => entry,
                    // It missed the report: it was being moved, or had no agent.
                    Ok(Reply::Ended(Ending::Died)) => {
                        self.tell(&ToPort::PeerDead { port });
                        return Ok(false);
                    }
                    Ok(_) => None,
                    Err(error) => {
                        tracing::warn!("looking {port:?} up: {error}");
                        None
                    }
                };
                let contact = entry.as_ref().map(|entry| entry.contact(port));
                self.tell(&ToPort::Found { port, contact });
                match entry {
                    Some(entry) if nodes::is_dead(self.agent, &entry.location.node) => {
                        tracing::warn!("{} is taken for dead", entry.location.node);
                        self.tell(&ToPort::PeerDead { port });
                    }
                    Some(entry) if entry.location.cards.is_empty() => {
                        following::follow(self.agent, self.port, port, entry);
                    }
                    _ => {}
                }
            }
            FromPort::Located {
                epoch,
                mut location,
            } => {
                location.node = self.agent.node().clone();
                let mut entry = lock(&self.rank.entry);
                (entry.epoch, entry.location) = (epoch, location);
                self.listed = false;
            }
            FromPort::Leaving => self.left(),
            FromPort::Register { .. }
            | FromPort::Suspended { .. }
            | FromPort::SuspendRefused { .. } => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "said it out of turn",
                ));
            }
        }
        Ok(false)
    }

    fn tell(&mut self, message: &ToPort) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let told = connection
            .set_write_timeout(Some(FRAME_TIMEOUT))
            .and_then(|()| frame::write(connection, message));
        if let Err(error) = told {
            tracing::debug!("rank {}: {error}", self.name());
            self.connection = None;
        }
    }

    /// Has the directory list the rank as it is known here. Returns whether to go on with it.
    fn list(&mut self) -> bool {
        let entry = self.rank.entry();
        match self.agent.directory.request(&Request::Register {
            port: self.port,
            entry,
        }) {
            Ok(Reply::Refused(refusal @ (Refusal::Stale { .. } | Refusal::Elsewhere { .. }))) => {
                tracing::error!("process {} is fenced off: {refusal}", self.host_pid());
                return false;
            }
            Ok(Reply::Refused(refusal)) => {
                tracing::error!("rank {} is not listed: {refusal}", self.name());
                return false;
            }
            Ok(_) => {
                self.listed = true;
                tracing::info!("rank {} is here, process {}", self.name(), self.host_pid());
            }
            Err(error) => tracing::debug!("rank {} is not listed yet: {error}", self.name()),
        }
        true
    }

    /// The process ends in good order.
    fn left(&mut self) {
        self.leaving = true;
        self.connection = None;
        self.agent.ranks.leave(self.port, &self.rank);
        self.unlist();
    }

    /// The process has ended.
    fn ended(&mut self) {
        if self.leaving {
            return;
        }
        self.agent.ranks.leave(self.port, &self.rank);
        if self.unlist() {
            tracing::warn!("rank {} died, process {}", self.name(), self.host_pid());
            let job = self.rank.entry().identity.job;
            std::thread::sleep(LAUNCHERS_TURN);
            super::remote::report_death(self.agent, &job, self.port);
        }
    }

    /// Returns whether what ended was the rank itself, and not what a move left behind.
    fn unlist(&self) -> bool {
        let epoch = self.rank.entry().epoch;
        let request = Request::Remove {
            port: self.port,
            epoch,
            ending: if self.leaving {
                Ending::Left
            } else {
                Ending::Died
            },
        };
        for _ in 0..UNLIST_TRIES {
            match self.agent.directory.request(&request) {
                Ok(reply) => return reply == Reply::Done,
                Err(_) => std::thread::sleep(LIST_RETRY),
            }
        }
        false
    }

    fn host_pid(&self) -> u32 {
        lock(&self.rank.entry).host_pid
    }

    fn name(&self) -> String {
        let entry = lock(&self.rank.entry);
        format!("{}/{}", entry.identity.job, entry.identity.rank)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

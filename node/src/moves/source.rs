//! `meander move-source`: the process that owns a move where the rank is.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use meander::control::{FromPort, ToPort};
use meander::{Key, Port, Stream};
use meander_core::MoveId;
use meander_core::directory::Request;
use meander_core::moves::{
    FromGuardian, MoveLimits, Plan, Source, SourceEffect, SourceEnd, ToGuardian, Trouble,
    Verdict as Word,
};

use super::report::Report;
use super::verdict::Verdict;
use super::{
    CONTROL_SERVICE, Clock, IMAGE_SERVICE, Order, detach, image, image_directory, pause,
    port_config, trouble,
};
use crate::agent::{FromPeer, Offer, ToPeer};
use crate::checkpoint::{self, Dump, Hold, Inventory};
use crate::cluster::Cluster;
use crate::directory::Client;
use crate::guardian::{Baton, Handle};
use crate::net::{frame, secure::Secure};
use crate::process::Process;
use crate::user::Moving;
use crate::{Error, keyfile, shadow};

/// How often a waiting mover looks whether the rank still lives.
const PERIOD: Duration = Duration::from_millis(100);
/// How long the destination may take to answer an offer.
const OFFER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last words to the guardian may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Longest frame wait once a frame of the rank has begun.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);

/// Carries out the move that the agent's order (JSON) describes. Returns whether the rank has moved.
pub fn start(order: &str) -> Result<bool, Error> {
    let order: Order = serde_json::from_str(order).map_err(|error| Error::Protocol {
        peer: "the agent".into(),
        why: format!("gave a bad order: {error}"),
    })?;
    let (rank, user) = detach()?;
    let name = format!("{}/{}", order.entry.identity.job, order.entry.identity.rank);
    let moving = Moving {
        name: name.clone(),
        from: order.node.clone(),
        to: order.to.clone(),
    };
    let mut report = Report::start(UnixStream::from(user), moving);
    tracing::info!("moving rank {name} from {} to {}", order.node, order.to);
    let (cluster, key) = match (Cluster::read(&order.cluster), keyfile::read(&order.key)) {
        (Ok(cluster), Ok(key)) => (cluster, key),
        (Err(error), _) | (_, Err(error)) => {
            report.refuse(Trouble::new(error.to_string()).mend(error.mend()));
            return Err(error);
        }
    };
    let end = Mover::new(order, cluster, key, UnixStream::from(rank), report).drive();
    tracing::info!("rank {name}: {end:?}");
    Ok(matches!(end, SourceEnd::Moved { .. }))
}

struct Mover {
    order: Order,
    cluster: Cluster,
    key: Key,
    directory: Client,
    clock: Clock,
    machine: Source,
    report: Report,
    /// The rank's control connection, until it has suspended its port.
    rank: Option<UnixStream>,
    process: Option<Process>,
    inventory: Option<Inventory>,
    line: Option<Line>,
    hold: Option<Hold>,
    /// The guardian that the rank has here, if it has moved before.
    guardian: Option<Handle>,
    departed: bool,
    baton: Option<Baton>,
    images: Option<PathBuf>,
    dump: Option<Dump>,
    /// What the shadow needs, from the next guardian.
    shadow: Vec<u8>,
}

/// The streams to the guardian at the destination.
struct Line {
    port: Port,
    control: Stream,
    image: Stream,
}

impl Mover {
    fn new(order: Order, cluster: Cluster, key: Key, rank: UnixStream, report: Report) -> Mover {
        let plan = Plan {
            port: order.port,
            from: order.entry.epoch,
            move_id: order.move_id,
            reclaim_id: MoveId(keyfile::random_id()),
            here: order.node.clone(),
            host_pid: order.entry.host_pid,
            there: order.to.clone(),
            shadow: order.entry.shadow.clone(),
        };
        let clock = Clock::start();
        Mover {
            machine: Source::new(plan, MoveLimits::default(), clock.now()),
            directory: Client::new(cluster.clone(), key.clone()),
            process: Process::find(order.entry.host_pid),
            order,
            cluster,
            key,
            clock,
            report,
            rank: Some(rank),
            inventory: None,
            line: None,
            hold: None,
            guardian: None,
            departed: false,
            baton: None,
            images: None,
            dump: None,
            shadow: Vec::new(),
        }
    }

    fn drive(mut self) -> SourceEnd {
        let mut phase = None;
        loop {
            while let Some(effect) = self.machine.poll_effect() {
                let (now, back) = (self.machine.phase(), self.machine.is_rolling_back());
                self.report.phase(now, back);
                if phase != Some(now) {
                    phase = Some(now);
                    pause::at(now.name());
                }
                if let SourceEffect::Finish(end) = effect {
                    self.clean_up();
                    self.report.end(end.clone());
                    return end;
                }
                self.carry_out(effect);
            }
            self.wait();
        }
    }

    fn carry_out(&mut self, effect: SourceEffect) {
        tracing::debug!("{effect:?}");
        match effect {
            SourceEffect::Check => {
                let checked = self.check();
                self.machine.handle_checked(self.clock.now(), checked);
            }
            SourceEffect::Suspend => self.suspend(),
            SourceEffect::Freeze => {
                let frozen = self.freeze();
                self.machine.handle_frozen(self.clock.now(), frozen);
            }
            SourceEffect::Copy => {
                let copied = self.copy();
                self.machine.handle_copied(self.clock.now(), copied);
            }
            SourceEffect::Ask(request) => self.ask(&request),
            SourceEffect::TellCommitted(epoch) => self.tell(&ToGuardian::Committed { epoch }),
            SourceEffect::TellAbort(why) => self.tell(&ToGuardian::Abort { why }),
            SourceEffect::Resume { thaw, verdict } => {
                let resumed = self.resume(thaw, verdict);
                self.machine.handle_resumed(self.clock.now(), resumed);
            }
            SourceEffect::Shadow => {
                let shadowed = self.become_shadow();
                self.machine.handle_shadowed(self.clock.now(), shadowed);
            }
            SourceEffect::Finish(_) => {}
        }
    }

    /// Waits for the guardian's next word, the rank's end or a deadline.
    fn wait(&mut self) {
        let now = self.clock.now();
        let due = self
            .machine
            .poll_timeout()
            .map_or(PERIOD, |at| at.since(now));
        let pause = due.min(PERIOD);
        match self
            .line
            .as_ref()
            .map(|line| line.control.recv(Some(pause)))
        {
            None => std::thread::sleep(pause),
            Some(Ok(Some(bytes))) => self.hear(&bytes),
            Some(Ok(None)) => self.guardian_lost("it has ended"),
            Some(Err(meander::Error::TimedOut { .. } | meander::Error::Moving { .. })) => {}
            Some(Err(error)) => self.guardian_lost(&error.to_string()),
        }
        if self
            .process
            .as_ref()
            .is_none_or(|process| process.has_ended(Some(Duration::ZERO)))
        {
            self.machine.handle_ended(self.clock.now());
        }
        self.machine.handle_timeout(self.clock.now());
    }

    fn hear(&mut self, bytes: &[u8]) {
        match postcard::from_bytes::<FromGuardian>(bytes) {
            Ok(message) => {
                if let FromGuardian::Confirmed { shadow, .. } = &message {
                    self.shadow.clone_from(shadow);
                }
                self.machine.handle_guardian(self.clock.now(), message);
            }
            Err(_) => self.guardian_lost("it says what can't be decoded"),
        }
    }

    fn guardian_lost(&mut self, why: &str) {
        // Its last word may have arrived with the end of the stream: nothing is read after that.
        self.line = None;
        let why = Trouble::new(format!("the guardian on {} is lost: {why}", self.order.to));
        self.machine.handle_guardian_lost(self.clock.now(), why);
    }

    // --- the phases

    /// Whether the rank can leave here and run there; opens the line to the guardian.
    fn check(&mut self) -> Result<(), Trouble> {
        let pid = self.pid();
        let inventory = checkpoint::inspect(pid).map_err(trouble)?;
        if !inventory.obstacles.is_empty() {
            let list: Vec<String> = inventory
                .obstacles
                .iter()
                .map(ToString::to_string)
                .collect();
            let why = format!(
                "the rank (process {pid}) can't be moved: {}",
                list.join("; ")
            );
            return Err(Trouble::new(why).mend("let the program release it, then try again"));
        }
        let one_time = keyfile::random();
        let entry = &self.order.entry;
        let offer = Offer {
            move_id: self.order.move_id,
            port: self.order.port,
            epoch: entry.epoch,
            identity: entry.identity.clone(),
            uid: entry.uid,
            from: self.order.node.clone(),
            to: self.order.to.clone(),
            needs: inventory.needs.clone(),
            key: one_time.clone(),
        };
        self.inventory = Some(inventory);
        let address = self.cluster.address(&self.order.to)?;
        let name = format!("the agent of {}", self.order.to);
        let mut agent = Secure::connect(&name, address, &self.key)?;
        agent.send(&FromPeer::Offer(Box::new(offer)))?;
        let guardian = match agent.receive(Some(OFFER_TIMEOUT))? {
            ToPeer::Accepted { guardian } => guardian,
            ToPeer::Refused(why) => return Err(why),
            other => return Err(Trouble::new(format!("{name} answered {other:?}"))),
        };
        let opening = || Error::stream("connecting to the guardian at the destination");
        let config = port_config(&self.cluster, &self.order.node, one_time)?;
        let port = Port::open(config).map_err(opening())?;
        let control = port
            .connect(&guardian, CONTROL_SERVICE)
            .map_err(opening())?;
        let image = port.connect(&guardian, IMAGE_SERVICE).map_err(opening())?;
        self.line = Some(Line {
            port,
            control,
            image,
        });
        Ok(())
    }

    /// Tells the rank to take its port off the fabric, and waits until it has.
    fn suspend(&mut self) {
        let Some(mut rank) = self.rank.take() else {
            return;
        };
        let talked = rank
            .set_write_timeout(Some(FRAME_TIMEOUT))
            .and_then(|()| rank.set_read_timeout(Some(FRAME_TIMEOUT)))
            .and_then(|()| frame::write(&mut rank, &ToPort::Suspend));
        let result = match talked {
            Ok(()) => self.hear_suspended(&mut rank),
            Err(error) => Some(Err(Trouble::new(format!(
                "telling the rank to suspend: {error}"
            )))),
        };
        let now = self.clock.now();
        match result {
            Some(result) => self.machine.handle_suspended(now, result),
            None if self.has_ended() => self.machine.handle_ended(now),
            None => self.machine.handle_timeout(now),
        }
    }

    /// `None`: the rank has ended, or time is up.
    fn hear_suspended(&mut self, rank: &mut UnixStream) -> Option<Result<(), Trouble>> {
        loop {
            let due = self.machine.poll_timeout()?;
            let left = due.since(self.clock.now());
            if left.is_zero() || self.has_ended() {
                return None;
            }
            if !crate::process::is_readable(&*rank, left.min(PERIOD)) {
                continue;
            }
            match frame::read::<FromPort>(rank) {
                Ok(Some(FromPort::Suspended { .. })) => return Some(Ok(())),
                Ok(Some(FromPort::SuspendRefused { why })) => {
                    return Some(Err(Trouble::new(format!("the rank can't move now: {why}"))));
                }
                Ok(Some(FromPort::Lookup { port })) => {
                    let entry = self.directory.lookup(port).ok().flatten();
                    let contact = entry.map(|entry| entry.contact(port));
                    let _ = frame::write(rank, &ToPort::Found { port, contact });
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) if self.ends_soon() => return None,
                Ok(None) | Err(_) => {
                    let why = "the rank broke off as it was told to leave the fabric";
                    return Some(Err(Trouble::new(why)));
                }
            }
        }
    }

    fn freeze(&mut self) -> Result<(), Trouble> {
        let pid = self.pid();
        let hold = self.hold.insert(Hold::freeze(pid).map_err(trouble)?);
        if let Some(mut guardian) = Handle::of(pid).map_err(trouble)? {
            let baton = guardian.depart().map_err(trouble);
            self.guardian = Some(guardian);
            self.departed = true;
            self.baton = Some(baton?);
        }
        let images = image_directory(self.order.move_id, "source")?;
        let dumped = checkpoint::dump(hold, self.images.insert(images)).map_err(trouble)?;
        tracing::info!("image of {} bytes taken in {:?}", dumped.bytes, dumped.took);
        self.dump = Some(dumped);
        Ok(())
    }

    fn copy(&mut self) -> Result<(), Trouble> {
        let (Some(line), Some(dump)) = (&self.line, &self.dump) else {
            return Err(Trouble::new("there is nothing to copy"));
        };
        let (report, baton) = (&mut self.report, self.baton.take());
        let total = dump.bytes;
        image::send(&line.image, dump, baton, |arrived| {
            report.copied(arrived, total);
            // The guardian says nothing during the copying but that it has failed.
            match line.control.recv(Some(Duration::ZERO)) {
                Ok(Some(bytes)) => match postcard::from_bytes(&bytes) {
                    Ok(FromGuardian::Failed { why }) => Err(why),
                    _ => Err(Trouble::new("the guardian speaks out of turn")),
                },
                Ok(None) => Err(Trouble::new("the guardian at the destination has ended")),
                Err(_) => Ok(()),
            }
        })
        .map_err(|why| self.guardians_reason().unwrap_or(why))
    }

    /// Where a stream ended because the guardian failed, its own word says more.
    fn guardians_reason(&self) -> Option<Trouble> {
        let line = self.line.as_ref()?;
        let Ok(Some(bytes)) = line.control.recv(Some(PERIOD)) else {
            return None;
        };
        match postcard::from_bytes(&bytes) {
            Ok(FromGuardian::Failed { why }) => Some(why),
            _ => None,
        }
    }

    fn ask(&mut self, request: &Request) {
        let asked = self.directory.ask(request);
        tracing::debug!("the directory: {asked:?}");
        self.machine.handle_directory(self.clock.now(), asked);
    }

    fn tell(&mut self, message: &ToGuardian) {
        let Some(line) = &self.line else { return };
        let told = postcard::to_stdvec(message).map(|bytes| line.control.send(&bytes));
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!("the guardian was not told: {message:?}");
        }
    }

    /// The original goes on. It hears the verdict at a socket that is open before it runs.
    fn resume(&mut self, thaw: bool, verdict: Option<Word>) -> Result<(), Trouble> {
        let message = match verdict {
            Some(Word::Attach(epoch)) => Some(ToPort::Attach {
                epoch,
                node: self.order.node.clone(),
            }),
            Some(Word::Resume) => Some(ToPort::Resume),
            None => None,
        };
        let socket = message
            .map(|message| {
                Verdict::bind(self.order.port, self.order.entry.uid).map(|socket| (socket, message))
            })
            .transpose()?;
        if thaw {
            if let Some(guardian) = self.guardian.take().filter(|_| self.departed) {
                guardian.stay().map_err(trouble)?;
            }
            if let Some(hold) = self.hold.take() {
                hold.release().map_err(trouble)?;
            }
        }
        match (socket, &self.process) {
            (Some((socket, message)), Some(process)) => socket.deliver(&message, process),
            _ => Ok(()),
        }
    }

    fn become_shadow(&mut self) -> Result<(), Trouble> {
        let hold = self
            .hold
            .take()
            .ok_or_else(|| Trouble::new("nothing is held"))?;
        if let Some(guardian) = self.guardian.take() {
            return guardian.gone().map_err(trouble);
        }
        let config: Option<shadow::Config> = postcard::from_bytes(&self.shadow)
            .map_err(|_| Trouble::new("what the guardian said of the shadow can't be decoded"))?;
        let mend = "the launcher has lost its child; the job may be ended by it";
        let shadowed = match config {
            Some(config) => checkpoint::become_shadow(hold, &config),
            None => hold.kill(),
        };
        shadowed.map_err(|error| trouble(error).mend(mend))
    }

    fn clean_up(&mut self) {
        if let Some(line) = self.line.take() {
            let _ = line.control.finish();
            let _ = line.port.flush(Some(LAST_WORDS));
        }
        if let Some(images) = self.images.take() {
            let _ = std::fs::remove_dir_all(images);
        }
    }

    // --- the rank's process

    fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.order.entry.host_pid as i32)
    }

    fn has_ended(&self) -> bool {
        self.process
            .as_ref()
            .is_none_or(|process| process.has_ended(Some(Duration::ZERO)))
    }

    /// A process that ends closes its descriptors a moment before it has ended.
    fn ends_soon(&self) -> bool {
        let started = Instant::now();
        while !self.has_ended() {
            if started.elapsed() > Duration::from_secs(1) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

//! The phases of a move at its source, each as far as this node is concerned.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meander::control::{FromPort, ToPort};
use meander::{Location, Port};
use meander_core::directory::Request;
use meander_core::moves::{FromGuardian, Trouble, Verdict as Word};

use super::{Line, Mover, PERIOD};
use crate::agent::{self, FromPeer, Offer, ToPeer};
use crate::checkpoint::{self, Hold};
use crate::guardian::Handle;
use crate::moves::hearing::Hearing;
use crate::moves::verdict::Verdict;
use crate::moves::{
    CONTROL_SERVICE, IMAGE_SERVICE, failed, image, image_directory, port_config, trouble,
};
use crate::net::{frame, secure::Secure};
use crate::{Error, keyfile, process, shadow, user};

/// How long the destination may take to answer an offer.
const OFFER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest frame wait once a frame of the rank has begun.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);

impl Mover {
    /// Whether the rank can leave here and run there; opens the line to the guardian.
    pub(super) fn check(&mut self) -> Result<(), Trouble> {
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
            needs: inventory.needs,
            key: one_time.clone(),
        };
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
            hearing: Hearing::default(),
        });
        Ok(())
    }

    /// Tells the rank to take its port off the fabric, and waits until it has.
    pub(super) fn suspend(&mut self) {
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
        if let Some(Ok(())) = result {
            self.list_as_moving();
        }
        let now = self.clock.now();
        match result {
            Some(result) => self.machine.handle_suspended(now, result),
            None if self.has_ended() => self.machine.handle_ended(now),
            None => self.machine.handle_timeout(now),
        }
    }

    /// Has the directory list the rank without a way to reach it. The move does not wait for that.
    fn list_as_moving(&mut self) {
        let location = Location {
            node: self.order.node.clone(),
            cards: Vec::new(),
        };
        let (port, epoch) = (self.order.port, self.order.entry.epoch);
        let directory = self.directory.clone();
        self.listing = Some(std::thread::spawn(move || {
            let _ = directory.request(&Request::Locate {
                port,
                epoch,
                location,
            });
        }));
    }

    /// The rank says that it is suspended and closes the connection; it must not be frozen between
    /// the two, for it would hold a socket. `None`: the rank has ended, or time is up.
    fn hear_suspended(&mut self, rank: &mut UnixStream) -> Option<Result<(), Trouble>> {
        let mut suspended = false;
        loop {
            let due = self.machine.poll_timeout()?;
            let left = due.since(self.clock.now());
            if left.is_zero() || self.has_ended() {
                return None;
            }
            if !process::is_readable(&*rank, left.min(PERIOD)) {
                continue;
            }
            match frame::read::<FromPort>(rank) {
                Ok(Some(FromPort::Suspended { .. })) => suspended = true,
                Ok(None) | Err(_) if suspended => return Some(Ok(())),
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

    pub(super) fn freeze(&mut self) -> Result<(), Trouble> {
        let pid = self.pid();
        let hold = self.hold.insert(Hold::freeze(pid).map_err(trouble)?);
        let images = image_directory(self.order.move_id, "source")?;
        let dumped = checkpoint::dump(hold, &images).map_err(|error| failed(&images, error))?;
        tracing::info!("image of {} bytes taken in {:?}", dumped.bytes, dumped.took);
        self.dump = Some(dumped);
        // Not before: a dump that a signal spoils lets the rank run, and write, for an instant.
        if let Some(mut guardian) = Handle::of(pid).map_err(trouble)? {
            let baton = guardian.depart().map_err(trouble);
            self.guardian = Some(guardian);
            self.departed = true;
            self.baton = Some(baton?);
        }
        Ok(())
    }

    pub(super) fn copy(&mut self) -> Result<(), Trouble> {
        let (Some(line), Some(dump)) = (&self.line, &self.dump) else {
            return Err(Trouble::new("there is nothing to copy"));
        };
        let (report, baton) = (&mut self.report, self.baton.take());
        let total = dump.bytes;
        let mut early = Vec::new();
        let sent = image::send(&line.image, dump, baton, |arrived| {
            report.copied(arrived, total);
            match line.control.recv(Some(Duration::ZERO)) {
                Ok(Some(bytes)) => match postcard::from_bytes(&bytes) {
                    Ok(FromGuardian::Failed { why }) => Err(why),
                    // It may have all before its last acknowledgement is here.
                    _ => {
                        early.push(bytes);
                        Ok(())
                    }
                },
                Ok(None) => Err(Trouble::new("the guardian at the destination has ended")),
                Err(_) => Ok(()),
            }
        });
        for bytes in early {
            self.hear(&bytes);
        }
        sent.map_err(|why| self.guardians_reason().unwrap_or(why))
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

    /// The original goes on. It hears the verdict at a socket that is open before it runs.
    pub(super) fn resume(&mut self, thaw: bool, verdict: Option<Word>) -> Result<(), Trouble> {
        // It must not come after what the rank says of itself when it runs.
        self.listing.take().map(JoinHandle::join);
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
            (Some((socket, message)), Some(process)) => {
                // It may never have heard that it shall suspend.
                let port = self.order.port;
                socket.deliver(&message, process, || user::is_connected(port))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn become_shadow(&mut self) -> Result<(), Trouble> {
        let hold = match self.hold.take() {
            Some(hold) => hold,
            // The owner before this one came that far.
            None if self.recovering => return Ok(()),
            None => return Err(Trouble::new("nothing is held")),
        };
        let killed = process::is_being_killed(self.order.entry.host_pid);
        if killed {
            self.kill_copy();
        }
        if let Some(guardian) = self.guardian.take() {
            return guardian.gone().map_err(trouble);
        }
        let config: Option<shadow::Config> = postcard::from_bytes(&self.journal.shadow)
            .map_err(|_| Trouble::new("what the guardian said of the shadow can't be decoded"))?;
        let mend = "the launcher has lost its child; the job may be ended by it";
        let shadowed = match config {
            Some(config) if !killed => checkpoint::become_shadow(hold, &config),
            _ => hold.kill(),
        };
        shadowed.map_err(|error| trouble(error).mend(mend))
    }

    /// The original was killed after the commit, and the signal was meant for the rank.
    fn kill_copy(&self) {
        let (port, node) = (self.order.port, &self.order.to);
        let epoch = self.order.entry.epoch.next();
        let told = self.cluster.address(node).and_then(|address| {
            let name = format!("the agent of {node}");
            agent::tell(&name, address, &self.key, &FromPeer::Kill { port, epoch })
        });
        match told {
            Ok(()) => tracing::warn!("the original was killed; so is the rank on {node}"),
            Err(error) => tracing::error!("the original was killed, the rank is not: {error}"),
        }
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

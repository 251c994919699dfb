//! `meander guardian`: the process that takes a rank in, restores it, and stays with it until the
//! rank has ended or moved on.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meander::control::ToPort;
use meander::{Contact, Epoch, Port, Stream};
use meander_core::moves::{
    Destination, DestinationEffect, DestinationEnd, FromGuardian, MoveLimits, ToGuardian, Trouble,
};

use super::hearing::{Heard, Hearing};
use super::verdict::Verdict;
use super::{
    CONTROL_SERVICE, Clock, GuardianOrder, IMAGE_SERVICE, detach, failed, image, image_directory,
    pause, port_config, trouble,
};
use crate::agent::Offer;
use crate::cluster::Cluster;
use crate::directory::{Client, Lease};
use crate::guardian::{Guardian, Outcome, Prepared};
use crate::net::frame;
use crate::process::Process;
use crate::{Error, keyfile};

/// How long the mover may take until it has connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a waiting guardian looks whether the held copy still lives.
const PERIOD: Duration = Duration::from_millis(100);
/// How long the last words to the source may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Takes a rank in and stays with it.
pub fn run() -> Result<(), Error> {
    let (agent, _) = detach()?;
    let mut agent = UnixStream::from(agent);
    let order = frame::read::<GuardianOrder>(&mut agent)
        .map_err(Error::io("reading the agent's order"))?
        .ok_or_else(|| Error::io("reading the agent's order")(std::io::ErrorKind::Other.into()))?;
    let opened = open(&order).map_err(Trouble::from);
    let answer: Result<Contact, Trouble> = opened
        .as_ref()
        .map(|opened| opened.port.contact())
        .map_err(Clone::clone);
    frame::write(&mut agent, &answer).map_err(Error::io("answering the agent"))?;
    let opened = opened?;
    let mut taking = Taking::start(order, opened, agent)?;
    let end = taking.drive();
    tracing::info!("the move ends here: {end:?}");
    let cleaning = taking.clean_up();
    let guardian = taking.guardian.take();
    drop(taking);
    let stayed = guardian.map_or(Ok(()), stay);
    let _ = cleaning.join();
    stayed
}

/// Relays until the rank has ended or moved on.
fn stay(guardian: Guardian) -> Result<(), Error> {
    match guardian.serve()? {
        Outcome::Ended(how) => tracing::info!("the rank has ended: {how:?}"),
        Outcome::MovedOn => tracing::info!("the rank has moved on"),
    }
    Ok(())
}

struct Opened {
    directory: Arc<Client>,
    lease: Lease,
    port: Port,
}

fn open(order: &GuardianOrder) -> Result<Opened, Error> {
    let cluster = Cluster::read(&order.cluster)?.with_directory(order.directory.as_deref())?;
    let directory = Arc::new(Client::new(&cluster, &keyfile::read(&order.key)?));
    let lease = Lease::hold(&directory, &order.offer.to);
    let config = port_config(&cluster, &order.offer.to, order.offer.key.clone())?;
    let port = Port::open(config).map_err(Error::stream("opening the guardian's port"))?;
    port.listen(CONTROL_SERVICE);
    port.listen(IMAGE_SERVICE);
    Ok(Opened {
        directory,
        lease,
        port,
    })
}

/// A rank that is being taken in.
struct Taking {
    offer: Offer,
    directory: Arc<Client>,
    /// The rank must not look dead while it comes in because the agent is.
    _lease: Lease,
    port: Port,
    clock: Clock,
    machine: Destination,
    /// Closed once the image has become a process: its memory is no promise any more.
    agent: Option<UnixStream>,
    control: Option<Stream>,
    hearing: Hearing,
    image: Option<Stream>,
    images: PathBuf,
    image_limit_bytes: Option<u64>,
    received: Option<image::Received>,
    prepared: Option<Prepared>,
    copy: Option<Process>,
    guardian: Option<Guardian>,
}

impl Taking {
    fn start(order: GuardianOrder, opened: Opened, agent: UnixStream) -> Result<Taking, Error> {
        let Opened {
            directory,
            lease,
            port,
        } = opened;
        let offer = order.offer;
        let images = image_directory(offer.move_id, "destination")?;
        let mut taking = Taking {
            machine: Destination::new(offer.port, offer.move_id, MoveLimits::default()),
            offer,
            directory,
            _lease: lease,
            port,
            clock: Clock::start(),
            agent: Some(agent),
            control: None,
            hearing: Hearing::default(),
            image: None,
            images,
            image_limit_bytes: order.image_limit_bytes,
            received: None,
            prepared: None,
            copy: None,
            guardian: None,
        };
        taking.take_connections();
        Ok(taking)
    }

    /// The two streams of the mover, in whatever order they come.
    fn take_connections(&mut self) {
        let started = Instant::now();
        while self.control.is_none() || self.image.is_none() {
            let left = CONNECT_TIMEOUT.saturating_sub(started.elapsed());
            match self.port.accept(Some(left)) {
                Ok(stream) if stream.service() == CONTROL_SERVICE => self.control = Some(stream),
                Ok(stream) => self.image = Some(stream),
                Err(error) => {
                    let why = format!("the source has not connected: {error}");
                    return self.machine.handle_source_lost(Trouble::new(why));
                }
            }
        }
    }

    fn drive(&mut self) -> DestinationEnd {
        loop {
            while let Some(effect) = self.machine.poll_effect() {
                tracing::debug!("{effect:?}");
                if let DestinationEffect::Finish(end) = effect {
                    return end;
                }
                self.carry_out(effect);
            }
            self.wait();
        }
    }

    fn carry_out(&mut self, effect: DestinationEffect) {
        match effect {
            DestinationEffect::Receive => {
                pause::at("receive");
                let received = self.receive();
                self.machine.handle_received(received);
            }
            DestinationEffect::Restore => {
                pause::at("restore");
                let restored = self.restore();
                self.agent = None;
                self.machine.handle_restored(restored);
                pause::at("held");
            }
            DestinationEffect::Tell(message) => self.tell(&message),
            DestinationEffect::Ask(request) => {
                let asked = self.directory.ask(&request);
                self.machine.handle_directory(self.clock.now(), asked);
            }
            DestinationEffect::Release { epoch } => {
                pause::at("release");
                let released = self.release(epoch);
                self.machine.handle_released(released);
            }
            DestinationEffect::Discard => {
                if let Some(prepared) = self.prepared.take() {
                    prepared.discard();
                }
            }
            DestinationEffect::Finish(_) => {}
        }
    }

    /// Waits for the source's next word, the copy's end or a deadline.
    fn wait(&mut self) {
        let now = self.clock.now();
        let due = self
            .machine
            .poll_timeout()
            .map_or(PERIOD, |at| at.since(now));
        let pause = due.min(PERIOD);
        let heard = match &self.control {
            Some(control) => self.hearing.hear(control, pause),
            None => {
                std::thread::sleep(pause);
                Heard::Nothing
            }
        };
        match heard {
            Heard::Message(bytes) => match postcard::from_bytes::<ToGuardian>(&bytes) {
                Ok(message) => self.machine.handle_source(message),
                Err(_) => self.source_lost("it says what can't be decoded"),
            },
            Heard::Nothing => {}
            Heard::Lost(why) => self.source_lost(&why),
        }
        if self
            .copy
            .as_ref()
            .is_some_and(|copy| copy.has_ended(Some(Duration::ZERO)))
        {
            self.machine
                .handle_copy_ended(Trouble::new("the held copy was killed"));
        }
        self.machine.handle_timeout(self.clock.now());
    }

    fn source_lost(&mut self, why: &str) {
        self.control = None;
        let why = Trouble::new(format!("the source on {} is lost: {why}", self.offer.from));
        self.machine.handle_source_lost(why);
    }

    fn receive(&mut self) -> Result<(), Trouble> {
        let (Some(image), Some(control)) = (&self.image, &self.control) else {
            return Err(Trouble::new("the source has not connected"));
        };
        let received = image::receive(
            image,
            &self.images,
            self.image_limit_bytes,
            || match control.recv(Some(Duration::ZERO)) {
                Ok(Some(bytes)) => match postcard::from_bytes(&bytes) {
                    Ok(ToGuardian::Abort { why }) => Err(why),
                    _ => Err(Trouble::new("the source speaks out of turn")),
                },
                Ok(None) => Err(Trouble::new("the source has ended")),
                Err(_) => Ok(()),
            },
        )?;
        self.received = Some(received);
        Ok(())
    }

    fn restore(&mut self) -> Result<(u32, Vec<u8>), Trouble> {
        let received = self
            .received
            .take()
            .ok_or_else(|| Trouble::new("there is nothing to restore"))?;
        let node = self.offer.to.clone();
        let prepared = Prepared::restore(&self.images, &received.manifest, received.baton, node)
            .map_err(|error| failed(&self.images, error))?;
        let host_pid = prepared.pid().as_raw() as u32;
        self.copy = Process::find(host_pid);
        let shadow = postcard::to_stdvec(&prepared.shadow_config())
            .map_err(|error| Trouble::new(error.to_string()))?;
        self.prepared = Some(prepared);
        Ok((host_pid, shadow))
    }

    fn tell(&mut self, message: &FromGuardian) {
        let Some(control) = &self.control else { return };
        let told = postcard::to_stdvec(message).map(|bytes| control.send(&bytes));
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!("the source was not told: {message:?}");
        }
    }

    /// Thaws the copy. It hears the verdict at a socket that is open before it runs.
    fn release(&mut self, epoch: Epoch) -> Result<(), Trouble> {
        let prepared = self
            .prepared
            .take()
            .ok_or_else(|| Trouble::new("nothing is held"))?;
        let socket = match Verdict::bind(self.offer.port, self.offer.uid) {
            Ok(socket) => socket,
            Err(why) => {
                prepared.discard();
                return Err(why);
            }
        };
        self.guardian = Some(prepared.release().map_err(trouble)?);
        let message = ToPort::Attach {
            epoch,
            node: self.offer.to.clone(),
        };
        let copy = self.copy.take();
        std::thread::spawn(move || {
            if let Some(copy) = copy
                && let Err(why) = socket.deliver(&message, &copy, || false)
            {
                tracing::error!("the rank was not told to attach: {why}");
            }
        });
        Ok(())
    }

    /// Forgets the image, and lets the last words to the source arrive while the rank runs.
    fn clean_up(&mut self) -> JoinHandle<()> {
        let (images, port) = (self.images.clone(), self.port.clone());
        let (image, control) = (self.image.take(), self.control.take());
        std::thread::spawn(move || {
            drop(image);
            if let Some(control) = control {
                let _ = control.finish();
                let _ = port.flush(Some(LAST_WORDS));
            }
            let _ = std::fs::remove_dir_all(&images);
        })
    }
}

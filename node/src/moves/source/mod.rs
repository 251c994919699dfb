//! `meander move-source`: the process that owns a move where the rank is.
//!
//! The machine in `meander_core::moves` decides; here is what drives it, and in `phases` what it
//! decides on.

mod phases;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use meander::{Key, Port, Stream};
use meander_core::directory::Request;
use meander_core::moves::{
    FromGuardian, MoveLimits, Phase, Plan, Source, SourceEffect, SourceEnd, ToGuardian, Trouble,
};

use super::hearing::{Heard, Hearing};
use super::report::Report;
use super::{Clock, Journal, Order, detach, image_path, pause};
use crate::checkpoint::{Dump, Hold};
use crate::cluster::Cluster;
use crate::directory::{Client, Lease};
use crate::guardian::{Baton, Handle};
use crate::process::{self, Process};
use crate::user::{self, FromUser, Moving};
use crate::{Error, keyfile};

/// How often a waiting mover looks whether the rank still lives.
const PERIOD: Duration = Duration::from_millis(100);
/// How long the last words to the guardian may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Carries out the move that the agent's order (JSON) describes. Returns whether the rank has moved.
pub fn start(order: &str) -> Result<bool, Error> {
    let order: Order = serde_json::from_str(order).map_err(|error| Error::Protocol {
        peer: "the agent".into(),
        why: format!("gave a bad order: {error}"),
    })?;
    let (rank, user) = detach()?;
    let mut report = Report::start(UnixStream::from(user), moving(&order));
    let mover = match Mover::new(order, Vec::new()) {
        Ok(mover) => mover,
        Err(error) => {
            report.refuse(Trouble::new(error.to_string()).mend(error.mend()));
            return Err(error);
        }
    };
    Ok(Mover {
        rank: Some(UnixStream::from(rank)),
        report,
        ..mover
    }
    .finish())
}

/// Brings a move to its end whose owner was killed. Returns whether the rank has moved.
pub fn recover(journal: &Path) -> Result<bool, Error> {
    detach()?;
    let Journal { order, shadow, .. } = Journal::read(journal)?;
    let mut mover = Mover::new(order, shadow)?;
    let pid = mover.pid();
    mover.machine = Source::recover(plan(&mover.order), MoveLimits::default(), mover.clock.now());
    mover.hold = Hold::find(pid)?;
    mover.guardian = Handle::of(pid)?;
    mover.departed = mover.guardian.is_some();
    mover.recovering = true;
    Ok(mover.finish())
}

fn moving(order: &Order) -> Moving {
    let identity = &order.entry.identity;
    let name = format!("{}/{}", identity.job, identity.rank);
    Moving {
        name,
        from: order.node.clone(),
        to: order.to.clone(),
    }
}

struct Mover {
    order: Order,
    cluster: Cluster,
    key: Key,
    directory: Arc<Client>,
    /// A rank that is suspended must not look dead because the agent is.
    _lease: Lease,
    /// On its way: the directory lists the rank as moving.
    listing: Option<JoinHandle<()>>,
    clock: Clock,
    machine: Source,
    report: Report,
    /// The phase that was last told to the user.
    noted: Option<Phase>,
    journal: Journal,
    /// Whether the move had another owner, which was killed.
    recovering: bool,
    /// The rank's control connection, until it has suspended its port.
    rank: Option<UnixStream>,
    process: Option<Process>,
    line: Option<Line>,
    hold: Option<Hold>,
    /// The guardian that the rank has here, if it has moved before.
    guardian: Option<Handle>,
    departed: bool,
    baton: Option<Baton>,
    dump: Option<Dump>,
}

/// The streams to the guardian at the destination.
struct Line {
    port: Port,
    control: Stream,
    image: Stream,
    hearing: Hearing,
}

impl Mover {
    fn new(order: Order, shadow: Vec<u8>) -> Result<Mover, Error> {
        let cluster = Cluster::read(&order.cluster)?.with_directory(order.directory.as_deref())?;
        let key = keyfile::read(&order.key)?;
        let clock = Clock::start();
        let directory = Arc::new(Client::new(&cluster, &key));
        Ok(Mover {
            machine: Source::new(plan(&order), MoveLimits::default(), clock.now()),
            _lease: Lease::hold(&directory, &order.node),
            directory,
            listing: None,
            process: Process::find(order.entry.host_pid),
            journal: Journal::begin(order.clone(), shadow)?,
            order,
            cluster,
            key,
            clock,
            report: Report::to_nobody(),
            noted: None,
            recovering: false,
            rank: None,
            line: None,
            hold: None,
            guardian: None,
            departed: false,
            baton: None,
            dump: None,
        })
    }

    fn finish(self) -> bool {
        let Moving { name, from, to } = moving(&self.order);
        tracing::info!("moving rank {name} from {from} to {to}");
        let end = self.drive();
        tracing::info!("rank {name}: {end:?}");
        matches!(end, SourceEnd::Moved { .. })
    }

    fn drive(mut self) -> SourceEnd {
        loop {
            self.note_phase();
            match self.machine.poll_effect() {
                Some(SourceEffect::Finish(end)) => {
                    self.report.end(end.clone());
                    self.clean_up(&end);
                    return end;
                }
                Some(effect) => self.carry_out(effect),
                None => self.wait(),
            }
        }
    }

    fn note_phase(&mut self) {
        let phase = self.machine.phase();
        self.report.phase(phase, self.machine.is_rolling_back());
        if self.noted != Some(phase) {
            self.noted = Some(phase);
            if !self.recovering {
                pause::at(phase.name());
            }
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
            // From the commit on a signal to the original is none to the rank.
            SourceEffect::Ask(Request::Commit { .. }) if self.is_being_killed() => {
                self.machine.handle_ended(self.clock.now());
            }
            SourceEffect::Ask(request) => self.ask(&request),
            SourceEffect::TellCommitted(epoch) => self.tell(&ToGuardian::Committed { epoch }),
            SourceEffect::TellAbort(why) => self.tell(&ToGuardian::Abort { why }),
            SourceEffect::Resume { thaw, verdict } => {
                let resumed = self.resume(thaw, verdict);
                let now = self.clock.now();
                if resumed.is_err() && self.has_ended() {
                    self.machine.handle_ended(now);
                } else {
                    self.machine.handle_resumed(now, resumed);
                }
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
        let heard = match &mut self.line {
            Some(line) => line.hearing.hear(&line.control, pause),
            None => {
                std::thread::sleep(pause);
                Heard::Nothing
            }
        };
        match heard {
            Heard::Message(bytes) => self.hear(&bytes),
            Heard::Nothing => {}
            Heard::Lost(why) => self.guardian_lost(&why),
        }
        if self.has_ended() || self.is_being_killed() {
            self.machine.handle_ended(self.clock.now());
        }
        self.machine.handle_timeout(self.clock.now());
    }

    fn hear(&mut self, bytes: &[u8]) {
        match postcard::from_bytes::<FromGuardian>(bytes) {
            Ok(message) => {
                if let FromGuardian::Confirmed { shadow, .. } = &message
                    && let Err(error) = self.journal.set_shadow(shadow.clone())
                {
                    tracing::warn!("{error}");
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

    fn clean_up(self, end: &SourceEnd) {
        match (end, self.hold) {
            // An agent that was started meanwhile does not know of the shadow; one that is not
            // there looks for it when it starts.
            (SourceEnd::Moved { .. }, _) => {
                let _ = user::ask(&FromUser::WatchShadow {
                    port: self.order.port,
                });
            }
            // Killed while it was held: it ends once it is let go.
            (SourceEnd::Ended { .. }, Some(hold)) => drop(hold.release()),
            _ => {}
        }
        self.journal.end();
        if let Some(line) = self.line {
            let _ = line.control.finish();
            let _ = line.port.flush(Some(LAST_WORDS));
        }
        let _ = std::fs::remove_dir_all(image_path(self.order.move_id, "source"));
    }

    fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.order.entry.host_pid as i32)
    }

    fn is_being_killed(&self) -> bool {
        self.hold.is_some() && process::is_being_killed(self.order.entry.host_pid)
    }

    fn has_ended(&self) -> bool {
        self.process
            .as_ref()
            .is_none_or(|process| process.has_ended(Some(Duration::ZERO)))
    }
}

fn plan(order: &Order) -> Plan {
    Plan {
        port: order.port,
        from: order.entry.epoch,
        move_id: order.move_id,
        reclaim_id: order.reclaim_id,
        here: order.node.clone(),
        host_pid: order.entry.host_pid,
        there: order.to.clone(),
        shadow: order.entry.shadow.clone(),
    }
}

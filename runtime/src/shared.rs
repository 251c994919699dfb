//! The port as its threads share it: the lock, the gate that a suspended port closes, and waiting.
//!
//! A thread that waits drives the port itself: it spins briefly, yields ([`Patience`]), then sleeps on the
//! transport's readiness and on an eventfd with the lock released. Whoever brings news while
//! others sleep writes the eventfd.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use meander_core::{Contact, Epoch, Limits, Location, PortId};

use crate::Error;
use crate::engine::Engine;
use crate::fork::Process;

/// What all handles of one port share with its background thread.
pub(crate) struct Shared {
    /// The one that opened the port.
    process: Process,
    state: Mutex<State>,
    /// Notified when the port is attached or gone.
    gate: Condvar,
    /// Notified when the background thread is to look again.
    pub doze: Condvar,
    id: PortId,
    limits: Limits,
    /// Written to end the sleep of every thread in [`Shared::sleep`].
    waker: OwnedFd,
    /// Counts the calls of the application, so that the background thread keeps out of their way.
    activity: AtomicU64,
    /// The background thread sleeps on the transport, as if there were no application.
    pub watching: AtomicBool,
    /// Counts the calls of [`Shared::wake`].
    wakes: AtomicU64,
    /// How waiting threads spend their time: the [`Lesson`] of the last wait.
    lesson: AtomicU64,
}

/// What the lock guards.
pub(crate) struct State {
    pub engine: Engine,
    pub standing: Standing,
    /// Written when there are peers to look up in the directory.
    pub asked: Option<Arc<OwnedFd>>,
    /// Threads in [`Shared::sleep`], the background thread too.
    sleeping: u32,
    /// Threads of the application that sleep: they do the background thread's work.
    pub waiting: u32,
    /// The background thread waits on `doze` without a time-out.
    pub dozing: bool,
}

/// Whether the port is on the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Attached,
    /// In place: calls wait at the gate.
    Suspended,
    /// Closed, or a value now.
    Gone,
}

pub(crate) type Guard<'a> = MutexGuard<'a, State>;

/// Longest time a waiting thread spins, and the shortest it falls back to where it has the processor to
/// itself.
const SPIN_MAX: Duration = Duration::from_micros(50);
const SPIN_MIN: Duration = Duration::from_micros(2);
/// How often it then gives the processor to another process before it sleeps.
const YIELDS: u32 = 16;
/// Waits up to half of this teach it to go on so, for twice as long as they took.
const PATIENT_MAX: Duration = Duration::from_millis(2);
/// Who gets the processor back later than this is not alone on it: the call alone takes half a microsecond.
const AWAY_MAX: Duration = Duration::from_micros(2);

impl Shared {
    pub fn new(engine: Engine) -> Result<Shared, Error> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let waker = eventfd(0, flags).map_err(|errno| Error::Io {
            operation: "eventfd",
            source: errno.into(),
        })?;
        let (id, limits) = (engine.core.id(), engine.core.limits().clone());
        let standing = Standing::Suspended;
        let state = State {
            engine,
            standing,
            asked: None,
            sleeping: 0,
            waiting: 0,
            dozing: false,
        };
        Ok(Shared {
            process: Process::this(),
            state: Mutex::new(state),
            gate: Condvar::new(),
            doze: Condvar::new(),
            id,
            limits,
            waker,
            activity: AtomicU64::new(0),
            watching: AtomicBool::new(false),
            wakes: AtomicU64::new(0),
            lesson: AtomicU64::new(Lesson::FIRST.to_word()),
        })
    }

    /// The lock, whatever the port's standing; for calls that move it or only look.
    pub fn look(&self) -> Result<Guard<'_>, Error> {
        // Before the lock: in a forked child its holder may not exist.
        if self.process.is_forked() {
            return Err(Error::Forked);
        }
        Ok(self.state.lock())
    }

    /// The lock of a port that is on the fabric; waits while it is suspended in place.
    pub fn enter(&self) -> Result<Guard<'_>, Error> {
        let mut state = self.look()?;
        self.pass_gate(&mut state)?;
        self.activity.fetch_add(1, Ordering::Relaxed);
        if self.watching.load(Ordering::Relaxed) && self.watching.swap(false, Ordering::Relaxed) {
            self.end_sleep(&state);
        }
        Ok(state)
    }

    pub fn id(&self) -> PortId {
        self.id
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where the port is. In a forked child, nowhere.
    pub fn contact(&self) -> Contact {
        let nowhere = || Contact {
            port: self.id,
            epoch: Epoch(0),
            location: Location::default(),
        };
        self.look()
            .map_or_else(|_| nowhere(), |state| state.engine.core.contact())
    }

    pub fn activity(&self) -> u64 {
        self.activity.load(Ordering::Relaxed)
    }

    fn pass_gate(&self, state: &mut Guard<'_>) -> Result<(), Error> {
        loop {
            match state.standing {
                Standing::Attached => return Ok(()),
                Standing::Suspended => self.gate.wait(state),
                Standing::Gone => return Err(Error::Suspended),
            }
        }
    }

    /// Changes the port's standing and lets everybody notice.
    pub fn set_standing(&self, state: &mut Guard<'_>, standing: Standing) {
        state.standing = standing;
        self.gate.notify_all();
        self.doze.notify_all();
        self.end_sleep(state);
    }

    /// For the background thread: waits until the port is attached. Whether it is not gone.
    pub fn wait_attached(&self, state: &mut Guard<'_>) -> bool {
        self.pass_gate(state).is_ok()
    }

    /// Drives the port, and tells those who sleep if that brought news.
    pub fn drive(&self, state: &mut Guard<'_>) -> bool {
        let news = state.engine.drive();
        self.tell(state, news);
        news
    }

    /// As [`Shared::drive`], but only carries out what a call on the protocol has brought about.
    pub fn settle(&self, state: &mut Guard<'_>) {
        let news = state.engine.settle();
        self.tell(state, news);
    }

    /// Wakes whom it concerns. Whoever polls takes away what would have woken those who sleep; and a link
    /// that breaks inside a call is reported at the next poll, which must not wait for them.
    fn tell(&self, state: &mut Guard<'_>, news: bool) {
        let news = news || (state.sleeping > 0 && !state.engine.stays_watched());
        if std::mem::take(&mut state.engine.asks)
            && let Some(asked) = &state.asked
        {
            let _ = rustix::io::write(asked, &1u64.to_ne_bytes());
        }
        if news && state.sleeping > 0 {
            self.end_sleep(state);
        }
    }

    /// Ends every [`Shared::sleep`].
    fn end_sleep(&self, state: &Guard<'_>) {
        if state.sleeping > 0 {
            // The counter can't overflow: a write that would block finds the eventfd readable.
            let _ = rustix::io::write(&self.waker, &1u64.to_ne_bytes());
        }
    }

    /// Makes every thread in [`Shared::wait_for`] with `wakeable` return.
    pub fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        if let Ok(state) = self.look() {
            self.end_sleep(&state);
        }
    }

    /// Drives the port until `done` gives something; `None` when the time is up, or, for a
    /// `wakeable` wait, after [`Shared::wake`]. No time-out waits for ever.
    pub fn wait_for<T>(
        &self,
        timeout: Option<Duration>,
        wakeable: bool,
        mut done: impl FnMut(&mut Guard<'_>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut state = self.enter()?;
        if let Some(found) = done(&mut state) {
            self.settle(&mut state);
            return Ok(Some(found));
        }
        let mut patience = Patience::new(Lesson::from_word(self.lesson.load(Ordering::Relaxed)));
        let deadline = timeout.and_then(|timeout| patience.began.checked_add(timeout));
        let wakes = self.wakes.load(Ordering::Relaxed);
        loop {
            self.drive(&mut state);
            if let Some(found) = done(&mut state) {
                self.settle(&mut state);
                self.lesson
                    .store(patience.lesson().to_word(), Ordering::Relaxed);
                return Ok(Some(found));
            }
            self.settle(&mut state);
            let now = Instant::now();
            let woken = wakeable && self.wakes.load(Ordering::Relaxed) != wakes;
            if woken || deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(None);
            }
            state = match patience.next(now) {
                Next::Spin => {
                    MutexGuard::unlocked(&mut state, std::hint::spin_loop);
                    state
                }
                Next::Yield => {
                    MutexGuard::unlocked(&mut state, || patience.give_way());
                    state
                }
                Next::Sleep => {
                    let left = deadline.map(|deadline| deadline - now);
                    state.waiting += 1;
                    let mut state = self.sleep(state, left);
                    state.waiting -= 1;
                    if state.waiting == 0 && state.dozing {
                        self.doze.notify_all();
                    }
                    state
                }
            };
            self.pass_gate(&mut state)?;
        }
    }

    /// Sleeps until something may have happened on the transport or to the port.
    pub fn sleep<'a>(&'a self, mut state: Guard<'a>, timeout: Option<Duration>) -> Guard<'a> {
        let Some(until) = state.engine.may_sleep() else {
            return state;
        };
        let Some(readiness) = state.engine.transports().map(|it| it.readiness()) else {
            return state;
        };
        if state.sleeping == 0 {
            // Whatever was written was meant for those who have left since.
            let _ = rustix::io::read(&self.waker, &mut [0; 8]);
        }
        state.sleeping += 1;
        drop(state);
        self.sleep_on(
            &readiness,
            timeout.map_or(until, |timeout| timeout.min(until)),
        );
        let mut state = self.state.lock();
        state.sleeping -= 1;
        state
    }

    fn sleep_on(&self, readiness: &[Arc<OwnedFd>], timeout: Duration) {
        let all = readiness.iter().map(|it| it.as_fd());
        let mut on: Vec<PollFd<'_>> = all
            .chain([self.waker.as_fd()])
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // It fails only for a signal or for want of memory: either way the caller looks again.
        let _ = poll(&mut on, Some(&timeout));
    }
}

/// How a thread spends its waiting: it spins, unless others wanted the processor lately; then it gives the
/// processor away and takes it again, a few times, or, while nobody else wants it, as long as waits have been
/// short lately; then it sleeps.
struct Patience {
    began: Instant,
    /// When it last looked.
    looked: Instant,
    /// Somebody else wanted the processor.
    contended: bool,
    spin: Duration,
    /// How long it yields at least.
    patient: Duration,
    yields: u32,
    slept: bool,
}

enum Next {
    Spin,
    Yield,
    Sleep,
}

impl Patience {
    fn new(lesson: Lesson) -> Patience {
        let began = Instant::now();
        Patience {
            began,
            looked: began,
            contended: false,
            spin: lesson.spin,
            patient: lesson.patient,
            yields: 0,
            slept: false,
        }
    }

    fn next(&mut self, now: Instant) -> Next {
        let waited = now - self.began;
        self.looked = now;
        if waited < self.spin {
            return Next::Spin;
        }
        let hurried = waited < self.patient && !self.contended;
        if self.yields < YIELDS || hurried {
            self.yields += 1;
            return Next::Yield;
        }
        self.slept = true;
        Next::Sleep
    }

    /// Lets others have the processor, if they want it.
    fn give_way(&mut self) {
        let start = Instant::now();
        rustix::thread::sched_yield();
        self.contended |= start.elapsed() > AWAY_MAX;
    }

    /// What the wait, which has ended, teaches the next: not to spin where somebody else
    /// wanted the processor, else less after it came to sleeping and more after not; and to be patient for
    /// twice as long as it took, if that is not too long.
    fn lesson(&self) -> Lesson {
        let spin = match (self.contended, self.slept) {
            // Somebody else does what this waits for, perhaps, and needs the processor for it.
            (true, _) => Duration::ZERO,
            (_, true) => (self.spin / 2).max(SPIN_MIN),
            (_, false) => (self.spin * 2).clamp(SPIN_MIN, SPIN_MAX),
        };
        let waited = match self.slept {
            true => self.began.elapsed(),
            false => self.looked - self.began,
        };
        let patient = if waited <= PATIENT_MAX / 2 {
            waited * 2
        } else {
            self.patient / 2
        };
        Lesson { spin, patient }
    }
}

/// What waits teach.
#[derive(Clone, Copy)]
struct Lesson {
    spin: Duration,
    patient: Duration,
}

impl Lesson {
    const FIRST: Lesson = Lesson {
        spin: SPIN_MAX,
        patient: Duration::ZERO,
    };

    /// Both in nanoseconds, each in half a word.
    fn to_word(self) -> u64 {
        let half = |time: Duration| u64::from(time.as_nanos() as u32);
        half(self.patient) << 32 | half(self.spin)
    }

    fn from_word(word: u64) -> Lesson {
        Lesson {
            spin: Duration::from_nanos(word & u64::from(u32::MAX)),
            patient: Duration::from_nanos(word >> 32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wait after this lesson that is over when it has looked so late.
    fn wait(lesson: Lesson, waited: Duration) -> Patience {
        let mut patience = Patience::new(lesson);
        patience.looked = patience.began + waited;
        patience
    }

    #[test]
    fn short_waits_teach_to_spin_and_long_ones_not_to() {
        let mut lesson = Lesson {
            spin: Duration::ZERO,
            ..Lesson::FIRST
        };
        for _ in 0..10 {
            lesson = wait(lesson, Duration::from_micros(1)).lesson();
        }
        assert_eq!(lesson.spin, SPIN_MAX);
        for _ in 0..10 {
            let mut patience = wait(lesson, Duration::from_micros(1));
            patience.slept = true;
            lesson = patience.lesson();
        }
        assert_eq!(lesson.spin, SPIN_MIN);
        let same = Lesson::from_word(lesson.to_word());
        assert_eq!((same.spin, same.patient), (lesson.spin, lesson.patient));
    }

    #[test]
    fn who_shares_the_processor_yields_at_once_and_sleeps_soon() {
        let mut patience = wait(Lesson::FIRST, Duration::ZERO);
        patience.contended = true;
        let lesson = patience.lesson();
        assert_eq!(lesson.spin, Duration::ZERO);
        let patient = Duration::from_millis(1);
        let mut next = Patience::new(Lesson { patient, ..lesson });
        let now = next.began + Duration::from_micros(1);
        for _ in 0..YIELDS {
            assert!(matches!(next.next(now), Next::Yield));
        }
        // Whoever is alone goes on so, since waits have been short.
        assert!(matches!(next.next(now), Next::Yield));
        next.contended = true;
        assert!(matches!(next.next(now), Next::Sleep));
    }
}

//! How a job ends before its time: a rank calls `MPI_Abort`, fails, or exits without
//! `MPI_Finalize`. After the wire-up the launcher thinks that the ranks are plain programs, so they
//! tell each other.
//!
//! Each rank has a thread that waits for the word; so a rank that computes, or is blocked anywhere,
//! ends as well. The word goes to every peer, over a stream of its own, from a thread for each.

use std::ffi::{c_int, c_void};
use std::io::Write;
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use meander::{Contact, Epoch, Port};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::errors::Error;
use crate::native::process::{at_exit, exit_now, exit_with_other_status, flush_output};

/// The service at which every rank takes the word that the job ends.
const SERVICE: u32 = 0x4d50_4945;
/// How long a rank that ends tries to reach the others. The launcher ends them too, when it sees
/// this one's exit code.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a rank that has heard the word waits for its own acknowledgement to leave.
const LAST_WORD: Duration = Duration::from_millis(200);
/// How long a rank that has lost a peer waits for the launcher to end it.
const LAUNCHER_FIRST: Duration = Duration::from_secs(3);
/// How often a rank listens for the word.
const LISTEN_EVERY: Duration = Duration::from_millis(200);
/// Threads that pass the word on.
const TELLERS: usize = 16;

struct Job {
    port: Port,
    rank: u32,
    others: Vec<Contact>,
    process: u32,
    parent: i32,
    epoch: Epoch,
}

static JOB: OnceLock<Job> = OnceLock::new();
/// `MPI_Finalize` is through: an exit is an exit.
static FINALIZED: AtomicBool = AtomicBool::new(false);
/// This process is ending already.
static ENDING: AtomicBool = AtomicBool::new(false);
/// The status of an exit that skips handlers, for the thread that listens.
static SKIPPED: AtomicI32 = AtomicI32::new(NOT_SKIPPED);
const NOT_SKIPPED: c_int = c_int::MIN;

/// From now on an exit of this process ends the job, and the end of the job this process.
pub fn arm(port: &Port, rank: u32, contacts: &[Contact]) -> Result<(), Error> {
    let others = contacts
        .iter()
        .filter(|contact| contact.port != port.id())
        .cloned()
        .collect();
    let job = Job {
        port: port.clone(),
        rank,
        others,
        process: process::id(),
        parent: parent(),
        epoch: port.epoch(),
    };
    if JOB.set(job).is_err() {
        return Err(Error::InitialisedBefore);
    }
    port.listen(SERVICE);
    spawn("meander-ending", {
        let port = port.clone();
        move || listen(&port)
    })
    .map_err(|error| Error::Setup(format!("can't start a thread: {error}")))?;
    at_exit(exiting);
    Ok(())
}

/// The rank is finalised.
pub fn in_good_order() {
    FINALIZED.store(true, Ordering::SeqCst);
}

/// Ends the job: says why on standard error, tells every rank, and exits with `code`, or with 1
/// where that would look like success.
pub fn end_job(code: c_int, why: &str) -> ! {
    let status = failing(code);
    say(why);
    if ENDING.swap(true, Ordering::SeqCst) {
        // Another thread is at it, and will exit.
        thread::sleep(PATIENCE);
    } else if let Some(job) = armed() {
        tell(job, status);
    }
    flush_output();
    exit_now(status)
}

/// Gives the launcher, whose child the dead rank was too, time to end the job with the exit code
/// of that rank: ours would say less.
pub fn leave_it_to_the_launcher() {
    thread::sleep(LAUNCHER_FIRST);
}

/// `MPI_Abort`.
pub fn abort(code: c_int) -> ! {
    end_job(code, &format!("MPI_Abort was called with code {code}"))
}

extern "C" fn exiting(status: c_int, _: *mut c_void) {
    let Some(job) = armed() else { return };
    if ENDING.swap(true, Ordering::SeqCst) {
        return;
    }
    say_left(status);
    tell(job, failing(status));
    if failing(status) != status & 0xff {
        exit_with_other_status(failing(status));
    }
}

/// `_exit`. A signal handler may call it, so this only leaves word for the thread that listens, and
/// gives that time to tell the others and end the process; if it can't, the caller does.
pub fn skipping_handlers(status: c_int) {
    if armed().is_none() || ENDING.swap(true, Ordering::SeqCst) {
        return;
    }
    SKIPPED.store(status, Ordering::SeqCst);
    thread::sleep(PATIENCE + LISTEN_EVERY);
}

/// Carries out what [`skipping_handlers`] asks for.
fn end_if_skipped(job: &'static Job) {
    let status = SKIPPED.load(Ordering::SeqCst);
    if status == NOT_SKIPPED {
        return;
    }
    say_left(status);
    tell(job, failing(status));
    exit_now(failing(status));
}

fn say_left(status: c_int) {
    say(&format!(
        "exited with code {} without calling MPI_Finalize",
        status & 0xff
    ));
}

/// The job, unless it is over or this is a fork of the rank.
fn armed() -> Option<&'static Job> {
    let job = JOB.get()?;
    let current = !FINALIZED.load(Ordering::SeqCst) && job.process == process::id();
    current.then_some(job)
}

/// An exit status with which the job fails.
fn failing(code: c_int) -> c_int {
    match code & 0xff {
        0 => 1,
        status => status,
    }
}

fn say(why: &str) {
    let who = JOB
        .get()
        .map_or_else(String::new, |job| format!("rank {} on ", job.rank));
    let line = format!("meander: {who}{}: {why}; the job ends\n", node_name());
    // In one piece, among what other ranks print.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The name of the node this process is on now.
pub fn node_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn tell(job: &'static Job, status: c_int) {
    let deadline = Instant::now() + PATIENCE;
    let (told, all_told) = mpsc::channel();
    let tellers = TELLERS.min(job.others.len());
    let mut started = 0;
    for teller in 0..tellers {
        let told = told.clone();
        let share = job.others.iter().skip(teller).step_by(tellers);
        let work = move || {
            share.for_each(|peer| tell_one(&job.port, peer, status, deadline));
            let _ = told.send(());
        };
        started += usize::from(spawn("meander-last-word", work).is_ok());
    }
    for _ in 0..started {
        let rest = deadline.saturating_duration_since(Instant::now());
        if all_told.recv_timeout(rest).is_err() {
            return;
        }
    }
}

/// A peer that has the word finishes its side; one that is gone needs none.
fn tell_one(port: &Port, peer: &Contact, status: c_int, deadline: Instant) {
    let Ok(stream) = port.connect(peer, SERVICE) else {
        return;
    };
    if stream.send(&status.to_le_bytes()).is_ok() {
        let _ = stream.recv(Some(deadline.saturating_duration_since(Instant::now())));
    }
}

fn listen(port: &Port) {
    loop {
        let stream = match port.accept(Some(Duration::ZERO)) {
            Ok(stream) => stream,
            Err(meander::Error::Forked | meander::Error::Suspended) => return,
            Err(_) => {
                armed().into_iter().for_each(end_if_skipped);
                end_without_launcher(port);
                // A thread that waits in the port would be woken by every message.
                thread::sleep(LISTEN_EVERY);
                continue;
            }
        };
        if stream.service() != SERVICE || FINALIZED.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(Some(word)) = stream.recv(Some(PATIENCE)) else {
            continue;
        };
        let Ok(status) = <[u8; 4]>::try_from(&word[..]) else {
            continue;
        };
        ENDING.store(true, Ordering::SeqCst);
        let _ = stream.finish();
        let _ = port.flush(Some(LAST_WORD));
        exit_now(failing(c_int::from_le_bytes(status)));
    }
}

/// Ends a rank whose launcher is gone: the native library would notice by its connection to it. A
/// rank that has moved has another parent, and its shadow the launcher.
fn end_without_launcher(port: &Port) {
    let Some(job) = armed() else { return };
    if parent() == job.parent || job.others.is_empty() {
        return;
    }
    // In a copy that is about to attach this waits until it has, and then knows that it moved.
    let _ = port.accept(Some(Duration::ZERO));
    if port.epoch() == job.epoch && parent() != job.parent {
        end_job(1, "the process that launched this rank is gone");
    }
}

fn parent() -> i32 {
    nix::unistd::getppid().as_raw()
}

/// A thread that takes none of the program's signals.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    spawned.map(drop)
}

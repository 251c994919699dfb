//! How the ranks of a job find each other: a short-lived child, `meander-wireup`, that keeps the
//! launcher's environment and speaks the native MPI among its like.
//!
//! Over the child's standard input and output, all numbers little-endian:
//!
//! 1. child to rank: [`Job`]: key (32 bytes), rank and size (`u32`), the job's id (8 bytes);
//! 2. rank to child: its contact, a `u32` length and as many bytes;
//! 3. child to rank: the contacts of all ranks in their order, each as in 2.
//!
//! Contacts are postcard; the child only passes them on.

use std::env;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use meander::{Contact, JobId, Key};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::ending::node_name;
use crate::errors::Error;
use crate::native::own_path;

/// Where the child's program is, if not beside this library.
pub const PROGRAM_VARIABLE: &str = "MEANDER_WIREUP";
/// Its name beside this library.
const PROGRAM: &str = "meander-wireup";
/// How long the others may take before a rank says that it waits.
const LONG: Duration = Duration::from_secs(30);
/// Longest contact, in bytes.
const CONTACT_BYTES_MAX: usize = 1 << 16;

/// What all ranks agree on before they can open ports.
pub struct Job {
    /// What their ports prove to each other.
    pub key: Key,
    /// The job's name.
    pub id: JobId,
    /// This process's number.
    pub rank: u32,
    /// How many there are.
    pub size: u32,
}

impl Job {
    /// A job of one process.
    pub fn alone() -> Result<Job, Error> {
        let mut random = [0; 36];
        getrandom::fill(&mut random).map_err(|error| setup(format!("no random bytes: {error}")))?;
        let (key, id) = random.split_at(32);
        Ok(Job {
            key: Key(key.try_into().map_err(|_| setup("no key".to_owned()))?),
            id: JobId(id.iter().map(|byte| format!("{byte:02x}")).collect()),
            rank: 0,
            size: 1,
        })
    }
}

/// The child, while it runs.
pub struct WireUp {
    child: Child,
}

impl WireUp {
    /// Starts the child. It takes as long as a native `MPI_Init`; do something meanwhile.
    pub fn start() -> Result<WireUp, Error> {
        let program = program()?;
        let mut command = Command::new(&program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        match preload_without(&own_path().unwrap_or_default()) {
            Some(rest) => command.env("LD_PRELOAD", rest),
            None => command.env_remove("LD_PRELOAD"),
        };
        let child = command.spawn();
        let child = child.map_err(|error| {
            setup(format!(
                "can't start {}: {error}; it belongs beside libmeander_mpi.so, or {PROGRAM_VARIABLE} \
                 says where it is",
                program.display()
            ))
        })?;
        Ok(WireUp { child })
    }

    /// What the ranks agreed on.
    pub fn job(&mut self) -> Result<Job, Error> {
        let mut bytes = [0; 48];
        self.read(&mut bytes)?;
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[..32]);
        Ok(Job {
            key: Key(key),
            id: JobId(String::from_utf8_lossy(&bytes[40..]).into_owned()),
            rank: number(32),
            size: number(36),
        })
    }

    /// Tells this rank's contact and hears all; the child has ended then.
    pub fn exchange(mut self, mine: &Contact, size: u32) -> Result<Vec<Contact>, Error> {
        let bytes = postcard::to_stdvec(mine).map_err(|error| broken(&error))?;
        let mut pipe = self.child.stdin.take().ok_or_else(|| broken(&"no pipe"))?;
        let len = (bytes.len() as u32).to_le_bytes();
        pipe.write_all(&[&len[..], &bytes].concat())
            .map_err(|error| broken(&error))?;
        let mut contacts = Vec::with_capacity(size as usize);
        for _ in 0..size {
            let mut len = [0; 4];
            self.read(&mut len)?;
            let len = u32::from_le_bytes(len) as usize;
            if len > CONTACT_BYTES_MAX {
                return Err(broken(&"a contact is too long"));
            }
            let mut bytes = vec![0; len];
            self.read(&mut bytes)?;
            contacts.push(postcard::from_bytes(&bytes).map_err(|error| broken(&error))?);
        }
        drop(pipe);
        match self.child.wait() {
            Ok(status) if !status.success() => Err(broken(&status)),
            // A program that ignores SIGCHLD leaves nothing to wait for.
            Ok(_) | Err(_) => Ok(contacts),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        let helper = self.child.id();
        let pipe = self
            .child
            .stdout
            .as_mut()
            .ok_or_else(|| broken(&"no pipe"))?;
        if !is_readable_within(pipe, LONG) {
            // No error: a launcher that starts the last ranks late is in order.
            eprintln!(
                "meander: {}: this rank has waited {} s for the other ranks to reach MPI_Init; its \
                 helper {PROGRAM} (process {helper}) is in the native MPI_Init",
                node_name(),
                LONG.as_secs()
            );
        }
        pipe.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => broken(&"it ended too early; see its own words above"),
            _ => broken(&error),
        })
    }
}

/// Also at the end of the pipe; and when that can't be told.
fn is_readable_within(pipe: &ChildStdout, limit: Duration) -> bool {
    let mut on = [PollFd::new(pipe, PollFlags::IN)];
    let limit = Timespec::try_from(limit).ok();
    poll(&mut on, limit.as_ref()) != Ok(0)
}

fn program() -> Result<PathBuf, Error> {
    if let Some(path) = env::var_os(PROGRAM_VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    let own =
        own_path().ok_or_else(|| setup("can't tell where libmeander_mpi.so is".to_owned()))?;
    Ok(own.with_file_name(PROGRAM))
}

/// `LD_PRELOAD` without this library: the child wants the native MPI.
fn preload_without(own: &Path) -> Option<String> {
    let all = env::var("LD_PRELOAD").ok()?;
    let name = own.file_name();
    let others = all
        .split([':', ' '])
        .filter(|entry| Path::new(entry).file_name() != name);
    let rest = others.collect::<Vec<_>>().join(":");
    (!rest.is_empty()).then_some(rest)
}

fn setup(text: String) -> Error {
    Error::Setup(text)
}

fn broken(why: &dyn std::fmt::Display) -> Error {
    setup(format!("the wire-up with the other ranks failed: {why}"))
}

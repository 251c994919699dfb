//! Wires the ranks of a job up: a child of each rank that keeps the launcher's environment, speaks
//! the native MPI among its like for a moment, and ends.
//!
//! Over standard input and output, all numbers little-endian:
//!
//! 1. to the rank: key (32 bytes), rank and size (`u32`), the job's id (8 ASCII bytes);
//! 2. from the rank: its contact, a `u32` length and as many bytes, which mean nothing here;
//! 3. to the rank: the contacts of all ranks in their order, each as in 2.
//!
//! Key and id are drawn by rank 0.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, anyhow, ensure};
use mpi::datatype::PartitionMut;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};
use rustix::fs::{Mode, OFlags};

const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
/// Longest contact, in bytes.
const CONTACT_BYTES_MAX: usize = 1 << 16;

fn main() -> Result<()> {
    let (mut from_rank, mut to_rank) = keep_pipes()?;
    let universe = mpi::initialize().context("the native MPI_Init failed")?;
    let world = universe.world();

    let mut drawn = [0; KEY_BYTES + ID_BYTES / 2];
    if world.rank() == 0 {
        getrandom::fill(&mut drawn)
            .map_err(|error| anyhow!("no random bytes for a key: {error}"))?;
    }
    world.process_at_rank(0).broadcast_into(&mut drawn);
    let (key, id) = drawn.split_at(KEY_BYTES);
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut job = key.to_vec();
    job.extend(u32::try_from(world.rank())?.to_le_bytes());
    job.extend(u32::try_from(world.size())?.to_le_bytes());
    job.extend(id.as_bytes());
    to_rank.write_all(&job).context("the rank is gone")?;

    let contact = read_contact(&mut from_rank).context("the rank told no contact")?;
    let len = i32::try_from(contact.len())?;
    let mut lens = vec![0; usize::try_from(world.size())?];
    world.all_gather_into(&len, &mut lens[..]);
    let starts: Vec<i32> = lens
        .iter()
        .scan(0, |end, len| Some(std::mem::replace(end, *end + len)))
        .collect();
    let mut contacts = vec![0; usize::try_from(lens.iter().sum::<i32>())?];
    let mut partition = PartitionMut::new(&mut contacts[..], &lens[..], &starts[..]);
    world.all_gather_varcount_into(&contact[..], &mut partition);

    let mut told = Vec::new();
    let mut rest = &contacts[..];
    for len in lens {
        let (contact, others) = rest.split_at(usize::try_from(len)?);
        told.extend((contact.len() as u32).to_le_bytes());
        told.extend(contact);
        rest = others;
    }
    to_rank.write_all(&told).context("the rank is gone")
}

/// The pipes to the rank, moved away from where libraries print and read.
fn keep_pipes() -> Result<(File, File)> {
    let keep = |fd: &dyn AsFd| rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3);
    let from_rank = keep(&std::io::stdin()).context("no standard input")?;
    let to_rank = keep(&std::io::stdout()).context("no standard output")?;
    let null: OwnedFd = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(std::io::stderr())?;
    Ok((File::from(from_rank), File::from(to_rank)))
}

fn read_contact(from_rank: &mut File) -> Result<Vec<u8>> {
    let mut len = [0; 4];
    from_rank.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    ensure!(
        len <= CONTACT_BYTES_MAX,
        "a contact of {len} bytes is too long"
    );
    let mut contact = vec![0; len];
    from_rank.read_exact(&mut contact)?;
    Ok(contact)
}

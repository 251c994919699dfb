//! The cables between the machines: a process that takes their network cards' frames over Unix
//! sockets and gives each to all others, as an Ethernet hub does.
//!
//! QEMU's `stream` network device sends a frame as a big-endian `u32` length and that many bytes.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::state::{Incarnation, wait_until};

/// The networks, each a hub: the one with the RDMA devices, and the one without.
pub const NETWORKS: [&str; 2] = ["rdma", "tcp"];
/// Longest frame: a jumbo frame and the header that virtio puts before it.
const FRAME_BYTES_MAX: usize = 72 * 1024;

/// Where a network's cards connect.
pub fn socket(lab: &Path, network: &str) -> PathBuf {
    lab.join(format!("{network}.socket"))
}

/// Starts the process for a lab, and waits until it listens.
pub(super) fn start(lab: &Path) -> Result<()> {
    let child = Command::new(program()?)
        .args(["rxe-hub".as_ref(), lab.as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(lab.join("hub.log"))?)
        .process_group(0)
        .spawn()
        .context("cannot run meander-lab")?;
    Incarnation::of(child.id())?.save(&lab.join("hub.pid"))?;
    wait_until("the hub to listen", Duration::from_secs(10), || {
        let all = NETWORKS.iter().all(|network| socket(lab, network).exists());
        all.then_some(())
    })
}

/// The process: one hub for each network. Does not return.
pub fn serve(lab: &Path) -> Result<()> {
    let hubs = NETWORKS.map(|network| {
        let path = socket(lab, network);
        let _ = fs::remove_file(&path);
        UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))
    });
    let mut threads = Vec::new();
    for listener in hubs {
        let listener = listener?;
        threads.push(thread::spawn(move || connect(&listener)));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// The program that serves: `meander-lab`, of which a test is no copy.
fn program() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    if this.file_name().is_some_and(|name| name == "meander-lab") {
        return Ok(this);
    }
    let built = crate::artifacts::Artifacts::locate()
        .dir()
        .join("meander-lab");
    anyhow::ensure!(
        built.exists(),
        "{} is missing: `cargo xtask build` makes it",
        built.display()
    );
    Ok(built)
}

type Cards = Arc<Mutex<Vec<(usize, UnixStream)>>>;

fn connect(listener: &UnixListener) {
    let cards = Cards::default();
    for (number, card) in listener.incoming().flatten().enumerate() {
        let Ok(writer) = card.try_clone() else {
            continue;
        };
        lock(&cards).push((number, writer));
        let cards = cards.clone();
        thread::spawn(move || {
            let ended = forward(number, card, &cards);
            lock(&cards).retain(|(other, _)| *other != number);
            eprintln!("card {number}: {ended:?}");
        });
    }
}

/// Gives every frame of a card to the others, until it is unplugged.
fn forward(from: usize, card: UnixStream, cards: &Cards) -> io::Result<()> {
    let mut card = BufReader::with_capacity(2 * FRAME_BYTES_MAX, card);
    let mut frame = vec![0; 4 + FRAME_BYTES_MAX];
    loop {
        card.read_exact(&mut frame[..4])?;
        let len = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        if len > FRAME_BYTES_MAX {
            return Err(io::Error::other(format!("a frame of {len} bytes")));
        }
        card.read_exact(&mut frame[4..4 + len])?;
        let mut cards = lock(cards);
        // A card that can't be written to is noticed by the thread that reads it.
        for (_, other) in cards.iter_mut().filter(|(number, _)| *number != from) {
            let _ = other.write_all(&frame[..4 + len]);
        }
    }
}

fn lock(cards: &Cards) -> std::sync::MutexGuard<'_, Vec<(usize, UnixStream)>> {
    cards.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reaches_all_others_and_not_its_sender() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hub");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || connect(&listener));
        let mut cards = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
        // Every card is plugged in once it has heard of each other.
        thread::sleep(Duration::from_millis(100));
        let frame = [&5u32.to_be_bytes()[..], b"frame"].concat();
        cards[1].write_all(&frame).unwrap();
        for at in [0, 2] {
            let mut heard = vec![0; frame.len()];
            cards[at].read_exact(&mut heard).unwrap();
            assert_eq!(heard, frame);
        }
        cards[1].set_nonblocking(true).unwrap();
        let error = cards[1].read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

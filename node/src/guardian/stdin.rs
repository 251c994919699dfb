//! What the launcher writes, on its way to the rank's stdin.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};

use super::relay::{Carry, Ends, Mode, Shared};
use super::wire::{CHUNK_BYTES, ToShadow};

/// How long a wait for stdin lasts before it is looked again; it is woken before.
const LOOK: Duration = Duration::from_secs(1);

/// The thread of stdin.
pub(super) fn relay(shared: &Shared, ends: &Ends) {
    while let Some(piece) = next(shared) {
        let mut end = ends
            .stdin
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if piece.is_empty() {
            // A pipe: the rank sees its end. A terminal stays open, for it is written too.
            *end = None;
            return;
        }
        let written = match end.as_ref().map(|end| (write(end, &piece), end)) {
            Some((Ok(len), _)) => len,
            Some((Err(Errno::AGAIN), end)) => {
                wait(shared, end);
                0
            }
            Some((Err(Errno::INTR), _)) => 0,
            // Nobody reads it any more, or it is a file here: as good as read.
            Some((Err(_), _)) | None => piece.len(),
        };
        drop(end);
        if written > 0 && !taken(shared, written) {
            return;
        }
    }
}

/// The next piece to write; empty at the end. `None`: told to stop.
fn next(shared: &Shared) -> Option<Vec<u8>> {
    let mut progress = shared.lock();
    loop {
        if progress.mode != Mode::Relay {
            return None;
        }
        let carry = &progress.carry;
        if !carry.stdin.is_empty() || carry.stdin_ended {
            let len = carry.stdin.len().min(CHUNK_BYTES);
            return Some(carry.stdin[..len].to_vec());
        }
        progress = shared.wait(progress, LOOK);
    }
}

/// Forgets what was written and gives the shadow credit for it. `false` where it can't be told.
fn taken(shared: &Shared, written: usize) -> bool {
    let mut progress = shared.lock();
    let carry = &mut progress.carry;
    carry.stdin.drain(..written);
    let known = carry.stdin_taken.min(written);
    carry.stdin_taken -= known;
    drop(progress);
    let news = (written - known) as u64;
    news == 0 || shared.send(&ToShadow::StdinTaken(news)).is_ok()
}

fn wait(shared: &Shared, end: &OwnedFd) {
    let mut wanted = [
        PollFd::new(end, PollFlags::OUT),
        PollFd::new(&shared.stop, PollFlags::IN),
    ];
    let _ = poll(&mut wanted, None);
}

/// The rank is frozen: what it has not read of its pipe goes in front of what was not written yet.
pub(super) fn take_back(inner: &OwnedFd, carry: &mut Carry) {
    let mut unread = Vec::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match read(inner, &mut buffer) {
            Ok(len @ 1..) => unread.extend(&buffer[..len]),
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => break,
        }
    }
    carry.stdin_taken += unread.len();
    unread.append(&mut carry.stdin);
    carry.stdin = unread;
}

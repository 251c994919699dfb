//! What the rank writes, on its way to the shadow.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read};

use super::LAST_WORDS;
use super::relay::{Ends, Mode, Shared};
use super::wire::{CHUNK_BYTES, ToShadow};

/// How long a wait for credit lasts before it is looked again; it is woken before.
const LOOK: Duration = Duration::from_secs(1);

/// The outputs' thread.
pub(super) fn relay(shared: &Shared, ends: &Ends) {
    let mut open: Vec<(u8, Arc<OwnedFd>)> = Vec::new();
    for (fd, end) in [1u8, 2].into_iter().zip(&ends.outputs) {
        open.extend(end.clone().map(|end| (fd, end)));
    }
    if !send_carried(shared) {
        return take_in(shared, &open);
    }
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let mode = shared.lock().mode;
        match mode {
            Mode::Relay => wait(shared, &open),
            Mode::Drain => return take_in(shared, &open),
            Mode::End => {}
        }
        let mut any = false;
        for index in (0..open.len()).rev() {
            let (fd, end) = open[index].clone();
            let Some(room) = credit(shared, CHUNK_BYTES) else {
                break;
            };
            let got = read(&end, &mut buffer[..room]);
            give_back(shared, room - *got.as_ref().unwrap_or(&0));
            match got {
                Ok(len @ 1..) => {
                    any = true;
                    let bytes = buffer[..len].to_vec();
                    let output = ToShadow::Output { fd, bytes };
                    if let Err(error) = shared.send(&output) {
                        return keep(shared, output, &error);
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The end of a pipe, or EIO: nobody has the terminal open any more.
                Ok(0) | Err(_) => {
                    open.remove(index);
                }
            }
        }
        if !any && shared.lock().mode == Mode::End {
            return;
        }
    }
}

/// Sends what the guardian before this one had not. `false`: told to drain before all was sent.
fn send_carried(shared: &Shared) -> bool {
    loop {
        let next = shared
            .lock()
            .carry
            .outputs
            .first()
            .map(|(_, bytes)| bytes.len());
        let Some(len) = next else { return true };
        let Some(room) = credit(shared, len) else {
            return false;
        };
        let mut progress = shared.lock();
        let (fd, bytes) = &mut progress.carry.outputs[0];
        let rest = bytes.split_off(room);
        let output = ToShadow::Output {
            fd: *fd,
            bytes: std::mem::replace(bytes, rest),
        };
        if progress.carry.outputs[0].1.is_empty() {
            progress.carry.outputs.remove(0);
        }
        drop(progress);
        if let Err(error) = shared.send(&output) {
            keep(shared, output, &error);
            return false;
        }
    }
}

/// Waits for credit and takes some. `None`: told to drain, or nobody takes anything any more.
fn credit(shared: &Shared, wanted: usize) -> Option<usize> {
    let mut progress = shared.lock();
    let mut ending = None;
    loop {
        let has = progress.carry.output_credit;
        if has > 0 {
            let taken = has.min(wanted as u64);
            progress.carry.output_credit -= taken;
            return Some(taken as usize);
        }
        match progress.mode {
            Mode::Relay => {}
            Mode::Drain => return None,
            Mode::End => {
                let since: Instant = *ending.get_or_insert_with(Instant::now);
                if since.elapsed() > LAST_WORDS {
                    return None;
                }
            }
        }
        progress = shared.wait(progress, LOOK);
    }
}

fn give_back(shared: &Shared, bytes: usize) {
    shared.lock().carry.output_credit += bytes as u64;
}

/// Waits until something was written, or the mode has changed.
fn wait(shared: &Shared, open: &[(u8, Arc<OwnedFd>)]) {
    let mut wanted: Vec<PollFd<'_>> = open
        .iter()
        .map(|(_, end)| PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN))
        .collect();
    wanted.push(PollFd::new(&shared.stop, PollFlags::IN));
    let _ = poll(&mut wanted, None);
}

/// The rank is frozen: all it has written is taken in, and goes to the next guardian.
fn take_in(shared: &Shared, open: &[(u8, Arc<OwnedFd>)]) {
    let mut buffer = vec![0; CHUNK_BYTES];
    for (fd, end) in open {
        loop {
            match read(end, &mut buffer) {
                Ok(len @ 1..) => {
                    shared
                        .lock()
                        .carry
                        .outputs
                        .push((*fd, buffer[..len].to_vec()));
                }
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => break,
            }
        }
    }
}

/// What could not be sent is not lost: another guardian may send it.
fn keep(shared: &Shared, output: ToShadow, error: &meander::Error) {
    tracing::error!("output did not reach the shadow: {error}");
    if let ToShadow::Output { fd, bytes } = output {
        shared.lock().carry.outputs.insert(0, (fd, bytes));
    }
}

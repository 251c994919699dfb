//! Two ends over the machine's RDMA device, and the frames of a rendezvous.

use std::time::{Duration, Instant};

use meander_core::transport::{Body, Frame, Slice, Transport};
use meander_core::wire::{AppHeader, FrameHeader, FrameKind};
use meander_core::{BufferId, LinkId};
use meander_sim::conformance::End;
use meander_verbs::{VerbsConfig, VerbsTransport};

/// How long a test waits for what must happen; emulation is slow.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub type Verbs = End<VerbsTransport>;

pub fn open() -> Verbs {
    let opened = VerbsTransport::open(&VerbsConfig::default());
    End::new(opened.expect("a device with an active port"))
}

/// A link between two ends.
pub fn link(near: &mut Verbs, far: &mut Verbs) -> (LinkId, LinkId) {
    let one = near.dial(&far.transport);
    until(&mut [near, far], "a link", |ends| {
        ends[0].connected.contains(&one) && !ends[1].accepted.is_empty()
    });
    (one, far.accepted.pop_front().expect("just seen"))
}

/// Drives the ends until `done` says so.
pub fn until(ends: &mut [&mut Verbs], what: &str, mut done: impl FnMut(&mut [&mut Verbs]) -> bool) {
    let start = Instant::now();
    while !done(ends) {
        ends.iter_mut().for_each(|end| end.drive());
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
    }
}

/// Bytes that show where they belong.
pub fn pattern(number: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|place| (place as u64 * 131 + number * 17) as u8)
        .collect()
}

/// A frame with a body of its own.
pub fn eager(number: u64, body: Vec<u8>) -> Frame {
    let mut header = FrameHeader::new(FrameKind::Eager);
    header.seq.set(number);
    header.body_len.set(body.len() as u32);
    Frame {
        header,
        app: AppHeader::new(),
        body: Body::Own(body),
    }
}

/// Asks for the payload of message `seq`, to be put into a buffer from an offset on.
pub fn pull(seq: u64, buffer: BufferId, offset: u64, end: u64) -> Frame {
    let mut header = FrameHeader::new(FrameKind::Pull);
    header.seq.set(seq);
    header.arg.set(offset);
    let body = Body::Place(Slice {
        buffer,
        offset,
        len: end - offset,
    });
    Frame {
        header,
        app: AppHeader::new(),
        body,
    }
}

/// Payload of message `seq`, out of a buffer.
pub fn data(seq: u64, buffer: BufferId, offset: u64, len: u64) -> Frame {
    let mut header = FrameHeader::new(FrameKind::Data);
    header.seq.set(seq);
    header.arg.set(offset);
    header.body_len.set(len as u32);
    let body = Body::Slice(Slice {
        buffer,
        offset,
        len,
    });
    Frame {
        header,
        app: AppHeader::new(),
        body,
    }
}

/// Sends all, as there is room.
pub fn send_all(from: &mut Verbs, link: LinkId, frames: Vec<Frame>, far: &mut Verbs) {
    let mut frames = frames.into_iter().peekable();
    until(&mut [from, far], "room for all frames", |ends| {
        while let Some(next) = frames.peek() {
            if !ends[0].try_send(link, next.clone()) {
                return false;
            }
            frames.next();
        }
        ends[0].transport.flush(link, &ends[0].record);
        true
    });
}

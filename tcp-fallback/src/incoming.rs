//! Bytes as they arrive, cut into frames.

use std::io::IoSliceMut;
use std::os::fd::BorrowedFd;

use meander_core::LinkId;
use meander_core::Slice;
use meander_core::transport::{FrameSink, LinkError, Place};
use meander_core::wire::{AppHeader, FrameHeader, HEADER_BYTES, Violation};
use rustix::io::Errno;

use crate::limits;
use crate::wire::{Read, Wire};

/// The receiving half of a link.
pub(crate) struct Incoming {
    /// Bytes that have arrived and belong to no place yet: `buffer[start..end]`.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// A read has filled the buffer: a larger one pays.
    filled: bool,
    expect: Expect,
}

/// What the next bytes are.
enum Expect {
    Header,
    /// A body that is handed over whole.
    Whole(FrameHeader, AppHeader),
    /// A body that goes into its place, of which `done` bytes have.
    Into {
        header: FrameHeader,
        app: AppHeader,
        slice: Slice,
        done: usize,
    },
}

impl Incoming {
    pub(crate) fn new() -> Incoming {
        let buffer = vec![0; limits::QUIET_RECEIVE_BYTES].into_boxed_slice();
        Incoming {
            buffer,
            start: 0,
            end: 0,
            filled: false,
            expect: Expect::Header,
        }
    }

    /// Reads once and hands over the frames that are complete.
    pub(crate) fn receive<S: FrameSink>(
        &mut self,
        link: LinkId,
        wire: &mut Wire,
        socket: BorrowedFd<'_>,
        sink: &mut S,
    ) -> Result<Read, LinkError> {
        let read = self.read(wire, socket, sink)?;
        if let Read::Some(_) | Read::Last(_) = read {
            self.hand_over(link, sink)?;
        }
        Ok(read)
    }

    /// Reads into the place of a large body that has one, else into the buffer.
    fn read<S: FrameSink>(
        &mut self,
        wire: &mut Wire,
        socket: BorrowedFd<'_>,
        sink: &mut S,
    ) -> Result<Read, LinkError> {
        if let Expect::Into { slice, done, .. } = &mut self.expect
            && slice.len - *done as u64 >= limits::DIRECT_BYTES
        {
            // All that was in the buffer has gone to the place already.
            let place = place(sink, *slice)?.split_at_mut(*done).1;
            let (missing, ahead) = (place.len(), limits::READ_AHEAD_BYTES);
            let mut parts = [
                IoSliceMut::new(place),
                IoSliceMut::new(&mut self.buffer[..ahead]),
            ];
            let read = wire.read(socket, &mut parts)?;
            *done += read.bytes().min(missing);
            (self.start, self.end) = (0, read.bytes().saturating_sub(missing));
            return Ok(read);
        }
        self.make_room();
        let until = self.buffer.len().min(self.end + limits::READ_BYTES);
        let room = &mut self.buffer[self.end..until];
        let asked = room.len();
        let read = wire.read(socket, &mut [IoSliceMut::new(room)])?;
        self.filled |= read.bytes() == asked;
        self.end += read.bytes();
        Ok(read)
    }

    /// Moves what is left to the front when what is expected would not fit behind it, into a larger
    /// buffer if it takes that.
    fn make_room(&mut self) {
        let whole = match &self.expect {
            Expect::Whole(header, _) => header.body_bytes(),
            _ => 0,
        };
        if self.buffer.len() < limits::RECEIVE_BYTES && (self.filled || whole > self.buffer.len()) {
            let mut larger = vec![0; limits::RECEIVE_BYTES].into_boxed_slice();
            larger[..self.end - self.start].copy_from_slice(&self.buffer[self.start..self.end]);
            self.buffer = larger;
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            return;
        }
        if self.start + whole.max(limits::READ_AHEAD_BYTES) > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Hands over every frame that is complete.
    fn hand_over<S: FrameSink>(&mut self, link: LinkId, sink: &mut S) -> Result<(), LinkError> {
        while self.step(link, sink)? {}
        Ok(())
    }

    /// One step through the buffer; whether there may be another.
    fn step<S: FrameSink>(&mut self, link: LinkId, sink: &mut S) -> Result<bool, LinkError> {
        let arrived = &self.buffer[self.start..self.end];
        match &mut self.expect {
            Expect::Header => {
                let Some(bytes) = arrived.first_chunk::<HEADER_BYTES>() else {
                    return Ok(false);
                };
                let header = FrameHeader::parse(bytes)?;
                let prefix = HEADER_BYTES + usize::from(header.app_len);
                let Some(app) = arrived.get(HEADER_BYTES..prefix) else {
                    return Ok(false);
                };
                let whole = prefix + header.body_bytes();
                if let Some(body) = arrived.get(prefix..whole)
                    && sink.at_once(link, &header, app, body)
                {
                    self.start += whole;
                    return Ok(true);
                }
                let app = AppHeader::try_from(app)
                    .map_err(|_| Violation::Length(header.app_len.into()))?;
                self.expect = match sink.begin(link, &header, &app)? {
                    Place::Whole => Expect::Whole(header, app),
                    Place::Into(slice) => {
                        if slice.len != header.body_bytes() as u64 {
                            return Err(Violation::Length(header.body_bytes() as u64).into());
                        }
                        Expect::Into {
                            header,
                            app,
                            slice,
                            done: 0,
                        }
                    }
                };
                self.start += prefix;
                Ok(true)
            }
            Expect::Whole(header, app) => {
                let Some(body) = arrived.get(..header.body_bytes()) else {
                    return Ok(false);
                };
                sink.complete(link, header, app, body)?;
                self.start += header.body_bytes();
                self.expect = Expect::Header;
                Ok(true)
            }
            Expect::Into {
                header,
                app,
                slice,
                done,
            } => {
                let place = place(sink, *slice)?.split_at_mut(*done).1;
                let count = place.len().min(arrived.len());
                place[..count].copy_from_slice(&arrived[..count]);
                let complete = count == place.len();
                *done += count;
                self.start += count;
                if complete {
                    sink.complete(link, header, app, &[])?;
                    self.expect = Expect::Header;
                }
                Ok(complete)
            }
        }
    }
}

/// The place of a body; one that is not as long as was said is a fault of this side, and breaks the
/// link rather than the process.
fn place<S: FrameSink>(sink: &mut S, slice: Slice) -> Result<&mut [u8], LinkError> {
    let place = sink.write(slice);
    if place.len() as u64 == slice.len {
        Ok(place)
    } else {
        Err(LinkError::Io {
            operation: "receive into its place",
            source: Errno::FAULT.into(),
        })
    }
}

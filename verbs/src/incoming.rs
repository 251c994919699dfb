//! Packets as they arrive, cut into frames.

use std::sync::Arc;

use meander_core::LinkId;
use meander_core::Slice;
use meander_core::transport::{FrameSink, LinkError, Place};
use meander_core::wire::{AppHeader, FrameHeader, FrameKind, HEADER_BYTES, Violation};
use rustc_hash::FxHashMap;
use rustix::io::Errno;

use crate::objects::Region;
use crate::packet::{Message, PLACE_BYTES, Record, RemotePlace, RemotePlaces};

/// The receiving half of a link.
#[derive(Default)]
pub(crate) struct Incoming {
    expect: Expect,
}

/// What the next bytes are.
#[derive(Default)]
enum Expect {
    #[default]
    Record,
    /// The rest of a body that is handed over whole.
    Whole {
        header: FrameHeader,
        app: AppHeader,
        body: Vec<u8>,
    },
    /// The rest of a body that goes into its place, of which `done` bytes have.
    Into {
        header: FrameHeader,
        app: AppHeader,
        slice: Slice,
        done: usize,
    },
}

/// A place of this side's that the peer was told of.
pub(crate) struct LocalPlace {
    /// The place.
    pub slice: Slice,
    /// Its address.
    pub address: usize,
    /// What lets the peer write there; held until the payload is there, or the link is gone.
    pub region: Arc<Region>,
}

/// The places of this side's that the peer may write to.
#[derive(Default)]
pub(crate) struct LocalPlaces(FxHashMap<Message, LocalPlace>);

impl Incoming {
    /// Hands over the frames that a packet's records complete.
    pub fn packet<S: FrameSink>(
        &mut self,
        link: LinkId,
        mut records: &[u8],
        places: &mut LocalPlaces,
        named: &mut RemotePlaces<Arc<Region>>,
        sink: &mut S,
    ) -> Result<(), LinkError> {
        while !records.is_empty() {
            if let Expect::Record = self.expect {
                self.record(link, &mut records, places, named, sink)?;
                continue;
            }
            match std::mem::take(&mut self.expect) {
                Expect::Record => {}
                Expect::Whole {
                    header,
                    app,
                    mut body,
                } => {
                    let missing = header.body_bytes() - body.len();
                    let some = cut(&mut records, missing);
                    body.extend_from_slice(some);
                    if some.len() == missing {
                        sink.complete(link, &header, &app, &body)?;
                    } else {
                        self.expect = Expect::Whole { header, app, body };
                    }
                }
                Expect::Into {
                    header,
                    app,
                    slice,
                    done,
                } => {
                    let place = place(sink, slice)?;
                    let some = cut(&mut records, place.len() - done);
                    place[done..done + some.len()].copy_from_slice(some);
                    let done = done + some.len();
                    if done as u64 == slice.len {
                        sink.complete(link, &header, &app, &[])?;
                        places.received(&header, slice);
                    } else {
                        self.expect = Expect::Into {
                            header,
                            app,
                            slice,
                            done,
                        };
                    }
                }
            }
        }
        Ok(())
    }

    /// A record begins. All but a body is in one packet. `[R61]`
    fn record<S: FrameSink>(
        &mut self,
        link: LinkId,
        records: &mut &[u8],
        places: &mut LocalPlaces,
        named: &mut RemotePlaces<Arc<Region>>,
        sink: &mut S,
    ) -> Result<(), LinkError> {
        let kind = Record::parse(take::<1>(records)?[0])?;
        let place_bytes = match kind {
            Record::Pull => Some(take::<PLACE_BYTES>(records)?),
            _ => None,
        };
        let header = FrameHeader::parse(take::<HEADER_BYTES>(records)?)?;
        let app = cut(records, header.app_len.into());
        if app.len() != usize::from(header.app_len) {
            return Err(short(app.len()));
        }
        if let (Record::Frame, Some((body, rest))) =
            (kind, records.split_at_checked(header.body_bytes()))
            && sink.at_once(link, &header, app, body)
        {
            *records = rest;
            return Ok(());
        }
        let app = AppHeader::try_from(app).map_err(|_| short(app.len()))?;
        match (kind, header.frame_kind()?) {
            (Record::Frame, _) => self.frame(link, header, app, records, sink),
            (Record::Pull, FrameKind::Pull) => {
                sink.begin(link, &header, &app)?;
                if let Some(bytes) = place_bytes {
                    named.named(
                        message(&header),
                        RemotePlace::parse(bytes, header.arg.get()),
                    );
                }
                sink.complete(link, &header, &app, &[])
            }
            (Record::Written, FrameKind::Data) => written(link, &header, &app, places, sink),
            _ => Err(Violation::Kind(header.kind).into()),
        }
    }

    fn frame<S: FrameSink>(
        &mut self,
        link: LinkId,
        header: FrameHeader,
        app: AppHeader,
        records: &mut &[u8],
        sink: &mut S,
    ) -> Result<(), LinkError> {
        let bytes = header.body_bytes();
        match sink.begin(link, &header, &app)? {
            Place::Whole if records.len() >= bytes => {
                sink.complete(link, &header, &app, cut(records, bytes))
            }
            Place::Whole => {
                let body = Vec::with_capacity(bytes);
                self.expect = Expect::Whole { header, app, body };
                Ok(())
            }
            Place::Into(slice) if slice.len != bytes as u64 => Err(short(bytes)),
            Place::Into(_) if bytes == 0 => sink.complete(link, &header, &app, &[]),
            Place::Into(slice) => {
                // What is there goes to its place at once, also where the place is larger than a packet.
                let done = 0;
                self.expect = Expect::Into {
                    header,
                    app,
                    slice,
                    done,
                };
                Ok(())
            }
        }
    }
}

/// The payload is in its place already, if the peer wrote where it was told to. `[R64]`
fn written<S: FrameSink>(
    link: LinkId,
    header: &FrameHeader,
    app: &AppHeader,
    places: &mut LocalPlaces,
    sink: &mut S,
) -> Result<(), LinkError> {
    let offset = header.arg.get();
    let told = places.0.get(&message(header));
    let told = told.ok_or(Violation::Sequence(header.seq.get()))?;
    let Place::Into(slice) = sink.begin(link, header, app)? else {
        return Err(Violation::Kind(header.kind).into());
    };
    let start = slice.offset.checked_sub(told.slice.offset);
    let inside = slice.buffer == told.slice.buffer
        && slice.len == header.body_bytes() as u64
        && start.is_some_and(|start| start + slice.len <= told.slice.len);
    if !inside {
        return Err(Violation::Length(offset).into());
    }
    // The peer was told an address. If the buffer is somewhere else by now, that is a fault of this side.
    let expected = told.address + start.unwrap_or(0) as usize;
    if place(sink, slice)?.as_ptr() as usize != expected {
        return Err(fault());
    }
    sink.complete(link, header, app, &[])?;
    places.received(header, slice);
    Ok(())
}

impl LocalPlaces {
    /// The peer is about to be told of a place.
    pub fn tell(&mut self, header: &FrameHeader, place: LocalPlace) {
        self.0.insert(message(header), place);
    }

    /// Payload is in its place: one that has all is not written to any more.
    fn received(&mut self, header: &FrameHeader, slice: Slice) {
        let message = message(header);
        let end = slice.offset + slice.len;
        let all = |place: &LocalPlace| end >= place.slice.offset + place.slice.len;
        if !self.0.is_empty() && self.0.get(&message).is_some_and(all) {
            self.0.remove(&message);
        }
    }
}

/// The message that a frame is about.
pub(crate) fn message(header: &FrameHeader) -> Message {
    Message {
        stream: header.stream.get(),
        seq: header.seq.get(),
    }
}

/// The place of a body; one that is not as long as was said is a fault of this side, and breaks the
/// link rather than the process.
fn place<S: FrameSink>(sink: &mut S, slice: Slice) -> Result<&mut [u8], LinkError> {
    let place = sink.write(slice);
    if place.len() as u64 == slice.len {
        Ok(place)
    } else {
        Err(fault())
    }
}

fn fault() -> LinkError {
    LinkError::Io {
        operation: "receive into its place",
        source: Errno::FAULT.into(),
    }
}

fn short(bytes: usize) -> LinkError {
    Violation::Length(bytes as u64).into()
}

/// Takes up to `bytes` from the front.
fn cut<'a>(records: &mut &'a [u8], bytes: usize) -> &'a [u8] {
    let (some, rest) = records.split_at(bytes.min(records.len()));
    *records = rest;
    some
}

fn take<'a, const BYTES: usize>(records: &mut &'a [u8]) -> Result<&'a [u8; BYTES], LinkError> {
    let (some, rest) = records
        .split_first_chunk()
        .ok_or_else(|| short(records.len()))?;
    *records = rest;
    Ok(some)
}

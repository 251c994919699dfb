//! The frames a link has taken and not yet put on the wire.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use meander_core::Slice;
use meander_core::limits::APP_HEADER_BYTES;
use meander_core::transport::{Body, Frame, Memory, SendError};
use meander_core::wire::{FrameKind, HEADER_BYTES};
use rustix::io::Errno;

use crate::incoming::message;
use crate::limits;
use crate::packet::{Message, PLACE_BYTES, PREFIX_BYTES, Record, RemotePlace};

/// The frames a link has taken and not yet put on the wire, in order.
#[derive(Default)]
pub(crate) struct Outgoing {
    frames: VecDeque<Queued>,
    /// Bytes of all frames.
    bytes: usize,
    /// Bytes of the first frame's body that are on the wire; its head is where `begun`.
    sent: usize,
    begun: bool,
    /// It was full, and nobody has been told yet that there is room again.
    was_full: bool,
}

struct Queued {
    /// The record up to its body.
    head: ArrayVec<u8, { 1 + PLACE_BYTES + HEADER_BYTES + APP_HEADER_BYTES }>,
    body: Body,
    /// Of a data frame, what its payload is of and from which offset on.
    payload: Option<(Message, u64, Slice)>,
}

/// Payload that could be written straight into its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    pub message: Message,
    pub offset: u64,
    /// The buffer that it is in.
    pub slice: Slice,
    /// Where it is now.
    pub address: usize,
    pub bytes: usize,
}

/// How a packet came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Bytes of the packet, its prefix included.
    pub bytes: usize,
    /// Bytes of bodies among them.
    pub copied: usize,
}

/// What became of payload that could be written.
pub(crate) enum Written {
    /// It will be, before the packet is sent.
    Yes,
    /// It can't be: send it.
    No,
    /// Not now: end the packet before it.
    Later,
}

impl Outgoing {
    /// Takes a frame, unless too much is waiting. A pull may come with the place for its payload.
    pub fn push(&mut self, frame: Frame, place: Option<RemotePlace>) -> Result<(), SendError> {
        if !self.has_room() {
            return Err(SendError::Full);
        }
        let header = frame.header;
        let record = if place.is_some() {
            Record::Pull
        } else {
            Record::Frame
        };
        let place = place.as_ref().map(RemotePlace::encode);
        let mut head = ArrayVec::new();
        for part in [
            &[record as u8][..],
            place.as_ref().map_or(&[][..], |place| &place[..]),
            &header.to_bytes(),
            &frame.app,
        ] {
            head.try_extend_from_slice(part)
                .expect("it is as long as all can be");
        }
        let payload = match frame.body {
            Body::Slice(slice) if header.kind == FrameKind::Data as u8 => {
                Some((message(&header), header.arg.get(), slice))
            }
            _ => None,
        };
        self.bytes += head.len() + frame.body.len();
        self.frames.push_back(Queued {
            head,
            body: frame.body,
            payload,
        });
        self.was_full |= !self.has_room();
        Ok(())
    }

    pub fn has_room(&self) -> bool {
        self.frames.len() < limits::SEND_QUEUE_FRAMES && self.bytes < limits::SEND_QUEUE_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether to report now that a link which was full has room again.
    pub fn has_room_again(&mut self) -> bool {
        let room = self.frames.len() <= limits::SEND_QUEUE_FRAMES / 2
            && self.bytes <= limits::SEND_QUEUE_BYTES / 2;
        room && std::mem::take(&mut self.was_full)
    }

    /// Fills a packet with what comes next, leaving its prefix to the caller. `write` is asked of
    /// each payload whether it is written into its place instead.
    pub fn fill(
        &mut self,
        packet: &mut [u8],
        memory: &dyn Memory,
        mut write: impl FnMut(Payload) -> Written,
    ) -> Result<Filled, Errno> {
        let mut filled = Filled {
            bytes: PREFIX_BYTES,
            copied: 0,
        };
        while let Some(first) = self.frames.front_mut() {
            let room = packet.len() - filled.bytes;
            let body = match &first.body {
                Body::Empty | Body::Place(_) => &[],
                Body::Own(bytes) => &bytes[..],
                Body::Slice(slice) => memory.read(*slice),
            };
            // The header has promised so many bytes. A buffer that was released under the frame
            // must break the link rather than shift everything that follows.
            if body.len() != first.body.len() {
                return Err(Errno::FAULT);
            }
            let mut written = false;
            if !self.begun {
                // All but a body is in one packet. [R61]
                if room < first.head.len() {
                    break;
                }
                let large = body.len() as u64 >= limits::PLACE_BYTES_MIN;
                if let Some((message, offset, slice)) = first.payload.filter(|_| large) {
                    let (address, bytes) = (body.as_ptr() as usize, body.len());
                    match write(Payload {
                        message,
                        offset,
                        slice,
                        address,
                        bytes,
                    }) {
                        Written::Yes => written = true,
                        Written::No => {}
                        Written::Later => break,
                    }
                }
                if written {
                    first.head[0] = Record::Written as u8;
                }
                packet[filled.bytes..][..first.head.len()].copy_from_slice(&first.head);
                filled.bytes += first.head.len();
                self.begun = true;
            }
            let rest = if written { &[] } else { &body[self.sent..] };
            let some = rest.len().min(packet.len() - filled.bytes);
            packet[filled.bytes..][..some].copy_from_slice(&rest[..some]);
            filled.bytes += some;
            filled.copied += some;
            self.sent += some;
            if some < rest.len() {
                break;
            }
            self.bytes -= first.head.len() + first.body.len();
            (self.sent, self.begun) = (0, false);
            self.frames.pop_front();
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use meander_core::wire::{AppHeader, FrameHeader};
    use meander_core::{BufferId, LinkId};
    use meander_sim::conformance::{Got, Record as Sink};
    use proptest::prelude::*;

    use super::*;
    use crate::incoming::{Incoming, LocalPlaces};
    use crate::packet::RemotePlaces;

    const LINK: LinkId = LinkId(1);
    const BUFFER: BufferId = BufferId(1);

    /// A frame of this kind, with bodies of both kinds.
    fn frame(number: u64, app: usize, bytes: usize) -> Frame {
        let kind = if number.is_multiple_of(3) {
            FrameKind::Data
        } else {
            FrameKind::Eager
        };
        let mut header = FrameHeader::new(kind);
        header.seq.set(number);
        header.app_len = app as u8;
        header.body_len.set(bytes as u32);
        let body = match number % 2 {
            0 => Body::Slice(Slice {
                buffer: BUFFER,
                offset: number,
                len: bytes as u64,
            }),
            _ => Body::Own(vec![number as u8; bytes]),
        };
        Frame {
            header,
            app: AppHeader::try_from(&vec![3; app][..]).expect("it fits"),
            body,
        }
    }

    proptest! {
        /// Whatever packets frames are cut into, the same frames come out. [R61]
        #[test]
        fn frames_survive_being_cut_into_packets(
            frames in proptest::collection::vec((0_usize..=64, 0_usize..30_000), 1..40),
            packets in proptest::collection::vec(200_usize..limits::SLOT_BYTES, 1..8),
        ) {
            let mut memory = Sink::default();
            let bytes: Vec<u8> = (0..40_000_u32).map(|at| (at * 7 % 251) as u8).collect();
            memory.buffers.insert(BUFFER, bytes);
            let (mut outgoing, mut incoming) = (Outgoing::default(), Incoming::default());
            let (mut places, mut named) = (LocalPlaces::default(), RemotePlaces::default());
            let mut sink = Sink::default();
            let mut wanted = Vec::new();
            let mut packet = vec![0; limits::SLOT_BYTES];
            let mut sizes = packets.iter().cycle();
            for (number, (app, bytes)) in frames.into_iter().enumerate() {
                let frame = frame(number as u64, app, bytes);
                let body = match &frame.body {
                    Body::Slice(slice) => memory.read(*slice).to_vec(),
                    Body::Own(bytes) => bytes.clone(),
                    _ => Vec::new(),
                };
                wanted.push(Got { header: frame.header, app: frame.app.clone(), body });
                prop_assert!(outgoing.push(frame, None).is_ok());
                // Sometimes several are waiting.
                while !outgoing.is_empty() && number % 4 != 1 {
                    let size = *sizes.next().expect("it goes round");
                    let filled = outgoing.fill(&mut packet[..size], &memory, |_| Written::No).expect("it is there");
                    prop_assert!(filled.bytes > PREFIX_BYTES && filled.bytes <= size);
                    let records = &packet[PREFIX_BYTES..filled.bytes];
                    incoming.packet(LINK, records, &mut places, &mut named, &mut sink).expect("it is right");
                }
            }
            while !outgoing.is_empty() {
                let filled = outgoing.fill(&mut packet, &memory, |_| Written::No).expect("it is there");
                let records = &packet[PREFIX_BYTES..filled.bytes];
                incoming.packet(LINK, records, &mut places, &mut named, &mut sink).expect("it is right");
            }
            prop_assert_eq!(outgoing.bytes, 0);
            prop_assert_eq!(sink.got.remove(&LINK).unwrap_or_default(), wanted);
        }

        /// Nonsense is an error, never a panic. [R61]
        #[test]
        fn any_records_can_be_parsed(packets in proptest::collection::vec(
            (0_u8..4, proptest::collection::vec(any::<u8>(), 0..400)), 1..5,
        )) {
            let mut incoming = Incoming::default();
            let mut sink = Sink::default();
            let mut header = FrameHeader::new(FrameKind::Data);
            header.body_len.set(300);
            for (kind, bytes) in packets {
                let records = [&[kind][..], &header.to_bytes(), &bytes].concat();
                let (mut places, mut named) = (LocalPlaces::default(), RemotePlaces::default());
                if incoming.packet(LINK, &records, &mut places, &mut named, &mut sink).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_buffer_that_was_released_is_an_error() {
        let mut outgoing = Outgoing::default();
        outgoing
            .push(frame(2, 0, 100), None)
            .expect("there is room");
        let mut memory = Sink::default();
        memory.buffers.insert(BUFFER, vec![0; 102]);
        struct Released;
        impl Memory for Released {
            fn read(&self, _: Slice) -> &[u8] {
                &[]
            }
            fn write(&mut self, _: Slice) -> &mut [u8] {
                &mut []
            }
        }
        let mut packet = [0; 200];
        let filled = outgoing.fill(&mut packet, &Released, |_| Written::No);
        assert_eq!(filled, Err(Errno::FAULT));
        assert!(outgoing.fill(&mut packet, &memory, |_| Written::No).is_ok());
    }

    #[test]
    fn payload_that_is_written_leaves_only_its_header() {
        let mut outgoing = Outgoing::default();
        let mut memory = Sink::default();
        memory.buffers.insert(BUFFER, vec![7; 20_000]);
        let mut frame = frame(6, 0, 10_000);
        frame.header.arg.set(512);
        outgoing.push(frame, None).expect("there is room");
        let mut packet = [0; 500];
        let mut asked = Vec::new();
        let filled = outgoing.fill(&mut packet, &memory, |payload| {
            asked.push(payload);
            Written::Yes
        });
        let expected = PREFIX_BYTES + 1 + HEADER_BYTES;
        assert_eq!(
            filled,
            Ok(Filled {
                bytes: expected,
                copied: 0
            })
        );
        assert_eq!(
            (asked.len(), asked[0].offset, asked[0].bytes),
            (1, 512, 10_000)
        );
        assert!(outgoing.is_empty());
        // Who says that he has written where he was told nothing of is wrong. [R64]
        let mut sink = Sink::default();
        let (mut places, mut named) = (LocalPlaces::default(), RemotePlaces::default());
        let records = &packet[PREFIX_BYTES..expected];
        let taken = Incoming::default().packet(LINK, records, &mut places, &mut named, &mut sink);
        assert!(taken.is_err_and(|error| error.to_string().contains("sequence number 6")));
        assert!(sink.got.is_empty());
    }
}

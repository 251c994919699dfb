//! One end under test: a transport, some memory, and a record of all that happened.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use meander_core::transport::{
    Body, Frame, FrameSink, LinkError, LinkEvent, Memory, Place, SendError, Slice, Transport,
};
use meander_core::wire::{AppHeader, FrameHeader, FrameKind, Violation};
use meander_core::{BufferId, LinkId};

/// A frame that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// Its header.
    pub header: FrameHeader,
    /// Its application header.
    pub app: AppHeader,
    /// Its body, wherever it was written.
    pub body: Vec<u8>,
}

/// See the module.
pub struct End<T> {
    /// The transport under test.
    pub transport: T,
    /// What it has done to us.
    pub record: Record,
    /// Links that were accepted, in order.
    pub accepted: VecDeque<LinkId>,
    /// Links that are connected.
    pub connected: Vec<LinkId>,
    /// Links that are broken.
    pub broken: Vec<LinkId>,
    /// Links that have said that they take frames again.
    pub writable: Vec<LinkId>,
    /// Links that have something to read.
    readable: Vec<LinkId>,
}

/// The memory of an end, and the frames that have arrived in it.
#[derive(Default)]
pub struct Record {
    /// Frames by link.
    pub got: BTreeMap<LinkId, Vec<Got>>,
    /// Buffers to send from and to receive into.
    pub buffers: BTreeMap<BufferId, Vec<u8>>,
    /// Where bodies of data frames belong; without one they are handed over whole.
    pub place: Option<BufferId>,
    /// Frame kinds that the sink refuses.
    pub refuses: Option<FrameKind>,
    /// Links that must not say a word any more.
    pub silent: Vec<LinkId>,
}

impl<T: Transport> End<T> {
    /// An end over a transport.
    pub fn new(transport: T) -> End<T> {
        let record = Record::default();
        let (accepted, connected) = (VecDeque::new(), Vec::new());
        End {
            transport,
            record,
            accepted,
            connected,
            broken: Vec::new(),
            writable: Vec::new(),
            readable: Vec::new(),
        }
    }

    /// Dials another end.
    pub fn dial(&mut self, to: &T) -> LinkId {
        self.transport
            .dial(&to.card())
            .expect("a card of the same transport can be dialled")
    }

    /// Takes in everything that has happened.
    pub fn drive(&mut self) {
        let mut events = Vec::new();
        self.transport.poll(Duration::from_micros(200), &mut events);
        for event in events {
            match event {
                LinkEvent::Connected(link) => self.connected.push(link),
                LinkEvent::Accepted(link) => {
                    self.accepted.push_back(link);
                    self.connected.push(link);
                }
                LinkEvent::Readable(link) => self.readable.push(link),
                LinkEvent::Writable(link) => {
                    self.writable.push(link);
                    self.transport.flush(link, &self.record);
                }
                LinkEvent::Broken(link, _) => self.lost(link),
            }
        }
        for link in std::mem::take(&mut self.readable) {
            match self.transport.receive(link, &mut self.record) {
                Ok(true) => self.readable.push(link),
                Ok(false) => {}
                Err(_) => {
                    self.transport.close(link);
                    self.lost(link);
                }
            }
        }
        for link in self.connected.clone() {
            self.transport.flush(link, &self.record);
        }
    }

    fn lost(&mut self, link: LinkId) {
        self.connected.retain(|other| *other != link);
        self.broken.push(link);
    }

    /// Closes a link: it must keep silent from here on.
    pub fn close(&mut self, link: LinkId) {
        self.transport.close(link);
        self.connected.retain(|other| *other != link);
        self.readable.retain(|other| *other != link);
        self.record.silent.push(link);
    }

    /// Sends a frame if there is room; `false` if there is none.
    pub fn try_send(&mut self, link: LinkId, frame: Frame) -> bool {
        if !self.transport.has_room(link) {
            return false;
        }
        match self.transport.send(link, frame, &mut self.record) {
            Ok(()) => true,
            Err(SendError::Full) => panic!("it had room and was full"),
            Err(SendError::Broken) => false,
        }
    }

    /// Frames that arrived on a link.
    pub fn got(&self, link: LinkId) -> &[Got] {
        self.record.got.get(&link).map_or(&[], Vec::as_slice)
    }

    /// A buffer of the end's memory.
    pub fn buffer(&mut self, number: u64, bytes: Vec<u8>) -> BufferId {
        self.record.buffers.insert(BufferId(number), bytes);
        BufferId(number)
    }
}

/// A frame with a body of the port's own.
pub(super) fn frame(kind: FrameKind, number: u64, body: Vec<u8>) -> Frame {
    let mut header = FrameHeader::new(kind);
    header.seq = number.into();
    header.body_len = (body.len() as u32).into();
    Frame {
        header,
        app: AppHeader::new(),
        body: Body::Own(body),
    }
}

/// A data frame whose body is a whole buffer.
pub(super) fn data(buffer: BufferId, offset: u64, len: u64) -> Frame {
    let mut header = FrameHeader::new(FrameKind::Data);
    header.arg = offset.into();
    header.body_len = (len as u32).into();
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

impl Memory for Record {
    fn read(&self, slice: Slice) -> &[u8] {
        &self.buffers[&slice.buffer][slice.offset as usize..][..slice.len as usize]
    }

    fn write(&mut self, slice: Slice) -> &mut [u8] {
        let buffer = self
            .buffers
            .get_mut(&slice.buffer)
            .expect("a place names a buffer");
        &mut buffer[slice.offset as usize..][..slice.len as usize]
    }
}

impl FrameSink for Record {
    /// Takes every other one so.
    fn at_once(&mut self, link: LinkId, header: &FrameHeader, app: &[u8], body: &[u8]) -> bool {
        let usual = header.kind == FrameKind::Eager as u8 && self.refuses.is_none();
        if !usual || header.seq.get().is_multiple_of(2) || self.silent.contains(&link) {
            return false;
        }
        let app = AppHeader::try_from(app).expect("its length was checked");
        self.complete(link, header, &app, body).is_ok()
    }

    fn begin(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        _app: &AppHeader,
    ) -> Result<Place, LinkError> {
        assert!(
            !self.silent.contains(&link),
            "a frame came on a closed link"
        );
        let kind = header.frame_kind()?;
        if self.refuses == Some(kind) {
            return Err(LinkError::Protocol(Violation::Kind(header.kind)));
        }
        match self.place {
            Some(buffer) if kind == FrameKind::Data => {
                let (offset, len) = (header.arg.get(), header.body_bytes() as u64);
                Ok(Place::Into(Slice {
                    buffer,
                    offset,
                    len,
                }))
            }
            _ => Ok(Place::Whole),
        }
    }

    fn complete(
        &mut self,
        link: LinkId,
        header: &FrameHeader,
        app: &AppHeader,
        body: &[u8],
    ) -> Result<(), LinkError> {
        assert!(
            !self.silent.contains(&link),
            "a frame came on a closed link"
        );
        let placed = header.kind == FrameKind::Data as u8 && self.place.is_some();
        let body = match self.place {
            Some(buffer) if placed => {
                assert!(body.is_empty(), "a body came twice");
                let (offset, len) = (header.arg.get(), header.body_bytes() as u64);
                self.read(Slice {
                    buffer,
                    offset,
                    len,
                })
                .to_vec()
            }
            _ => body.to_vec(),
        };
        self.got.entry(link).or_default().push(Got {
            header: *header,
            app: app.clone(),
            body,
        });
        Ok(())
    }
}

//! What has happened on fixed streams and waits for the [`EventHandler`].

use meander_core::{PortId, Seq, StreamId};
use serde::{Deserialize, Serialize};

use crate::handler::{Credit, EventHandler, MessageKey, Payload, SendId, Sink, Source, StreamKey};

/// What has happened on fixed streams and waits for the [`EventHandler`], in order.
#[derive(Default)]
pub(crate) struct Inbox {
    events: Vec<Event>,
    /// Application headers and payloads, one after the other.
    bytes: Vec<u8>,
    /// Bytes of payload delivered and read, and not yet reported to the protocol as read.
    read: Vec<(StreamKey, u64)>,
}

enum Event {
    Message {
        from: StreamKey,
        app_len: u8,
        start: usize,
        len: usize,
    },
    Envelope {
        from: StreamKey,
        seq: Seq,
        app_len: u8,
        start: usize,
        len: u64,
    },
    Sent {
        id: SendId,
        source: Option<Box<dyn Source>>,
    },
    Pulled {
        message: MessageKey,
        sink: Box<dyn Sink>,
        len: u64,
    },
    Dead {
        peer: PortId,
        why: String,
    },
}

/// Memory, in bytes, that an emptied inbox keeps for the next messages.
const KEEP_BYTES: usize = 1 << 20;

impl Inbox {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub fn message(&mut self, from: StreamKey, app: &[u8], payload: &[u8]) {
        let start = self.keep(app);
        self.bytes.extend_from_slice(payload);
        let (app_len, len) = (app.len() as u8, payload.len());
        self.events.push(Event::Message {
            from,
            app_len,
            start,
            len,
        });
    }

    pub fn envelope(&mut self, from: StreamKey, seq: Seq, app: &[u8], len: u64) {
        let start = self.keep(app);
        let app_len = app.len() as u8;
        self.events.push(Event::Envelope {
            from,
            seq,
            app_len,
            start,
            len,
        });
    }

    pub fn sent(&mut self, id: SendId, source: Option<Box<dyn Source>>) {
        self.events.push(Event::Sent { id, source });
    }

    pub fn pulled(&mut self, message: MessageKey, sink: Box<dyn Sink>, len: u64) {
        self.events.push(Event::Pulled { message, sink, len });
    }

    pub fn dead(&mut self, peer: PortId, why: String) {
        self.events.push(Event::Dead { peer, why });
    }

    /// Hands everything over. The inbox is empty afterwards but for [`Inbox::take_read`], and keeps
    /// its memory for the next messages.
    pub fn deliver(&mut self, handler: &mut dyn EventHandler) {
        let (bytes, read) = (&self.bytes, &mut self.read);
        for event in self.events.drain(..) {
            match event {
                Event::Message {
                    from,
                    app_len,
                    start,
                    len,
                } => {
                    let body = start + usize::from(app_len);
                    let payload = Payload(&bytes[body..body + len]);
                    if handler.message(from, &bytes[start..body], payload) == Credit::Hold {
                        continue;
                    }
                    match read.last_mut() {
                        Some((stream, bytes)) if *stream == from => *bytes += len as u64,
                        _ => read.push((from, len as u64)),
                    }
                }
                Event::Envelope {
                    from,
                    seq,
                    app_len,
                    start,
                    len,
                } => {
                    let message = MessageKey {
                        peer: from.peer,
                        stream: from.stream,
                        seq,
                    };
                    let app = &bytes[start..start + usize::from(app_len)];
                    handler.envelope(from, app, message, len);
                }
                Event::Sent { id, source } => handler.sent(id, source),
                Event::Pulled { message, sink, len } => handler.pulled(message, sink, len),
                Event::Dead { peer, why } => handler.peer_dead(peer, why),
            }
        }
        if self.bytes.capacity() > KEEP_BYTES {
            self.bytes = Vec::new();
        }
    }

    /// Tells how many bytes of payload of each stream have been read since this was last asked. What was
    /// delivered is forgotten with it.
    pub fn take_read(&mut self, mut tell: impl FnMut(StreamKey, u64)) {
        for &(stream, bytes) in &self.read {
            tell(stream, bytes);
        }
        self.read.clear();
        self.bytes.clear();
    }

    fn keep(&mut self, app: &[u8]) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(app);
        start
    }

    /// The events as plain data, for a port that becomes a value. Lent memory stays behind or is
    /// copied.
    pub fn into_saved(self) -> Saved {
        let mut saver = Saver(Vec::new());
        let mut inbox = self;
        inbox.deliver(&mut saver);
        Saved(saver.0)
    }

    pub fn from_saved(saved: Saved) -> Inbox {
        let mut inbox = Inbox::default();
        for event in saved.0 {
            match event {
                SavedEvent::Message(from, app, payload) => {
                    inbox.message(from.into(), &app, &payload);
                }
                SavedEvent::Envelope(from, seq, app, len) => {
                    inbox.envelope(from.into(), seq, &app, len);
                }
                SavedEvent::Sent(id) => inbox.sent(SendId(id), None),
                SavedEvent::Pulled(from, seq, bytes, len) => {
                    let StreamKey { peer, stream } = from.into();
                    inbox.pulled(MessageKey { peer, stream, seq }, Box::new(bytes), len);
                }
                SavedEvent::Dead(peer, why) => inbox.dead(peer, why),
            }
        }
        inbox
    }
}

/// An inbox as plain data.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved(Vec<SavedEvent>);

#[derive(Clone, Copy, Serialize, Deserialize)]
struct At(PortId, StreamId);

#[derive(Serialize, Deserialize)]
enum SavedEvent {
    Message(At, Vec<u8>, Vec<u8>),
    Envelope(At, Seq, Vec<u8>, u64),
    Sent(u64),
    Pulled(At, Seq, Vec<u8>, u64),
    Dead(PortId, String),
}

impl From<At> for StreamKey {
    fn from(At(peer, stream): At) -> StreamKey {
        StreamKey { peer, stream }
    }
}

/// Writes down what would have been delivered.
struct Saver(Vec<SavedEvent>);

impl EventHandler for Saver {
    fn message(&mut self, from: StreamKey, app: &[u8], payload: Payload<'_>) -> Credit {
        let at = At(from.peer, from.stream);
        self.0
            .push(SavedEvent::Message(at, app.to_vec(), payload.to_vec()));
        Credit::Return
    }
    fn envelope(&mut self, from: StreamKey, app: &[u8], message: MessageKey, len: u64) {
        let at = At(from.peer, from.stream);
        self.0
            .push(SavedEvent::Envelope(at, message.seq, app.to_vec(), len));
    }
    fn sent(&mut self, id: SendId, _: Option<Box<dyn Source>>) {
        self.0.push(SavedEvent::Sent(id.0));
    }
    fn pulled(&mut self, message: MessageKey, mut sink: Box<dyn Sink>, len: u64) {
        let at = At(message.peer, message.stream);
        let bytes = sink.bytes_mut().to_vec();
        self.0.push(SavedEvent::Pulled(at, message.seq, bytes, len));
    }
    fn peer_dead(&mut self, peer: PortId, why: String) {
        self.0.push(SavedEvent::Dead(peer, why));
    }
}

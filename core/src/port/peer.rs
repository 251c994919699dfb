//! What a port knows of one other port: where it is, the streams they share, the link between them.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::effect::DeathCause;
use crate::ids::{LinkId, StreamId};
use crate::limits;
use crate::location::{Card, Contact};
use crate::stream::Stream;
use crate::table::Table;
use crate::time::Time;

/// One relation. What is not skipped by serde is what moves with the port.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub contact: Contact,
    pub streams: Table<StreamId, Stream>,
    /// Number of the next stream opened from here.
    pub next_stream: u32,
    /// Eager bytes a stream may have at this peer; it says so when a link is set up.
    pub window: u64,
    /// Whether a link was ever up: after a move such a peer is told where the port is now.
    pub met: bool,
    pub dead: Option<DeathCause>,
    #[serde(skip)]
    pub link: Option<Up>,
    #[serde(skip)]
    pub dialling: Dialling,
    /// A link is wanted even if nothing waits to be sent.
    #[serde(skip)]
    pub wanted: bool,
    #[serde(skip)]
    pub unreachable_since: Option<Time>,
    /// Streams with items, payload or pulls for the link, each at most once.
    #[serde(skip)]
    pub ready: VecDeque<StreamId>,
    /// Streams that owe an acknowledgement at once.
    #[serde(skip)]
    pub owing: VecDeque<StreamId>,
    /// When the acknowledgements that may wait are due.
    #[serde(skip)]
    pub ack_at: Option<Time>,
}

/// The link that a peer's streams ride on.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Up {
    pub id: LinkId,
    /// Streams whose resume frame is still to be sent; `None` once `Resumed` has been sent too.
    pub to_resume: Option<VecDeque<StreamId>>,
    /// Whether the peer has said `Resumed`: only then may items go out.
    pub resumed: bool,
    /// Streams that the peer has named in resume frames.
    pub named: BTreeSet<StreamId>,
}

impl Up {
    /// Whether both sides have said what they expect.
    pub fn carries_items(&self) -> bool {
        self.resumed && self.to_resume.is_none()
    }
}

/// How the next link comes about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialling {
    /// The attempt under way.
    pub attempt: Attempt,
    /// The cards that it was begun with.
    pub cards: Vec<Card>,
    /// When the next may begin.
    pub not_before: Time,
    pub pause: Duration,
    pub failures: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Attempt {
    #[default]
    None,
    /// The driver has been asked to dial.
    Asked,
    /// This link is being set up.
    Link(LinkId),
}

impl Peer {
    pub fn new(contact: Contact, we_are_lower: bool) -> Peer {
        Peer {
            contact,
            streams: Table::new(),
            next_stream: u32::from(!we_are_lower),
            window: limits::FIRST_WINDOW_BYTES,
            met: false,
            dead: None,
            link: None,
            dialling: Dialling::default(),
            wanted: false,
            unreachable_since: None,
            ready: VecDeque::new(),
            owing: VecDeque::new(),
            ack_at: None,
        }
    }

    /// Whether something waits that only a link can bring about.
    pub fn wants_link(&self) -> bool {
        self.wanted
            || self
                .streams
                .values()
                .any(|stream| stream.outgoing.is_unacknowledged() || stream.incoming.is_pulling())
    }

    /// Whether the link, if there is one, has anything to carry.
    pub fn has_frames(&self) -> bool {
        match &self.link {
            None => false,
            Some(up) => {
                up.to_resume.is_some()
                    || (up.resumed && !(self.ready.is_empty() && self.owing.is_empty()))
            }
        }
    }

    /// Notes that the stream has something for the link.
    pub fn make_ready(&mut self, id: StreamId) {
        if !self.ready.contains(&id) {
            self.ready.push_back(id);
        }
    }

    /// Notes that the stream must acknowledge at once.
    pub fn make_owing(&mut self, id: StreamId) {
        if !self.owing.contains(&id) {
            self.owing.push_back(id);
        }
    }

    /// Streams whose acknowledgement has waited for as long as it may; when the others are due is noted.
    pub fn late_streams(&mut self, now: Time) -> Vec<StreamId> {
        let mut late = Vec::new();
        for (id, stream) in self.streams.iter() {
            let untold = stream.incoming.untold() != (0, 0);
            let due = stream
                .incoming
                .owing_since()
                .map(|at| at + limits::ACK_DELAY);
            match due.filter(|due| *due > now) {
                // What has ridden on another frame since was not late.
                Some(due) if untold => {
                    self.ack_at = Some(self.ack_at.map_or(due, |at| at.min(due)))
                }
                _ if untold => late.push(*id),
                _ => {}
            }
        }
        late
    }

    /// The link is gone; streams wait, nothing else is lost.
    pub fn drop_link(&mut self) {
        self.link = None;
        self.ready.clear();
        self.owing.clear();
        self.ack_at = None;
    }

    /// An attempt to dial failed, or a link broke: wait before the next, longer each time `[R8]`,
    /// unless it was an attempt at a better link than the one there is. `[R45]`
    pub fn back_off(&mut self, now: Time) {
        let dialling = &mut self.dialling;
        dialling.attempt = Attempt::None;
        if self.link.is_some() {
            return;
        }
        dialling.not_before = now + dialling.pause;
        dialling.pause = (dialling.pause * 2).clamp(limits::REDIAL_FIRST, limits::REDIAL_MAX);
        dialling.failures += 1;
        self.unreachable_since.get_or_insert(now);
    }
}

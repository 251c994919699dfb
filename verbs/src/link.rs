//! One link: its set-up connection, its queue pair, what waits on it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use meander_core::transport::LinkError;
use socket2::Socket;

use crate::credits::Credits;
use crate::incoming::{Incoming, LocalPlaces};
use crate::limits;
use crate::objects::{Arrived, QueuePair, Region};
use crate::outgoing::Outgoing;
use crate::packet::RemotePlaces;
use crate::setup::INTRODUCTION_BYTES;

/// One link, or the attempt at one.
pub(crate) struct Link {
    /// Over which it is set up, and which lives as long as it does.
    pub socket: Socket,
    pub stage: Stage,
    /// When its set-up must be over.
    pub deadline: Instant,
    /// Whether this side dialled.
    pub dialled: bool,
    /// What has come of the peer's introduction.
    pub introduction: ArrayVec<u8, INTRODUCTION_BYTES>,
    pub pair: Option<QueuePair>,
    /// The first packet sequence number of this side.
    pub psn: u32,
    pub credits: Credits,
    /// Packets that have come and are not read.
    pub inbox: VecDeque<Arrived>,
    pub incoming: Incoming,
    pub outgoing: Outgoing,
    /// Where the peer may write.
    pub places: LocalPlaces,
    /// Where this side may write.
    pub named: RemotePlaces<Arc<Region>>,
    /// There is something to read, or the link has ended and `receive` is to say so.
    pub readable: bool,
    /// It is in the transport's list of readable links.
    pub listed: bool,
    /// Frames wait for credits, a slot, or room in the send queue.
    pub blocked: bool,
    /// Why it is of no use any more; reported when what came before has been read.
    pub ended: Option<LinkError>,
}

/// How far a link is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Connecting to one address; the others come next.
    Dialling {
        rest: VecDeque<SocketAddr>,
        next_at: Instant,
    },
    /// Dialler: it has introduced itself.
    Asked,
    /// Acceptor: nothing is known of the peer.
    Silent,
    /// Acceptor: it has answered, and its queue pair is connected.
    Answered,
    Open,
}

impl Link {
    pub fn new(socket: Socket, stage: Stage) -> Link {
        Link {
            socket,
            dialled: matches!(stage, Stage::Dialling { .. }),
            stage,
            deadline: Instant::now() + limits::SETUP_TIMEOUT,
            introduction: ArrayVec::new(),
            pair: None,
            psn: 0,
            credits: Credits::new(0, 0),
            inbox: VecDeque::new(),
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            places: LocalPlaces::default(),
            named: RemotePlaces::default(),
            readable: false,
            listed: false,
            blocked: false,
            ended: None,
        }
    }

    /// Whether frames can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open) && self.ended.is_none()
    }

    /// Whether it is neither open nor over.
    pub fn is_setting_up(&self) -> bool {
        !matches!(self.stage, Stage::Open)
    }
}

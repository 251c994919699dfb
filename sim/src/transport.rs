//! The virtual network as a [`Transport`]: in memory, in order, with bounds.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use meander_core::limits::DATA_FRAME_BYTES;
use meander_core::transport::{
    Body, Capabilities, Frame, FrameSink, LinkError, LinkEvent, Memory, Place, SendError, Transport,
};
use meander_core::wire::FrameHeader;
use meander_core::{Card, LinkId, TransportKind};

/// Frames that one direction of a link holds before it is full.
const FRAMES_IN_FLIGHT: usize = 32;
/// Frames handed to the sink in one call.
const FRAMES_A_CALL: usize = 16;

/// A network of transports in one thread.
#[derive(Clone, Default)]
pub struct Ether(Rc<RefCell<BTreeMap<u64, Weak<RefCell<Station>>>>>);

/// One transport on an [`Ether`].
pub struct SimTransport {
    ether: Ether,
    name: u64,
    station: Rc<RefCell<Station>>,
}

#[derive(Default)]
struct Station {
    events: VecDeque<LinkEvent>,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
}

struct Link {
    other: (u64, LinkId),
    coming: VecDeque<(Frame, Vec<u8>)>,
    /// The other side has closed; the end comes after what it had sent.
    ended: bool,
}

impl Ether {
    /// A transport on this network.
    pub fn open(&self) -> SimTransport {
        let station = Rc::default();
        let mut stations = self.0.borrow_mut();
        let name = stations.last_key_value().map_or(1, |(last, _)| last + 1);
        stations.insert(name, Rc::downgrade(&station));
        SimTransport {
            ether: self.clone(),
            name,
            station,
        }
    }

    fn station(&self, name: u64) -> Option<Rc<RefCell<Station>>> {
        self.0.borrow().get(&name)?.upgrade()
    }
}

impl Station {
    fn add(&mut self, other: (u64, LinkId)) -> LinkId {
        self.next_link += 1;
        let link = LinkId(self.next_link);
        self.links.insert(
            link,
            Link {
                other,
                coming: VecDeque::new(),
                ended: false,
            },
        );
        link
    }
}

impl SimTransport {
    fn other(&self, link: LinkId) -> Option<(Rc<RefCell<Station>>, LinkId)> {
        let (name, other) = self.station.borrow().links.get(&link)?.other;
        Some((self.ether.station(name)?, other))
    }
}

impl Transport for SimTransport {
    fn capabilities(&self) -> Capabilities {
        let kind = TransportKind::Sim;
        Capabilities {
            kind,
            preference: 0,
            max_body_bytes: DATA_FRAME_BYTES,
        }
    }

    fn card(&self) -> Card {
        Card {
            transport: TransportKind::Sim,
            bytes: self.name.to_le_bytes().to_vec(),
        }
    }

    fn dial(&mut self, card: &Card) -> Result<LinkId, LinkError> {
        let name = card
            .bytes
            .as_slice()
            .try_into()
            .map_err(|_| LinkError::BadCard)?;
        let name = u64::from_le_bytes(name);
        let Some(there) = self.ether.station(name) else {
            let link = self.station.borrow_mut().add((name, LinkId(0)));
            self.station.borrow_mut().links.remove(&link);
            let broken = LinkEvent::Broken(link, LinkError::Closed);
            self.station.borrow_mut().events.push_back(broken);
            return Ok(link);
        };
        let far = there.borrow_mut().add((self.name, LinkId(0)));
        let near = self.station.borrow_mut().add((name, far));
        let mut there = there.borrow_mut();
        there.links.get_mut(&far).expect("just added").other.1 = near;
        there.events.push_back(LinkEvent::Accepted(far));
        self.station
            .borrow_mut()
            .events
            .push_back(LinkEvent::Connected(near));
        Ok(near)
    }

    fn close(&mut self, link: LinkId) {
        if let Some((there, other)) = self.other(link) {
            let mut there = there.borrow_mut();
            if let Some(far) = there.links.get_mut(&other) {
                far.ended = true;
                there.events.push_back(LinkEvent::Readable(other));
            }
        }
        let mut station = self.station.borrow_mut();
        station.links.remove(&link);
        station.events.retain(|event| !concerns(event, link));
    }

    fn poll(&mut self, _wait: Duration, events: &mut Vec<LinkEvent>) {
        events.extend(self.station.borrow_mut().events.drain(..));
    }

    fn has_room(&self, link: LinkId) -> bool {
        match self.other(link) {
            // A link whose end is on its way takes frames and loses them.
            None => self.station.borrow().links.contains_key(&link),
            Some((there, other)) => {
                let there = there.borrow();
                there
                    .links
                    .get(&other)
                    .is_none_or(|far| far.coming.len() < FRAMES_IN_FLIGHT)
            }
        }
    }

    fn send(
        &mut self,
        link: LinkId,
        frame: Frame,
        memory: &mut dyn Memory,
    ) -> Result<(), SendError> {
        if !self.station.borrow().links.contains_key(&link) {
            return Err(SendError::Broken);
        }
        if !self.has_room(link) {
            return Err(SendError::Full);
        }
        let body = match &frame.body {
            Body::Empty | Body::Place(_) => Vec::new(),
            Body::Own(bytes) => bytes.clone(),
            Body::Slice(slice) => memory.read(*slice).to_vec(),
        };
        if let Some((there, other)) = self.other(link) {
            let mut there = there.borrow_mut();
            if let Some(far) = there.links.get_mut(&other) {
                far.coming.push_back((frame, body));
                there.events.push_back(LinkEvent::Readable(other));
            }
        }
        Ok(())
    }

    fn flush(&mut self, _link: LinkId, _memory: &dyn Memory) {}

    fn receive<S: FrameSink>(&mut self, link: LinkId, sink: &mut S) -> Result<bool, LinkError> {
        for _ in 0..FRAMES_A_CALL {
            let (next, ended) = match self.station.borrow_mut().links.get_mut(&link) {
                Some(near) => (near.coming.pop_front(), near.ended),
                None => return Ok(false),
            };
            let Some((frame, body)) = next else {
                if ended {
                    return Err(LinkError::Closed);
                }
                return Ok(false);
            };
            if let Some((there, other)) = self.other(link) {
                there
                    .borrow_mut()
                    .events
                    .push_back(LinkEvent::Writable(other));
            }
            let header = FrameHeader::parse(&frame.header.to_bytes())?;
            match sink.begin(link, &header, &frame.app)? {
                Place::Whole => sink.complete(link, &header, &frame.app, &body)?,
                Place::Into(slice) => {
                    sink.write(slice).copy_from_slice(&body);
                    sink.complete(link, &header, &frame.app, &[])?;
                }
            }
        }
        Ok(true)
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        let links: Vec<LinkId> = self.station.borrow().links.keys().copied().collect();
        for link in links {
            self.close(link);
        }
    }
}

fn concerns(event: &LinkEvent, link: LinkId) -> bool {
    match event {
        LinkEvent::Connected(other)
        | LinkEvent::Accepted(other)
        | LinkEvent::Writable(other)
        | LinkEvent::Readable(other)
        | LinkEvent::Broken(other, _) => *other == link,
    }
}

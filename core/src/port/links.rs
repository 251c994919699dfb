//! Links come up, prove themselves, replace one another and break.

use std::collections::BTreeSet;

use super::peer::{Attempt, Up};
use super::{Effect, Port};
use crate::handshake::{self, Introduction, Refusal, Transcript};
use crate::ids::{LinkId, PortId};
use crate::limits;
use crate::location::{Card, Contact};
use crate::planted::{PlantedFault, is_planted};
use crate::port::DeathCause;
use crate::time::Time;
use crate::transport::Frame;
use crate::wire::{FrameKind, Violation};

/// A link, from its first byte to its last.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// The other end: whom we dialled, or who has proved to be there.
    pub peer: Option<PortId>,
    pub state: State,
    /// A set-up frame that waits to be sent.
    pub outbox: Option<Frame>,
    /// When it must have proved itself; `None` once it has.
    pub deadline: Option<Time>,
    /// Where we dialled; nothing where they did.
    pub cards: Vec<Card>,
}

impl Link {
    /// They dialled, and have proved nothing.
    fn is_strangers(&self) -> bool {
        self.deadline.is_some() && self.peer.is_none()
    }
}

#[derive(Clone, Debug)]
pub(super) enum State {
    /// We dialled; the transport is connecting.
    Connecting,
    /// We said hello.
    Greeted { hello: Vec<u8> },
    /// We proved ourselves and wait for the welcome.
    Proved { answer: Introduction },
    /// They dialled and have said nothing.
    Silent,
    /// They said hello and were challenged.
    Challenged {
        said: Introduction,
        transcript: Transcript,
    },
    /// They were refused, or sent what can't be taken; the link closes when they have read why.
    Refused,
    /// The peer's streams ride on it.
    Up,
}

impl Port {
    /// Answers [`Effect::Dial`]: the transport is connecting `link`.
    pub fn dialled(&mut self, now: Time, peer: PortId, link: LinkId) {
        let dialling = &mut self.peer_mut(peer).dialling;
        dialling.attempt = Attempt::Link(link);
        let cards = std::mem::take(&mut dialling.cards);
        self.add_link(link, Some(peer), State::Connecting, now, cards);
    }

    /// Answers [`Effect::Dial`]: there is no way to dial now.
    pub fn dial_failed(&mut self, now: Time, peer: PortId) {
        self.peer_mut(peer).back_off(now);
        self.settle(now, peer);
    }

    /// A dialled link is connected.
    pub fn connected(&mut self, link: LinkId) {
        let Some(Link {
            peer: Some(peer),
            state: State::Connecting,
            ..
        }) = self.links.get(&link)
        else {
            return;
        };
        let me = self.introduce(*peer);
        let (frame, hello) = handshake::hello(&me);
        self.say(link, State::Greeted { hello }, frame);
    }

    /// Somebody dialled us. Of too many that have proved nothing the oldest makes way: who knows
    /// the key is quick to prove it, and a flood must not keep him out. `[R41]`
    pub fn accepted(&mut self, now: Time, link: LinkId) {
        if !self.attached {
            self.effects.push_back(Effect::Close(link));
            return;
        }
        if let Some(oldest) = self.stranger_to_make_way() {
            self.forget_link(oldest);
        }
        self.add_link(link, None, State::Silent, now, Vec::new());
    }

    /// Where there are as many strangers as there may be, the oldest.
    fn stranger_to_make_way(&self) -> Option<LinkId> {
        let strangers = self.links.iter().filter(|(_, it)| it.is_strangers());
        if strangers.clone().count() < limits::UNPROVED_LINKS {
            return None;
        }
        let oldest = strangers.min_by_key(|(id, it)| (it.deadline, **id));
        oldest.map(|(id, _)| *id)
    }

    /// The link is gone, or the driver wants it gone because of an error. Streams wait for the next.
    pub fn broken(&mut self, now: Time, link: LinkId) {
        let Some(gone) = self.links.remove(&link) else {
            return;
        };
        self.ready.retain(|id| *id != link);
        let Some(peer) = gone.peer else { return };
        let relation = self.peer_mut(peer);
        let was_up = relation.link.as_ref().is_some_and(|up| up.id == link);
        let was_attempt = relation.dialling.attempt == Attempt::Link(link);
        if was_up {
            relation.drop_link();
        }
        if was_up && relation.dialling.attempt != Attempt::None {
            // An attempt at a better one is under way: the streams wait for that. `[R45]`
            relation.unreachable_since.get_or_insert(now);
        } else if was_up || was_attempt {
            relation.back_off(now);
            self.settle(now, peer);
        }
    }

    /// There may be a better way to a peer than the link that is up: asks for it to be dialled while
    /// that link goes on. The new link takes over when it has been proved; an attempt that
    /// fails changes nothing. Whether there is a link and no attempt yet. `[R45]`
    pub fn improve(&mut self, peer: PortId) -> bool {
        let Some(relation) = self.lasting.peers.get_mut(&peer) else {
            return false;
        };
        let cards = &relation.contact.location.cards;
        let busy = relation.dialling.attempt != Attempt::None;
        if relation.link.is_none() || busy || cards.is_empty() {
            return false;
        }
        let cards = cards.clone();
        relation.dialling.attempt = Attempt::Asked;
        relation.dialling.cards = cards.clone();
        self.effects.push_back(Effect::Dial { peer, cards });
        true
    }

    /// A set-up frame. `[R3]`
    pub(super) fn setup_frame(
        &mut self,
        now: Time,
        id: LinkId,
        kind: FrameKind,
        body: &[u8],
    ) -> Result<(), Violation> {
        let out_of_place = Violation::Kind(kind as u8);
        let link = self.links.get_mut(&id).ok_or(out_of_place.clone())?;
        let (dialled, cards) = (link.peer, &link.cards);
        match (std::mem::replace(&mut link.state, State::Refused), kind) {
            (State::Silent, FrameKind::Hello) => {
                let said = handshake::introduction(body)?;
                let me = self.introduce(said.port);
                let (frame, transcript) = handshake::challenge(&self.lasting.key, body, &me);
                self.say(id, State::Challenged { said, transcript }, frame);
                Ok(())
            }
            (State::Greeted { hello }, FrameKind::Challenge) => {
                let (answer, frame) = handshake::prove(&self.lasting.key, &hello, body)?;
                let peer = answer.port;
                if Some(peer) != dialled || answer.to != self.lasting.id {
                    return Err(Violation::Proof);
                }
                // Whoever has taken over an old address of the peer's could pass our proof on. `[R42]`
                if !answer.location.cards.iter().any(|it| cards.contains(it)) {
                    return Err(Violation::Elsewhere);
                }
                // A copy left behind by a move must not be talked to. `[R6]`
                if answer.epoch < self.peer_mut(peer).contact.epoch {
                    return Err(Violation::StaleEpoch(answer.epoch.0));
                }
                self.say(id, State::Proved { answer }, frame);
                Ok(())
            }
            (State::Challenged { said, transcript }, FrameKind::Prove) => {
                handshake::check(&self.lasting.key, &transcript, body)?;
                match self.admit(&said) {
                    Ok(()) => self.bring_up(id, said, Some(handshake::welcome())),
                    Err(why) => self.say(id, State::Refused, handshake::refuse(why)),
                }
                Ok(())
            }
            (State::Proved { answer }, FrameKind::Welcome) => {
                self.bring_up(id, answer, None);
                Ok(())
            }
            (State::Proved { answer }, FrameKind::Refuse) => {
                let why = handshake::refusal(body)?;
                self.refused(now, id, answer.port, why);
                Ok(())
            }
            _ => Err(out_of_place),
        }
    }

    /// Whether a proved dialler gets the link.
    fn admit(&self, said: &Introduction) -> Result<(), Refusal> {
        if said.to != self.lasting.id {
            return Err(Refusal::WrongPort);
        }
        let Some(peer) = self.lasting.peers.get(&said.port) else {
            return Ok(());
        };
        if said.epoch < peer.contact.epoch && !is_planted(PlantedFault::AcceptStaleEpoch) {
            return Err(Refusal::StaleEpoch);
        }
        // Both dial at once: the lower address goes first, if its attempt has got anywhere. `[R7]`
        let ours = match peer.dialling.attempt {
            Attempt::Link(link) => self.links.get(&link).map(|it| &it.state),
            _ => None,
        };
        let ours_is_on = matches!(ours, Some(State::Proved { .. }));
        if ours_is_on && self.lasting.id < said.port {
            return Err(Refusal::Crossing);
        }
        Ok(())
    }

    fn refused(&mut self, now: Time, link: LinkId, peer: PortId, why: Refusal) {
        self.forget_link(link);
        self.peer_mut(peer).back_off(now);
        if why != Refusal::Crossing {
            self.effects.push_back(Effect::Ask(peer));
        }
        self.settle(now, peer);
    }

    /// Both sides have proved themselves: the link takes over the peer's streams. `[R9]`
    fn bring_up(&mut self, id: LinkId, said: Introduction, welcome: Option<Frame>) {
        let from = said.port;
        let contact = Contact {
            port: from,
            epoch: said.epoch,
            location: said.location,
        };
        self.learn_proved(contact);
        // Fence first: no older link may touch memory once we say what we expect. `[R20]`
        if is_planted(PlantedFault::AnswerBeforeFencing) {
            let peer = self.peer_mut(from);
            peer.drop_link();
            peer.dialling = Default::default();
        }
        self.close_links_of(from, Some(id));
        let link = self.links.get_mut(&id).expect("the caller has it");
        link.state = State::Up;
        link.peer = Some(from);
        link.outbox = welcome;
        link.deadline = None;
        let peer = self.lasting.peers.get_mut(&from).expect("just learnt");
        peer.window = peer.window.max(said.window);
        peer.met = true;
        peer.wanted = false;
        for stream in peer.streams.values_mut() {
            stream.incoming.resume();
        }
        let to_resume = Some(peer.streams.keys().copied().collect());
        peer.link = Some(Up {
            id,
            to_resume,
            resumed: false,
            named: BTreeSet::new(),
        });
        self.note_link(id);
    }

    fn learn_proved(&mut self, contact: Contact) {
        let we_are_lower = self.lasting.id < contact.port;
        let peers = &mut self.lasting.peers;
        let peer = peers.get_or_insert_with(contact.port, || {
            super::Peer::new(contact.clone(), we_are_lower)
        });
        peer.contact = contact;
    }

    /// Closes the peer's link and any attempt at another, but for `except`.
    pub(super) fn close_links_of(&mut self, id: PortId, except: Option<LinkId>) {
        let peer = self.peer_mut(id);
        let up = peer.link.as_ref().map(|up| up.id);
        let attempt = match peer.dialling.attempt {
            Attempt::Link(link) => Some(link),
            _ => None,
        };
        peer.drop_link();
        peer.dialling = Default::default();
        peer.unreachable_since = None;
        for link in up
            .into_iter()
            .chain(attempt)
            .filter(|link| Some(*link) != except)
        {
            self.forget_link(link);
        }
    }

    fn forget_link(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.ready.retain(|other| *other != link);
        self.effects.push_back(Effect::Close(link));
    }

    /// Begins to dial if a link is wanted, there is none, and it is time; else notes the deadline.
    pub(super) fn settle(&mut self, now: Time, id: PortId) {
        if !self.attached {
            return;
        }
        let timeout = self.lasting.limits.peer_timeout;
        let peer = self.peer_mut(id);
        let idle = peer.link.is_some() || peer.dead.is_some() || !peer.wants_link();
        if idle || peer.dialling.attempt != Attempt::None {
            return;
        }
        if peer
            .unreachable_since
            .is_some_and(|since| now.since(since) >= timeout)
        {
            self.bury(id, DeathCause::Timeout(timeout.as_secs()));
            return;
        }
        let cards = peer.contact.location.cards.clone();
        let due = peer.dialling.not_before <= now;
        if due && (cards.is_empty() || peer.dialling.failures >= limits::DIALS_BEFORE_ASKING) {
            self.effects.push_back(Effect::Ask(id));
        }
        let peer = self.peer_mut(id);
        if due && cards.is_empty() {
            peer.back_off(now);
        } else if due {
            peer.dialling.attempt = Attempt::Asked;
            peer.dialling.cards = cards.clone();
            self.effects.push_back(Effect::Dial { peer: id, cards });
            return;
        }
        self.restless.insert(id);
    }

    /// Links that have not proved themselves in time. `[R3]`
    pub(super) fn expire_links(&mut self, now: Time) {
        let late: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.effects.push_back(Effect::Close(id));
            self.broken(now, id);
        }
    }

    pub(super) fn next_link_deadline(&self) -> Option<Time> {
        self.links.values().filter_map(|link| link.deadline).min()
    }

    fn introduce(&mut self, to: PortId) -> Introduction {
        Introduction {
            port: self.lasting.id,
            to,
            epoch: self.lasting.epoch,
            location: self.lasting.location.clone(),
            window: self
                .lasting
                .limits
                .window_bytes
                .max(limits::FIRST_WINDOW_BYTES),
            nonce: self.nonces.draw(),
        }
    }

    fn add_link(
        &mut self,
        id: LinkId,
        peer: Option<PortId>,
        state: State,
        now: Time,
        cards: Vec<Card>,
    ) {
        let deadline = Some(now + limits::SETUP_TIMEOUT);
        self.links.insert(
            id,
            Link {
                peer,
                state,
                outbox: None,
                deadline,
                cards,
            },
        );
    }

    fn say(&mut self, id: LinkId, state: State, frame: Frame) {
        let link = self.links.get_mut(&id).expect("the caller has it");
        link.state = state;
        link.outbox = Some(frame);
        self.note_link(id);
    }
}

//! What decides how a port goes on, for those who enumerate its states.

use std::hash::{Hash, Hasher};

use super::links::{Link, State};
use super::peer::{Dialling, Peer};
use super::{Lasting, Port};
use crate::handshake::Introduction;
use crate::ids::LinkId;
use crate::limits;
use crate::time::Time;

impl Port {
    /// Hashes all that the port's further behaviour depends on. Not what time it is, but whether a
    /// deadline is set and whether the next attempt to dial is due; not the nonces.
    ///
    /// Two ports that agree in this do the same when the same happens to them, if it is left open
    /// when deadlines pass.
    pub fn fingerprint(&self, now: Time, hasher: &mut impl Hasher) {
        let Port {
            lasting,
            nonces: _,
            attached,
            links,
            effects,
            ready,
            restless,
            freed: _,
        } = self;
        let Lasting {
            id,
            key: _,
            limits: _,
            epoch,
            location,
            peers,
            // The sum of what the streams say.
            retained_bytes: _,
        } = lasting;
        debug_assert!(effects.is_empty(), "effects are carried out first");
        (id, epoch, location, attached, ready, restless).hash(hasher);
        for (id, peer) in peers.iter() {
            id.hash(hasher);
            hash_peer(peer, now, hasher);
        }
        for (id, link) in links.iter() {
            id.hash(hasher);
            hash_link(link, hasher);
        }
    }
}

impl Port {
    /// Whether a link is one that was accepted and proved nothing, or was refused: its end changes
    /// nothing but that it is forgotten.
    pub fn is_stranger(&self, link: LinkId) -> bool {
        self.links.get(&link).is_none_or(|link| link.peer.is_none())
    }
}

fn hash_peer(peer: &Peer, now: Time, hasher: &mut impl Hasher) {
    let Peer {
        contact,
        streams,
        next_stream,
        window,
        met,
        dead,
        link,
        dialling,
        wanted,
        unreachable_since: _,
        ready,
        owing,
        ack_at,
    } = peer;
    (contact, streams, next_stream, window, met, dead).hash(hasher);
    (link, wanted, ready, owing, ack_at.is_some()).hash(hasher);
    let Dialling {
        attempt,
        cards,
        not_before,
        pause,
        failures,
    } = dialling;
    let asks = (*failures).min(limits::DIALS_BEFORE_ASKING);
    (attempt, cards, *not_before <= now, pause.is_zero(), asks).hash(hasher);
}

fn hash_link(link: &Link, hasher: &mut impl Hasher) {
    let Link {
        peer,
        state,
        outbox,
        deadline,
        cards,
    } = link;
    let waiting = outbox.as_ref().map(|frame| frame.header.kind);
    (peer, cards, waiting, deadline.is_some()).hash(hasher);
    std::mem::discriminant(state).hash(hasher);
    match state {
        State::Proved { answer: said } | State::Challenged { said, .. } => {
            let Introduction {
                port,
                to,
                epoch,
                location,
                window,
                nonce: _,
            } = said;
            (port, to, epoch, location, window).hash(hasher);
        }
        State::Connecting | State::Greeted { .. } | State::Silent | State::Refused | State::Up => {}
    }
}

//! What comes out of the completion queue.

use meander_core::transport::{LinkError, LinkEvent};
use meander_core::wire::Violation;

use super::{LinkKey, VerbsTransport, id};
use crate::limits;
use crate::link::{Link, Stage};
use crate::objects::{Arrived, Completion, Outcome, Room};
use crate::packet::Prefix;

impl VerbsTransport {
    /// Takes what the completion queue has, a bounded amount. Returns how much that was.
    pub(super) fn take_completions(&mut self) -> usize {
        let mut all = 0;
        loop {
            let mut room = Room::new();
            let taken = self.completions.poll(&mut room);
            let count = taken.len();
            for completion in taken {
                self.completed(completion);
            }
            all += count;
            if count < limits::COMPLETIONS || all >= limits::COMPLETIONS_PER_POLL {
                return all;
            }
        }
    }

    fn completed(&mut self, completion: Completion) {
        let key = self.pairs.get(&completion.pair).copied();
        match completion.outcome {
            Outcome::Received(bytes) => {
                self.counters.receive_completions += 1;
                let Some(arrived) = self.receives.arrived(completion.request, bytes) else {
                    return;
                };
                match key {
                    Some(key) => self.arrived(key, arrived),
                    // Of a link that is closed.
                    None => self.receives.give_back(arrived),
                }
            }
            Outcome::Sent => {
                self.counters.send_completions += 1;
                if let Some(key) = key {
                    self.sent(key, completion.request);
                }
            }
            Outcome::Failed {
                received,
                status,
                vendor,
            } => {
                if received && let Some(arrived) = self.receives.arrived(completion.request, 0) {
                    self.receives.give_back(arrived);
                }
                if let Some(key) = key {
                    let error = match completion.outcome.is_flush() {
                        true => LinkError::Closed,
                        false => self.completions.error(received, status, vendor).into(),
                    };
                    self.end(key, error);
                }
            }
        }
    }

    /// A packet has come: its credits count at once, its records when the link is read.
    fn arrived(&mut self, key: LinkKey, arrived: Arrived) {
        let Some(link) = self.links.get_mut(key) else {
            return self.receives.give_back(arrived);
        };
        let parsed = Prefix::parse(self.receives.bytes(&arrived)).map(|(prefix, _)| prefix);
        let prefix = match parsed {
            // Who overruns its credits breaks the protocol. [R62]
            Ok(prefix) if link.credits.received(prefix.credits).is_ok() => prefix,
            parsed => {
                self.receives.give_back(arrived);
                let error = parsed.err().unwrap_or(Violation::Window.into());
                return self.end(key, error);
            }
        };
        if prefix.bytes == 0 {
            self.receives.give_back(arrived);
            link.credits.read();
        } else {
            link.inbox.push_back(arrived);
        }
        let scarce = link.credits.is_scarce();
        // It may be faster than the word that the peer is ready.
        if matches!(link.stage, Stage::Answered) {
            self.opened(key);
        }
        if prefix.bytes > 0 {
            self.mark_readable(key);
        } else {
            self.tell_credits(key);
        }
        self.unblock(key, prefix.credits > 0);
        if scarce {
            self.grow(key);
        }
    }

    fn sent(&mut self, key: LinkKey, request: u64) {
        let link = self.links.get_mut(key);
        if let Some(Link {
            pair: Some(pair), ..
        }) = link
        {
            pair.complete(request, &mut self.slots);
        }
        self.tell_credits(key);
        self.unblock(key, true);
    }

    /// The link may go on with what waits: the port flushes when it is told; it alone knows the memory.
    pub(super) fn unblock(&mut self, key: LinkKey, can_go_on: bool) {
        if can_go_on
            && let Some(link) = self.links.get_mut(key)
            && std::mem::take(&mut link.blocked)
        {
            self.happened.push_back(LinkEvent::Writable(id(key)));
        }
    }

    /// Links that found no slot try again once there is one.
    pub(super) fn feed_starved(&mut self) {
        if self.starved.is_empty() || !self.slots.has_free() {
            return;
        }
        for key in std::mem::take(&mut self.starved) {
            self.tell_credits(key);
            self.unblock(key, true);
        }
    }

    /// A peer that has used up most of its credits gets more, while there are slots.
    fn grow(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(key) else {
            return;
        };
        let promised = link.credits.promised();
        if promised >= limits::BUSY_CREDITS || self.receives.is_tight() {
            return;
        }
        let more = promised.min(limits::BUSY_CREDITS - promised);
        let slots = self.receives.slots_with(more);
        if self.reserve(slots, 0).is_ok()
            && self.receives.promise(more).is_ok()
            && let Some(link) = self.links.get_mut(key)
        {
            link.credits.promise(more);
        }
    }

    /// Sees to it that the completion queue has room for whatever can complete: every slot, and every
    /// request of every link.
    pub(super) fn reserve(&self, slots: usize, more_links: usize) -> Result<(), crate::VerbsError> {
        let requests = (self.pairs.len() + more_links) * limits::SEND_QUEUE_REQUESTS;
        self.completions
            .reserve(slots + requests, self.device.limits.completions)
    }
}

//! Credits: what each side of a link may send, so that the other always has a slot for it.
//!
//! One credit is one packet. A side *promises* its peer so many slots of the shared receive queue; a credit is
//! at any time in one of four places: told to the peer and not used (`given`), used by a packet that
//! is on its way or has not been read (`held`), read and not yet given back (`owed`), or on its
//! way back. Their sum is the promise, so a packet always finds a slot. `[R62]`
//!
//! Credits go back with whatever goes the other way, and by a packet of their own once half of the
//! promise is owed. A packet with data leaves the last credit alone; one of credits only may use it. `[R63]`
//!
//! This can't get stuck. Say nothing is on its way, everything was read, and side A waits with data: it has
//! one credit or none, so B owes it all of its promise but one, which is at least half. So B sends credits,
//! unless B has no credit at all. Then A owes B the whole promise and sends credits, unless A has
//! none either. But both can't have none: to get there each must have used its last credit for a packet
//! of credits; take the later one of these to arrive: it brought half a promise, at least two, to a side
//! that has used the last of them since only by sending another such packet, which arrived later
//! still. Nor do packets of credits go back and forth for ever: each pays for half a promise of
//! packets received, of which at most one was made by the packet before.

use crate::limits::FIRST_CREDITS;

/// Both halves of one link's credits.
#[derive(Debug)]
pub(crate) struct Credits {
    /// Packets that the peer has slots for.
    available: u32,
    /// Slots promised to the peer, in all.
    promised: u32,
    /// Of these, credits that the peer has been told of and, as far as is known here, not used.
    given: u32,
    /// Of these, read and not yet given back.
    owed: u32,
}

/// The peer used credits that it does not have, or gave more than there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// The credit that only a packet of credits may use.
const RESERVED: u32 = 1;
/// Credits that a side can have at most; its fields on the wire have room for them.
const MOST: u32 = 0xffff;

impl Credits {
    /// Of a new link: what the peer has promised, and what was promised to it.
    pub fn new(available: u32, promised: u32) -> Credits {
        Credits {
            available,
            promised,
            given: promised,
            owed: 0,
        }
    }

    /// Whether a packet with data may be sent. `[R63]`
    pub fn may_send(&self) -> bool {
        self.available > RESERVED
    }

    /// Whether a packet of credits should be sent now: enough is owed. `[R63]`
    pub fn should_tell(&self) -> bool {
        self.available > 0 && self.owed * 2 >= self.promised
    }

    /// Whether a packet that is sent anyway should give back what is owed: before so much is owed that a
    /// packet of credits would go on its own.
    pub fn should_ride(&self) -> bool {
        self.owed * 4 >= self.promised
    }

    /// A packet is sent that gives nothing back.
    pub fn used(&mut self) -> u16 {
        self.available -= 1;
        0
    }

    /// A packet is sent, and gives back what is owed.
    pub fn sent(&mut self) -> u16 {
        self.used();
        let told = self.owed.min(MOST);
        self.owed -= told;
        self.given += told;
        told as u16
    }

    /// A packet has come and has brought credits. `[R62]`
    pub fn received(&mut self, told: u16) -> Result<(), Overrun> {
        self.given = self.given.checked_sub(1).ok_or(Overrun)?;
        self.available += u32::from(told);
        if self.available > MOST {
            return Err(Overrun);
        }
        Ok(())
    }

    /// A packet was read, and its slot is there again.
    pub fn read(&mut self) {
        self.owed += 1;
    }

    /// Of a packet that was read, the slot goes to others instead.
    pub fn withdraw(&mut self) {
        self.promised -= 1;
    }

    /// More slots are promised.
    pub fn promise(&mut self, more: u32) {
        self.promised += more;
        self.owed += more;
    }

    /// Slots promised to the peer.
    pub fn promised(&self) -> u32 {
        self.promised
    }

    /// Whether the peer is so busy that it has used most of its credits.
    pub fn is_scarce(&self) -> bool {
        self.given * 4 <= self.promised
    }

    /// Whether the peer has more than a new link.
    pub fn is_generous(&self) -> bool {
        self.promised > FIRST_CREDITS
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A packet on its way: the credits it carries, and whether it has data.
    type Packet = (u16, bool);

    /// One end: its credits, what it wants to send, what has come and is not read.
    struct End {
        credits: Credits,
        wants: u32,
        unread: VecDeque<Packet>,
        read: u32,
    }

    impl End {
        /// Slots in use or that may come into use: never more than promised.
        fn check(&self, coming: &VecDeque<Packet>, peer: &End) {
            let in_use = self.unread.len() + coming.len();
            let may_come = peer.credits.available as usize;
            assert!(in_use + may_come <= self.credits.promised as usize);
            assert!(self.credits.owed <= self.credits.promised);
        }

        fn send(&mut self, out: &mut VecDeque<Packet>) -> bool {
            let data = self.wants > 0 && self.credits.may_send();
            if !data && !self.credits.should_tell() {
                return false;
            }
            self.wants -= u32::from(data);
            out.push_back((self.credits.sent(), data));
            true
        }

        fn arrive(&mut self, coming: &mut VecDeque<Packet>) -> bool {
            let Some((told, data)) = coming.pop_front() else {
                return false;
            };
            self.credits
                .received(told)
                .expect("the peer keeps to its credits");
            if data {
                self.unread.push_back((told, data));
            } else {
                self.credits.read();
            }
            true
        }

        fn read(&mut self) -> bool {
            if self.unread.pop_front().is_none() {
                return false;
            }
            self.read += 1;
            self.credits.read();
            true
        }
    }

    /// Two ends, and what is on its way to each.
    struct Link {
        ends: [End; 2],
        coming: [VecDeque<Packet>; 2],
    }

    impl Link {
        fn new(promises: [u32; 2]) -> Link {
            let end = |mine: u32, others: u32| End {
                credits: Credits::new(others, mine),
                wants: 0,
                unread: VecDeque::new(),
                read: 0,
            };
            Link {
                ends: [end(promises[0], promises[1]), end(promises[1], promises[0])],
                coming: Default::default(),
            }
        }

        fn step(&mut self, at: usize, action: u8) -> bool {
            let [one, other] = &mut self.coming;
            let (coming, out) = if at == 0 { (one, other) } else { (other, one) };
            let end = &mut self.ends[at];
            let did = match action {
                0 => end.send(out),
                1 => end.arrive(coming),
                2 => end.read(),
                3 => {
                    end.credits.promise(2);
                    true
                }
                _ => {
                    let shrinks = end.credits.promised > 4 && !end.unread.is_empty();
                    if shrinks {
                        end.unread.pop_front();
                        end.read += 1;
                        end.credits.withdraw();
                    }
                    shrinks
                }
            };
            self.ends[0].check(&self.coming[0], &self.ends[1]);
            self.ends[1].check(&self.coming[1], &self.ends[0]);
            did
        }

        /// Sends, takes and reads until nothing happens. Returns the packets that took.
        fn settle(&mut self) -> usize {
            let mut steps = 0;
            loop {
                let mut did = false;
                for at in [0, 1] {
                    for action in 0..3 {
                        did |= self.step(at, action);
                    }
                }
                if !did {
                    return steps;
                }
                steps += 1;
                assert!(steps < 100_000, "credits go back and forth for ever");
            }
        }
    }

    proptest! {
        /// [R62] [R63]
        #[test]
        fn no_packet_lacks_a_slot_and_all_data_arrives(
            promises in [4_u32..12, 4_u32..12],
            wants in [0_u32..300, 0_u32..300],
            actions in proptest::collection::vec((0_usize..2, 0_u8..5), 0..400),
        ) {
            let mut link = Link::new(promises);
            link.ends[0].wants = wants[0];
            link.ends[1].wants = wants[1];
            for (at, action) in actions {
                link.step(at, action);
            }
            link.settle();
            prop_assert_eq!([link.ends[1].read, link.ends[0].read], wants);
        }
    }

    #[test]
    fn the_last_credit_is_for_credits() {
        let mut credits = Credits::new(2, 4);
        assert!(credits.may_send() && !credits.should_tell());
        credits.sent();
        assert!(!credits.may_send());
        for _ in 0..2 {
            credits.received(0).unwrap();
            credits.read();
        }
        assert!(credits.should_tell());
        assert_eq!(credits.sent(), 2);
        assert!(!credits.should_tell());
    }

    #[test]
    fn who_uses_more_than_it_has_is_found_out() {
        let mut credits = Credits::new(4, 4);
        for _ in 0..4 {
            assert_eq!(credits.received(1), Ok(()));
        }
        assert_eq!(credits.received(1), Err(Overrun));
        let mut credits = Credits::new(MOST, 4);
        assert_eq!(credits.received(1), Err(Overrun));
    }
}

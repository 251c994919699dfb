//! How many processes of this node may be connected to its agent, and of whom. `[R44]`
//!
//! Nobody has proved more than who he is. Some connections are each user's own, so that all the others
//! together can't keep him out; the rest is for whoever comes. Root, and whom the agent runs as, come on top.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, getuid, setrlimit};

/// Connections at a time, of all users but root and the agent's own: half of them are divided among so many
/// users, the others are for all.
const CONNECTIONS: usize = 16_384;
/// Users who have connections of their own: those who come first, while they have any.
const USERS: usize = 128;
/// Of one user, his own included.
const CONNECTIONS_PER_USER: usize = 4096;
/// Descriptors that are not for users: the agent's, root's, and those of other nodes.
const DESCRIPTORS_APART: usize = 2048;

static SEATS: LazyLock<Mutex<Seats>> = LazyLock::new(|| {
    let seats = Seats::new(connections(descriptors()), getuid().as_raw());
    Mutex::new(seats)
});

/// One connection of a user, counted until it is dropped.
pub(super) struct Seat(u32);

impl Seat {
    /// `None`: he has as many as he may.
    pub fn take(uid: u32) -> Option<Seat> {
        let mut seats = SEATS.lock().unwrap_or_else(PoisonError::into_inner);
        seats.take(uid).then(|| Seat(uid))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = SEATS.lock().unwrap_or_else(PoisonError::into_inner);
        seats.give_back(self.0);
    }
}

struct Seats {
    /// Of each of the first users.
    own: usize,
    /// For all.
    common: usize,
    /// Whom the agent runs as.
    owner: u32,
    users: BTreeMap<u32, User>,
    /// How many of those for all are taken, and how many users have some of their own.
    common_taken: usize,
    owners: usize,
}

#[derive(Clone, Copy, Default)]
struct User {
    taken: usize,
    /// How many of them are his own, at most.
    own: usize,
}

impl Seats {
    fn new(connections: usize, owner: u32) -> Seats {
        Seats {
            own: connections / 2 / USERS,
            common: connections - connections / 2,
            owner,
            users: BTreeMap::new(),
            common_taken: 0,
            owners: 0,
        }
    }

    fn take(&mut self, uid: u32) -> bool {
        if uid == 0 || uid == self.owner {
            return true;
        }
        let own = if self.owners < USERS { self.own } else { 0 };
        let newcomer = User { taken: 0, own };
        let mut user = self.users.get(&uid).copied().unwrap_or(newcomer);
        let of_his_own = user.taken < user.own;
        let one_more = self.common_taken < self.common && user.taken < CONNECTIONS_PER_USER;
        if !of_his_own && !one_more {
            return false;
        }
        self.owners += usize::from(user.taken == 0 && user.own > 0);
        self.common_taken += usize::from(!of_his_own);
        user.taken += 1;
        self.users.insert(uid, user);
        true
    }

    fn give_back(&mut self, uid: u32) {
        let Some(user) = self.users.get_mut(&uid) else {
            return;
        };
        self.common_taken -= usize::from(user.taken > user.own);
        user.taken -= 1;
        if user.taken == 0 {
            self.owners -= usize::from(user.own > 0);
            self.users.remove(&uid);
        }
    }
}

/// How many descriptors the agent may have: it takes what it is allowed to, as far as it has use for it.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = (2 * CONNECTIONS + DESCRIPTORS_APART) as u64;
    let current = limit.current.unwrap_or(u64::MAX);
    let most = current.max(limit.maximum.unwrap_or(u64::MAX).min(wanted));
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    let allowed = match limit.current.is_none() || setrlimit(Resource::Nofile, raised).is_ok() {
        true => most,
        false => current,
    };
    usize::try_from(allowed).unwrap_or(usize::MAX)
}

/// How many connections of users so many descriptors are good for: two each, for some are held twice.
fn connections(descriptors: usize) -> usize {
    let apart = DESCRIPTORS_APART.min(descriptors / 2);
    CONNECTIONS.min((descriptors - apart) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: u32 = 77;

    /// Takes all that is to be had; how many that were.
    fn all_of(seats: &mut Seats, uid: u32) -> usize {
        (0..).take_while(|_| seats.take(uid)).count()
    }

    /// `[R44]`
    #[test]
    fn no_user_takes_all_connections() {
        let mut seats = Seats::new(CONNECTIONS, OWNER);
        assert_eq!(all_of(&mut seats, 1001), CONNECTIONS_PER_USER);
        assert!(seats.take(1002));
        (0..CONNECTIONS_PER_USER).for_each(|_| seats.give_back(1001));
        assert_eq!(all_of(&mut seats, 1001), CONNECTIONS_PER_USER);
    }

    /// Nor do many together, one after the other or in turn. `[R44]`
    #[test]
    fn many_users_together_keep_nobody_out() {
        for connections in [1024, 5000, CONNECTIONS] {
            for in_turn in [false, true] {
                let mut seats = Seats::new(connections, OWNER);
                let greedy = 1001..1100;
                if in_turn {
                    while greedy.clone().filter(|uid| seats.take(*uid)).count() > 0 {}
                }
                for uid in greedy.clone() {
                    all_of(&mut seats, uid);
                }
                let own = connections / 2 / USERS;
                for late in 2000..2010 {
                    assert_eq!(all_of(&mut seats, late), own, "of {connections}");
                }
                let taken: usize = seats.users.values().map(|user| user.taken).sum();
                assert!(taken <= connections);
                assert!((0..2 * connections).all(|_| seats.take(0) && seats.take(OWNER)));
                // In the end nothing is left taken.
                let users = std::mem::take(&mut seats.users);
                seats.users = users.clone();
                for (uid, user) in users {
                    (0..user.taken).for_each(|_| seats.give_back(uid));
                }
                let left = (seats.common_taken, seats.owners, seats.users.len());
                assert_eq!(left, (0, 0, 0));
            }
        }
    }

    /// Also one who comes when all users have come that have connections of their own. `[R44]`
    #[test]
    fn the_number_of_users_is_no_way_round_it() {
        let mut seats = Seats::new(CONNECTIONS, OWNER);
        let users = 1001..1001 + 4 * CONNECTIONS as u32;
        let taken: usize = users.map(|uid| usize::from(seats.take(uid))).sum();
        assert_eq!(taken, USERS + CONNECTIONS / 2);
        assert!(seats.take(1001) && seats.take(0) && seats.take(OWNER));
    }

    #[test]
    fn descriptors_are_left_for_root_and_the_agent() {
        assert_eq!(connections(usize::MAX), CONNECTIONS);
        for count in [64, 1024, 4096, 20_000, 65_536] {
            let left = count - 2 * connections(count);
            assert!(connections(count) > 0 && left >= DESCRIPTORS_APART.min(count / 2));
        }
        assert!(descriptors() >= 64);
    }
}

//! Which orders of events come to the same, and which of them are looked at.
//!
//! When nothing more goes wrong, the ports on one side and the rest (mover, guardian, agents, the
//! directory's other business) on the other meet in few places: what a port sees of the rest, and the
//! rest of it, is the world's `face`. Where every step that the rest can take leaves the face as it is,
//! - none of these steps changes anything that a port's step reads or writes, and
//! - no port's step changes anything that the rest reads: the rest looks at which processes live and
//!   are attached, at the directory, and (for the image) into a port that is off the fabric; ports'
//!   steps change none of these,
//!
//! so that whatever the ports do first, the rest's steps are the same ones, and lead to the same state
//! in either order. There the rest goes first and the ports' steps are put off: a persistent set, and
//! what two live owners or a death are judged by is the rest's doing alone, whose own orders are all
//! tried. Nothing may be put off for ever: see `Space::put_off_for_ever`. Then whatever can happen is
//! the beginning of something that is looked at, so that a broken promise is found, and a good end can
//! be reached from every state if it can be from those looked at.

use super::actions::Action;
use super::world::World;

/// What can come of a state.
pub(super) struct Successors {
    pub worlds: Vec<(Action, World)>,
    /// What the ports may do has been put off.
    pub in_part: bool,
}

impl World {
    /// What can come of it; `whole`: nothing is to be put off.
    pub(super) fn successors(&self, whole: bool) -> Successors {
        let actions = self.actions().into_iter();
        let (ports, rest): (Vec<_>, Vec<_>) = actions.partition(|action| self.is_ports(*action));
        let after = |action: Action| (action, self.after(action));
        let mut worlds: Vec<_> = rest.into_iter().map(after).collect();
        let may_wait = !whole && self.mishaps == 0 && !worlds.is_empty() && !ports.is_empty();
        let in_part = may_wait && worlds.iter().all(|(_, world)| world.face == self.face);
        if !in_part {
            worlds.extend(ports.into_iter().map(after));
        }
        Successors { worlds, in_part }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same action in a world in which other calls may be under way.
    fn same(action: Action, here: &World, there: &World) -> Action {
        let Action::Called(place) = action else {
            return action;
        };
        let mut calls = there.calls.iter();
        let place = calls.position(|call| *call == here.calls[place]);
        Action::Called(place.expect("the call is under way there too"))
    }

    #[test]
    fn what_is_put_off_may_wait() {
        let mut chance = 1_u64;
        let mut draw = |below: usize| {
            chance = chance.wrapping_mul(6364136223846793005).wrapping_add(1);
            (chance >> 33) as usize % below
        };
        let mut tried = 0;
        for _ in 0..500 {
            let mut world = World::new(1, true);
            loop {
                let actions = world.actions();
                if actions.is_empty() {
                    break;
                }
                if world.successors(false).in_part {
                    let (ports, rest): (Vec<_>, Vec<_>) = actions
                        .iter()
                        .copied()
                        .partition(|action| world.is_ports(*action));
                    for port in &ports {
                        for other in &rest {
                            let (one, two) = (world.after(*port), world.after(*other));
                            let one = one.after(same(*other, &world, &one));
                            let two = two.after(same(*port, &world, &two));
                            assert_eq!(one.fingerprint(), two.fingerprint(), "{port:?} {other:?}");
                            tried += 1;
                        }
                    }
                }
                world = world.after(actions[draw(actions.len())]);
            }
        }
        assert!(tried > 1000, "{tried}");
    }
}

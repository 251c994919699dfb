//! Every state that can be reached, each looked at once; then whether a good end can be reached from
//! each of them.

use std::collections::HashMap;
use std::thread;

use super::actions::Action;
use super::world::World;
use crate::checkers::Fault;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Different states.
    pub states: usize,
    /// Ways from one to the next.
    pub transitions: usize,
    /// States in which all has come to a good end.
    pub ends: usize,
    /// The first broken promise, with the way there.
    pub fault: Option<(Fault, Vec<String>)>,
}

/// States that are worked on at a time.
const BATCH: usize = 256;
/// More states than this are not looked at: something grows without end.
const STATES_MAX: usize = 20_000_000;

struct Found {
    parent: u32,
    action: Option<Action>,
    good: bool,
    /// What the ports may do there has been put off.
    in_part: bool,
}

#[derive(Default)]
struct Space {
    places: HashMap<u64, u32>,
    found: Vec<Found>,
    ways: Vec<(u32, u32)>,
}

/// A state that was reached from another.
struct Reached {
    from: u32,
    action: Action,
    fingerprint: u64,
    /// `None` where it had been seen before.
    world: Option<Box<World>>,
    /// What the ports may do there has been put off.
    in_part: bool,
}

/// A state whose successors are to be looked at.
struct Todo {
    place: u32,
    world: Box<World>,
    /// Nothing is to be put off.
    whole: bool,
}

/// Looks at all that can come of a world. `plant` is called in each thread that does.
pub(super) fn enumerate(first: World, plant: impl Fn() + Sync) -> Outcome {
    let mut space = Space::default();
    let root = space.add(first.fingerprint(), 0, None, first.is_good());
    let fault = first.fault.clone();
    let root_world = first.clone();
    let mut todo = vec![Todo {
        place: root,
        world: Box::new(first),
        whole: false,
    }];
    if let Some(fault) = fault {
        return space.outcome(Some((fault, root, None)));
    }
    while !todo.is_empty() {
        // The last ones first: there are few at a time of whom not all is known.
        let batch = todo.split_off(todo.len().saturating_sub(BATCH));
        for reached in space.successors(&batch, &plant) {
            let Reached {
                from,
                action,
                fingerprint,
                world,
                in_part,
            } = reached;
            let known = space.places.get(&fingerprint).copied();
            let place = match (known, world) {
                (Some(place), _) => place,
                (None, Some(world)) => {
                    if let Some(fault) = &world.fault {
                        let fault = fault.clone();
                        return space.outcome(Some((fault, from, Some(action))));
                    }
                    let place = space.add(fingerprint, from, Some(action), world.is_good());
                    todo.push(Todo {
                        place,
                        world,
                        whole: false,
                    });
                    place
                }
                (None, None) => unreachable!("it was seen"),
            };
            space.ways.push((from, place));
            space.found[from as usize].in_part = in_part;
        }
        if todo.is_empty() {
            todo = space.put_off_for_ever(&root_world);
        }
        assert!(space.found.len() < STATES_MAX, "the small world has no end");
    }
    let hopeless = space.hopeless().map(|place| {
        let why = "no good end can be reached from here".to_owned();
        (Fault::Stuck(why), place, None)
    });
    space.outcome(hopeless)
}

impl Space {
    fn add(&mut self, fingerprint: u64, parent: u32, action: Option<Action>, good: bool) -> u32 {
        let place = self.found.len() as u32;
        self.places.insert(fingerprint, place);
        self.found.push(Found {
            parent,
            action,
            good,
            in_part: false,
        });
        place
    }

    /// All that can come of these states, in an order that does not depend on the threads.
    fn successors(&self, batch: &[Todo], plant: &(impl Fn() + Sync)) -> Vec<Reached> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = batch.len().div_ceil(threads).max(1);
        let work = |part: &[Todo]| {
            plant();
            let mut reached = Vec::new();
            for Todo {
                place,
                world,
                whole,
            } in part
            {
                let mut after = world.successors(*whole);
                let in_part = after.in_part;
                for (action, after) in after.worlds.drain(..) {
                    let fingerprint = after.fingerprint();
                    let is_new = !self.places.contains_key(&fingerprint);
                    reached.push(Reached {
                        from: *place,
                        action,
                        fingerprint,
                        world: is_new.then(|| Box::new(after)),
                        in_part,
                    });
                }
            }
            reached
        };
        thread::scope(|scope| {
            let workers: Vec<_> = batch
                .chunks(share)
                .map(|part| scope.spawn(move || work(part)))
                .collect();
            let parts = workers.into_iter().map(|worker| worker.join());
            parts
                .flat_map(|part| part.expect("a state panicked"))
                .collect()
        })
    }

    /// A state from which no good end can be reached, if there is one.
    fn hopeless(&self) -> Option<u32> {
        self.without(|it| it.good).next()
    }

    /// What was put off must come in the end. States from which that is not so are looked at again.
    fn put_off_for_ever(&self, first: &World) -> Vec<Todo> {
        let places = self.without(|it| !it.in_part);
        let again = |place: u32| {
            let way = self.way(place).into_iter();
            let world = way.fold(first.clone(), |world, action| world.after(action));
            Todo {
                place,
                world: Box::new(world),
                whole: true,
            }
        };
        places.map(again).collect()
    }

    /// What led to a state.
    fn way(&self, mut place: u32) -> Vec<Action> {
        let mut way = Vec::new();
        while let Some(action) = self.found[place as usize].action {
            way.push(action);
            place = self.found[place as usize].parent;
        }
        way.reverse();
        way
    }

    /// States from which no such one can be reached.
    fn without(&self, such: impl Fn(&Found) -> bool) -> impl Iterator<Item = u32> {
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); self.found.len()];
        for (from, to) in &self.ways {
            before[*to as usize].push(*from);
        }
        let mut hopeful: Vec<bool> = self.found.iter().map(such).collect();
        let mut todo: Vec<u32> = (0..self.found.len() as u32)
            .filter(|place| hopeful[*place as usize])
            .collect();
        while let Some(place) = todo.pop() {
            for from in &before[place as usize] {
                if !std::mem::replace(&mut hopeful[*from as usize], true) {
                    todo.push(*from);
                }
            }
        }
        (0..self.found.len() as u32).filter(move |place| !hopeful[*place as usize])
    }

    fn outcome(&self, fault: Option<(Fault, u32, Option<Action>)>) -> Outcome {
        Outcome {
            states: self.found.len(),
            transitions: self.ways.len(),
            ends: self.found.iter().filter(|it| it.good).count(),
            fault: fault.map(|(fault, place, last)| {
                let way = self.way(place).into_iter().chain(last);
                (fault, way.map(|it| format!("{it:?}")).collect())
            }),
        }
    }
}

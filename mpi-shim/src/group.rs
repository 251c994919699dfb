//! Groups: ordered sets of ranks of the world (MPI 3.1, section 6.3).

use std::ffi::c_int;
use std::sync::Arc;

use mpi_sys::MPI_Group;

use crate::abi::call::Call;
use crate::constants::{IDENT, PROC_NULL, SIMILAR, UNDEFINED, UNEQUAL};
use crate::errors::Error;
use crate::handles::{GroupKey, Object};
use crate::memory::{In, Out};
use crate::world::World;

/// An ordered set of ranks of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    ranks: Vec<u32>,
}

impl Group {
    /// These ranks of the world, in this order.
    pub fn new(ranks: Vec<u32>) -> Group {
        Group { ranks }
    }

    /// How many members.
    pub fn size(&self) -> usize {
        self.ranks.len()
    }

    /// The rank in the world of a member.
    pub fn world_rank(&self, rank: usize) -> u32 {
        self.ranks[rank]
    }

    /// The rank here of a rank of the world.
    pub fn rank_of(&self, world_rank: u32) -> Option<usize> {
        // Most groups are the world, or a run of it.
        let guess = world_rank.wrapping_sub(*self.ranks.first()?) as usize;
        if self.ranks.get(guess) == Some(&world_rank) {
            return Some(guess);
        }
        self.ranks.iter().position(|rank| *rank == world_rank)
    }

    /// `MPI_IDENT`, `MPI_SIMILAR` or `MPI_UNEQUAL`.
    pub fn compare(&self, other: &Group) -> c_int {
        if self == other {
            return IDENT;
        }
        let (mut mine, mut theirs) = (self.ranks.clone(), other.ranks.clone());
        mine.sort_unstable();
        theirs.sort_unstable();
        if mine == theirs { SIMILAR } else { UNEQUAL }
    }

    fn contains(&self, world_rank: u32) -> bool {
        self.rank_of(world_rank).is_some()
    }

    fn filtered(&self, keep: impl Fn(u32) -> bool) -> Vec<u32> {
        self.ranks
            .iter()
            .copied()
            .filter(|rank| keep(*rank))
            .collect()
    }
}

impl World {
    /// The group behind a handle.
    pub fn group(&self, handle: MPI_Group) -> Result<Arc<Group>, Error> {
        if handle == self.predefined.group_empty {
            return Ok(Arc::default());
        }
        let key = GroupKey::from_value(handle.0 as usize).ok_or(Error::BadGroup)?;
        self.groups.get(key).cloned().ok_or(Error::BadGroup)
    }

    /// A handle for a group.
    pub fn add_group(&mut self, group: Arc<Group>) -> MPI_Group {
        if group.size() == 0 {
            return self.predefined.group_empty;
        }
        let key = self.groups.insert(group);
        MPI_Group(key.to_value() as *mut _)
    }
}

pub fn size(call: &mut Call<'_>, group: MPI_Group, size: Out<c_int>) -> Result<(), Error> {
    size.set(call.world.group(group)?.size() as c_int)
}

pub fn rank(call: &mut Call<'_>, group: MPI_Group, rank: Out<c_int>) -> Result<(), Error> {
    let found = call.world.group(group)?.rank_of(call.world.rank);
    rank.set(found.map_or(UNDEFINED, |rank| rank as c_int))
}

pub fn free(call: &mut Call<'_>, group: Out<MPI_Group>) -> Result<(), Error> {
    let handle = group.get()?;
    if handle != call.world.predefined.group_empty {
        let key = GroupKey::from_value(handle.0 as usize).ok_or(Error::BadGroup)?;
        call.world.groups.remove(key).ok_or(Error::BadGroup)?;
    }
    group.set(call.world.predefined.group_null)
}

pub fn compare(
    call: &mut Call<'_>,
    one: MPI_Group,
    other: MPI_Group,
    result: Out<c_int>,
) -> Result<(), Error> {
    let other = call.world.group(other)?;
    result.set(call.world.group(one)?.compare(&other))
}

pub fn translate_ranks(
    call: &mut Call<'_>,
    from: MPI_Group,
    n: c_int,
    ranks: In<c_int>,
    to: MPI_Group,
    translated: Out<c_int>,
) -> Result<(), Error> {
    let (from, to) = (call.world.group(from)?, call.world.group(to)?);
    for (index, rank) in ranks.to_vec(length(n)?)?.into_iter().enumerate() {
        let result = if rank == PROC_NULL {
            PROC_NULL
        } else {
            let world_rank = from.world_rank(member(&from, rank)?);
            to.rank_of(world_rank)
                .map_or(UNDEFINED, |rank| rank as c_int)
        };
        translated.set_at(index, result)?;
    }
    Ok(())
}

pub fn incl(
    call: &mut Call<'_>,
    group: MPI_Group,
    n: c_int,
    ranks: In<c_int>,
    new: Out<MPI_Group>,
) -> Result<(), Error> {
    include(call, group, ranks.to_vec(length(n)?)?, new)
}

pub fn excl(
    call: &mut Call<'_>,
    group: MPI_Group,
    n: c_int,
    ranks: In<c_int>,
    new: Out<MPI_Group>,
) -> Result<(), Error> {
    exclude(call, group, ranks.to_vec(length(n)?)?, new)
}

pub fn range_incl(
    call: &mut Call<'_>,
    group: MPI_Group,
    n: c_int,
    ranges: Out<[c_int; 3]>,
    new: Out<MPI_Group>,
) -> Result<(), Error> {
    include(call, group, expand(n, ranges)?, new)
}

pub fn range_excl(
    call: &mut Call<'_>,
    group: MPI_Group,
    n: c_int,
    ranges: Out<[c_int; 3]>,
    new: Out<MPI_Group>,
) -> Result<(), Error> {
    exclude(call, group, expand(n, ranges)?, new)
}

/// What `MPI_Group_union`, `_intersection` and `_difference` make of two groups.
pub fn combined(
    call: &mut Call<'_>,
    one: MPI_Group,
    other: MPI_Group,
    new: Out<MPI_Group>,
    combine: fn(&Group, &Group) -> Vec<u32>,
) -> Result<(), Error> {
    let (one, other) = (call.world.group(one)?, call.world.group(other)?);
    add(call, combine(&one, &other), new)
}

pub fn union(one: &Group, other: &Group) -> Vec<u32> {
    let mut ranks = one.ranks.clone();
    ranks.extend(other.filtered(|rank| !one.contains(rank)));
    ranks
}

pub fn intersection(one: &Group, other: &Group) -> Vec<u32> {
    one.filtered(|rank| other.contains(rank))
}

pub fn difference(one: &Group, other: &Group) -> Vec<u32> {
    one.filtered(|rank| !other.contains(rank))
}

fn include(
    call: &mut Call<'_>,
    group: MPI_Group,
    ranks: Vec<c_int>,
    new: Out<MPI_Group>,
) -> Result<(), Error> {
    let group = call.world.group(group)?;
    let members = chosen(&group, ranks)?;
    let ranks = members.into_iter().map(|rank| group.world_rank(rank));
    add(call, ranks.collect(), new)
}

fn exclude(
    call: &mut Call<'_>,
    group: MPI_Group,
    ranks: Vec<c_int>,
    new: Out<MPI_Group>,
) -> Result<(), Error> {
    let group = call.world.group(group)?;
    let dropped = chosen(&group, ranks)?;
    add(call, without(&group, &dropped), new)
}

fn add(call: &mut Call<'_>, ranks: Vec<u32>, new: Out<MPI_Group>) -> Result<(), Error> {
    new.check()?;
    let handle = call.world.add_group(Arc::new(Group::new(ranks)));
    new.set(handle)
}

fn length(n: c_int) -> Result<usize, Error> {
    usize::try_from(n).map_err(|_| Error::BadCount(n))
}

fn member(group: &Group, rank: c_int) -> Result<usize, Error> {
    let size = group.size();
    let found = usize::try_from(rank).ok().filter(|rank| *rank < size);
    found.ok_or(Error::BadRank { rank, size })
}

/// Members by number, each once.
fn chosen(group: &Group, ranks: Vec<c_int>) -> Result<Vec<usize>, Error> {
    let mut taken = vec![false; group.size()];
    let mut chosen = Vec::with_capacity(ranks.len());
    for rank in ranks {
        let index = member(group, rank)?;
        if std::mem::replace(&mut taken[index], true) {
            return Err(Error::BadArgument("a rank is named twice"));
        }
        chosen.push(index);
    }
    Ok(chosen)
}

fn without(group: &Group, dropped: &[usize]) -> Vec<u32> {
    let mut keep = vec![true; group.size()];
    for rank in dropped {
        keep[*rank] = false;
    }
    let kept = group.ranks.iter().zip(keep).filter(|(_, keep)| *keep);
    kept.map(|(rank, _)| *rank).collect()
}

/// The ranks in (first, last, stride) triplets.
fn expand(n: c_int, ranges: Out<[c_int; 3]>) -> Result<Vec<c_int>, Error> {
    let mut ranks = Vec::new();
    for index in 0..length(n)? {
        let [first, last, stride] = ranges.at(index)?;
        if stride == 0 {
            return Err(Error::BadArgument("the stride of a range is 0"));
        }
        let mut rank = first;
        while (stride > 0 && rank <= last) || (stride < 0 && rank >= last) {
            ranks.push(rank);
            rank = match rank.checked_add(stride) {
                Some(next) => next,
                None => break,
            };
        }
    }
    Ok(ranks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constants::{IDENT, SIMILAR, UNEQUAL};

    #[test]
    fn groups_compare_as_ordered_sets() {
        let group = Group::new(vec![2, 3, 4]);
        assert_eq!(group.compare(&Group::new(vec![2, 3, 4])), IDENT);
        assert_eq!(group.compare(&Group::new(vec![4, 3, 2])), SIMILAR);
        assert_eq!(group.compare(&Group::new(vec![2, 3])), UNEQUAL);
    }

    #[test]
    fn ranks_are_found_in_any_order() {
        let group = Group::new(vec![7, 3, 9]);
        assert_eq!(group.rank_of(7), Some(0));
        assert_eq!(group.rank_of(3), Some(1));
        assert_eq!(group.rank_of(9), Some(2));
        assert_eq!(group.rank_of(8), None);
        assert_eq!(Group::default().rank_of(0), None);
    }

    #[test]
    fn a_choice_names_each_member_once() {
        let group = Group::new(vec![5, 6, 7]);
        assert_eq!(chosen(&group, vec![2, 0]).unwrap(), [2, 0]);
        assert!(chosen(&group, vec![0, 0]).is_err());
        assert!(chosen(&group, vec![3]).is_err());
        assert_eq!(without(&group, &[1]), [5, 7]);
    }
}

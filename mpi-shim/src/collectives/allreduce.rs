//! `MPI_Allreduce`: recursive doubling of what is short, and of what must be combined in the order of
//! ranks; else recursive halving, by which each rank combines a part, and then doubling, by which all
//! get the parts (Rabenseifner).

use mpi_sys::MPI_Comm;

use super::Channel;
use super::reduce::{Operation, Reduction};
use crate::abi::call::Call;
use crate::datatype::View;
use crate::errors::Error;

/// What is as long as this is halved: twice the messages, but each item is sent twice at most, and combined once,
/// instead of in every round. Between four ranks on one node it gains nothing below.
const HALVED_BYTES: usize = 1 << 20;

pub fn allreduce(call: &mut Call<'_>, what: Reduction, comm: MPI_Comm) -> Result<(), Error> {
    let comm = call.comm(comm)?;
    let (operation, given) = what.given(call)?;
    let output = what.result(call)?;
    if given.buffer() != output.buffer() {
        output.copy_from(&given)?;
    }
    let mut channel = Channel::new(&mut call.world.engine, &comm);
    to_all(&mut channel, operation, &output)
}

/// `so_far` holds this rank's part, and the result afterwards: the same bits everywhere.
fn to_all(channel: &mut Channel<'_>, operation: Operation, so_far: &View) -> Result<(), Error> {
    let rank = channel.rank();
    if channel.size() == 1 {
        return Ok(());
    }
    let fold = Fold::new(channel.size());
    let Some(place) = fold.place(rank) else {
        channel.send(rank + 1, so_far)?;
        return channel.receive(rank + 1, so_far);
    };
    let theirs = View::scratch(so_far.count(), so_far.datatype());
    let stands_for_two = rank < 2 * fold.extra;
    if stands_for_two {
        channel.receive(rank - 1, &theirs)?;
        operation.apply(&theirs, so_far)?;
    }
    let long = so_far.bytes() >= HALVED_BYTES && so_far.count() >= fold.power;
    if operation.commutes && long {
        halve(channel, operation, &fold, place, so_far, &theirs)?;
    } else {
        double(channel, operation, &fold, place, so_far, theirs)?;
    }
    if stands_for_two {
        channel.send(rank - 1, so_far)?;
    }
    Ok(())
}

/// A power of two of ranks, each in its place. What is too much for it stands behind its neighbour.
struct Fold {
    power: usize,
    extra: usize,
}

impl Fold {
    fn new(size: usize) -> Fold {
        let power = 1 << size.ilog2();
        let extra = size - power;
        Fold { power, extra }
    }

    /// The place of a rank that has one; the next rank stands for one that has none.
    fn place(&self, rank: usize) -> Option<usize> {
        if rank >= 2 * self.extra {
            return Some(rank - self.extra);
        }
        (rank % 2 == 1).then_some(rank / 2)
    }

    fn rank(&self, place: usize) -> usize {
        if place < self.extra {
            place * 2 + 1
        } else {
            place + self.extra
        }
    }
}

/// Runs of ranks swap what they have so far and combine it, the lower run to the left.
fn double(
    channel: &mut Channel<'_>,
    operation: Operation,
    fold: &Fold,
    place: usize,
    so_far: &View,
    mut theirs: View,
) -> Result<(), Error> {
    let mut mine = so_far.clone();
    let mut bit = 1;
    while bit < fold.power {
        let peer = fold.rank(place ^ bit);
        channel.swap(peer, &mine, peer, &theirs)?;
        if peer < channel.rank() {
            operation.apply(&theirs, &mine)?;
        } else {
            operation.apply(&mine, &theirs)?;
            std::mem::swap(&mut mine, &mut theirs);
        }
        bit *= 2;
    }
    if mine.buffer() != so_far.buffer() {
        so_far.copy_from(&mine)?;
    }
    Ok(())
}

/// Two ranks at a time share what they both still have: each gives one half away and combines the other, until
/// each has a part that is complete. Then they swap these, back the same way.
fn halve(
    channel: &mut Channel<'_>,
    operation: Operation,
    fold: &Fold,
    place: usize,
    so_far: &View,
    theirs: &View,
) -> Result<(), Error> {
    let start = |part: usize| so_far.count() * part / fold.power;
    let parts =
        |view: &View, from: usize, to: usize| view.part(start(from), start(to) - start(from));
    let (mut from, mut to) = (0, fold.power);
    let mut bit = fold.power / 2;
    while bit > 0 {
        let peer = fold.rank(place ^ bit);
        let lower = (from, from + bit);
        let upper = (from + bit, to);
        let (kept, given) = match place & bit {
            0 => (lower, upper),
            _ => (upper, lower),
        };
        let incoming = parts(theirs, kept.0, kept.1);
        channel.swap(peer, &parts(so_far, given.0, given.1), peer, &incoming)?;
        operation.apply(&incoming, &parts(so_far, kept.0, kept.1))?;
        (from, to) = kept;
        bit /= 2;
    }
    bit = 1;
    while bit < fold.power {
        let peer = fold.rank(place ^ bit);
        let theirs = match place & bit {
            0 => (to, to + bit),
            _ => (from - bit, from),
        };
        let missing = parts(so_far, theirs.0, theirs.1);
        channel.swap(peer, &parts(so_far, from, to), peer, &missing)?;
        (from, to) = (from.min(theirs.0), to.max(theirs.1));
        bit *= 2;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Fold;

    #[test]
    fn places_and_ranks_are_each_others_inverse() {
        for size in 1..40 {
            let fold = Fold::new(size);
            let placed: Vec<usize> = (0..size).filter_map(|rank| fold.place(rank)).collect();
            assert_eq!(placed, (0..fold.power).collect::<Vec<_>>());
            for rank in 0..size {
                match fold.place(rank) {
                    Some(place) => assert_eq!(fold.rank(place), rank),
                    // Its neighbour stands for both.
                    None => assert_eq!(fold.place(rank + 1), Some(rank / 2)),
                }
            }
        }
    }
}

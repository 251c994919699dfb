//! The processes of this node: ranks, which are told apart from users by their first frame.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use meander::control::FromPort;
use meander::{NodeName, PortId};
use meander_core::directory::Entry;
use meander_core::limits::DIRECTORY_PAGE;
use meander_core::moves::Trouble;

use super::seats::Seat;
use super::{Agent, departure, keeper, nodes, ranks, remote, shadows};
use crate::cluster::Holder;
use crate::net::frame;
use crate::process::Peer;
use crate::user::{FromUser, HELLO, Reason, Status, ToUser};
use crate::{Error, keyfile};

/// How long the first frame may take.
const FIRST_FRAME: Duration = Duration::from_secs(5);

/// Why a user is refused.
pub(super) struct Refusal {
    pub reason: Reason,
    pub why: Trouble,
}

impl Refusal {
    pub(super) fn not_possible(why: impl Into<Trouble>) -> Refusal {
        Refusal {
            reason: Reason::NotPossible,
            why: why.into(),
        }
    }

    pub(super) fn unreachable(why: impl Into<Trouble>) -> Refusal {
        Refusal {
            reason: Reason::Unreachable,
            why: why.into(),
        }
    }
}

impl From<Refusal> for ToUser {
    fn from(refusal: Refusal) -> ToUser {
        ToUser::Refused {
            reason: refusal.reason,
            why: refusal.why,
        }
    }
}

/// Serves a process that has connected, on a thread of its own.
pub(super) fn take(agent: &Arc<Agent>, stream: UnixStream) {
    let Ok(Peer { uid, .. }) = Peer::of(&stream) else {
        return;
    };
    let Some(seat) = Seat::take(uid) else {
        return tracing::warn!("user {uid} has as many connections as he may; one was refused");
    };
    let agent = agent.clone();
    let spawned = std::thread::Builder::new()
        .name("local".into())
        .spawn(move || {
            if let Err(why) = serve(&agent, stream) {
                tracing::warn!("a local process: {why}");
            }
            drop(seat);
        });
    if let Err(error) = spawned {
        tracing::warn!("no thread for a local process: {error}");
    }
}

fn serve(agent: &Arc<Agent>, mut stream: UnixStream) -> Result<(), Trouble> {
    let talk = |error: std::io::Error| Trouble::new(error.to_string());
    stream.set_read_timeout(Some(FIRST_FRAME)).map_err(talk)?;
    let Some(first) = frame::read_bytes(&mut stream).map_err(talk)? else {
        return Ok(());
    };
    if first != HELLO {
        let first = frame::decode::<FromPort>(&first).map_err(talk)?;
        return ranks::serve(agent, stream, first);
    }
    let Some(question) = frame::read::<FromUser>(&mut stream).map_err(talk)? else {
        return Ok(());
    };
    stream.set_write_timeout(Some(FIRST_FRAME)).map_err(talk)?;
    let answered = match question {
        FromUser::List => list(agent, &mut stream),
        FromUser::Status => {
            let _ = frame::write(&mut stream, &ToUser::Status(status(agent)));
            Ok(())
        }
        FromUser::WatchShadow { port } => {
            shadows::watch_new(agent, port);
            Ok(())
        }
        FromUser::IsConnected { port } => {
            let connected = agent
                .ranks
                .get(port)
                .is_some_and(|rank| rank.is_connected());
            let _ = frame::write(&mut stream, &ToUser::Connected(connected));
            Ok(())
        }
        FromUser::Directory => tell_place(agent, &mut stream),
        FromUser::MoveDirectory { to } => move_directory(agent, &mut stream, &to),
        FromUser::Migrate { job, rank, to } => migrate(agent, &stream, &job, rank, &to),
    };
    if let Err(refusal) = answered {
        // Whoever asked may have gone; there is nobody else to tell.
        let _ = frame::write(&mut stream, &ToUser::from(refusal));
    }
    Ok(())
}

fn list(agent: &Agent, stream: &mut UnixStream) -> Result<(), Refusal> {
    let all = agent.directory.list().map_err(Refusal::unreachable)?;
    let unwell = nodes::unwell(agent).map_err(Refusal::unreachable)?;
    let _ = frame::write(stream, &ToUser::Unwell(unwell.into_iter().collect()));
    for page in all.chunks(DIRECTORY_PAGE) {
        if frame::write(stream, &ToUser::Ranks(page.to_vec())).is_err() {
            break;
        }
    }
    if all.is_empty() {
        let _ = frame::write(stream, &ToUser::Ranks(Vec::new()));
    }
    Ok(())
}

fn tell_place(agent: &Agent, stream: &mut UnixStream) -> Result<(), Refusal> {
    let place = match agent.cluster.holder() {
        Holder::Etcd(members) => format!("in etcd: {}", members.join(", ")),
        Holder::Node(_) => {
            let place = keeper::place(agent).map_err(Refusal::unreachable)?;
            place.to_string()
        }
    };
    let _ = frame::write(stream, &ToUser::DirectoryAt { place });
    Ok(())
}

fn move_directory(agent: &Agent, stream: &mut UnixStream, to: &NodeName) -> Result<(), Refusal> {
    let peer =
        Peer::of(stream).map_err(|error| Refusal::not_possible(Trouble::new(error.to_string())))?;
    if peer.uid != 0 {
        let why = Trouble::new("only root may have the directory moved");
        return Err(Refusal::not_possible(why));
    }
    agent.cluster.address(to).map_err(Refusal::not_possible)?;
    // What was said is a reason; else nobody said anything.
    let refusal = |error| match error {
        Error::Trouble(why) => Refusal::not_possible(why),
        other => Refusal::unreachable(other),
    };
    keeper::place(agent).map_err(refusal)?;
    if to == agent.node() {
        keeper::start_one(agent).map_err(Refusal::unreachable)?;
    } else {
        remote::start_directory(agent, to).map_err(Refusal::unreachable)?;
    }
    let place = keeper::hand_over(agent, to).map_err(refusal)?;
    let place = place.to_string();
    let _ = frame::write(stream, &ToUser::DirectoryAt { place });
    Ok(())
}

fn migrate(
    agent: &Arc<Agent>,
    stream: &UnixStream,
    job: &str,
    rank: u32,
    to: &NodeName,
) -> Result<(), Refusal> {
    let peer =
        Peer::of(stream).map_err(|error| Refusal::not_possible(Trouble::new(error.to_string())))?;
    let uid = peer.uid;
    agent.cluster.address(to).map_err(Refusal::not_possible)?;
    let all = agent.directory.list().map_err(Refusal::unreachable)?;
    let (port, entry) = find(all, job, rank).map_err(Refusal::not_possible)?;
    departure::check(&entry, uid, to).map_err(Refusal::not_possible)?;
    let user = stream
        .try_clone()
        .map_err(|error| Refusal::not_possible(Trouble::new(error.to_string())))?;
    if entry.location.node == *agent.node() {
        departure::start(agent, port, &entry.identity, uid, to, user)
    } else {
        remote::start_there(agent, port, &entry, uid, to, user)
    }
}

/// The rank that a user means: a beginning of the job's name that fits one job only will do.
fn find(all: Vec<(PortId, Entry)>, job: &str, rank: u32) -> Result<(PortId, Entry), Trouble> {
    let matching: Vec<_> = all
        .into_iter()
        .filter(|(_, e)| e.identity.job.0.starts_with(job))
        .collect();
    let mut jobs: Vec<_> = matching
        .iter()
        .map(|(_, e)| e.identity.job.0.as_str())
        .collect();
    jobs.dedup();
    jobs.sort_unstable();
    jobs.dedup();
    if jobs.is_empty() {
        return Err(Trouble::new(format!("there is no job `{job}`"))
            .mend("`meander ps` lists the jobs; one appears once its ranks have found an agent"));
    }
    if jobs.len() > 1 && !jobs.contains(&job) {
        let why = format!("`{job}` fits several jobs: {}", jobs.join(", "));
        return Err(Trouble::new(why).mend("give more of its name"));
    }
    let exact = jobs.contains(&job);
    let name = if exact {
        job.to_owned()
    } else {
        jobs[0].to_owned()
    };
    let found = matching
        .into_iter()
        .find(|(_, entry)| entry.identity.job.0 == name && entry.identity.rank == rank);
    found.ok_or_else(|| {
        Trouble::new(format!("job {name} has no rank {rank} (any more)"))
            .mend("`meander ps` lists the ranks")
    })
}

fn status(agent: &Agent) -> Status {
    let nodes: Vec<NodeName> = agent.cluster.nodes().collect();
    let checks: Vec<_> = std::thread::scope(|scope| {
        let checks: Vec<_> = nodes
            .iter()
            .map(|node| scope.spawn(|| remote::ping(agent, node).err().map(Trouble::from)))
            .collect();
        checks
            .into_iter()
            .map(|check| check.join().unwrap_or_default())
            .collect()
    });
    Status {
        node: agent.node().clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        fingerprint: keyfile::fingerprint(&agent.key),
        ranks: agent.ranks.count(),
        nodes: nodes.into_iter().zip(checks).collect(),
        directory: directory_trouble(agent),
    }
}

fn directory_trouble(agent: &Agent) -> Option<Trouble> {
    let checked: Result<_, Error> = agent.directory.lookup(PortId(0));
    checked.err().map(Trouble::from)
}

#[cfg(test)]
mod tests {
    use meander::{Epoch, JobId, Location};
    use meander_core::Identity;

    use super::*;

    fn ranks(of: &[(&str, u32)]) -> Vec<(PortId, Entry)> {
        let entry = |job: &str, rank| Entry {
            identity: Identity {
                job: JobId(job.into()),
                rank,
                size: 2,
                program: "p".into(),
            },
            epoch: Epoch(0),
            location: Location::default(),
            uid: 0,
            pid: 1,
            host_pid: 1,
            shadow: None,
        };
        of.iter()
            .enumerate()
            .map(|(at, (job, rank))| (PortId(at as u128), entry(job, *rank)))
            .collect()
    }

    #[test]
    fn a_job_is_found_by_a_beginning_that_fits_it_only() {
        let all = ranks(&[
            ("ab12", 0),
            ("cd34", 0),
            ("ab12", 1),
            ("abff", 0),
            ("ab", 0),
        ]);
        let found = |job, rank| find(all.clone(), job, rank).map(|(port, _)| port.0);
        assert_eq!(found("c", 0), Ok(1));
        assert_eq!(found("ab12", 1), Ok(2));
        assert_eq!(found("ab", 0), Ok(4), "a whole name is no beginning");
        let why = found("a", 0).unwrap_err().what;
        assert_eq!(why, "`a` fits several jobs: ab, ab12, abff");
        assert!(found("x", 0).unwrap_err().what.contains("no job `x`"));
        assert!(found("cd34", 7).unwrap_err().what.contains("no rank 7"));
    }
}

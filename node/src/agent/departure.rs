//! Starting the move of a rank of this node: its owner is a process of its own, which gets the
//! rank's connection and the user's, and needs this agent no more.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meander::{NodeName, PortId};
use meander_core::directory::Entry;
use meander_core::moves::Trouble;
use meander_core::{Identity, MoveId};

use super::Agent;
use super::local::Refusal;
use super::ranks::Rank;
use crate::moves::{Journal, Order};
use crate::{Error, keyfile, logs};

/// How long a rank may take to connect that was moved a moment ago.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked for.
const CONNECT_PERIOD: Duration = Duration::from_millis(20);
/// First and longest pause before a move whose owner was killed is taken over.
const RECOVERY_FIRST: Duration = Duration::from_millis(50);
/// See [`RECOVERY_FIRST`].
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// Exit code of a Rust program that panicked.
const PANICKED: i32 = 101;

/// Whether this user may move this rank there.
pub(super) fn check(entry: &Entry, uid: u32, to: &NodeName) -> Result<(), Trouble> {
    let (job, rank) = (&entry.identity.job, entry.identity.rank);
    if uid != 0 && uid != entry.uid {
        let why = format!("rank {job}/{rank} belongs to user {}", entry.uid);
        return Err(Trouble::new(why).mend("only its owner or root may move it"));
    }
    if entry.location.node == *to {
        return Err(Trouble::new(format!(
            "rank {job}/{rank} is on {to} already"
        )));
    }
    Ok(())
}

/// Starts the owner of a move. `user` hears from it how the move goes.
pub(super) fn start(
    agent: &Arc<Agent>,
    port: PortId,
    identity: &Identity,
    uid: u32,
    to: &NodeName,
    user: UnixStream,
) -> Result<(), Refusal> {
    let name = format!("{}/{}", identity.job, identity.rank);
    let rank = wait_for(agent, port, &name).map_err(Refusal::not_possible)?;
    if let Err(why) = check(&rank.entry(), uid, to) {
        agent.ranks.end_move(port);
        return Err(Refusal::not_possible(why));
    }
    match launch(agent, port, &rank, to, user) {
        Ok((order, mover)) => {
            let agent = agent.clone();
            std::thread::spawn(move || wait(&agent, port, &rank, &order, mover));
            Ok(())
        }
        Err(why) => {
            agent.ranks.end_move(port);
            Err(Refusal::not_possible(why))
        }
    }
}

/// The rank, marked as being moved. One that was moved a moment ago may not have connected yet, or
/// its last mover may still be tidying up: that is waited for.
fn wait_for(agent: &Agent, port: PortId, name: &str) -> Result<Arc<Rank>, Trouble> {
    let started = Instant::now();
    loop {
        let rank = agent.ranks.get(port).filter(|rank| rank.is_connected());
        if let Some(rank) = rank
            && !Journal::is_open(port)
            && agent.ranks.begin_move(port)
        {
            return Ok(rank);
        }
        if started.elapsed() > CONNECT_LIMIT {
            break;
        }
        std::thread::sleep(CONNECT_PERIOD);
    }
    if agent.ranks.is_moving(port) || Journal::is_open(port) {
        return Err(Trouble::new(format!("rank {name} is being moved already")));
    }
    let why = format!(
        "rank {name} has no connection to the agent of {}",
        agent.node()
    );
    Err(Trouble::new(why).mend("it connects within a second, unless it is stopped; try again"))
}

fn launch(
    agent: &Agent,
    port: PortId,
    rank: &Rank,
    to: &NodeName,
    user: UnixStream,
) -> Result<(Order, Child), Trouble> {
    let entry = rank.entry();
    // The shadow is known to the directory only: the rank itself does not know that it has one.
    let listed = agent.directory.lookup(port)?;
    let shadow = listed.and_then(|listed| listed.shadow);
    let order = Order {
        cluster: agent.config.cluster.clone(),
        directory: agent.config.directory.clone(),
        key: agent.config.key.clone(),
        node: agent.node().clone(),
        to: to.clone(),
        port,
        move_id: MoveId(keyfile::random_id()),
        reclaim_id: MoveId(keyfile::random_id()),
        entry: Entry {
            shadow,
            ..entry.clone()
        },
    };
    let text = serde_json::to_string(&order).map_err(|error| Trouble::new(error.to_string()))?;
    let connection = rank.hand_over().ok_or_else(|| {
        let name = format!("{}/{}", entry.identity.job, entry.identity.rank);
        Trouble::new(format!(
            "rank {name} has just lost its connection to the agent"
        ))
        .mend("it connects again within a second; try again")
    })?;
    let log = format!("move-{}-{}", entry.identity.job, entry.identity.rank);
    Command::new("/proc/self/exe")
        .args(["move-source", "--order", &text])
        .stdin(Stdio::from(OwnedFd::from(connection)))
        .stdout(Stdio::from(OwnedFd::from(user)))
        .stderr(logs::open(&log))
        .spawn()
        .map(|mover| (order, mover))
        .map_err(|error| Error::io("starting the owner of the move")(error).into())
}

/// Waits for the owner of a move to end. Its exit code says whether the rank has moved; one that
/// was killed is followed by another that brings the move to its end.
fn wait(agent: &Arc<Agent>, port: PortId, rank: &Arc<Rank>, order: &Order, mut mover: Child) {
    let mut moved = ended(&mut mover);
    let journal = Journal::path_of(order);
    let mut pause = RECOVERY_FIRST;
    while moved.is_none() && journal.exists() {
        tracing::error!(
            "the owner of move {} was killed; another takes over",
            order.move_id
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(RECOVERY_MAX);
        moved = launch_recovery(&journal).and_then(|mut mover| ended(&mut mover));
    }
    if moved == Some(true) {
        agent.ranks.moved_away(port, rank);
    }
    agent.ranks.end_move(port);
}

/// Brings moves to their end that were left without an owner before this agent was started.
pub(super) fn recover_orphans() {
    for journal in Journal::orphans() {
        tracing::warn!(
            "{} has no owner any more; another takes over",
            journal.display()
        );
        std::thread::spawn(move || launch_recovery(&journal).map(|mut mover| mover.wait()));
    }
}

/// Whether the rank has moved; `None` where the process did not live to say so.
fn ended(mover: &mut Child) -> Option<bool> {
    let code = mover.wait().ok()?.code()?;
    (code != PANICKED).then_some(code == 0)
}

fn launch_recovery(journal: &Path) -> Option<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("move-source")
        .arg("--recover")
        .arg(journal)
        .stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(logs::open("recovery"));
    command
        .spawn()
        .inspect_err(|error| tracing::error!("starting a recovery: {error}"))
        .ok()
}

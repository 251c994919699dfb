//! Handing the directory over: two processes, one of which holds it at any time, whichever is killed.
//!
//! ```text
//! holder   Giving -- Take (all records) ------------------ Gone -- Begin
//! other                       Taking, on the disk                        Holder
//! ```
//!
//! The step to `Gone` decides `[R51]`. A holder that is killed before it finds itself `Giving` and goes on
//! holding, in the term that failed; the other asks it, and gives up. After it the other begins, by
//! word of the holder or by asking it. From `Giving` on the holder answers nobody until it has
//! decided.

use std::sync::Arc;
use std::time::Duration;

use meander::{NodeName, PortId};
use meander_core::directory::Record;
use meander_core::limits::DIRECTORY_PAGE;
use meander_core::moves::Trouble;

use super::state::{Shared, State, stop};
use super::wire::{Answer, Question, Role, connect, exchange, role_at, unexpected};
use crate::Error;
use crate::moves::pause;
use crate::net::secure::Secure;

/// How long the other side may take over one part, the last of which it writes to its disk.
const PART_TIMEOUT: Duration = Duration::from_secs(20);
/// How often one that has taken all asks whether its term has begun.
const OUTCOME_PERIOD: Duration = Duration::from_millis(300);

/// The records that have come over one connection.
#[derive(Default)]
pub(super) struct Parts {
    term: u64,
    records: Vec<(PortId, Record)>,
}

/// The holder's side. Everybody else waits meanwhile.
pub(super) fn give(shared: &Shared, to: &NodeName) -> Answer {
    let mut state = shared.lock();
    let Role::Holder { term } = state.role else {
        return Answer::NotHolder(state.role.clone());
    };
    let failed = |why: Trouble| Answer::Failed(why);
    if *to == shared.node {
        return failed(Trouble::new(format!("{to} holds the directory already")));
    }
    let records = match state.store.records() {
        Ok(records) => records,
        Err(error) => return failed(error.into()),
    };
    let mut other = match ready(shared, to, term) {
        Ok(other) => other,
        Err(error) => return failed(error.into()),
    };
    let term = term + 1;
    change_role(
        shared,
        &mut state,
        Role::Giving {
            term,
            to: to.clone(),
        },
    );
    pause::at("directory-giving");
    if let Err(error) = send(shared, &mut other, term, &records) {
        change_role(shared, &mut state, Role::Holder { term });
        let why = format!("the directory stays on {}: {error}", shared.node);
        return failed(Trouble::new(why).mend("try again"));
    }
    pause::at("directory-taken");
    change_role(
        shared,
        &mut state,
        Role::Gone {
            term,
            to: to.clone(),
        },
    );
    pause::at("directory-gone");
    // If it does not hear this it asks.
    let begun = exchange(&mut other, &Question::Begin { term }, PART_TIMEOUT);
    tracing::info!("the directory is handed over to {to}: {begun:?}");
    Answer::Role(state.role.clone())
}

/// The other's side: one part.
pub(super) fn take(
    shared: &Arc<Shared>,
    parts: &mut Parts,
    term: u64,
    from: &NodeName,
    records: Vec<(PortId, Record)>,
    last: bool,
) -> Answer {
    if parts.term != term {
        *parts = Parts {
            term,
            records: Vec::new(),
        };
    }
    parts.records.extend(records);
    if !last {
        return Answer::Done;
    }
    let records = std::mem::take(&mut parts.records);
    let mut state = shared.lock();
    let before = match &state.role {
        Role::Nothing => None,
        Role::Gone { term: past, to } if *past < term => Some((*past, to.clone())),
        Role::Taking {
            term: past, before, ..
        } if *past < term => before.clone(),
        other => return Answer::NotHolder(other.clone()),
    };
    let role = Role::Taking {
        term,
        from: from.clone(),
        before,
    };
    if let Err(error) = state.store.replace(&role, &records) {
        return Answer::Failed(error.into());
    }
    take_up(shared, &mut state, role);
    find_out_later(shared);
    Answer::Done
}

/// The other's side: the term has begun.
pub(super) fn begin(shared: &Shared, term: u64) -> Answer {
    let mut state = shared.lock();
    match state.role {
        Role::Taking { term: mine, .. } if mine == term => {
            change_role(shared, &mut state, Role::Holder { term });
            Answer::Done
        }
        Role::Holder { term: mine } if mine == term => Answer::Done,
        _ => Answer::NotHolder(state.role.clone()),
    }
}

/// While this node is [`Role::Taking`]: asks the other whether it has given.
pub(super) fn find_out_later(shared: &Arc<Shared>) {
    let shared = shared.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(OUTCOME_PERIOD);
            let Role::Taking { term, from, before } = shared.lock().role.clone() else {
                return;
            };
            // It does not answer while it has not decided. One that knows nothing of the term has lost
            // its file, and can't say.
            let next = match role_at(&shared.cluster, &shared.key, &from) {
                Ok(Role::Gone { term: given, to }) if given == term && to == shared.node => {
                    Role::Holder { term }
                }
                Ok(Role::Giving { .. }) | Err(_) => continue,
                Ok(role) if role.term() < term => continue,
                Ok(_) => before.map_or(Role::Nothing, |(term, to)| Role::Gone { term, to }),
            };
            let mut state = shared.lock();
            if matches!(state.role, Role::Taking { term: now, .. } if now == term) {
                change_role(&shared, &mut state, next);
            }
        }
    });
}

/// The other's process, found in a state in which it can take.
fn ready(shared: &Shared, to: &NodeName, term: u64) -> Result<Secure, Error> {
    let (secure, role) = connect(&shared.cluster, &shared.key, to)?;
    match role {
        Role::Nothing | Role::Gone { .. } | Role::Taking { .. } if role.term() <= term => {
            Ok(secure)
        }
        other => Err(Error::Protocol {
            peer: secure.peer().into(),
            why: format!("can't take the directory over: it is {other:?}"),
        }),
    }
}

fn send(
    shared: &Shared,
    other: &mut Secure,
    term: u64,
    records: &[(PortId, Record)],
) -> Result<(), Error> {
    let mut pages: Vec<&[(PortId, Record)]> = records.chunks(DIRECTORY_PAGE).collect();
    if pages.is_empty() {
        pages.push(&[]);
    }
    let count = pages.len();
    for (at, page) in pages.into_iter().enumerate() {
        let part = Question::Take {
            term,
            from: shared.node.clone(),
            records: page.to_vec(),
            last: at + 1 == count,
        };
        match exchange(other, &part, PART_TIMEOUT)? {
            Answer::Done => {}
            answer => return Err(unexpected(other, &answer)),
        }
    }
    Ok(())
}

/// Makes a role durable and takes it up. What can't be made durable ends the process.
fn change_role(shared: &Shared, state: &mut State, role: Role) {
    state.store.set_role(&role).unwrap_or_else(stop);
    take_up(shared, state, role);
}

fn take_up(shared: &Shared, state: &mut State, role: Role) {
    shared.become_role(state, role).unwrap_or_else(stop);
}

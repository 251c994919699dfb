//! Questions to the directory, each over the one record it is about.

use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, EventType, GetOptions, KeyValue, PutOptions, Txn, TxnOp, WatchOptions,
};
use meander::PortId;
use meander_core::directory::{Change, Directory, Entry, Record, Refusal, Reply, Request};
use meander_core::limits::{DIRECTORY_PAGE, DIRECTORY_PORTS};
use meander_core::moves::Asked;
use tokio::time::Instant;

use super::lease;
use super::worker::Members;
use crate::Error;
use crate::directory::backend::ANSWER_TIMEOUT;

/// How often the ports are counted.
const COUNT_PERIOD: Duration = Duration::from_secs(10);

/// Asks until there is an answer, or [`ANSWER_TIMEOUT`] is over.
pub(super) async fn ask(members: &Members, request: &Request) -> Asked {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let Some(port) = subject(request) else {
        return match list(members, request, deadline).await {
            Ok(reply) => Asked::Answered(reply),
            Err(why) => Asked::NotSent(why),
        };
    };
    // Whether a transaction of this question may have happened without being answered.
    let mut unsure = false;
    loop {
        let row = match read(members, port, deadline).await {
            Ok(read) => read,
            Err(why) if unsure => return Asked::Unknown(why),
            Err(why) => return Asked::NotSent(why),
        };
        let new = matches!(request, Request::Register { .. }) && row.record.is_none();
        if new && is_full(members, deadline).await {
            return Asked::Answered(Reply::Refused(Refusal::Full));
        }
        let (reply, change) = decide(port, request, &row);
        let Some(change) = change else {
            return Asked::Answered(reply);
        };
        // What is remembered of a port that has ended is forgotten some day.
        let lease = match request {
            Request::Remove { .. } => lease::of_the_ended(members, deadline).await,
            _ => Ok(row.lease),
        };
        let applied = match lease {
            Ok(lease) => apply(members, port, &row, change, lease, deadline).await,
            Err(why) if unsure => return Asked::Unknown(why),
            Err(why) => return Asked::NotSent(why),
        };
        match applied {
            Ok(true) => return Asked::Answered(reply),
            Ok(false) => {}
            Err(why) => {
                unsure = true;
                tracing::debug!("a transaction is in doubt: {why}");
                if Instant::now() >= deadline {
                    return Asked::Unknown(why);
                }
            }
        }
    }
}

/// See [`crate::directory::Backend::wait_change`].
pub(super) async fn wait_change(
    members: &Members,
    port: PortId,
    seen: Option<&Entry>,
    wait: Duration,
) -> Result<Option<Entry>, Error> {
    let until = Instant::now() + wait;
    let lookup = Request::Lookup { port };
    let gone = |why| Error::NoDirectory { why };
    loop {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let row = read(members, port, deadline).await.map_err(gone)?;
        let entry = match decide(port, &lookup, &row).0 {
            Reply::Found(entry) => entry,
            _ => None,
        };
        if entry.as_ref() != seen || Instant::now() >= until {
            return Ok(entry);
        }
        let told = tokio::time::timeout_at(until, next_event(members, port, row.read_at + 1)).await;
        if let Ok(Err(why)) = told {
            // The member that watched is gone, or the history was compacted: look again.
            tracing::debug!("watching port {port}: {why}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Returns once anything has happened to the row at `revision` or later.
async fn next_event(members: &Members, port: PortId, revision: i64) -> Result<(), String> {
    let key = members.rows.port(port);
    let options = || WatchOptions::new().with_start_revision(revision);
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let (_watcher, mut stream) = members
        .call(deadline, |mut client| {
            let key = key.clone();
            async move { client.watch(key, Some(options())).await }
        })
        .await?;
    loop {
        match stream.message().await {
            Ok(Some(news)) if news.canceled() => return Err(news.cancel_reason().into()),
            Ok(Some(news)) => {
                let happened = |kind| matches!(kind, EventType::Put | EventType::Delete);
                if news
                    .events()
                    .iter()
                    .any(|event| happened(event.event_type()))
                {
                    return Ok(());
                }
            }
            Ok(None) => return Err("the member ended the watch".into()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// A row, as it was read.
struct Row {
    record: Option<Record>,
    /// When it last changed; 0 where it is not there.
    revision: i64,
    /// When it was read.
    read_at: i64,
    /// The lease that it goes with; 0 where there is none.
    lease: i64,
}

async fn read(members: &Members, port: PortId, deadline: Instant) -> Result<Row, String> {
    let key = members.rows.port(port);
    let response = members
        .call(deadline, |mut client| {
            let key = key.clone();
            async move { client.get(key, None).await }
        })
        .await?;
    let found = response.kvs().first();
    let record = found.map(|row| members.rows.open(port, row.value()));
    Ok(Row {
        record: record.transpose()?,
        revision: found.map_or(0, KeyValue::mod_revision),
        read_at: response.header().map_or(0, |header| header.revision()),
        lease: found.map_or(0, KeyValue::lease),
    })
}

/// Whether there are as many ports as a directory takes. Counting takes etcd long, so that it is
/// done now and then only, and the bound may be passed by what comes meanwhile.
async fn is_full(members: &Members, deadline: Instant) -> bool {
    if let Some(full) = members.was_full(COUNT_PERIOD) {
        return full;
    }
    let count = members
        .call(deadline, |mut client| {
            let ports = members.rows.ports();
            let options = GetOptions::new().with_prefix().with_count_only();
            async move { client.get(ports, Some(options)).await }
        })
        .await;
    let count = count.map_or(0, |response| response.count());
    let full = usize::try_from(count).is_ok_and(|count| count >= DIRECTORY_PORTS);
    members.note_full(full);
    full
}

/// What core's directory says, were this record all it has.
fn decide(port: PortId, request: &Request, row: &Row) -> (Reply, Option<Change>) {
    let records = row.record.clone().map(|record| (port, record));
    Directory::from_records(records).handle(request.clone())
}

/// Makes a change if the row is still at that revision. Returns whether it was.
async fn apply(
    members: &Members,
    port: PortId,
    row: &Row,
    change: Change,
    lease: i64,
    deadline: Instant,
) -> Result<bool, String> {
    let key = members.rows.port(port);
    // A directory of one record has no other to forget.
    let value = members.rows.seal(port, &change.record)?;
    let options = PutOptions::new().with_lease(lease);
    let operation = TxnOp::put(key.clone(), value, Some(options));
    let compare = Compare::mod_revision(key, CompareOp::Equal, row.revision);
    let transaction = Txn::new().when([compare]).and_then([operation]);
    // At one member only: whether it happened is found out by reading.
    members
        .call_once(deadline, |mut client| async move {
            client.txn(transaction).await
        })
        .await
        .map(|response| response.succeeded())
}

/// Puts these records there, whatever is there.
pub(super) async fn put_all(members: &Members, page: &[(PortId, Record)]) -> Result<(), String> {
    let operation = |(port, record): &(PortId, Record)| {
        let value = members.rows.seal(*port, record)?;
        Ok(TxnOp::put(members.rows.port(*port), value, None))
    };
    let operations = page
        .iter()
        .map(operation)
        .collect::<Result<Vec<_>, String>>()?;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let put = members.call(deadline, |mut client| {
        let transaction = Txn::new().and_then(operations.clone());
        async move { client.txn(transaction).await }
    });
    put.await.map(drop)
}

async fn list(members: &Members, request: &Request, deadline: Instant) -> Result<Reply, String> {
    let Request::List { after } = request else {
        return Err("it is about no port".into());
    };
    let mut first = after.map_or(members.rows.ports(), |after| members.rows.after(after));
    loop {
        let response = members
            .call(deadline, |mut client| {
                let page = GetOptions::new()
                    .with_range(members.rows.after_all_ports())
                    .with_limit(DIRECTORY_PAGE as i64);
                let first = first.clone();
                async move { client.get(first, Some(page)).await }
            })
            .await?;
        let rows = response.kvs();
        let records = rows.iter().filter_map(|row| open(members, row));
        // Core knows which of them have ended. A page of nothing else is no page.
        let page = Directory::from_records(records).handle(Request::List { after: None });
        let Reply::Listed { ports, .. } = page.0 else {
            return Err("the page can't be read".into());
        };
        let more = response.more();
        match rows.last() {
            Some(last) if ports.is_empty() && more => {
                first = [last.key(), &[0]].concat();
            }
            _ => return Ok(Reply::Listed { ports, more }),
        }
    }
}

fn open(members: &Members, row: &KeyValue) -> Option<(PortId, Record)> {
    let port = members.rows.port_of(row.key())?;
    let record = members.rows.open(port, row.value());
    let record = record.inspect_err(|why| tracing::warn!("{why}; it is not listed"));
    Some((port, record.ok()?))
}

/// The port a question is about.
fn subject(request: &Request) -> Option<PortId> {
    match request {
        Request::Register { port, .. }
        | Request::Locate { port, .. }
        | Request::Commit { port, .. }
        | Request::Settle { port, .. }
        | Request::Lookup { port }
        | Request::Remove { port, .. } => Some(*port),
        Request::List { .. } => None,
    }
}

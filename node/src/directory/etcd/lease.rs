//! Leases of nodes, as etcd's own leases.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use etcd_client::{Client, GetOptions, LeaseGrantOptions, PutOptions};
use meander::NodeName;
use tokio::time::Instant;

use super::worker::Members;
use crate::Error;
use crate::directory::backend::ANSWER_TIMEOUT;

const HOUR_S: u64 = 3600;

/// Renews the node's lease, or takes it out where it has run out.
pub(super) async fn hold(members: &Members, node: &NodeName, lease: Duration) -> Result<(), Error> {
    let (id, key) = (members.rows.lease(node), members.rows.node(node));
    // etcd counts whole seconds.
    let seconds = lease.as_secs_f64().ceil().max(1.0) as i64;
    members
        .call(Instant::now() + ANSWER_TIMEOUT, |client| {
            renew(client, id, key.clone(), seconds)
        })
        .await
        .map_err(|why| Error::NoDirectory { why })
}

async fn renew(
    mut client: Client,
    id: i64,
    key: String,
    seconds: i64,
) -> Result<(), etcd_client::Error> {
    // This waits for the first answer, and makes an error of one that says that the lease is out.
    let live = match client.lease_keep_alive(id).await {
        Ok(_) => true,
        Err(etcd_client::Error::LeaseKeepAliveError(_)) => false,
        Err(error) => return Err(error),
    };
    if !live {
        // Another process of this node may be doing the same.
        grant(client.clone(), id, seconds).await?;
    }
    // A row of an earlier lease goes with it, so it is written once a renewal, if it is missing.
    let there = client
        .get(key.clone(), Some(GetOptions::new().with_keys_only()))
        .await?;
    if there.kvs().first().is_none_or(|row| row.lease() != id) {
        let options = PutOptions::new().with_lease(id);
        client.put(key, "", Some(options)).await?;
    }
    Ok(())
}

/// A lease for rows of ports that end about now. They are remembered for a day.
pub(super) async fn of_the_ended(members: &Members, deadline: Instant) -> Result<i64, String> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let hour = since_1970.map_or(0, |time| time.as_secs() / HOUR_S);
    let id = members.rows.lease_of_the_ended(hour);
    members
        .call(deadline, |client| grant(client, id, 25 * HOUR_S as i64))
        .await?;
    Ok(id)
}

/// Takes a lease out, if it is not out already.
async fn grant(mut client: Client, id: i64, seconds: i64) -> Result<(), etcd_client::Error> {
    let options = LeaseGrantOptions::new().with_id(id);
    match client.lease_grant(seconds, Some(options)).await {
        Err(error) if !error.to_string().contains("already exists") => Err(error),
        _ => Ok(()),
    }
}

/// The nodes whose lease has not run out.
pub(super) async fn alive(members: &Members) -> Result<BTreeSet<NodeName>, Error> {
    let nodes = members.rows.nodes();
    let response = members
        .call(Instant::now() + ANSWER_TIMEOUT, |mut client| {
            let nodes = nodes.clone();
            let options = GetOptions::new().with_prefix().with_keys_only();
            async move { client.get(nodes, Some(options)).await }
        })
        .await
        .map_err(|why| Error::NoDirectory { why })?;
    let names = response.kvs().iter();
    Ok(names
        .filter_map(|row| members.rows.node_of(row.key()))
        .collect())
}

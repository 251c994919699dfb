//! The directory in etcd.
//!
//! A question is answered in three steps: read the port's record, have core's own directory decide
//! over that one record, and make the change in a transaction that holds only if the record is
//! still at the revision that was read; otherwise begin again. So an epoch is left by
//! compare-and-set as everywhere `[R18]`, a question asked again is answered as before `[R24]`, and
//! etcd's majority is the disk `[R23]`.
//!
//! A transaction whose answer is lost may have happened, and may even happen later. It is found out
//! by beginning again: whatever is concluded from a later read, the late one can only succeed if
//! the record is still as it was, and then the same transaction is made once more here.

mod asking;
mod lease;
mod rows;
mod worker;

use std::collections::BTreeSet;
use std::time::Duration;

use meander::{Key, NodeName, PortId};
use meander_core::directory::{Entry, Record, Request};
use meander_core::moves::Asked;

use self::rows::Rows;
use self::worker::Worker;
use super::backend::{ANSWER_TIMEOUT, Backend, WAIT_MAX};
use crate::Error;

/// Records in one transaction of [`Etcd::fill`]; etcd takes 128.
const FILL_PAGE: usize = 100;

/// A directory in etcd, under a name made of the cluster key.
pub struct Etcd {
    worker: Worker,
}

impl Etcd {
    /// `endpoints` are members as `host:port`. Does not connect yet.
    pub fn new(endpoints: &[String], key: &Key) -> Etcd {
        Etcd {
            worker: Worker::new(endpoints.to_vec(), Rows::new(key)),
        }
    }
}

impl Etcd {
    /// Puts these records there, whatever is there: for filling a directory that nobody uses yet.
    pub fn fill(&self, records: &[(PortId, Record)]) -> Result<(), Error> {
        for page in records.chunks(FILL_PAGE) {
            let page = page.to_vec();
            let put = self.worker.run(ANSWER_TIMEOUT, move |members| async move {
                asking::put_all(&members, &page).await
            })?;
            put.map_err(|why| Error::NoDirectory { why })?;
        }
        Ok(())
    }
}

impl Backend for Etcd {
    fn ask(&self, request: &Request) -> Asked {
        let request = request.clone();
        self.worker
            .run(ANSWER_TIMEOUT, |members| async move {
                asking::ask(&members, &request).await
            })
            // The thread had it, and may have sent it.
            .unwrap_or_else(|error| Asked::Unknown(error.to_string()))
    }

    fn wait_change(
        &self,
        port: PortId,
        seen: Option<&Entry>,
        wait: Duration,
    ) -> Result<Option<Entry>, Error> {
        let (seen, wait) = (seen.cloned(), wait.min(WAIT_MAX));
        self.worker
            .run(wait + ANSWER_TIMEOUT, move |members| async move {
                asking::wait_change(&members, port, seen.as_ref(), wait).await
            })?
    }

    fn hold_lease(&self, node: &NodeName, lease: Duration) -> Result<(), Error> {
        let node = node.clone();
        self.worker.run(ANSWER_TIMEOUT, move |members| async move {
            lease::hold(&members, &node, lease).await
        })?
    }

    fn alive(&self) -> Result<BTreeSet<NodeName>, Error> {
        self.worker.run(ANSWER_TIMEOUT, |members| async move {
            lease::alive(&members).await
        })?
    }
}

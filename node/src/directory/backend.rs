//! What a directory must be able to do, whatever it is made of.

use std::collections::BTreeSet;
use std::time::Duration;

use meander::{NodeName, PortId};
use meander_core::directory::{Entry, Request};
use meander_core::moves::Asked;

use crate::Error;

/// Longest wait in one [`Backend::wait_change`].
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long an answer may take.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A directory. Calls block; several threads may call at once.
pub trait Backend: Send + Sync {
    /// Asks once, and says how sure it is that the question did not arrive. What is answered is
    /// durable `[R23]`, an epoch is left only by compare-and-set `[R18]`.
    fn ask(&self, request: &Request) -> Asked;

    /// Returns as soon as what is known of the port differs from `seen`, and after `wait` (at most
    /// a minute) whatever it is. A change is not missed, but of two changes the first may be.
    fn wait_change(
        &self,
        port: PortId,
        seen: Option<&Entry>,
        wait: Duration,
    ) -> Result<Option<Entry>, Error>;

    /// This node is alive, and counts as alive for so long from now, whoever said so.
    fn hold_lease(&self, node: &NodeName, lease: Duration) -> Result<(), Error>;

    /// The nodes whose lease has not run out.
    fn alive(&self) -> Result<BTreeSet<NodeName>, Error>;
}

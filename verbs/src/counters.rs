//! What a transport has done, counted: what a message costs does not depend on how fast the machine is.

use crate::objects::Posted;

/// What a transport has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Work requests posted to send queues: SENDs and RDMA WRITEs.
    pub send_requests: u64,
    /// Of these, RDMA WRITEs.
    pub writes: u64,
    /// Of these, inline SENDs.
    pub inline: u64,
    /// Of these, those that asked for a completion.
    pub signalled: u64,
    /// Calls that posted to a send queue: one doorbell each.
    pub doorbells: u64,
    /// Calls that posted to the receive queue.
    pub receive_doorbells: u64,
    /// Completions of sends and writes that were taken.
    pub send_completions: u64,
    /// Completions of receives that were taken.
    pub receive_completions: u64,
    /// SENDs that carried nothing but credits.
    pub credit_packets: u64,
    /// Bytes of payload copied into slots.
    pub copied_bytes: u64,
    /// Bytes of payload written from and into their places without a copy.
    pub written_bytes: u64,
    /// Times that the completion queue was armed, to sleep.
    pub arms: u64,
    /// Payloads that were sent because their memory could not be registered.
    pub unregistered: u64,
    /// Queue pairs that had not given back what they had begun when they were destroyed.
    pub undrained: u64,
}

impl Counters {
    /// Counts one call that posted to a send queue.
    pub(crate) fn count(&mut self, posted: &Posted) {
        self.doorbells += 1;
        self.send_requests += posted.requests;
        self.writes += posted.writes;
        self.inline += posted.inline;
        self.signalled += posted.signalled;
    }
}

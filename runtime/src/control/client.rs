//! A process's side of the control protocol: a thread that serves its node's agent.

use super::Identity;
use crate::{Error, Port};

/// The thread that registers a port with its node's agent, suspends it at the agent's word and
/// puts it on the fabric again at the word of the move's owner. It also looks peers up in the
/// directory.
///
/// Dropping it tells the agent that the process ends in good order.
pub struct Control {}

impl Control {
    /// Starts the thread. There need be no agent yet: it tries once a second.
    pub fn start(port: &Port, identity: Identity) -> Result<Control, Error> {
        let _ = (port, identity);
        todo!()
    }
}

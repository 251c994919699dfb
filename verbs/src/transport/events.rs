//! What the device reports by itself.

use meander_core::transport::LinkError;

use super::{LinkKey, VerbsTransport};
use crate::VerbsError;
use crate::objects::AsyncEvent;

const PORT_DOWN: &str = "the port is down";

impl VerbsTransport {
    pub(super) fn take_events(&mut self) {
        while let Some(event) = self.device.context.next_event() {
            self.events.push(event);
        }
    }

    /// Acts on what the device has reported.
    pub(super) fn carry_out_events(&mut self) {
        for event in std::mem::take(&mut self.events) {
            match event {
                AsyncEvent::PairFailed(number) => {
                    if let Some(&key) = self.pairs.get(&number) {
                        let error = self.event("a queue pair failed");
                        self.end(key, error.into());
                    }
                }
                AsyncEvent::PortDown(port) if port == self.device.port => {
                    self.down = Some(PORT_DOWN);
                    let error = self.event("the port went down");
                    self.fail_all(&error);
                }
                AsyncEvent::DeviceFailed(what) => {
                    self.down = Some(what);
                    let error = self.event(what);
                    self.fail_all(&error);
                }
                AsyncEvent::PortUp(port)
                    if port == self.device.port && self.down == Some(PORT_DOWN) =>
                {
                    self.down = None;
                }
                _ => {}
            }
        }
    }

    pub(super) fn event(&self, event: &'static str) -> VerbsError {
        VerbsError::Event {
            device: self.device().to_owned(),
            event,
        }
    }

    /// Every link is of no use any more.
    pub(super) fn fail_all(&mut self, error: &VerbsError) {
        tracing::warn!("{error}");
        let keys: Vec<LinkKey> = self.links.keys().collect();
        for key in keys {
            let error = LinkError::Io {
                operation: "the device",
                source: std::io::Error::other(error.to_string()),
            };
            self.end(key, error);
        }
    }
}

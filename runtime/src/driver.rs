//! The driver interface: for libraries that bring their own progress and lend their memory.

use std::time::Duration;

use meander_core::port::Copied;
use meander_core::{PortId, StreamId, limits};

use crate::engine::buffers::{Buffer, Retained};
use crate::engine::inbox::Inbox;
use crate::handler::{EventHandler, MessageKey, Outgoing, Posted, SendMode, Sink, StreamKey};
use crate::shared::Guard;
use crate::{Error, Port};

/// The number of the one fixed stream that the runtime uses between two ports.
const FIXED_STREAM: u32 = 0;

impl Port {
    /// The stream to a peer that both ends name without opening it. Its messages go to the
    /// [`EventHandler`].
    pub fn fixed_stream(&self, peer: PortId) -> StreamKey {
        let key = StreamKey {
            peer,
            stream: StreamId::fixed(FIXED_STREAM),
        };
        if let Ok(mut state) = self.shared().look() {
            // A peer that is not known yet gets its stream with the first message.
            let _ = state.engine.open_fixed(key);
        }
        key
    }

    /// Sends a message with an application header of at most 64 bytes. Never blocks, unless the
    /// port is suspended in place.
    ///
    /// [`Outgoing::Bytes`] are copied, and the send is complete at once unless it is synchronous;
    /// it fails with [`Error::Full`] where the port retains as much as its limit allows: lend the
    /// memory then. [`Outgoing::Source`] is [`Posted::Pending`] always.
    pub fn post(
        &self,
        to: StreamKey,
        app: &[u8],
        body: Outgoing<'_>,
        mode: SendMode,
    ) -> Result<Posted, Error> {
        let mut state = self.shared().enter()?;
        let synchronous = mode == SendMode::Synchronous;
        let engine = &mut state.engine;
        if let Outgoing::Bytes(bytes) = body
            && !synchronous
            && bytes.len() <= limits::SMALL_BYTES
            && engine.send_at_once(to, app, Copied::Small(bytes))
        {
            self.shared().settle(&mut state);
            return Ok(Posted::Complete);
        }
        let app = app
            .try_into()
            .map_err(|_| Error::LongHeader { len: app.len() })?;
        let copied = matches!(body, Outgoing::Bytes(_));
        let (body, posted) = match body {
            Outgoing::Bytes([]) if !synchronous => (None, Posted::Complete),
            Outgoing::Bytes(bytes) => {
                // Asked beforehand, so that nothing is copied in vain.
                if !engine.core.takes_copy(bytes.len() as u64) {
                    return Err(Error::Full);
                }
                let notify = synchronous.then(|| engine.next_send_id());
                let (bytes, len) = (engine.buffers.copy(bytes), bytes.len() as u64);
                let retained = Retained {
                    bytes,
                    at: to,
                    notify,
                };
                let buffer = engine.buffers.insert(Buffer::Retained(retained));
                (
                    Some((buffer, len)),
                    notify.map_or(Posted::Complete, Posted::Pending),
                )
            }
            Outgoing::Source(source) => {
                let (id, len) = (engine.next_send_id(), source.bytes().len() as u64);
                let buffer = engine.buffers.insert(Buffer::Lent { source, id });
                (Some((buffer, len)), Posted::Pending(id))
            }
        };
        if let Err(error) = engine.send(to, app, body, copied, synchronous) {
            if let Some((buffer, _)) = body {
                engine.buffers.remove(buffer);
            }
            return Err(error.into());
        }
        self.shared().settle(&mut state);
        Ok(posted)
    }

    /// Asks for the payload of an envelope, at most `max_len` bytes of it, into `sink`.
    /// [`EventHandler::pulled`] follows, unless the peer dies.
    pub fn pull(&self, message: MessageKey, mut sink: Box<dyn Sink>, max_len: u64) {
        let Ok(mut state) = self.shared().enter() else {
            return;
        };
        let max_len = max_len.min(sink.bytes_mut().len() as u64);
        let engine = &mut state.engine;
        let (now, at) = (engine.now(), at(message));
        let buffer = engine.buffers.insert(Buffer::Sink { sink, message });
        match engine.core.pull(now, at, message.seq, buffer, max_len) {
            Ok(1..) => {}
            Ok(0) => {
                if let Some(Buffer::Sink { sink, .. }) = engine.buffers.remove(buffer) {
                    engine.inbox.pulled(message, sink, 0);
                }
            }
            Err(error) => {
                tracing::debug!(?message, "can't pull: {error}");
                engine.buffers.remove(buffer);
            }
        }
        self.settle_answers(state);
    }

    /// Tells the sender of an envelope that its payload is not wanted.
    pub fn decline(&self, message: MessageKey) {
        let Ok(mut state) = self.shared().enter() else {
            return;
        };
        let now = state.engine.now();
        if let Err(error) = state.engine.core.decline(now, at(message), message.seq) {
            tracing::debug!(?message, "can't decline: {error}");
        }
        self.settle_answers(state);
    }

    /// Gives a sender the credit back for `bytes` of payload that a handler answered with
    /// [`Credit::Hold`](crate::Credit::Hold).
    pub fn return_credit(&self, from: StreamKey, bytes: u64) {
        let Ok(mut state) = self.shared().enter() else {
            return;
        };
        state.engine.core.consumed(from, bytes);
        self.settle_answers(state);
    }

    /// Puts answers to envelopes on their way: at once, or, for those given by a handler, together
    /// when it has been told everything.
    fn settle_answers(&self, mut state: Guard<'_>) {
        if !state.engine.is_delivering() {
            self.shared().settle(&mut state);
        }
    }

    /// Does what can be done now, and delivers what has happened. Returns whether anything was
    /// delivered. Never blocks, unless the port is suspended in place.
    ///
    /// One thread delivers at a time: while one does, others (and nested calls) only make progress.
    pub fn progress(&self, handler: &mut dyn EventHandler) -> bool {
        let Ok(mut state) = self.shared().enter() else {
            return false;
        };
        // What a wait has found is delivered first: it may be what the caller is in a hurry for.
        if state.engine.inbox.is_empty() || state.engine.is_delivering() {
            self.shared().drive(&mut state);
        }
        if state.engine.inbox.is_empty() {
            return false;
        }
        let Some(spare) = state.engine.spare_inbox.take() else {
            return false;
        };
        let inbox = std::mem::replace(&mut state.engine.inbox, spare);
        drop(state);
        let mut delivery = Delivery {
            port: self,
            inbox: Some(inbox),
        };
        if let Some(inbox) = &mut delivery.inbox {
            inbox.deliver(handler);
        }
        true
    }

    /// Waits until there may be something for [`Port::progress`] to deliver: spins briefly, yields,
    /// then sleeps. Also returns after [`Port::wake`], and after the port was suspended in place
    /// and attached or resumed.
    pub fn wait(&self, timeout: Duration) {
        let ready = |state: &mut Guard<'_>| (!state.engine.inbox.is_empty()).then_some(());
        // Where the port is gone there is nothing to wait for; the next call says so.
        let _ = self.shared().wait_for(Some(timeout), true, ready);
    }

    /// Makes every thread in [`Port::wait`] return.
    pub fn wake(&self) {
        self.shared().wake();
    }
}

/// A delivery under way; its end, also by a panic of the handler, lets the next one begin.
struct Delivery<'a> {
    port: &'a Port,
    inbox: Option<Box<Inbox>>,
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        let shared = self.port.shared();
        let Ok(mut state) = shared.look() else { return };
        let engine = &mut state.engine;
        if let Some(inbox) = &mut self.inbox {
            inbox.take_read(|at, bytes| engine.core.consumed(at, bytes));
        }
        engine.spare_inbox = self.inbox.take();
        shared.settle(&mut state);
    }
}

fn at(message: MessageKey) -> StreamKey {
    StreamKey {
        peer: message.peer,
        stream: message.stream,
    }
}

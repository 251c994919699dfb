//! Payloads that wait at the peer are fetched for the programs that will read them.

use meander_core::port;
use meander_core::{Seq, Time};

use super::buffers::{Buffer, Buffers};
use super::ends::{Answer, End};
use crate::handler::{MessageKey, StreamKey};

/// The engine's parts that fetching takes.
pub(super) struct Fetcher<'a> {
    pub core: &'a mut port::Port,
    pub buffers: &'a mut Buffers,
    pub now: Time,
    pub message_bytes_max: u64,
}

impl Fetcher<'_> {
    /// Asks for what the reader needs (`wanted`), or may soon.
    pub fn fetch(&mut self, at: StreamKey, end: &mut End, wanted: bool) {
        while let Some(answer) = end.next_answer(wanted, self.message_bytes_max) {
            match answer {
                Answer::Pull { seq, len } => self.pull(at, end, seq, len),
                Answer::Decline { seq } => {
                    // It fails only where the peer is dead, and then nobody waits.
                    let _ = self.core.decline(self.now, at, seq);
                }
            }
        }
    }

    fn pull(&mut self, at: StreamKey, end: &mut End, seq: Seq, len: u64) {
        let message = MessageKey {
            peer: at.peer,
            stream: at.stream,
            seq,
        };
        let bytes = vec![0; len as usize];
        let buffer = self.buffers.insert(Buffer::Filling { bytes, message });
        match self.core.pull(self.now, at, seq, buffer, len) {
            Ok(1..) => {}
            Ok(0) => {
                self.buffers.remove(buffer);
                end.pulled(seq, Vec::new());
            }
            Err(error) => {
                tracing::debug!("can't fetch: {error}");
                self.buffers.remove(buffer);
            }
        }
    }
}

//! The memory that the port's protocol names: copies it retains, memory lent to it.

use meander_core::transport::{Memory, Slice};
use meander_core::{BufferId, Seq, limits};
use serde::{Deserialize, Serialize};

use crate::handler::{MessageKey, SendId, Sink, Source, StreamKey};

/// What one buffer is.
pub(crate) enum Buffer {
    /// Bytes the port owns until the peer has them.
    Retained(Retained),
    /// Memory of the application that is sent from.
    Lent { source: Box<dyn Source>, id: SendId },
    /// Memory of the application that is received into.
    Sink {
        sink: Box<dyn Sink>,
        message: MessageKey,
    },
    /// Bytes the port owns and receives into, for a stream of a program.
    Filling { bytes: Vec<u8>, message: MessageKey },
}

/// Bytes the port owns until the peer has them.
pub(crate) struct Retained {
    pub bytes: Vec<u8>,
    /// The stream they went out on.
    pub at: StreamKey,
    /// Whom to tell when they are free.
    pub notify: Option<SendId>,
}

/// The buffers of one port, by number.
#[derive(Default)]
pub(crate) struct Buffers {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Emptied copies for the next sends, so that these allocate nothing: small ones and others.
    spare: [Vec<Vec<u8>>; 2],
}

#[derive(Default)]
struct Slot {
    /// Counts the uses, so that a number is never used twice.
    uses: u32,
    buffer: Option<Buffer>,
}

/// Copies that are kept for reuse: up to so many bytes each, so many of them; small ones and others.
const SPARE: [(usize, usize); 2] = [(1024, 1024), (limits::EAGER_BYTES_MAX, 64)];

impl Buffers {
    pub fn insert(&mut self, buffer: Buffer) -> BufferId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.uses = slot.uses.wrapping_add(1);
        slot.buffer = Some(buffer);
        BufferId(u64::from(slot.uses) << 32 | u64::from(index))
    }

    /// A copy of `bytes`, in memory that an earlier one has left where that is possible.
    pub fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let class = SPARE
            .iter()
            .position(|(largest, _)| bytes.len() <= *largest);
        let Some(class) = class else {
            return bytes.to_vec();
        };
        let mut copy = self.spare[class].pop().unwrap_or_default();
        copy.extend_from_slice(bytes);
        copy
    }

    pub fn remove(&mut self, id: BufferId) -> Option<Buffer> {
        let (index, uses) = split(id);
        let slot = self.slots.get_mut(index).filter(|slot| slot.uses == uses)?;
        let buffer = slot.buffer.take()?;
        self.free.push(index as u32);
        Some(buffer)
    }

    /// Keeps the memory of a copy that is done with.
    pub fn recycle(&mut self, mut bytes: Vec<u8>) {
        let class = SPARE
            .iter()
            .position(|(largest, _)| bytes.capacity() <= *largest);
        if let Some(class) = class.filter(|&class| self.spare[class].len() < SPARE[class].1) {
            bytes.clear();
            self.spare[class].push(bytes);
        }
    }

    /// Every buffer as plain bytes, for a port that becomes a value. Lent memory is copied.
    pub fn into_saved(self) -> Vec<Saved> {
        let slots = self.slots.into_iter().enumerate();
        let saved = slots.filter_map(|(index, slot)| {
            let id = BufferId(u64::from(slot.uses) << 32 | index as u64);
            let (bytes, role) = match slot.buffer? {
                Buffer::Retained(Retained { bytes, at, notify }) => {
                    let notify = notify.map(|id| id.0);
                    (
                        bytes,
                        Role::Retained {
                            at: at.into(),
                            notify,
                        },
                    )
                }
                Buffer::Lent { source, id } => (source.bytes().to_vec(), Role::Lent(id.0)),
                Buffer::Sink { mut sink, message } => {
                    (sink.bytes_mut().to_vec(), Role::Sink(message.into()))
                }
                Buffer::Filling { bytes, message } => (bytes, Role::Filling(message.into())),
            };
            Some(Saved { id, bytes, role })
        });
        saved.collect()
    }

    /// The buffers of a value, under the numbers they had.
    pub fn from_saved(saved: Vec<Saved>) -> Option<Buffers> {
        let mut buffers = Buffers::default();
        // Numbers are indices, so there are never many more of them than there were buffers.
        let slots = saved
            .iter()
            .map(|saved| split(saved.id).0 + 1)
            .max()
            .unwrap_or(0);
        if slots > MAX_BUFFERS {
            return None;
        }
        buffers.slots.resize_with(slots, Slot::default);
        for Saved { id, bytes, role } in saved {
            let (index, uses) = split(id);
            if buffers.slots[index].buffer.is_some() {
                return None;
            }
            let buffer = match role {
                Role::Retained { at, notify } => {
                    let notify = notify.map(SendId);
                    Buffer::Retained(Retained {
                        bytes,
                        at: at.into(),
                        notify,
                    })
                }
                Role::Lent(id) => Buffer::Lent {
                    source: Box::new(bytes),
                    id: SendId(id),
                },
                Role::Sink(at) => Buffer::Sink {
                    sink: Box::new(bytes),
                    message: at.into(),
                },
                Role::Filling(at) => Buffer::Filling {
                    bytes,
                    message: at.into(),
                },
            };
            buffers.slots[index] = Slot {
                uses,
                buffer: Some(buffer),
            };
        }
        let free = (0..slots as u32).filter(|&at| buffers.slots[at as usize].buffer.is_none());
        buffers.free = free.collect();
        Some(buffers)
    }

    fn get(&self, id: BufferId) -> Option<&Buffer> {
        let (index, uses) = split(id);
        let slot = self.slots.get(index).filter(|slot| slot.uses == uses)?;
        slot.buffer.as_ref()
    }
}

/// Buffers at once, of a value that is taken in.
const MAX_BUFFERS: usize = 1 << 28;

/// One buffer of a port that is a value.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    id: BufferId,
    bytes: Vec<u8>,
    role: Role,
}

#[derive(Serialize, Deserialize)]
enum Role {
    Retained { at: At, notify: Option<u64> },
    Lent(u64),
    Sink(At),
    Filling(At),
}

/// A stream, or a message of one (which has a number).
#[derive(Serialize, Deserialize)]
struct At(meander_core::PortId, meander_core::StreamId, Seq);

impl From<StreamKey> for At {
    fn from(at: StreamKey) -> At {
        At(at.peer, at.stream, Seq(0))
    }
}

impl From<MessageKey> for At {
    fn from(at: MessageKey) -> At {
        At(at.peer, at.stream, at.seq)
    }
}

impl From<At> for StreamKey {
    fn from(At(peer, stream, _): At) -> StreamKey {
        StreamKey { peer, stream }
    }
}

impl From<At> for MessageKey {
    fn from(At(peer, stream, seq): At) -> MessageKey {
        MessageKey { peer, stream, seq }
    }
}

impl Memory for Buffers {
    /// Nothing, where the slice is not of a buffer that can be sent: the transport then breaks the
    /// link.
    fn read(&self, slice: Slice) -> &[u8] {
        let bytes = match self.get(slice.buffer) {
            Some(Buffer::Retained(retained)) => &retained.bytes[..],
            Some(Buffer::Lent { source, .. }) => source.bytes(),
            _ => &[],
        };
        range(slice)
            .and_then(|range| bytes.get(range))
            .unwrap_or(&[])
    }

    /// Nothing, where the slice is not of a buffer that is received into.
    fn write(&mut self, slice: Slice) -> &mut [u8] {
        let (index, uses) = split(slice.buffer);
        let slot = self.slots.get_mut(index).filter(|slot| slot.uses == uses);
        let bytes = match slot.and_then(|slot| slot.buffer.as_mut()) {
            Some(Buffer::Sink { sink, .. }) => sink.bytes_mut(),
            Some(Buffer::Filling { bytes, .. }) => &mut bytes[..],
            _ => &mut [],
        };
        range(slice)
            .and_then(|range| bytes.get_mut(range))
            .unwrap_or_default()
    }
}

fn split(id: BufferId) -> (usize, u32) {
    ((id.0 as u32) as usize, (id.0 >> 32) as u32)
}

fn range(slice: Slice) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(slice.offset).ok()?;
    Some(start..start.checked_add(usize::try_from(slice.len).ok()?)?)
}

#[cfg(test)]
mod tests {
    use meander_core::{PortId, StreamId};

    use super::*;

    const AT: StreamKey = StreamKey {
        peer: PortId(7),
        stream: StreamId(2),
    };

    fn retained(bytes: &[u8]) -> Buffer {
        Buffer::Retained(Retained {
            bytes: bytes.to_vec(),
            at: AT,
            notify: None,
        })
    }

    fn slice(buffer: BufferId, offset: u64, len: u64) -> Slice {
        Slice {
            buffer,
            offset,
            len,
        }
    }

    #[test]
    fn a_number_is_never_used_twice() {
        let mut buffers = Buffers::default();
        let first = buffers.insert(retained(b"one"));
        buffers.remove(first);
        let second = buffers.insert(retained(b"two"));
        assert_ne!(first, second);
        assert!(buffers.read(slice(first, 0, 3)).is_empty());
        assert_eq!(buffers.read(slice(second, 1, 2)), b"wo");
        assert!(buffers.remove(first).is_none());
    }

    #[test]
    fn slices_outside_are_empty() {
        let mut buffers = Buffers::default();
        let id = buffers.insert(retained(b"one"));
        for (offset, len) in [(0, 4), (3, 1), (u64::MAX, 2), (1, u64::MAX)] {
            assert!(buffers.read(slice(id, offset, len)).is_empty());
            assert!(buffers.write(slice(id, offset, len)).is_empty());
        }
        assert!(
            buffers.write(slice(id, 0, 1)).is_empty(),
            "retained bytes do not change"
        );
    }

    #[test]
    fn a_value_keeps_numbers() {
        let mut buffers = Buffers::default();
        let gone = buffers.insert(retained(b"gone"));
        let kept = buffers.insert(retained(b"kept"));
        let lent = buffers.insert(Buffer::Lent {
            source: Box::new(vec![5; 9]),
            id: SendId(3),
        });
        buffers.remove(gone);
        let mut restored = Buffers::from_saved(buffers.into_saved()).unwrap();
        assert_eq!(restored.read(slice(kept, 0, 4)), b"kept");
        assert_eq!(restored.read(slice(lent, 0, 9)), [5; 9]);
        let fresh = restored.insert(retained(b"x"));
        assert!(fresh != kept && fresh != lent);
    }
}

//! Frames out of a ring.

use meander_core::LinkId;
use meander_core::transport::{FrameSink, LinkError, Place, Slice};
use meander_core::wire::{AppHeader, FrameHeader, Violation};

use crate::header::{ITEM_BYTES, Item};
use crate::limits;
use crate::outgoing::{BODY_LEN_BITS, FORM_BITS, Form, LONG};
use crate::pull::Process;
use crate::ring::{Area, Nonsense, Note, Reader};

/// The receiving half of a link.
pub(crate) struct Incoming<A> {
    ring: Reader<A>,
    /// The item that is being taken.
    item: Item,
    /// A frame of which pieces are missing.
    partial: Option<Partial>,
    /// Bytes of a body that has no place, while it is handed over.
    whole: Vec<u8>,
}

struct Partial {
    header: FrameHeader,
    app: AppHeader,
    place: Place,
    done: usize,
}

/// Reads the sender's memory, and knows whether what was read counts.
pub(crate) trait Pull {
    /// All of `bytes`, or the link is broken.
    fn pull(&self, address: u64, bytes: &mut [u8]) -> Result<(), LinkError>;
}

impl From<Nonsense> for LinkError {
    fn from(_: Nonsense) -> LinkError {
        Violation::Malformed.into()
    }
}

impl<A: Area> Incoming<A> {
    pub(crate) fn new(area: A) -> Incoming<A> {
        Incoming {
            ring: Reader::new(area),
            item: Item::new(),
            partial: None,
            whole: Vec::new(),
        }
    }

    /// Whether there is something to take.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.ring.peek().is_some()
    }

    /// Takes the next item, if there is one, and returns the bytes of body that came with it. A
    /// frame that is complete by it is handed over.
    pub(crate) fn take<S: FrameSink>(
        &mut self,
        link: LinkId,
        pull: &impl Pull,
        sink: &mut S,
    ) -> Result<Option<usize>, LinkError> {
        let Some(note) = self.ring.peek() else {
            return Ok(None);
        };
        self.ring.read(&mut self.item, note & LONG != 0);
        let body_len = (note & ((1 << BODY_LEN_BITS) - 1)) as usize;
        let form = form(note);
        let bytes = if form == Form::More {
            self.take_more(link, sink)?
        } else {
            self.take_first(link, form, body_len, pull, sink)?
        };
        self.ring.advance();
        Ok(Some(bytes))
    }

    /// Takes a slot that a frame begins in.
    fn take_first<S: FrameSink>(
        &mut self,
        link: LinkId,
        form: Form,
        body_len: usize,
        pull: &impl Pull,
        sink: &mut S,
    ) -> Result<usize, LinkError> {
        if self.partial.is_some() {
            return Err(Violation::Malformed.into());
        }
        let (header, app, end) = self.item.decode(body_len as u32)?;
        if form == Form::Inline
            && let Some(body) = self.item.bytes().get(end..end + body_len)
            && sink.at_once(link, &header, &app, body)
        {
            return Ok(body_len);
        }
        let place = sink.begin(link, &header, &app)?;
        if let Place::Into(slice) = place
            && slice.len != body_len as u64
        {
            return Err(Violation::Length(body_len as u64).into());
        }
        match form {
            Form::Inline => {
                let body = self.item.bytes().get(end..end + body_len);
                let body = body.ok_or(Violation::Length(body_len as u64))?;
                match place {
                    Place::Whole => sink.complete(link, &header, &app, body)?,
                    Place::Into(slice) => {
                        into(sink, slice)?.copy_from_slice(body);
                        sink.complete(link, &header, &app, &[])?;
                    }
                }
            }
            Form::Theirs => {
                let address = self.number(end)?;
                match place {
                    Place::Whole => {
                        let whole = room(&mut self.whole, body_len);
                        pull.pull(address, whole)?;
                        sink.complete(link, &header, &app, whole)?;
                    }
                    Place::Into(slice) => {
                        pull.pull(address, into(sink, slice)?)?;
                        sink.complete(link, &header, &app, &[])?;
                    }
                }
            }
            Form::Beside | Form::More => {
                let piece = self.number(end)?;
                let partial = Partial {
                    header,
                    app,
                    place,
                    done: 0,
                };
                return self.take_piece(link, partial, piece, sink);
            }
        }
        Ok(body_len)
    }

    fn take_more<S: FrameSink>(&mut self, link: LinkId, sink: &mut S) -> Result<usize, LinkError> {
        let partial = self.partial.take().ok_or(Violation::Malformed)?;
        let piece = self.number(0)?;
        self.take_piece(link, partial, piece, sink)
    }

    /// Takes a piece of a body out of the ring of bytes; `piece` is its place and length.
    fn take_piece<S: FrameSink>(
        &mut self,
        link: LinkId,
        mut partial: Partial,
        piece: u64,
        sink: &mut S,
    ) -> Result<usize, LinkError> {
        let (at, len) = (piece as u32 as usize, (piece >> 32) as usize);
        let all = partial.header.body_bytes();
        if len == 0 || len > all - partial.done {
            return Err(Violation::Length(len as u64).into());
        }
        let range = partial.done..partial.done + len;
        let to = match partial.place {
            Place::Whole => &mut room(&mut self.whole, all)[range],
            Place::Into(slice) => &mut into(sink, slice)?[range],
        };
        self.ring.read_body(at, to)?;
        partial.done += len;
        if partial.done < all {
            self.partial = Some(partial);
            return Ok(len);
        }
        let Partial {
            header, app, place, ..
        } = partial;
        let body = match place {
            Place::Whole => &self.whole[..all],
            Place::Into(_) => &[],
        };
        sink.complete(link, &header, &app, body)?;
        Ok(len)
    }

    /// Eight bytes of the item, all of which must be in it.
    fn number(&self, at: usize) -> Result<u64, Violation> {
        if at + 8 > ITEM_BYTES {
            return Err(Violation::Malformed);
        }
        Ok(self.item.word(at))
    }

    /// Tells the writer what is free again; returns whether it must be woken for that.
    pub(crate) fn give_back(&mut self) -> bool {
        self.ring.give_back()
    }

    pub(crate) fn arm(&self) {
        self.ring.arm();
    }

    pub(crate) fn disarm(&self) {
        self.ring.disarm();
    }
}

fn form(note: Note) -> Form {
    match (note >> BODY_LEN_BITS) & ((1 << FORM_BITS) - 1) {
        0 => Form::Inline,
        1 => Form::Beside,
        2 => Form::More,
        _ => Form::Theirs,
    }
}

/// The first bytes of a memory that grows to what is needed; what was in it stays.
fn room(whole: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if whole.len() < len {
        whole.resize(len, 0);
    }
    &mut whole[..len]
}

/// The place of a body; one that is not as long as was said is a fault of this side, and breaks the
/// link rather than the process.
fn into<S: FrameSink>(sink: &mut S, slice: Slice) -> Result<&mut [u8], LinkError> {
    let place = sink.write(slice);
    if place.len() as u64 == slice.len {
        Ok(place)
    } else {
        Err(LinkError::Io {
            operation: "the place of a body",
            source: rustix::io::Errno::FAULT.into(),
        })
    }
}

impl Pull for (Option<&Process>, &dyn Fn() -> bool) {
    fn pull(&self, address: u64, bytes: &mut [u8]) -> Result<(), LinkError> {
        let (process, is_closed) = self;
        let process = process.ok_or(Violation::Malformed)?;
        // Before the copy: a body whose owner has gone need not be looked for. After it: see `crate::pull`.
        if is_closed() {
            return Err(LinkError::Closed);
        }
        let read = process.read(address, bytes);
        if is_closed() || process.has_ended() {
            return Err(LinkError::Closed);
        }
        read.map_err(|errno| LinkError::Io {
            operation: "process_vm_readv",
            source: errno.into(),
        })
    }
}

/// So many bytes or slots are enough for one call.
pub(crate) fn is_enough(slots: usize, bytes: usize) -> bool {
    slots >= limits::RECEIVE_BURST_SLOTS || bytes >= limits::RECEIVE_BURST_BYTES
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::pull::Nonce;

    use super::*;

    /// `[R72]`
    #[test]
    fn what_is_read_from_a_side_that_closes_meanwhile_does_not_count() {
        let nonce = Nonce::random().unwrap();
        let (address, value) = nonce.tell();
        let process = Process::probe(std::process::id() as i32, address, &value);
        let mut bytes = [0; crate::pull::NONCE_BYTES];
        let looks = Cell::new(0);
        // It closes after so many looks.
        let mut pull_from = |process: Option<&Process>, address, closes_after| {
            looks.set(0);
            let is_closed = || looks.replace(looks.get() + 1) >= closes_after;
            let pull: (_, &dyn Fn() -> bool) = (process, &is_closed);
            pull.pull(address, &mut bytes)
        };
        for closes_after in 0..2 {
            let refused = pull_from(process.as_ref(), address, closes_after);
            assert!(matches!(refused, Err(LinkError::Closed)));
        }
        let unknown = pull_from(None, address, 2);
        assert!(matches!(unknown, Err(LinkError::Protocol(_))));
        assert!(matches!(
            pull_from(process.as_ref(), 0, 2),
            Err(LinkError::Io { .. })
        ));
        pull_from(process.as_ref(), address, 2).unwrap();
        assert_eq!(bytes, value);
    }
}

//! Frames into a ring.

use std::cell::Cell;

use meander_core::transport::{Body, Frame, Memory, SendError};
use meander_core::wire::{FrameHeader, FrameKind};

use crate::header::{ITEM_BYTES, Item, LINE_BYTES};
use crate::limits;
use crate::ring::{Area, Nonsense, Note, Writer};

/// What a slot is, in its note; the low bits are the length of the frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Form {
    /// A frame whose body follows its head in the slot.
    Inline = 0,
    /// A frame whose body, or the first piece of it, is in the ring of bytes: place and length follow the head.
    Beside = 1,
    /// A further piece of the body of the frame before: place and length.
    More = 2,
    /// A frame whose body is in the sender's memory: the address follows the head.
    Theirs = 3,
}

/// Bits of a note for the length of the body; the form above them; then whether the item has a second line.
pub(crate) const BODY_LEN_BITS: u32 = 24;
pub(crate) const FORM_BITS: u32 = 2;
pub(crate) const LONG: Note = 1 << (BODY_LEN_BITS + FORM_BITS);

const _: () = assert!(meander_core::limits::DATA_FRAME_BYTES < 1 << BODY_LEN_BITS);
const _: () = assert!(crate::header::HEAD_BYTES_MAX + 8 <= ITEM_BYTES);
// A piece finds room whatever the reader has not given back yet, and wherever the last one ended.
const _: () = assert!(
    limits::BODY_BYTES - limits::BODY_BYTES / limits::RETURNED_LATE as usize
        >= 2 * limits::PIECE_BYTES
);
const _: () = assert!(limits::RETURNED_LATE > limits::FREE_AGAIN);

/// The sending half of a link.
pub(crate) struct Outgoing<A> {
    ring: Writer<A>,
    /// A frame that was taken and is not all in the ring.
    pending: Option<Pending>,
    /// Somebody has been told that there is no room, and not yet that there is again.
    was_full: Cell<bool>,
    /// Items that the reader has not been told of.
    unflushed: bool,
}

struct Pending {
    /// The head, until it is in the ring.
    head: Option<Item>,
    body: Body,
    done: usize,
}

/// Why a frame was not taken, or the rest of one.
#[derive(Debug)]
pub(crate) enum Trouble {
    Full,
    /// The buffer of a body is not there, or not as long as was said: a fault of this side.
    NoBody,
    /// The peer's words can't be.
    Nonsense,
}

impl From<Nonsense> for Trouble {
    fn from(_: Nonsense) -> Trouble {
        Trouble::Nonsense
    }
}

impl From<Trouble> for SendError {
    fn from(trouble: Trouble) -> SendError {
        match trouble {
            Trouble::Full => SendError::Full,
            Trouble::NoBody | Trouble::Nonsense => SendError::Broken,
        }
    }
}

impl<A: Area> Outgoing<A> {
    pub(crate) fn new(area: A) -> Outgoing<A> {
        Outgoing {
            ring: Writer::new(area),
            pending: None,
            was_full: Cell::new(false),
            unflushed: false,
        }
    }

    /// Whether a frame would be taken; if not, [`Outgoing::has_room_again`] will say when.
    pub(crate) fn has_room(&self) -> bool {
        let room = self.pending.is_none() && self.ring.seems_to_have_slot();
        if !room {
            self.was_full.set(true);
        }
        room
    }

    /// Takes a frame. Large data is only named, if the peer reads it from here (`pulls`).
    pub(crate) fn push(
        &mut self,
        frame: Frame,
        memory: &dyn Memory,
        pulls: bool,
    ) -> Result<(), Trouble> {
        if self.pending.is_some() || !self.ring.has_slot()? {
            self.was_full.set(true);
            return Err(Trouble::Full);
        }
        let Frame { header, app, body } = frame;
        let bytes = bytes_of(&body, memory);
        let lengths = (header.body_bytes(), usize::from(header.app_len));
        if lengths != (bytes.len(), app.len()) {
            return Err(Trouble::NoBody);
        }
        let mut item = Item::encode(&header, &app);
        if item.len() + bytes.len() <= ITEM_BYTES {
            item.extend(bytes);
            self.write(&item, Form::Inline, bytes.len());
        } else if pulls
            && bytes.len() >= limits::SINGLE_COPY_BYTES
            && header.kind == FrameKind::Data as u8
            && matches!(body, Body::Slice(_))
        {
            item.extend(&(bytes.as_ptr() as u64).to_le_bytes());
            self.write(&item, Form::Theirs, bytes.len());
        } else {
            self.pending = Some(Pending {
                head: Some(item),
                body,
                done: 0,
            });
            self.go_on(memory)?;
        }
        Ok(())
    }

    /// Takes a frame with its body if there is a slot that has room for both.
    pub(crate) fn push_small(
        &mut self,
        header: &FrameHeader,
        app: &[u8],
        body: &[u8],
    ) -> Result<bool, Nonsense> {
        if body.len() > ITEM_BYTES || self.pending.is_some() || !self.ring.has_slot()? {
            return Ok(false);
        }
        let mut item = Item::encode(header, app);
        if item.len() + body.len() > ITEM_BYTES {
            return Ok(false);
        }
        item.extend(body);
        self.write(&item, Form::Inline, body.len());
        Ok(true)
    }

    /// Puts as much of the frame that was taken last into the ring as there is room for.
    pub(crate) fn go_on(&mut self, memory: &dyn Memory) -> Result<(), Trouble> {
        while let Some(mut pending) = self.pending.take() {
            let bytes = bytes_of(&pending.body, memory);
            let all = pending.body.len();
            if bytes.len() != all {
                return Err(Trouble::NoBody);
            }
            let piece = &bytes[pending.done..all.min(pending.done + limits::PIECE_BYTES)];
            let place = match self.ring.has_slot()? {
                true => self.ring.place(piece.len())?,
                false => None,
            };
            let Some(at) = place else {
                self.pending = Some(pending);
                self.was_full.set(true);
                return Ok(());
            };
            self.ring.write_body(piece);
            let (mut item, form) = match pending.head.take() {
                Some(head) => (head, Form::Beside),
                None => (Item::new(), Form::More),
            };
            item.extend(&(at as u32).to_le_bytes());
            item.extend(&(piece.len() as u32).to_le_bytes());
            pending.done += piece.len();
            self.write(&item, form, all);
            if pending.done < all {
                self.pending = Some(pending);
            }
        }
        Ok(())
    }

    fn write(&mut self, item: &Item, form: Form, body_len: usize) {
        let long = if item.len() > LINE_BYTES { LONG } else { 0 };
        let note = body_len as Note | (form as Note) << BODY_LEN_BITS | long;
        self.ring.write(item, note);
        self.unflushed = true;
    }

    /// Whether the reader must be woken for what was written since the last call.
    pub(crate) fn must_wake(&mut self) -> bool {
        std::mem::take(&mut self.unflushed) && self.ring.must_wake()
    }

    /// Whether a link that was full takes something again. It is asked only then: the answer costs
    /// the line that the reader writes.
    pub(crate) fn could_go_on(&mut self) -> Result<bool, Nonsense> {
        if !self.was_full.get() {
            return Ok(false);
        }
        let free = self.ring.free_slots()?;
        match &self.pending {
            Some(pending) => {
                let rest = pending.body.len() - pending.done;
                let piece = rest.min(limits::PIECE_BYTES);
                Ok(free > 0 && self.ring.place(piece)?.is_some())
            }
            None => Ok(free * limits::FREE_AGAIN >= limits::SLOTS as u64),
        }
    }

    /// Whether to report now that a link which was full has room again.
    pub(crate) fn has_room_again(&mut self) -> Result<bool, Nonsense> {
        let again = self.could_go_on()?;
        if again {
            self.was_full.set(false);
        }
        Ok(again)
    }

    pub(crate) fn arm(&self) {
        if self.was_full.get() {
            self.ring.arm();
        }
    }

    pub(crate) fn disarm(&self) {
        self.ring.disarm();
    }
}

fn bytes_of<'a>(body: &'a Body, memory: &'a dyn Memory) -> &'a [u8] {
    match body {
        Body::Empty | Body::Place(_) => &[],
        Body::Own(bytes) => bytes,
        Body::Slice(slice) => memory.read(*slice),
    }
}

//! The program's memory: what the pointers of the C interface point at.
//!
//! The types here have the layout of the C pointers they stand for, so that the exported functions
//! take them as they come. Their fields are private: a value of one of them was either handed in
//! by the program through the C interface, or made from a [`Scratch`] that outlives it. All
//! reading and writing through them is in this module, and rests on the contract that the MPI
//! standard makes with the program: an argument points at as many elements as its description
//! says, and a buffer stays valid, and is not touched, until its operation completes (MPI 3.1,
//! sections 2.3, 3.4 and 3.7).

use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::sync::Arc;

use meander::{Sink, Source};
use mpi_sys::MPI_Status;

use crate::constants::STATUS_IGNORE;
use crate::errors::Error;

/// An array, or one value, that the program passes in.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// The element at `index`; [`Error::BadArgument`] for a null array.
    pub fn at(self, index: usize) -> Result<T, Error> {
        if self.0.is_null() {
            return Err(Error::BadArgument("an array is missing"));
        }
        // SAFETY: the program passed an array of more than `index` elements (module contract); it
        // is valid for the length of the call.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// The first `len` elements. A null array is allowed where `len` is 0.
    pub fn to_vec(self, len: usize) -> Result<Vec<T>, Error> {
        (0..len).map(|index| self.at(index)).collect()
    }
}

/// An array, or one value, that the program wants written (and sometimes read before).
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    /// Writes the first element; [`Error::BadArgument`] for a null pointer.
    pub fn set(self, value: T) -> Result<(), Error> {
        self.set_at(0, value)
    }

    /// Writes the element at `index`.
    pub fn set_at(self, index: usize, value: T) -> Result<(), Error> {
        self.check()?;
        // SAFETY: the program passed room for more than `index` elements (module contract), valid
        // for the length of the call.
        unsafe { self.0.add(index).write_unaligned(value) };
        Ok(())
    }

    /// Reads the first element.
    pub fn get(self) -> Result<T, Error> {
        self.at(0)
    }

    /// Reads the element at `index`.
    pub fn at(self, index: usize) -> Result<T, Error> {
        self.check()?;
        // SAFETY: as in `set_at`; arguments that are both read and written hold values on entry.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// Complains about a null pointer before anything has been done.
    pub fn check(self) -> Result<(), Error> {
        if self.0.is_null() {
            return Err(Error::BadArgument("a result's address is null"));
        }
        Ok(())
    }
}

/// Where the program wants a status, or an array of them, if it does.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct StatusOut(*mut MPI_Status);

impl StatusOut {
    /// Applies `change` to the status at `index`, unless the program ignores statuses.
    pub fn update(self, index: usize, change: impl FnOnce(&mut MPI_Status)) {
        if self.0 as usize == STATUS_IGNORE || self.0.is_null() {
            return;
        }
        // SAFETY: not "ignore", so the program passed room for more than `index` statuses, valid
        // and ours alone for the length of the call; any bytes are a valid status.
        change(unsafe { &mut *self.0.add(index) });
    }
}

/// A text that the program passes in.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct TextIn(*const c_char);

impl TextIn {
    /// The text; bytes that are not UTF-8 are replaced.
    pub fn read(self) -> Result<String, Error> {
        if self.0.is_null() {
            return Err(Error::BadArgument("a text is missing"));
        }
        // SAFETY: the program passed a C string, valid for the length of the call.
        let text = unsafe { CStr::from_ptr(self.0) };
        Ok(text.to_string_lossy().into_owned())
    }
}

/// Where the program wants a text.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct TextOut(*mut c_char);

impl TextOut {
    /// Writes at most `room - 1` bytes of `text` and a zero; returns how many bytes.
    pub fn write(self, text: &str, room: usize) -> Result<usize, Error> {
        if self.0.is_null() {
            return Err(Error::BadArgument("a result's address is null"));
        }
        let len = text.len().min(room - 1);
        // SAFETY: the standard fixes `room` (MPI_MAX_..) as the least the program provides; source
        // and destination can't overlap, one is ours.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), self.0, len);
            self.0.add(len).write(0);
        }
        Ok(len)
    }
}

/// Where the program wants a pointer (an attribute's value); in C a `void *` to it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PointerOut(*mut c_void);

impl PointerOut {
    /// Writes the pointer.
    pub fn set(self, value: *const c_void) -> Result<(), Error> {
        Out(self.0.cast::<*const c_void>()).set(value)
    }
}

/// The address of a message buffer. What is there is described by a count and a datatype.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Buffer(*mut c_void);

// SAFETY: an address may travel between threads; what reads and writes through it is ordered by
// the port, which hands lent memory back before the operation completes.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// The address as a number.
    pub fn address(self) -> usize {
        self.0 as usize
    }

    /// The pointer, for the native library.
    pub fn pointer(self) -> *mut c_void {
        self.0
    }

    /// The address `bytes` further on.
    pub fn offset(self, bytes: isize) -> Buffer {
        Buffer(self.0.wrapping_byte_offset(bytes))
    }

    /// The `len` bytes from here on.
    pub fn region(self, len: usize) -> Region {
        Region { start: self, len }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}", self.0)
    }
}

/// Bytes of a message buffer that lie side by side.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    start: Buffer,
    len: usize,
}

impl Region {
    /// Gives `read` the bytes.
    pub fn with<R>(self, read: impl FnOnce(&[u8]) -> R) -> R {
        if self.len == 0 {
            return read(&[]);
        }
        // SAFETY: part of a buffer whose operation is not complete (module contract): valid and
        // not written by the program meanwhile. The slice does not leave this call.
        read(unsafe { std::slice::from_raw_parts(self.start.0.cast::<u8>(), self.len) })
    }

    /// Copies as much of `bytes` as there is room for; returns how much.
    pub fn fill(self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.len);
        if len > 0 {
            // SAFETY: part of a receive buffer whose operation is not complete (module contract).
            // `copy` and not `copy_nonoverlapping`: a send to oneself may name the same memory.
            unsafe { std::ptr::copy(bytes.as_ptr(), self.start.0.cast::<u8>(), len) };
        }
        len
    }
}

/// A region lent to the port, to send from or receive into. It keeps scratch memory alive.
pub struct Lent {
    region: Region,
    _scratch: Option<Arc<Scratch>>,
}

impl Lent {
    /// Lends `region`, which belongs to a buffer of the program or to `scratch`.
    pub fn new(region: Region, scratch: Option<Arc<Scratch>>) -> Lent {
        Lent {
            region,
            _scratch: scratch,
        }
    }
}

impl Source for Lent {
    fn bytes(&self) -> &[u8] {
        if self.region.len == 0 {
            return &[];
        }
        // SAFETY: the send is not complete until the port has dropped or returned this value, so
        // the program keeps the buffer valid and unchanged (module contract); scratch memory is
        // kept by `_scratch`.
        unsafe { std::slice::from_raw_parts(self.region.start.0.cast::<u8>(), self.region.len) }
    }
}

impl Sink for Lent {
    fn bytes_mut(&mut self) -> &mut [u8] {
        if self.region.len == 0 {
            return &mut [];
        }
        // SAFETY: the receive is not complete until the port has dropped or returned this value,
        // so nobody else reads or writes the buffer (module contract); scratch memory is kept by
        // `_scratch`.
        unsafe { std::slice::from_raw_parts_mut(self.region.start.0.cast::<u8>(), self.region.len) }
    }
}

/// Memory of our own that is laid out like a message buffer, for intermediate results.
pub struct Scratch {
    bytes: Box<[std::cell::UnsafeCell<u128>]>,
}

// SAFETY: only ever touched through `Buffer`s, whose use the port and the caller's waiting order.
unsafe impl Send for Scratch {}
// SAFETY: as above.
unsafe impl Sync for Scratch {}

impl Scratch {
    /// Zeroed memory of at least `bytes` bytes, aligned for every basic type.
    pub fn new(bytes: usize) -> Arc<Scratch> {
        let words = bytes.div_ceil(size_of::<u128>());
        let bytes = (0..words).map(|_| std::cell::UnsafeCell::new(0)).collect();
        Arc::new(Scratch { bytes })
    }

    /// Its address. Whoever keeps it keeps the scratch memory too ([`Lent::new`]).
    pub fn buffer(&self) -> Buffer {
        Buffer(self.bytes.as_ptr() as *mut c_void)
    }
}

/// The address of memory borrowed for one call of the native library.
pub fn borrowed(bytes: &[u8]) -> Buffer {
    Buffer(bytes.as_ptr() as *mut c_void)
}

/// The address of memory borrowed for one call of the native library, which writes it.
pub fn borrowed_mut(bytes: &mut [u8]) -> Buffer {
    Buffer(bytes.as_mut_ptr().cast::<c_void>())
}

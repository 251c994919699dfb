//! Datatypes belong to the native library; here is what the shim wants to know of one, and message
//! buffers seen through it.

use std::ffi::c_int;
use std::sync::Arc;

use mpi_sys::MPI_Datatype;
use rustc_hash::FxHashMap;

use crate::constants::{COMBINER_NAMED, IN_PLACE};
use crate::errors::Error;
use crate::memory::{Buffer, Lent, Region, Scratch, borrowed, borrowed_mut};
use crate::native::{self, TypeHandle, functions};

/// Most bytes of packed data in one call of the native library, whose counts are C's `int`.
const PACK_BYTES_MAX: usize = 1 << 30;
/// Types with more data than this in an item are not examined for order, but packed.
const EXAMINED_BYTES_MAX: usize = 1 << 20;

/// What the shim knows of a datatype.
#[derive(Clone, Copy, Debug)]
pub struct Datatype {
    handle: TypeHandle,
    /// Bytes of data in an item.
    pub size: usize,
    /// From one item to the next.
    pub extent: isize,
    true_lb: isize,
    true_extent: isize,
    /// One item's data lies side by side, in order.
    dense: bool,
}

impl Datatype {
    /// The handle.
    pub fn handle(&self) -> MPI_Datatype {
        self.handle.get()
    }

    /// Whether `count` items lie side by side, in order, so that packing would change nothing.
    fn is_contiguous(&self, count: usize) -> bool {
        self.dense && (count <= 1 || self.extent == self.size as isize)
    }

    /// Bytes from the first to behind the last byte of data of `count` items.
    fn span(&self, count: usize) -> usize {
        if count == 0 {
            return 0;
        }
        let last = (count as isize - 1) * self.extent;
        (last.abs() + self.true_extent).max(0) as usize
    }

    fn examine(handle: MPI_Datatype) -> Result<Datatype, Error> {
        let size = functions::type_size(handle)?;
        let extent = functions::type_extent(handle)?;
        let (true_lb, true_extent) = functions::type_true_extent(handle)?;
        let mut datatype = Datatype {
            handle: TypeHandle::new(handle),
            size,
            extent,
            true_lb,
            true_extent,
            dense: false,
        };
        datatype.dense = size == 0
            || (true_extent == size as isize
                && (functions::type_combiner(handle)? == COMBINER_NAMED
                    || datatype.packs_in_order()?));
        Ok(datatype)
    }

    /// Packs items whose bytes tell where they were; exact, since together the rounds number every
    /// byte.
    fn packs_in_order(&self) -> Result<bool, Error> {
        if self.size > EXAMINED_BYTES_MAX {
            return Ok(false);
        }
        let mut digit = 0;
        while digit == 0 || self.size >> digit != 0 {
            let item: Vec<u8> = (0..self.size).map(|at| (at >> digit) as u8).collect();
            let mut packed = vec![0; self.size];
            let start = borrowed(&item).offset(-self.true_lb);
            let into = borrowed_mut(&mut packed);
            functions::pack(start, 1, self.handle(), into, self.size as c_int, 0)?;
            if packed != item {
                return Ok(false);
            }
            digit += u8::BITS;
        }
        Ok(true)
    }
}

/// The datatypes met so far. A handle may be given out again after its type was freed.
#[derive(Default)]
pub struct Datatypes {
    known: FxHashMap<usize, Datatype>,
}

impl Datatypes {
    /// What is known of a type.
    pub fn get(&mut self, handle: MPI_Datatype) -> Result<Datatype, Error> {
        if let Some(known) = self.known.get(&(handle.0 as usize)) {
            return Ok(*known);
        }
        let null = native::get().is_ok_and(|native| native.predefined.datatype_null == handle);
        if handle.0.is_null() || null {
            return Err(Error::BadDatatype);
        }
        let datatype = Datatype::examine(handle)?;
        self.known.insert(handle.0 as usize, datatype);
        Ok(datatype)
    }

    /// The program frees the type.
    pub fn forget(&mut self, handle: MPI_Datatype) {
        self.known.remove(&(handle.0 as usize));
    }

    /// A buffer with `count` items of a type, both as the program gave them.
    pub fn view(
        &mut self,
        buffer: Buffer,
        count: c_int,
        datatype: MPI_Datatype,
    ) -> Result<View, Error> {
        let items = usize::try_from(count).map_err(|_| Error::BadCount(count))?;
        let datatype = self.get(datatype)?;
        Ok(View::new(buffer, items, datatype))
    }
}

/// A message buffer: `count` items of a datatype at an address.
#[derive(Clone)]
pub struct View {
    buffer: Buffer,
    count: usize,
    datatype: Datatype,
    scratch: Option<Arc<Scratch>>,
}

impl View {
    /// `count` items at `buffer`.
    pub fn new(buffer: Buffer, count: usize, datatype: Datatype) -> View {
        View {
            buffer,
            count,
            datatype,
            scratch: None,
        }
    }

    /// Memory of our own for `count` items, laid out like a buffer of the program.
    pub fn scratch(count: usize, datatype: Datatype) -> View {
        let scratch = Scratch::new(datatype.span(count));
        let backwards = (count as isize - 1).max(0) * datatype.extent.min(0);
        View {
            buffer: scratch.buffer().offset(-datatype.true_lb - backwards),
            count,
            datatype,
            scratch: Some(scratch),
        }
    }

    /// The `count` items from item `first` on.
    pub fn part(&self, first: usize, count: usize) -> View {
        self.displaced(first as isize, count)
    }

    /// The `count` items that start `displacement` extents away.
    pub fn displaced(&self, displacement: isize, count: usize) -> View {
        let mut part = self.clone();
        part.buffer = self.buffer.offset(displacement * self.datatype.extent);
        part.count = count;
        part
    }

    /// Items.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The type of the items.
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// Where the items are.
    pub fn buffer(&self) -> Buffer {
        self.buffer
    }

    /// Bytes of data.
    pub fn bytes(&self) -> usize {
        self.count * self.datatype.size
    }

    /// The data, where it lies side by side.
    pub fn region(&self) -> Option<Region> {
        let start = self.buffer.offset(self.datatype.true_lb);
        self.datatype
            .is_contiguous(self.count)
            .then(|| start.region(self.bytes()))
    }

    /// The data as something the port can borrow, where it lies side by side.
    pub fn lend(&self) -> Option<Lent> {
        Some(Lent::new(self.region()?, self.scratch.clone()))
    }

    /// The data, packed.
    pub fn pack(&self) -> Result<Vec<u8>, Error> {
        if let Some(region) = self.region() {
            return Ok(region.with(<[u8]>::to_vec));
        }
        let mut packed = vec![0; self.bytes()];
        let mut done = 0;
        for part in self.pack_parts() {
            let bytes = &mut packed[done..done + part.bytes()];
            let room = bytes.len() as c_int;
            let into = borrowed_mut(bytes);
            let handle = self.datatype.handle();
            functions::pack(part.buffer, part.count as c_int, handle, into, room, 0)?;
            done += part.bytes();
        }
        Ok(packed)
    }

    /// Puts packed data into the buffer, as much of it as there is room for; returns how many
    /// bytes.
    pub fn unpack(&self, packed: &[u8]) -> Result<usize, Error> {
        let packed = &packed[..packed.len().min(self.bytes())];
        if let Some(region) = self.region() {
            return Ok(region.fill(packed));
        }
        let size = self.datatype.size.max(1);
        let whole = self.part(0, packed.len() / size);
        let mut done = 0;
        for part in whole.pack_parts() {
            part.unpack_whole(&packed[done..done + part.bytes()])?;
            done += part.bytes();
        }
        if done < packed.len() {
            // Less than an item: the rest of it must stay as it is.
            let item = self.part(whole.count, 1);
            let mut bytes = item.pack()?;
            bytes[..packed.len() - done].copy_from_slice(&packed[done..]);
            item.unpack_whole(&bytes)?;
        }
        Ok(packed.len())
    }

    /// Copies the data of `other`, as much as there is room for.
    pub fn copy_from(&self, other: &View) -> Result<usize, Error> {
        match other.region() {
            Some(region) => region.with(|bytes| self.unpack(bytes)),
            None => self.unpack(&other.pack()?),
        }
    }

    fn unpack_whole(&self, packed: &[u8]) -> Result<(), Error> {
        let len = packed.len() as c_int;
        let (count, handle) = (self.count as c_int, self.datatype.handle());
        functions::unpack(borrowed(packed), len, 0, self.buffer, count, handle)?;
        Ok(())
    }

    /// Parts small enough for one call of the native library.
    fn pack_parts(&self) -> impl Iterator<Item = View> + '_ {
        let items = (PACK_BYTES_MAX / self.datatype.size.max(1)).max(1);
        let starts = (0..self.count).step_by(items);
        starts.map(move |first| self.part(first, items.min(self.count - first)))
    }
}

/// Whether the program passed `MPI_IN_PLACE`.
pub fn is_in_place(buffer: Buffer) -> bool {
    buffer.address() == IN_PLACE
}

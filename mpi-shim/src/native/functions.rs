//! The functions of the native library that the shim itself calls, as safe Rust.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

use mpi_sys::{MPI_Aint, MPI_Comm, MPI_Count, MPI_Datatype, MPI_Errhandler, MPI_Op};

use super::{Inside, Predefined, Symbol, get};
use crate::constants::{SUCCESS, THREAD_MULTIPLE};
use crate::errors::Error;
use crate::memory::Buffer;

/// Declares raw calls: each looks its symbol up, marks the thread as inside, and turns a return
/// code into a result.
macro_rules! calls {
    ($($vis:vis fn $name:ident = $symbol:literal ( $($arg:ident: $type:ty),* );)*) => {
        $(
            $vis fn $name($($arg: $type),*) -> Result<(), Error> {
                static SYMBOL: Symbol = Symbol::new($symbol);
                // SAFETY: the symbol is the native library's function of this name, whose C
                // prototype the declaration repeats.
                let function = unsafe {
                    std::mem::transmute::<*mut c_void, extern "C" fn($($type),*) -> c_int>(
                        SYMBOL.address(),
                    )
                };
                let _inside = Inside::enter();
                match function($($arg),*) {
                    SUCCESS => Ok(()),
                    code => Err(Error::Native { function: $symbol, code }),
                }
            }
        )*
    };
}

calls! {
    fn raw_init_thread = c"PMPI_Init_thread"(
        argc: *mut c_int, argv: *mut *mut *mut c_char, required: c_int, provided: *mut c_int);
    fn raw_finalize = c"PMPI_Finalize"();
    fn raw_comm_set_errhandler = c"PMPI_Comm_set_errhandler"(
        comm: MPI_Comm, errhandler: MPI_Errhandler);
    fn raw_comm_get_attr = c"PMPI_Comm_get_attr"(
        comm: MPI_Comm, keyval: c_int, value: *mut *mut c_int, flag: *mut c_int);
    fn raw_pack = c"PMPI_Pack"(
        inbuf: *const c_void, incount: c_int, datatype: MPI_Datatype, outbuf: *mut c_void,
        outsize: c_int, position: *mut c_int, comm: MPI_Comm);
    fn raw_unpack = c"PMPI_Unpack"(
        inbuf: *const c_void, insize: c_int, position: *mut c_int, outbuf: *mut c_void,
        outcount: c_int, datatype: MPI_Datatype, comm: MPI_Comm);
    fn raw_pack_size = c"PMPI_Pack_size"(
        incount: c_int, datatype: MPI_Datatype, comm: MPI_Comm, size: *mut c_int);
    fn raw_type_size = c"PMPI_Type_size_x"(datatype: MPI_Datatype, size: *mut MPI_Count);
    fn raw_type_get_extent = c"PMPI_Type_get_extent"(
        datatype: MPI_Datatype, lb: *mut MPI_Aint, extent: *mut MPI_Aint);
    fn raw_type_get_true_extent = c"PMPI_Type_get_true_extent"(
        datatype: MPI_Datatype, true_lb: *mut MPI_Aint, true_extent: *mut MPI_Aint);
    fn raw_type_get_envelope = c"PMPI_Type_get_envelope"(
        datatype: MPI_Datatype, integers: *mut c_int, addresses: *mut c_int, datatypes: *mut c_int,
        combiner: *mut c_int);
    fn raw_type_free = c"PMPI_Type_free"(datatype: *mut MPI_Datatype);
    fn raw_op_commutative = c"PMPI_Op_commutative"(op: MPI_Op, commute: *mut c_int);
    fn raw_reduce_local = c"PMPI_Reduce_local"(
        inbuf: *const c_void, inoutbuf: *mut c_void, count: c_int, datatype: MPI_Datatype,
        op: MPI_Op);
    fn raw_add_error_class = c"PMPI_Add_error_class"(class: *mut c_int);
    fn raw_add_error_code = c"PMPI_Add_error_code"(class: c_int, code: *mut c_int);
    fn raw_add_error_string = c"PMPI_Add_error_string"(code: c_int, text: *const c_char);
}

/// Initialises the library for this process alone. The environment decides how: see
/// [`crate::launcher`].
pub fn init_alone() -> Result<(), Error> {
    let mut provided = 0;
    raw_init_thread(
        ptr::null_mut(),
        ptr::null_mut(),
        THREAD_MULTIPLE,
        &mut provided,
    )?;
    let predefined = predefined();
    raw_comm_set_errhandler(predefined.comm_world, predefined.errors_return)?;
    raw_comm_set_errhandler(predefined.comm_self, predefined.errors_return)
}

/// Finalises it.
pub fn finalize() -> Result<(), Error> {
    raw_finalize()
}

/// An attribute of the native world that is an integer.
pub fn world_attribute(keyval: c_int) -> Option<c_int> {
    let (mut value, mut flag) = (ptr::null_mut(), 0);
    raw_comm_get_attr(predefined().comm_world, keyval, &mut value, &mut flag).ok()?;
    if flag == 0 || value.is_null() {
        return None;
    }
    // SAFETY: the predefined attributes are addresses of integers of the library, which stay.
    Some(unsafe { *value })
}

/// Packs `count` items at `from` into `into`, from `position` on; returns where it ended.
pub fn pack(
    from: Buffer,
    count: c_int,
    datatype: MPI_Datatype,
    into: Buffer,
    into_bytes: c_int,
    position: c_int,
) -> Result<c_int, Error> {
    let mut position = position;
    raw_pack(
        from.pointer(),
        count,
        datatype,
        into.pointer(),
        into_bytes,
        &mut position,
        predefined().comm_self,
    )?;
    Ok(position)
}

/// Unpacks `count` items from `from`, from `position` on, to `into`; returns where it ended.
pub fn unpack(
    from: Buffer,
    from_bytes: c_int,
    position: c_int,
    into: Buffer,
    count: c_int,
    datatype: MPI_Datatype,
) -> Result<c_int, Error> {
    let mut position = position;
    raw_unpack(
        from.pointer(),
        from_bytes,
        &mut position,
        into.pointer(),
        count,
        datatype,
        predefined().comm_self,
    )?;
    Ok(position)
}

/// How many bytes `count` packed items take at most.
pub fn pack_size(count: c_int, datatype: MPI_Datatype) -> Result<c_int, Error> {
    let mut size = 0;
    raw_pack_size(count, datatype, predefined().comm_self, &mut size)?;
    Ok(size)
}

/// Bytes of data in one item.
pub fn type_size(datatype: MPI_Datatype) -> Result<usize, Error> {
    let mut size = 0;
    raw_type_size(datatype, &mut size)?;
    usize::try_from(size).map_err(|_| Error::BadDatatype)
}

/// From one item to the next, in bytes.
pub fn type_extent(datatype: MPI_Datatype) -> Result<isize, Error> {
    let (mut lb, mut extent) = (0, 0);
    raw_type_get_extent(datatype, &mut lb, &mut extent)?;
    Ok(extent)
}

/// Where the data of one item begins, from its address, and how far it reaches, in bytes.
pub fn type_true_extent(datatype: MPI_Datatype) -> Result<(isize, isize), Error> {
    let (mut true_lb, mut true_extent) = (0, 0);
    raw_type_get_true_extent(datatype, &mut true_lb, &mut true_extent)?;
    Ok((true_lb, true_extent))
}

/// How the type was made: `MPI_COMBINER_..`.
pub fn type_combiner(datatype: MPI_Datatype) -> Result<c_int, Error> {
    let (mut integers, mut addresses, mut datatypes, mut combiner) = (0, 0, 0, 0);
    raw_type_get_envelope(
        datatype,
        &mut integers,
        &mut addresses,
        &mut datatypes,
        &mut combiner,
    )?;
    Ok(combiner)
}

/// Frees a type.
pub fn type_free(datatype: &mut MPI_Datatype) -> Result<(), Error> {
    raw_type_free(datatype)
}

/// Whether the order of operands does not matter.
pub fn op_commutative(op: MPI_Op) -> Result<bool, Error> {
    let mut commute = 0;
    raw_op_commutative(op, &mut commute)?;
    Ok(commute != 0)
}

/// `inout = input op inout`, item by item.
pub fn reduce_local(
    input: Buffer,
    inout: Buffer,
    count: c_int,
    datatype: MPI_Datatype,
    op: MPI_Op,
) -> Result<(), Error> {
    raw_reduce_local(input.pointer(), inout.pointer(), count, datatype, op)
}

/// A new error class.
pub fn add_error_class() -> Result<c_int, Error> {
    let mut class = 0;
    raw_add_error_class(&mut class)?;
    Ok(class)
}

/// A new error code of a class, with its text.
pub fn add_error_code(class: c_int, text: &str) -> Result<c_int, Error> {
    let mut code = 0;
    raw_add_error_code(class, &mut code)?;
    let text = CString::new(text).map_err(|_| Error::BadArgument("a text has a zero in it"))?;
    raw_add_error_string(code, text.as_ptr())?;
    Ok(code)
}

fn predefined() -> &'static Predefined {
    match get() {
        Ok(native) => &native.predefined,
        Err(error) => panic!("{error}"),
    }
}

//! Our handles as Fortran's integers (MPI 3.1, section 17.2.4).
//!
//! The Fortran library of the native MPI converts with `MPI_Comm_f2c` and its like, so these give
//! each handle of ours a small number. Predefined handles have Open MPI's numbers (`mpif.h`).

use std::collections::HashMap;
use std::ffi::c_int;

use mpi_sys::{MPI_Comm, MPI_Errhandler, MPI_Group, MPI_Request};
use parking_lot::Mutex;

use crate::native::{self, Predefined};

/// First number of a handle that is not predefined.
const FIRST: c_int = 16;

/// Handles and their numbers, all kinds together.
#[derive(Default)]
struct Numbers {
    handles: Vec<usize>,
    numbers: HashMap<usize, c_int>,
}

static NUMBERS: Mutex<Option<Numbers>> = Mutex::new(None);

fn number_of(handle: usize, predefined: &[usize]) -> c_int {
    if let Some(at) = predefined.iter().position(|known| *known == handle) {
        return at as c_int;
    }
    let mut numbers = NUMBERS.lock();
    let numbers = numbers.get_or_insert_default();
    let next = numbers.handles.len() as c_int + FIRST;
    let number = *numbers.numbers.entry(handle).or_insert(next);
    if number == next {
        numbers.handles.push(handle);
    }
    number
}

/// Null where no handle has this number: that is what no call accepts.
fn handle_of(number: c_int, predefined: &[usize]) -> usize {
    if let Some(known) = usize::try_from(number)
        .ok()
        .and_then(|at| predefined.get(at))
    {
        return *known;
    }
    let numbers = NUMBERS.lock();
    let at = usize::try_from(number - FIRST).ok();
    let found = numbers
        .as_ref()
        .zip(at)
        .and_then(|(numbers, at)| numbers.handles.get(at));
    found.copied().unwrap_or(0)
}

fn predefined<const N: usize>(list: fn(&Predefined) -> [usize; N]) -> Vec<usize> {
    native::get().map_or(Vec::new(), |native| list(&native.predefined).to_vec())
}

fn comms(p: &Predefined) -> [usize; 3] {
    [
        p.comm_world.0 as usize,
        p.comm_self.0 as usize,
        p.comm_null.0 as usize,
    ]
}

fn groups(p: &Predefined) -> [usize; 2] {
    [p.group_null.0 as usize, p.group_empty.0 as usize]
}

fn requests(p: &Predefined) -> [usize; 1] {
    [p.request_null.0 as usize]
}

fn errhandlers(p: &Predefined) -> [usize; 3] {
    [
        p.errhandler_null.0 as usize,
        p.errors_are_fatal.0 as usize,
        p.errors_return.0 as usize,
    ]
}

pub fn comm_c2f(comm: MPI_Comm) -> c_int {
    number_of(comm.0 as usize, &predefined(comms))
}

pub fn comm_f2c(comm: c_int) -> MPI_Comm {
    MPI_Comm(handle_of(comm, &predefined(comms)) as *mut _)
}

pub fn group_c2f(group: MPI_Group) -> c_int {
    number_of(group.0 as usize, &predefined(groups))
}

pub fn group_f2c(group: c_int) -> MPI_Group {
    MPI_Group(handle_of(group, &predefined(groups)) as *mut _)
}

pub fn request_c2f(request: MPI_Request) -> c_int {
    number_of(request.0 as usize, &predefined(requests))
}

pub fn request_f2c(request: c_int) -> MPI_Request {
    MPI_Request(handle_of(request, &predefined(requests)) as *mut _)
}

pub fn errhandler_c2f(errhandler: MPI_Errhandler) -> c_int {
    number_of(errhandler.0 as usize, &predefined(errhandlers))
}

pub fn errhandler_f2c(errhandler: c_int) -> MPI_Errhandler {
    MPI_Errhandler(handle_of(errhandler, &predefined(errhandlers)) as *mut _)
}

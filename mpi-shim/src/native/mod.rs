//! The MPI library that the program was linked with: found, not linked.
//!
//! `libmeander_mpi.so` has no libmpi among its needed libraries, or every preloaded shell would die
//! where there is none. The library that the program brought is found by its name when `MPI_Init`
//! is called (or the first function that wants it).

pub mod environment;
pub mod functions;
mod predefined;
pub mod process;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

pub use predefined::{Predefined, TypeHandle};

/// The names under which the native library may be loaded.
const SONAMES: &[&CStr] = &[c"libmpi.so.40"];

/// The native library of this process.
pub struct Native {
    handle: Handle,
    /// Its predefined handles.
    pub predefined: Predefined,
}

/// Why there is no native library to use.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// The program did not bring one.
    #[error("the program has not loaded an MPI library of the kind this shim is for ({0})")]
    Library(&'static str),
    /// It lacks something: another version, perhaps.
    #[error("the native MPI library has no `{0}`")]
    Symbol(String),
}

/// The native library, found at the first call.
pub fn get() -> Result<&'static Native, &'static NotFound> {
    static NATIVE: OnceLock<Result<Native, NotFound>> = OnceLock::new();
    NATIVE.get_or_init(Native::find).as_ref()
}

impl Native {
    fn find() -> Result<Native, NotFound> {
        let handle = SONAMES.iter().copied().find_map(Handle::of_loaded);
        let handle = handle.ok_or(NotFound::Library("libmpi.so.40"))?;
        let predefined = Predefined::find(&handle)?;
        Ok(Native { handle, predefined })
    }
}

/// A function of the native library, looked up at its first use.
pub struct Symbol {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Symbol {
    /// The function `name`.
    pub const fn new(name: &'static CStr) -> Symbol {
        Symbol {
            name,
            address: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Its address, never null.
    ///
    /// # Panics
    /// Where the native library lacks it; the C interface turns that into the end of the job.
    pub fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        let found = match get() {
            Ok(native) => native.handle.function(self.name),
            Err(error) => panic!("{error}"),
        };
        let Some(address) = found else {
            panic!("the native MPI library has no {:?}", self.name);
        };
        self.address.store(address, Ordering::Relaxed);
        address
    }
}

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread is inside the native library, which calls exported MPI names itself, with
/// its own handles: such calls belong to it.
pub fn is_inside() -> bool {
    DEPTH.with(|depth| depth.get() > 0)
}

/// Marks this thread as inside the native library while it lives.
pub struct Inside(());

impl Inside {
    /// Marks it.
    pub fn enter() -> Inside {
        DEPTH.with(|depth| depth.set(depth.get() + 1));
        Inside(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

/// Where this shared object was loaded from.
pub fn own_path() -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: a Dl_info of zeros is valid, and dladdr only writes to it.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked about; this one is a function of ours.
    let found = unsafe { libc::dladdr(own_path as *const c_void, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr succeeded, so the name is a C string that lives as long as this object.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes())))
}

/// A loaded library, never unloaded.
struct Handle(*mut c_void);

// SAFETY: a dlopen handle may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    fn of_loaded(name: &CStr) -> Option<Handle> {
        // SAFETY: RTLD_NOLOAD loads nothing and so runs no code.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY) };
        (!handle.is_null()).then_some(Handle(handle))
    }

    /// A function, from the library itself: the shim's own stands before it elsewhere.
    fn function(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is open for ever and the name is a C string.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }

    /// A variable: the program may hold a copy relocation, which then is the variable; a library
    /// that was loaded with RTLD_LOCAL has it only itself.
    fn variable(&self, name: &str) -> Result<*mut c_void, NotFound> {
        let symbol = CString::new(name).map_err(|_| NotFound::Symbol(name.to_owned()))?;
        // SAFETY: RTLD_DEFAULT is a valid handle and the name is a C string.
        let mut address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) };
        if address.is_null() {
            address = self.function(&symbol).unwrap_or(ptr::null_mut());
        }
        if address.is_null() {
            return Err(NotFound::Symbol(name.to_owned()));
        }
        Ok(address)
    }
}

//! The process's environment while the native library initialises.

use std::collections::HashMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What launchers put there for MPI libraries.
const HIDDEN_PREFIXES: &[&str] = &["PMIX_", "OMPI_", "PMI_", "PMI2_", "PRTE_"];

/// What makes Open MPI a singleton without a network (and 5.0 likewise; MPICH's UCX wants the last).
const ISOLATED: &[(&str, &str)] = &[
    ("OMPI_MCA_ess_singleton_isolated", "1"),
    ("OMPI_MCA_pml", "ob1"),
    ("OMPI_MCA_btl", "self"),
    // One directory for every rank of a user on a node: who ends would remove it from under who begins.
    ("OMPI_MCA_orte_create_session_dirs", "0"),
    ("UCX_TLS", "self"),
];

/// Runs `body` with the launcher's variables hidden, so that the native library takes this process
/// for a job of its own, and puts every variable back as it was: programs read them.
pub fn isolated<R>(body: impl FnOnce() -> R) -> R {
    let before: HashMap<OsString, OsString> = env::vars_os().collect();
    for name in before.keys().filter(|name| is_hidden(name)) {
        remove(name);
    }
    for (name, value) in ISOLATED {
        set(OsStr::new(name), OsStr::new(value));
    }
    let result = body();
    for (name, value) in env::vars_os() {
        match before.get(&name) {
            None => remove(&name),
            Some(old) if *old != value => set(&name, old),
            Some(_) => {}
        }
    }
    for (name, value) in &before {
        if env::var_os(name).is_none() {
            set(name, value);
        }
    }
    result
}

fn is_hidden(name: &OsStr) -> bool {
    HIDDEN_PREFIXES
        .iter()
        .any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
}

fn set(name: &OsStr, value: &OsStr) {
    // SAFETY: inside MPI_Init, which the program calls from one thread, and which changes the
    // environment in any MPI library; threads that the program runs must not read it meanwhile,
    // as with the native MPI_Init.
    unsafe { env::set_var(name, value) };
}

fn remove(name: &OsStr) {
    // SAFETY: as in `set`.
    unsafe { env::remove_var(name) };
}

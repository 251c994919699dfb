//! `libmeander_mpi.so`: MPI on streams that may move.
//!
//! Loaded with `LD_PRELOAD` under an ordinary `mpirun`, it takes the place of every MPI function
//! that crosses ranks or touches a communicator, group, request, window or file, under its `MPI_`
//! and its `PMPI_` name. What is local (datatypes, packing, reductions of two buffers, info
//! objects) stays with the native library, which each rank initialises as a singleton without a
//! network.
//!
//! From the outside in:
//!
//! - [`abi`] is the table of exported functions, one line each. [`abi::call`] runs them.
//! - [`comm`], [`group`], [`p2p`], [`request`] and [`collectives`] say what the functions do.
//! - [`engine`] and [`inbox`] are the traffic of a rank: requests, and messages that no receive has met
//!   yet ([`matching`]). They drive the port.
//! - [`init`], [`wireup`] and [`ending`] are the life of a rank.
//! - [`native`] finds and calls the native library; [`memory`] is the program's memory. With
//!   [`abi`] they hold all the `unsafe` code.
//!
//! Nothing happens before `MPI_Init`: `LD_PRELOAD` reaches shells too.

// The documentation is for those who work on the shim: it exports nothing to Rust.
#![allow(rustdoc::private_intra_doc_links)]

mod abi;
mod attributes;
mod collectives;
mod comm;
mod constants;
mod datatype;
mod ending;
mod engine;
mod envelope;
mod errors;
mod fortran;
mod group;
mod handles;
mod inbox;
mod init;
mod launcher;
mod log;
mod matching;
mod memory;
mod native;
mod p2p;
mod request;
mod wireup;
mod world;

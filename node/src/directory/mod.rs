//! The directory, as agents, movers and guardians use it: [`Client`], over one of two backends.
//!
//! | backend | who decides | what is durable where |
//! | --- | --- | --- |
//! | `embedded` | `meander_core::directory` in the directory's process | a redb file of that process |
//! | `etcd` | the same machine in whoever asks, over the one record it asks for | etcd, by a transaction that holds only if that record is as it was read |
//!
//! Everything is synchronous for those who ask. What is asynchronous about etcd stays on a thread of
//! its own behind [`Backend`].

mod backend;
mod client;
pub mod embedded;
pub mod etcd;
mod lease;

pub use backend::Backend;
pub use client::Client;
pub use lease::Lease;

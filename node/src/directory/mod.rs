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

/// An entry for the backends' tests.
#[cfg(test)]
fn an_entry(epoch: meander::Epoch) -> meander_core::directory::Entry {
    let identity = meander_core::directory::Identity {
        job: meander::JobId("j".into()),
        rank: 0,
        size: 1,
        program: "p".into(),
    };
    meander_core::directory::Entry {
        identity,
        epoch,
        location: meander::Location::default(),
        uid: 3,
        pid: 4,
        host_pid: 5,
        shadow: None,
    }
}

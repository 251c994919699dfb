//! The directory as a process: [`server`] drives `meander_core::directory` over a durable
//! `store`, [`Client`] asks it.
//!
//! It is a process of its own on the node that the cluster file names, so that a killed agent does
//! not take it along. Agents, movers and guardians all ask it directly.

mod client;
pub mod server;
mod store;

pub use client::Client;

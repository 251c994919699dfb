//! How the processes of a cluster talk: frames on Unix sockets, Noise on TCP.

pub mod frame;
pub mod secure;

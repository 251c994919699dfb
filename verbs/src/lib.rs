//! Links over InfiniBand and RoCE: reliable-connected queue pairs, registered memory, completion
//! queues.

pub mod registration;

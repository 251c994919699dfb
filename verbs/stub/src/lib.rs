//! A provider of verbs without a device, to count the instructions of what is above one.
//!
//! Built as a library with the names that Meander looks up in `libibverbs.so.1`, and put in its place by
//! `LD_LIBRARY_PATH`. Its one device, `stub0`, joins queue pairs of one process: a send is copied into the
//! first posted receive, and complete on both sides, before `ibv_post_send` returns; a write into
//! its place likewise. Nothing takes time, so whatever an instruction counter finds outside of this
//! library is the caller's own. It is no test of anything: soft-RoCE is, in the rxe lab.

mod device;
mod fabric;
mod queues;

//! Every bound of checkpointing, named, in one place.

use std::time::Duration;

/// Largest deleted file that is carried in an image.
pub(super) const GHOST_BYTES_MAX: u64 = 64 << 20;
/// Attempts at a dump that a signal spoils (SIGCONT disturbs CRIU at any instant).
pub(super) const DUMP_ATTEMPTS: u32 = 20;
/// Pause between two of them, so that one who sends signals in a rhythm is not met again.
pub(super) const DUMP_PAUSE: Duration = Duration::from_millis(7);
/// Attempts at a restore that a signal spoils.
pub(super) const RESTORE_ATTEMPTS: u32 = 5;
/// How long the threads of an original may take to stop for the tracer.
pub(super) const SEIZE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pids that CRIU and what it starts may use in the copy's namespace.
pub(super) const HELPER_PIDS: i32 = 200;
/// Longest frame between two processes of this node, in bytes.
pub(super) const LOCAL_FRAME_BYTES: usize = 64 << 20;

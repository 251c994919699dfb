//! Telling the user who waits how the move goes.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use meander_core::moves::{Phase, SourceEnd, Trouble};

use crate::net::frame;
use crate::user::{Moving, Progress, Reason, ToUser};

/// How often progress within a phase is reported.
const PERIOD: Duration = Duration::from_millis(100);
/// How long a user may keep a move waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// The user's connection. The move goes on when the user has gone.
pub struct Report {
    user: Option<UnixStream>,
    last: Option<Progress>,
    told: Instant,
}

impl Report {
    /// Begins with what is being moved.
    pub fn start(user: UnixStream, moving: Moving) -> Report {
        let user = user
            .set_write_timeout(Some(PATIENCE))
            .is_ok()
            .then_some(user);
        let mut report = Report {
            user,
            last: None,
            told: Instant::now(),
        };
        report.tell(&ToUser::Moving(moving));
        report
    }

    /// Where no user waits.
    pub fn to_nobody() -> Report {
        Report {
            user: None,
            last: None,
            told: Instant::now(),
        }
    }

    /// The move is in this phase, or this one failed.
    pub fn phase(&mut self, phase: Phase, rolling_back: bool) {
        let known = self
            .last
            .as_ref()
            .is_some_and(|last| last.phase == phase && (last.rolling_back || !rolling_back));
        if !known {
            self.progress(Progress {
                phase,
                rolling_back,
                copied_bytes: 0,
                image_bytes: 0,
            });
        }
    }

    /// So much of the image has arrived.
    pub fn copied(&mut self, copied_bytes: u64, image_bytes: u64) {
        if self.told.elapsed() >= PERIOD {
            let phase = Phase::Copy;
            self.progress(Progress {
                phase,
                rolling_back: false,
                copied_bytes,
                image_bytes,
            });
        }
    }

    /// The move is over.
    pub fn end(&mut self, end: SourceEnd) {
        self.tell(&ToUser::Ended(end));
    }

    /// The move can't even begin.
    pub fn refuse(&mut self, why: Trouble) {
        self.tell(&ToUser::Refused {
            reason: Reason::NotPossible,
            why,
        });
    }

    fn progress(&mut self, progress: Progress) {
        self.told = Instant::now();
        self.tell(&ToUser::Progress(progress.clone()));
        self.last = Some(progress);
    }

    fn tell(&mut self, message: &ToUser) {
        if self
            .user
            .as_mut()
            .is_some_and(|user| frame::write(user, message).is_err())
        {
            self.user = None;
        }
    }
}

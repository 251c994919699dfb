//! Faults planted on purpose, to see that the simulator finds them.
//!
//! Only the feature `planted-faults` has them at all, and no build but the simulator's own turns it
//! on; without it [`is_planted`] is `false` at compile time. Which fault is in force is chosen at run
//! time, for the present thread.

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A mistake that an implementer of the protocol could make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum PlantedFault { $($(#[doc = $doc])* $name,)* }

        impl PlantedFault {
            /// All of them.
            pub const ALL: &'static [PlantedFault] = &[$(PlantedFault::$name,)*];
        }
    };
}

faults! {
    /// A replayed item is delivered again. `[R11]`
    SkipDuplicateCheck,
    /// An item is acknowledged before it has arrived. `[R12]`
    AcknowledgeBeforeDelivery,
    /// A move is committed at the epoch it started from. `[R18]`
    ForgetToRaiseEpoch,
    /// The last retained item is not in the image. `[R4]`
    LoseRetainedTail,
    /// A pull goes on behind where it had stopped. `[R16]`
    ResumePullAtWrongOffset,
    /// Pulls are not asked for again on a new link. `[R16]`
    ForgetPulls,
    /// A dialler that a move has left behind is taken. `[R6]`
    AcceptStaleEpoch,
    /// The move is committed before the guardian has confirmed.
    CommitWithoutConfirmation,
    /// The old link still delivers when the new one is resumed. `[R20]`
    AnswerBeforeFencing,
    /// A payload's memory is given back when its last part is queued. `[R14]`
    CompleteTooEarly,
    /// The original goes on although the move is committed.
    ResumeAfterCommit,
    /// What is copied is not counted. `[R56]`
    ForgetToCountCopies,
    /// What was copied and has arrived counts on. `[R56]`
    ForgetToUncountCopies,
    /// Nothing goes out, not even control, while a window is full. `[R13]`
    BlockWhenWindowIsFull,
    /// The window is not looked at. `[R13]`
    IgnoreWindow,
    /// A move that starts at an epoch long left is committed all the same. `[R18]`
    CommitWithoutCompare,
    /// A guardian that loses its source lets the copy run without asking.
    ReleaseWithoutCommit,
    /// A commit whose answer is lost counts as failed, and nobody asks. `[R28]`
    RollBackWithoutAsking,
    /// Whoever takes over from a killed owner thaws the original without asking. `[R28]`
    ResumeFromJournal,
    /// Whoever takes over does not ask whether the rank was taken back. `[R28]`
    RecoverWithoutReclaim,
    /// That a move was called off is not on the disk. `[R23]`
    ForgetCallingOff,
    /// That a move was committed is not on the disk. `[R23]`
    ForgetCommit,
    /// A guardian that loses its source discards the copy without asking. `[R28]`
    DiscardWithoutAsking,
    /// A process is removed at whatever epoch. `[R26]`
    RemoveWithoutCompare,
    /// What has ended can be listed again. `[R31]`
    ListTheDead,
    /// A death is reported although the port had moved on. `[R32]`
    ReportTheMoved,
}

#[cfg(feature = "planted-faults")]
mod chosen {
    use super::PlantedFault;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<PlantedFault>> = const { Cell::new(None) };
    }

    /// Puts a fault in force for this thread, or none.
    pub fn plant(fault: Option<PlantedFault>) {
        PLANTED.set(fault);
    }

    pub(crate) fn is_planted(fault: PlantedFault) -> bool {
        PLANTED.get() == Some(fault)
    }
}

#[cfg(feature = "planted-faults")]
pub(crate) use chosen::is_planted;
#[cfg(feature = "planted-faults")]
pub use chosen::plant;

#[cfg(not(feature = "planted-faults"))]
pub(crate) const fn is_planted(_fault: PlantedFault) -> bool {
    false
}

//! Making the held original become the shadow.

use super::{Error, Hold};
use crate::shadow;

/// Makes a held process execute the shadow, at its pid, with no instruction of its own in between,
/// and ends the hold. The process keeps its descriptors 0, 1 and 2, parent, session and owner.
///
/// On an error the process is killed: after the commit it must never run again.
pub fn become_shadow(hold: Hold, config: &shadow::Config) -> Result<(), Error> {
    let _ = (hold, config);
    todo!()
}

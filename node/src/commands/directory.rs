//! `meander directory`: where the directory is, and having another node hold it.

use meander::NodeName;

use super::{ps, say};
use crate::Error;
use crate::user::{self, FromUser, ToUser};

/// Prints where it is. Returns the exit code.
pub fn show() -> Result<u8, Error> {
    ask(&FromUser::Directory)
}

/// Has it handed over to a node. Returns the exit code.
pub fn hand_over(to: NodeName) -> Result<u8, Error> {
    ask(&FromUser::MoveDirectory { to })
}

fn ask(question: &FromUser) -> Result<u8, Error> {
    let mut stream = user::ask(question)?;
    match user::hear(&mut stream)? {
        Some(ToUser::DirectoryAt { place }) => {
            println!("{place}");
            Ok(super::exit::DONE)
        }
        Some(ToUser::Refused { reason, why }) => {
            say(&why.what, &why.mend);
            Ok(ps::code(reason))
        }
        other => Err(Error::Protocol {
            peer: "the agent".into(),
            why: format!("answered {other:?}"),
        }),
    }
}

//! What a move leaves on the disk while it goes on, so that another process can bring it to its end
//! should its owner be killed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use meander::PortId;
use meander::control::run_dir;
use serde::{Deserialize, Serialize};

use super::Order;
use crate::{Error, process};

/// A move that is going on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Journal {
    /// What was ordered.
    pub order: Order,
    /// The process that owns the move.
    pub owner: u32,
    /// What the shadow needs, once the destination has said it. Secret.
    pub shadow: Vec<u8>,
}

impl Journal {
    /// Begins the journal of a move that this process owns.
    pub fn begin(order: Order, shadow: Vec<u8>) -> Result<Journal, Error> {
        let journal = Journal {
            order,
            owner: std::process::id(),
            shadow,
        };
        journal.write()?;
        Ok(journal)
    }

    /// Adds what the shadow needs.
    pub fn set_shadow(&mut self, shadow: Vec<u8>) -> Result<(), Error> {
        self.shadow = shadow;
        self.write()
    }

    /// The move is over.
    pub fn end(self) {
        let _ = fs::remove_file(self.path());
    }

    /// Reads a journal.
    pub fn read(path: &Path) -> Result<Journal, Error> {
        let reading = || Error::io(format!("reading {}", path.display()));
        let bytes = fs::read(path).map_err(reading())?;
        serde_json::from_slice(&bytes).map_err(|error| reading()(std::io::Error::other(error)))
    }

    /// The journals of moves whose owners are gone.
    pub fn orphans() -> Vec<PathBuf> {
        let mut paths = all();
        paths.retain(|path| Journal::read(path).is_ok_and(|journal| !journal.is_owned()));
        paths
    }

    /// Whether a move of this port goes on. An agent that was started meanwhile knows of it only
    /// from here.
    pub fn is_open(port: PortId) -> bool {
        let mut journals = all()
            .into_iter()
            .filter_map(|path| Journal::read(&path).ok());
        journals.any(|journal| journal.order.port == port)
    }

    /// Whether the process that owns the move lives.
    fn is_owned(&self) -> bool {
        let words = process::arguments(self.owner);
        words.iter().any(|word| word == "move-source")
    }

    /// Where the journal of this move is.
    pub fn path_of(order: &Order) -> PathBuf {
        directory().join(format!("{}.json", order.move_id))
    }

    fn path(&self) -> PathBuf {
        Journal::path_of(&self.order)
    }

    fn write(&self) -> Result<(), Error> {
        let path = self.path();
        let writing = || Error::io(format!("writing {}", path.display()));
        let bytes = serde_json::to_vec(self).map_err(|error| writing()(error.into()))?;
        let _ = fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(directory());
        // Whole or not at all, whenever this process is killed.
        let fresh = path.with_extension("new");
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(writing())
    }
}

fn all() -> Vec<PathBuf> {
    let list = fs::read_dir(directory()).into_iter().flatten().flatten();
    let paths = list.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .collect()
}

fn directory() -> PathBuf {
    run_dir().join("moves")
}

//! The image on its way: files of one directory, over a message stream.
//!
//! First a [`Header`], then the files' bytes in order, cut into messages of [`CHUNK_BYTES`]. The
//! receiver answers every message with the number of bytes it has so far; the sender is never more
//! than [`WINDOW_BYTES`] ahead of that, so that neither side holds the image twice.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use meander::Stream;
use meander_core::moves::Trouble;
use serde::{Deserialize, Serialize};

use super::hearing::{Heard, Hearing};
use crate::Error;
use crate::checkpoint::{Dump, Manifest};
use crate::guardian::Baton;

/// Bytes of one message of an image.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes that may be on their way.
const WINDOW_BYTES: u64 = 32 << 20;
/// Files of an image.
const FILES: usize = 100_000;
/// How often a waiting side looks whether the move was called off.
const PERIOD: Duration = Duration::from_millis(50);

/// What comes before the files.
#[derive(Serialize, Deserialize)]
pub(crate) struct Header {
    manifest: Manifest,
    baton: Option<Baton>,
    files: Vec<(String, u64)>,
}

/// What was received.
pub struct Received {
    /// What the restore needs beside the files.
    pub manifest: Manifest,
    /// From the guardian before, if there was one.
    pub baton: Option<Baton>,
}

/// Sends an image. `watch` hears how many bytes have arrived, and may call it off.
pub fn send(
    stream: &Stream,
    dump: &Dump,
    baton: Option<Baton>,
    mut watch: impl FnMut(u64) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let files = list(&dump.directory)?;
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    let header = Header {
        manifest: dump.manifest.clone(),
        baton,
        files,
    };
    let bytes = postcard::to_stdvec(&header).map_err(|error| Trouble::new(error.to_string()))?;
    let sending = || Error::stream("sending the image");
    stream.send_owned(bytes).map_err(sending())?;
    let (mut sent, mut arrived) = (0, 0);
    for (name, bytes) in &header.files {
        let path = dump.directory.join(name);
        let reading = || Error::io(format!("reading {}", path.display()));
        let mut file = File::open(&path).map_err(reading())?;
        let mut left = *bytes;
        while left > 0 {
            let mut chunk = vec![0; left.min(CHUNK_BYTES as u64) as usize];
            file.read_exact(&mut chunk).map_err(reading())?;
            left -= chunk.len() as u64;
            sent += chunk.len() as u64;
            stream.send_owned(chunk).map_err(sending())?;
            while sent - arrived > WINDOW_BYTES {
                arrived = hear(stream, arrived, &mut watch)?;
            }
        }
    }
    while arrived < total {
        arrived = hear(stream, arrived, &mut watch)?;
    }
    Ok(())
}

/// Receives an image into `directory`, which is empty. `watch` may call it off.
pub fn receive(
    stream: &Stream,
    directory: &Path,
    limit_bytes: Option<u64>,
    mut watch: impl FnMut() -> Result<(), Trouble>,
) -> Result<Received, Trouble> {
    let bytes = next(stream, &mut watch)?;
    let header: Header = postcard::from_bytes(&bytes)
        .map_err(|_| Trouble::new("the image's header can't be decoded"))?;
    let total = header
        .files
        .iter()
        .fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    if let Some(limit) = limit_bytes.filter(|limit| total > *limit) {
        let why = format!("the image has {total} bytes, more than the memory limit of {limit}");
        return Err(Trouble::new(why).mend("raise --memory-limit of the destination's agent"));
    }
    if header.files.len() > FILES {
        return Err(Trouble::new("the image has too many files"));
    }
    let mut arrived: u64 = 0;
    for (name, bytes) in &header.files {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(Trouble::new(format!("the image has a file named {name:?}")));
        }
        let path = directory.join(name);
        let writing = || Error::io(format!("writing {}", path.display()));
        let mut file = File::create_new(&path).map_err(writing())?;
        let mut left = *bytes;
        while left > 0 {
            let chunk = next(stream, &mut watch)?;
            if chunk.is_empty() || chunk.len() as u64 > left {
                return Err(Trouble::new("the image's pieces do not fit its files"));
            }
            left -= chunk.len() as u64;
            arrived += chunk.len() as u64;
            file.write_all(&chunk).map_err(writing())?;
            stream
                .send(&arrived.to_le_bytes())
                .map_err(Error::stream("acknowledging the image"))?;
        }
    }
    Ok(Received {
        manifest: header.manifest,
        baton: header.baton,
    })
}

fn list(directory: &Path) -> Result<Vec<(String, u64)>, Trouble> {
    let reading = || Error::io(format!("listing {}", directory.display()));
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(reading())? {
        let entry = entry.map_err(reading())?;
        let metadata = entry.metadata().map_err(reading())?;
        if metadata.is_file() {
            files.push((
                entry.file_name().to_string_lossy().into_owned(),
                metadata.len(),
            ));
        }
    }
    files.sort();
    Ok(files)
}

/// Waits for the receiver's next word, and reports it.
fn hear(
    stream: &Stream,
    before: u64,
    watch: &mut impl FnMut(u64) -> Result<(), Trouble>,
) -> Result<u64, Trouble> {
    watch(before)?;
    let word = next(stream, &mut || watch(before))?;
    let arrived = word
        .as_slice()
        .try_into()
        .map(u64::from_le_bytes)
        .map_err(|_| Trouble::new("the destination acknowledges nonsense"))?;
    Ok(arrived)
}

/// The next message, however long it takes; `watch` calls it off.
fn next(
    stream: &Stream,
    watch: &mut impl FnMut() -> Result<(), Trouble>,
) -> Result<Vec<u8>, Trouble> {
    let mut hearing = Hearing::default();
    loop {
        match hearing.hear(stream, PERIOD) {
            Heard::Message(message) => return Ok(message),
            Heard::Nothing => watch()?,
            Heard::Lost(why) => {
                return Err(Trouble::new(format!(
                    "the other side of the image is lost: {why}"
                )));
            }
        }
    }
}

//! Frames on a Unix socket: a little-endian `u32` length, then postcard.

use std::io::{self, Read, Write};

use meander::control::CONTROL_FRAME_BYTES;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes one frame.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    write_bytes(to, &body)
}

/// Writes one frame that is encoded already.
pub fn write_bytes(to: &mut impl Write, body: &[u8]) -> io::Result<()> {
    if body.len() > CONTROL_FRAME_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the frame is too long",
        ));
    }
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(body);
    to.write_all(&frame)?;
    to.flush()
}

/// Reads one frame; `None` at the end of the stream between two frames. Reads nothing beyond it,
/// so that the socket can be handed to another process afterwards.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let Some(body) = read_bytes(from)? else {
        return Ok(None);
    };
    decode(&body).map(Some)
}

/// Reads one frame and leaves it encoded.
pub fn read_bytes(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if !read_or_end(from, &mut length)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > CONTROL_FRAME_BYTES {
        return Err(invalid(format!("a frame of {length} bytes is too long")));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some(body))
}

/// Decodes what [`read_bytes`] gave.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body).map_err(|_| invalid("a frame can't be decoded".into()))
}

fn read_or_end(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_nothing_beyond_them_is_read() {
        let mut bytes = Vec::new();
        write(&mut bytes, &(7u32, "seven")).unwrap();
        bytes.extend_from_slice(b"rest");
        let mut from = bytes.as_slice();
        assert_eq!(
            read::<(u32, String)>(&mut from).unwrap(),
            Some((7, "seven".into()))
        );
        assert_eq!(from, b"rest");
    }

    #[test]
    fn an_end_between_frames_is_an_end_and_inside_one_an_error() {
        assert!(read::<u32>(&mut [].as_slice()).unwrap().is_none());
        assert!(read::<u32>(&mut [1u8, 0].as_slice()).is_err());
        assert!(read::<u32>(&mut [1u8, 0, 0, 0].as_slice()).is_err());
    }

    #[test]
    fn a_long_frame_is_refused_before_it_is_read() {
        let mut from = [255u8, 255, 255, 255].as_slice();
        let error = read::<u32>(&mut from).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

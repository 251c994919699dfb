//! Frames of the control protocol on a Unix socket.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CONTROL_FRAME_BYTES;

/// Writes one frame.
pub(super) fn write<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
    let len = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    to.write_all(&frame)
}

/// Reads one frame and nothing beyond it.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > CONTROL_FRAME_BYTES {
        return Err(invalid("the frame is too long"));
    }
    let mut body = vec![0; len];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(|_| invalid("the frame can't be decoded"))
}

#[cfg(test)]
mod tests {
    use super::super::ToPort;
    use super::*;

    #[test]
    fn a_frame_survives_and_broken_ones_are_errors() {
        let mut bytes = Vec::new();
        write(&mut bytes, &ToPort::Suspend).unwrap();
        write(&mut bytes, &ToPort::Resume).unwrap();
        let mut rest = &bytes[..];
        assert_eq!(read::<ToPort>(&mut rest).unwrap(), ToPort::Suspend);
        assert_eq!(read::<ToPort>(&mut rest).unwrap(), ToPort::Resume);
        for bad in [
            &[][..],
            &[1, 0, 0],
            &[255; 9],
            &[1, 0, 0, 0],
            &[1, 0, 0, 0, 99],
        ] {
            assert!(read::<ToPort>(&mut &bad[..]).is_err());
        }
    }
}

//! As much of protobuf as it takes to change a field of a CRIU image and keep all others as they
//! are. Nothing here trusts its input: what is not as expected gives `None`.
//!
//! An image file is two magic numbers and a sequence of records, each a little-endian `u32` length
//! and a protobuf message (<https://criu.org/Images>).

const MAGIC_BYTES: usize = 8;

/// A field of a message.
pub(super) struct Field<'a> {
    pub number: u64,
    /// Its number, where it is one.
    pub value: Option<u64>,
    /// Its bytes, where it is length-delimited.
    pub payload: Option<&'a [u8]>,
    /// All of it, with its tag.
    whole: &'a [u8],
}

/// What becomes of a field.
pub(super) enum Change {
    Keep,
    Drop,
    /// Length-delimited, with these bytes.
    Replace(Vec<u8>),
}

/// The messages of an image file.
pub(super) fn records(image: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = image.get(MAGIC_BYTES..)?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        records.push(rest.get(4..4 + len)?);
        rest = &rest[4 + len..];
    }
    Some(records)
}

/// An image file with other messages.
pub(super) fn change_records(
    image: &[u8],
    mut change: impl FnMut(&[u8]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut changed = image.get(..MAGIC_BYTES)?.to_vec();
    for record in records(image)? {
        let message = change(record)?;
        changed.extend((message.len() as u32).to_le_bytes());
        changed.extend(message);
    }
    Some(changed)
}

/// A message with other fields.
pub(super) fn change_fields(
    message: &[u8],
    mut change: impl FnMut(&Field<'_>) -> Option<Change>,
) -> Option<Vec<u8>> {
    let mut changed = Vec::with_capacity(message.len());
    for field in fields(message)? {
        match change(&field)? {
            Change::Keep => changed.extend(field.whole),
            Change::Drop => {}
            Change::Replace(payload) => {
                changed.extend(varint(field.number << 3 | 2));
                changed.extend(varint(payload.len() as u64));
                changed.extend(payload);
            }
        }
    }
    Some(changed)
}

/// The first field of this number.
pub(super) fn field(message: &[u8], number: u64) -> Option<Field<'_>> {
    fields(message)?
        .into_iter()
        .find(|field| field.number == number)
}

fn fields(message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let start = rest;
        let tag = take_varint(&mut rest)?;
        let (mut value, mut payload) = (None, None);
        match tag & 7 {
            0 => value = Some(take_varint(&mut rest)?),
            1 => rest = rest.get(8..)?,
            2 => {
                let len = usize::try_from(take_varint(&mut rest)?).ok()?;
                payload = Some(rest.get(..len)?);
                rest = &rest[len..];
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
        let whole = &start[..start.len() - rest.len()];
        found.push(Field {
            number: tag >> 3,
            value,
            payload,
            whole,
        });
    }
    Some(found)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    pub fn nested(field: u64, body: &[u8]) -> Vec<u8> {
        [
            varint(field << 3 | 2),
            varint(body.len() as u64),
            body.to_vec(),
        ]
        .concat()
    }

    pub fn image(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"MAGICNUM".to_vec();
        for message in messages {
            bytes.extend((message.len() as u32).to_le_bytes());
            bytes.extend(message);
        }
        bytes
    }

    #[test]
    fn all_kinds_of_fields_are_kept() {
        let fixed = [
            varint(3 << 3 | 1),
            vec![1; 8],
            varint(4 << 3 | 5),
            vec![2; 4],
        ]
        .concat();
        let message = [number(1, u64::MAX), nested(200, b"text"), fixed].concat();
        assert_eq!(
            change_fields(&message, |_| Some(Change::Keep)).unwrap(),
            message
        );
        let replaced = change_fields(&message, |field| {
            Some(match field.number {
                200 => Change::Replace(b"other".to_vec()),
                _ => Change::Drop,
            })
        });
        assert_eq!(replaced.unwrap(), nested(200, b"other"));
        assert_eq!(field(&message, 1).unwrap().value, Some(u64::MAX));
    }

    #[test]
    fn a_cut_image_is_no_panic() {
        let whole = image(&[[number(1, 1 << 40), nested(2, b"text")].concat()]);
        for len in 0..whole.len() {
            let _ = change_records(&whole[..len], |record| {
                change_fields(record, |_| Some(Change::Keep))
            });
        }
    }
}

//! The one change made to CRIU's image files: recorded sizes of open files are dropped.
//!
//! CRIU refuses to restore a file whose size is not what it was ("bad size"). Several ranks write
//! one output file by offset, so for files that are open that is no error. Sizes of files that are
//! only mapped (program, libraries) stay, and are checked.
//!
//! An image file is two magic numbers and a sequence of records, each a little-endian `u32` length
//! and a protobuf message (<https://criu.org/Images>). Fields used, from CRIU's `fdinfo.proto` and
//! `regfile.proto`: `file_entry` {1: type, 2: id, 3: reg}, `reg_file_entry` {8: size},
//! `fdinfo_entry` {1: id, 3: type}.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::Error;

const MAGIC_BYTES: usize = 8;
/// `fd_types.REG`.
const TYPE_REGULAR: u64 = 1;
const FIELD_ENTRY_REG: u64 = 3;
const FIELD_REG_SIZE: u64 = 8;

/// Drops the recorded sizes of all files that are open in the images of `directory`.
pub(super) fn drop_sizes_of_open_files(directory: &Path) -> Result<(), Error> {
    let mut open = BTreeSet::new();
    let entries =
        fs::read_dir(directory).map_err(Error::os(format!("read {}", directory.display())))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("fdinfo-") && name.ends_with(".img") {
            let image = read(directory, &name)?;
            open.extend(open_regular_files(&image).ok_or_else(|| malformed(&name))?);
        }
    }
    let name = "files.img";
    let image = read(directory, name)?;
    let changed = without_sizes(&image, &open).ok_or_else(|| malformed(name))?;
    let path = directory.join(name);
    fs::write(&path, changed).map_err(Error::os(format!("write {}", path.display())))
}

fn open_regular_files(image: &[u8]) -> Option<BTreeSet<u64>> {
    let mut ids = BTreeSet::new();
    for record in records(image)? {
        let number = |wanted| {
            let field = fields(record)?
                .into_iter()
                .find(|field| field.number == wanted)?;
            field.value
        };
        if number(3)? == TYPE_REGULAR {
            ids.insert(number(1)?);
        }
    }
    Some(ids)
}

fn without_sizes(image: &[u8], open: &BTreeSet<u64>) -> Option<Vec<u8>> {
    let mut changed = image.get(..MAGIC_BYTES)?.to_vec();
    for record in records(image)? {
        let entry = fields(record)?;
        let id = entry.iter().find(|field| field.number == 2)?.value?;
        let mut message = Vec::with_capacity(record.len());
        for field in &entry {
            if field.number == FIELD_ENTRY_REG && open.contains(&id) {
                let inner = fields(field.payload?)?;
                let kept = inner.iter().filter(|field| field.number != FIELD_REG_SIZE);
                let body: Vec<u8> = kept.flat_map(|field| field.whole).copied().collect();
                message.extend(varint(FIELD_ENTRY_REG << 3 | 2));
                message.extend(varint(body.len() as u64));
                message.extend(body);
            } else {
                message.extend(field.whole);
            }
        }
        changed.extend((message.len() as u32).to_le_bytes());
        changed.extend(message);
    }
    Some(changed)
}

/// The messages of an image file.
fn records(image: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = image.get(MAGIC_BYTES..)?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        records.push(rest.get(4..4 + len)?);
        rest = &rest[4 + len..];
    }
    Some(records)
}

/// A field of a protobuf message.
struct Field<'a> {
    number: u64,
    /// Its number, where it is one.
    value: Option<u64>,
    /// Its bytes, where it is length-delimited.
    payload: Option<&'a [u8]>,
    /// All of it, with its tag.
    whole: &'a [u8],
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

fn read(directory: &Path, name: &str) -> Result<Vec<u8>, Error> {
    let path = directory.join(name);
    fs::read(&path).map_err(Error::os(format!("read {}", path.display())))
}

fn malformed(name: &str) -> Error {
    Error::Image {
        file: name.to_owned(),
        why: "not as CRIU 3 and 4 write it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    fn nested(field: u64, body: &[u8]) -> Vec<u8> {
        [
            varint(field << 3 | 2),
            varint(body.len() as u64),
            body.to_vec(),
        ]
        .concat()
    }

    fn image(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"MAGICNUM".to_vec();
        for message in messages {
            bytes.extend((message.len() as u32).to_le_bytes());
            bytes.extend(message);
        }
        bytes
    }

    fn entry(id: u64, size: Option<u64>) -> Vec<u8> {
        let mut reg = [number(1, id), number(2, 0o100001), nested(6, b"/out")].concat();
        reg.extend(size.map(|size| number(8, size)).unwrap_or_default());
        reg.extend(number(10, 0o100644));
        [number(1, 1), number(2, id), nested(3, &reg)].concat()
    }

    #[test]
    fn only_open_files_lose_their_size() {
        let files = image(&[entry(7, Some(1 << 40)), entry(300, Some(5)), entry(8, None)]);
        let fdinfo = image(&[
            [number(1, 7), number(2, 0), number(3, 1), number(4, 3)].concat(),
            [number(1, 300), number(2, 0), number(3, 2), number(4, 4)].concat(),
        ]);
        let open = open_regular_files(&fdinfo).unwrap();
        assert_eq!(open, BTreeSet::from([7]));
        let wanted = image(&[entry(7, None), entry(300, Some(5)), entry(8, None)]);
        assert_eq!(without_sizes(&files, &open).unwrap(), wanted);
    }

    #[test]
    fn a_cut_image_is_no_panic() {
        let whole = image(&[entry(7, Some(1 << 40))]);
        for len in 0..whole.len() {
            let _ = without_sizes(&whole[..len], &BTreeSet::from([7]));
        }
    }
}

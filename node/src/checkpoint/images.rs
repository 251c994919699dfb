//! What is changed in CRIU's image files between dump and restore.
//!
//! - Recorded sizes of open files are dropped. CRIU refuses to restore a file whose size is not what
//!   it was ("bad size"), but several ranks write one output file by offset. Sizes of files that
//!   are only mapped (program, libraries) stay, and are checked.
//! - Pending job-control signals are taken out, to be sent again once the copy runs. CRIU makes
//!   pending signals pending again while it traces the copy; at SIGCONT or a stop it then gives up.
//!   A traced process keeps SIGCONT pending even where it is ignored, so any that comes during a
//!   dump is in the image.
//!
//! Fields used, from CRIU's images/*.proto: `file_entry` {1: type, 2: id, 3: reg}, `reg_file_entry`
//! {8: size}, `fdinfo_entry` {1: id, 3: type}, `core_entry` {3: tc, 5: thread_core},
//! `task_core_entry` {10: signals_s}, `thread_core_entry` {9: signals_p}, `signal_queue_entry`
//! {1: signals}, `siginfo_entry` {1: siginfo}.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::libc;

use super::Error;
use super::protobuf::{Change, change_fields, change_records, field, records};

/// `fd_types.REG`.
const TYPE_REGULAR: u64 = 1;
/// Signals that stop or wake.
const JOB_CONTROL: [i32; 5] = [
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Drops the recorded sizes of all files that are open in the images of `directory`.
pub(super) fn drop_sizes_of_open_files(directory: &Path) -> Result<(), Error> {
    let mut open = BTreeSet::new();
    for name in names(directory, "fdinfo-")? {
        let image = read(directory, &name)?;
        open.extend(open_regular_files(&image).ok_or_else(|| malformed(&name))?);
    }
    change(directory, "files.img", |image| without_sizes(image, &open))
}

/// Takes pending job-control signals out of the images of `directory` and returns them.
pub(super) fn take_job_control_signals(directory: &Path) -> Result<Vec<i32>, Error> {
    let mut taken = Vec::new();
    for name in names(directory, "core-")? {
        change(directory, &name, |image| without_signals(image, &mut taken))?;
    }
    taken.dedup();
    Ok(taken)
}

fn open_regular_files(image: &[u8]) -> Option<BTreeSet<u64>> {
    let mut ids = BTreeSet::new();
    for record in records(image)? {
        let number = |wanted| field(record, wanted)?.value;
        if number(3)? == TYPE_REGULAR {
            ids.insert(number(1)?);
        }
    }
    Some(ids)
}

fn without_sizes(image: &[u8], open: &BTreeSet<u64>) -> Option<Vec<u8>> {
    change_records(image, |entry| {
        let is_open = open.contains(&field(entry, 2)?.value?);
        change_fields(entry, |part| match part.number {
            3 if is_open => change_fields(part.payload?, |detail| {
                Some(if detail.number == 8 {
                    Change::Drop
                } else {
                    Change::Keep
                })
            })
            .map(Change::Replace),
            _ => Some(Change::Keep),
        })
    })
}

fn without_signals(image: &[u8], taken: &mut Vec<i32>) -> Option<Vec<u8>> {
    change_records(image, |core| {
        change_fields(core, |part| {
            let queue = match part.number {
                3 => 10,
                5 => 9,
                _ => return Some(Change::Keep),
            };
            change_fields(part.payload?, |detail| match detail.number {
                number if number == queue => {
                    let filtered = filter_queue(detail.payload?, taken)?;
                    Some(Change::Replace(filtered))
                }
                _ => Some(Change::Keep),
            })
            .map(Change::Replace)
        })
    })
}

fn filter_queue(queue: &[u8], taken: &mut Vec<i32>) -> Option<Vec<u8>> {
    change_fields(queue, |signal| {
        // A siginfo_t begins with the signal's number.
        let info = field(signal.payload?, 1)?.payload?;
        let number = i32::from_le_bytes(info.get(..4)?.try_into().ok()?);
        if !JOB_CONTROL.contains(&number) {
            return Some(Change::Keep);
        }
        taken.push(number);
        Some(Change::Drop)
    })
}

fn names(directory: &Path, prefix: &str) -> Result<Vec<String>, Error> {
    let entries =
        fs::read_dir(directory).map_err(Error::os(format!("read {}", directory.display())))?;
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names
        .filter(|name| name.starts_with(prefix) && name.ends_with(".img"))
        .collect())
}

fn change(
    directory: &Path,
    name: &str,
    change: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Result<(), Error> {
    let image = read(directory, name)?;
    let changed = change(&image).ok_or_else(|| malformed(name))?;
    let path = directory.join(name);
    fs::write(&path, changed).map_err(Error::os(format!("write {}", path.display())))
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
    use super::super::protobuf::tests::{image, nested, number};
    use super::*;

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
    fn only_job_control_signals_are_taken() {
        let queue = |signals: &[i32]| -> Vec<u8> {
            let infos = signals.iter().map(|signal| {
                let info = [signal.to_le_bytes().to_vec(), vec![0; 124]].concat();
                nested(1, &nested(1, &info))
            });
            infos.flatten().collect()
        };
        let core = |shared: &[i32], private: &[i32]| {
            let tc = [number(1, 1), nested(10, &queue(shared))].concat();
            let thread = [nested(9, &queue(private)), number(11, 2)].concat();
            image(&[[number(1, 1), nested(3, &tc), nested(5, &thread)].concat()])
        };
        let mut taken = Vec::new();
        let changed = without_signals(&core(&[18, 15], &[10, 20]), &mut taken).unwrap();
        assert_eq!(changed, core(&[15], &[10]));
        assert_eq!(taken, [18, 20]);
    }
}

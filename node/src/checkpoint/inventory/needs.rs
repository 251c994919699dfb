//! What a destination must have for a process to live there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Obstacle;

/// How much of a program or library is read in search of its build id.
const HEAD_BYTES: u64 = 64 * 1024;

/// What a destination must have for a process to live there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Binary, libraries, open files, directories.
    pub paths: Vec<NeededPath>,
    /// Instruction sets, as `/proc/cpuinfo` calls them.
    pub cpu_features: Vec<String>,
    /// Memory, in bytes.
    pub memory_bytes: u64,
}

/// A path that must exist at the destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeededPath {
    /// The path.
    pub path: PathBuf,
    /// What must be there.
    pub kind: PathKind,
}

/// What must be at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathKind {
    /// A program or library with the same content.
    Code {
        /// Its size.
        size_bytes: u64,
        /// Its ELF build id, or the SHA-256 of its content.
        identity: String,
    },
    /// A file that is read: the same size will do.
    Input {
        /// Its size.
        size_bytes: u64,
    },
    /// A file that is written: it must be the very same, on a file system that both nodes have.
    Output {
        /// Its number in the file system.
        inode: u64,
    },
    /// A directory: the working directory, or an open one.
    Directory,
    /// A device without state.
    Device,
}

impl Needs {
    /// What this node lacks of it.
    pub fn missing_here(&self) -> Vec<Obstacle> {
        let mut missing: Vec<String> = self.paths.iter().filter_map(NeededPath::lack).collect();
        let has: BTreeSet<String> = cpu_features().into_iter().collect();
        let lacks: Vec<&str> = self
            .cpu_features
            .iter()
            .filter(|feature| !has.contains(*feature))
            .map(String::as_str)
            .collect();
        if !lacks.is_empty() {
            missing.push(format!("the processor lacks {}", lacks.join(", ")));
        }
        let free_bytes = available_memory_bytes();
        if free_bytes < self.memory_bytes {
            missing.push(format!(
                "it needs {} MiB of memory and {} MiB are available",
                self.memory_bytes >> 20,
                free_bytes >> 20
            ));
        }
        missing.into_iter().map(Obstacle::Missing).collect()
    }
}

impl NeededPath {
    fn lack(&self) -> Option<String> {
        let path = self.path.display();
        let Ok(metadata) = fs::metadata(&self.path) else {
            return Some(match self.kind {
                PathKind::Code { .. } => format!("{path} (program or library) is missing"),
                PathKind::Directory => format!("the directory {path} is missing"),
                _ => format!("{path} is open and missing here (node-local path)"),
            });
        };
        match &self.kind {
            PathKind::Code {
                size_bytes,
                identity,
            } => {
                let same = metadata.len() == *size_bytes
                    && code_identity(&self.path).as_deref() == Some(identity);
                (!same).then(|| format!("{path} is another build here"))
            }
            PathKind::Input { size_bytes } => (metadata.len() != *size_bytes)
                .then(|| format!("{path} is open and has another size here (node-local path)")),
            PathKind::Output { inode } => (metadata.ino() != *inode).then(|| {
                format!("{path} is open for writing and is another file here (node-local path)")
            }),
            PathKind::Directory => {
                (!metadata.is_dir()).then(|| format!("{path} is no directory here"))
            }
            PathKind::Device => None,
        }
    }
}

/// The ELF build id of a program or library; the SHA-256 of its content where it has none. `None`
/// where it can't be read.
pub(super) fn code_identity(path: &Path) -> Option<String> {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let mut file = File::open(path).ok()?;
    let mut content = Vec::new();
    // The note is near the beginning as a rule; a long library need not be read whole.
    (&mut file)
        .take(HEAD_BYTES)
        .read_to_end(&mut content)
        .ok()?;
    if let Some(id) = build_id(&content) {
        return Some(hex(id));
    }
    file.read_to_end(&mut content).ok()?;
    Some(match build_id(&content) {
        Some(id) => hex(id),
        None => hex(&Sha256::digest(&content)),
    })
}

/// The note `GNU` of type 3 among the program headers of a 64-bit little-endian ELF file (elf(5)).
fn build_id(elf: &[u8]) -> Option<&[u8]> {
    const PT_NOTE: u32 = 4;
    const NT_GNU_BUILD_ID: u32 = 3;
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = u64_at(elf, 32)? as usize;
    let (entry_bytes, entries) = (u16_at(elf, 54)? as usize, u16_at(elf, 56)? as usize);
    for index in 0..entries {
        let header = elf.get(table.checked_add(index * entry_bytes)?..)?;
        if u32_at(header, 0)? != PT_NOTE {
            continue;
        }
        let (offset, len) = (u64_at(header, 8)? as usize, u64_at(header, 32)? as usize);
        let mut notes = elf.get(offset..offset.checked_add(len)?)?;
        while notes.len() >= 12 {
            let (name_len, body_len) = (u32_at(notes, 0)? as usize, u32_at(notes, 4)? as usize);
            let body_at = 12 + name_len.next_multiple_of(4);
            let body = notes.get(body_at..body_at.checked_add(body_len)?)?;
            if u32_at(notes, 8)? == NT_GNU_BUILD_ID && notes.get(12..16)? == b"GNU\0" {
                return Some(body);
            }
            notes = notes
                .get(body_at + body_len.next_multiple_of(4)..)
                .unwrap_or_default();
        }
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The instruction sets of this node's processors that a program may have found and chosen.
pub(super) fn cpu_features() -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let words = line
        .and_then(|line| line.split_once(':'))
        .map_or("", |(_, words)| words);
    let mut features: Vec<String> = words
        .split_whitespace()
        .filter(|word| is_instruction_set(word))
        .map(String::from)
        .collect();
    features.sort();
    features
}

/// Of what `/proc/cpuinfo` lists, what programs use; the rest is the kernel's.
fn is_instruction_set(flag: &str) -> bool {
    const PREFIXES: [&str; 9] = [
        "sse", "ssse", "avx", "amx", "aes", "bmi", "fma", "sha", "xsave",
    ];
    const NAMES: [&str; 22] = [
        "adx",
        "cldemote",
        "clflushopt",
        "clwb",
        "cx16",
        "erms",
        "f16c",
        "fsgsbase",
        "fsrm",
        "gfni",
        "lahf_lm",
        "abm",
        "movbe",
        "movdir64b",
        "movdiri",
        "pclmulqdq",
        "popcnt",
        "rdpid",
        "rdrand",
        "rdseed",
        "vaes",
        "vpclmulqdq",
    ];
    PREFIXES.iter().any(|prefix| flag.starts_with(prefix)) || NAMES.contains(&flag)
}

fn available_memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_here_is_not_missing_here() {
        let path = std::env::current_exe().unwrap();
        let size_bytes = fs::metadata(&path).unwrap().len();
        let identity = code_identity(&path).unwrap();
        let mut needs = Needs {
            paths: vec![
                NeededPath {
                    path: path.clone(),
                    kind: PathKind::Code {
                        size_bytes,
                        identity,
                    },
                },
                NeededPath {
                    path: "/".into(),
                    kind: PathKind::Directory,
                },
            ],
            cpu_features: cpu_features(),
            memory_bytes: 1,
        };
        assert_eq!(needs.missing_here(), []);
        needs.cpu_features.push("avx1024".into());
        needs.paths.push(NeededPath {
            path,
            kind: PathKind::Code {
                size_bytes,
                identity: "other".into(),
            },
        });
        needs.paths.push(NeededPath {
            path: "/nowhere".into(),
            kind: PathKind::Directory,
        });
        let text: Vec<String> = needs
            .missing_here()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(text[0].contains("another build"));
        assert!(text[1].contains("/nowhere is missing"));
        assert!(text[2].contains("avx1024"));
    }

    #[test]
    fn the_c_library_has_a_build_id() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps
            .split_whitespace()
            .find(|word| word.ends_with("/libc.so.6"))
            .unwrap();
        let content = fs::read(libc).unwrap();
        assert_eq!(build_id(&content).map(<[u8]>::len), Some(20));
        for len in (0..content.len()).step_by(content.len() / 100) {
            let _ = build_id(&content[..len]);
        }
    }
}

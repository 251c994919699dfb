//! Which memory may be cached: what only this process can change, by calls that the kernel tells of.
//!
//! That is private memory without a file (the heap, what malloc maps, stacks, `.bss`, huge pages of
//! `MAP_HUGETLB`). Of everything else the pages can be exchanged with no event for this process:
//! - `MAP_SHARED` memory, memfd, tmpfs, shared anonymous: ftruncate(2), or a hole punched by
//!   fallocate(2) through a descriptor, or by a forked child's `MADV_REMOVE`;
//! - System V segments: shmdt(2), for which the kernel makes no events at all (ipc/shm.c);
//! - private mappings of files: ftruncate(2) takes the process's own copies too.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;

use rustix::io::Errno;
use rustix::param::page_size;

use super::sys;

/// The name of `MAP_HUGETLB` memory without a file, which has an inode nevertheless.
const HUGE_PAGES: &[u8] = b"/anon_hugepage (deleted)";
/// More than that name, and its terminating zero.
const NAME_ROOM: usize = 64;
/// The whole pages that cover a range, if all of them are memory that may be cached.
pub fn cacheable_pages(range: &Range<usize>) -> Option<Range<usize>> {
    let maps = File::open("/proc/self/maps").ok()?;
    match by_query(&maps, range) {
        Err(Errno::NOTTY) => by_text(maps, range),
        found => found.ok().flatten(),
    }
}

fn by_query(maps: &File, range: &Range<usize>) -> Result<Option<Range<usize>>, Errno> {
    let (mut first_page, mut last_page, mut next) = (0, 0, range.start);
    while next < range.end {
        let mapping = sys::mapping(maps, next, &mut [])?;
        if mapping.is_shared() || mapping.inode != 0 && !is_huge(maps, next)? {
            return Ok(None);
        }
        last_page = mapping.page_bytes as usize;
        if next == range.start {
            first_page = last_page;
        }
        next = mapping.end as usize;
    }
    Ok((first_page != 0).then(|| whole_pages(range, first_page, last_page)))
}

/// A range, rounded to the size of its first page and the size of its last.
fn whole_pages(range: &Range<usize>, first: usize, last: usize) -> Range<usize> {
    range.start / first * first..range.end.next_multiple_of(last)
}

fn is_huge(maps: &File, address: usize) -> Result<bool, Errno> {
    let mut name = [0; NAME_ROOM];
    let mapping = sys::mapping(maps, address, &mut name)?;
    Ok(mapping.page_bytes as usize > page_size() && name.starts_with(HUGE_PAGES))
}

/// For kernels before 6.11. The text does not say how large pages are: huge ones are not cached.
fn by_text(maps: File, range: &Range<usize>) -> Option<Range<usize>> {
    let mut next = range.start;
    for line in BufReader::new(maps).lines() {
        let line = line.ok()?;
        let Some(mapping) = Line::parse(&line) else {
            continue;
        };
        if mapping.range.end <= next {
            continue;
        }
        if mapping.range.start > next || mapping.shared || mapping.inode != 0 {
            return None;
        }
        next = mapping.range.end;
        if next >= range.end {
            return Some(whole_pages(range, page_size(), page_size()));
        }
    }
    None
}

/// A line of `/proc/self/maps` (proc(5)): `start-end perms offset device inode name`.
struct Line {
    range: Range<usize>,
    shared: bool,
    inode: u64,
}

impl Line {
    fn parse(text: &str) -> Option<Line> {
        let mut words = text.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let address = |word| usize::from_str_radix(word, 16).ok();
        let range = address(start)?..address(end)?;
        let shared = words.next()?.ends_with('s');
        let inode = words.nth(2)?.parse().ok()?;
        Some(Line {
            range,
            shared,
            inode,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(range: Range<usize>) -> [Option<Range<usize>>; 2] {
        let maps = || File::open("/proc/self/maps").unwrap();
        [
            by_query(&maps(), &range).ok().flatten(),
            by_text(maps(), &range),
        ]
    }

    #[test]
    fn heap_memory_may_be_cached_whole_pages_at_a_time() {
        let memory = vec![1_u8; 3 * page_size()];
        let start = memory.as_ptr() as usize;
        let range = start + 1..start + 2 * page_size();
        let pages = whole_pages(&range, page_size(), page_size());
        assert_eq!(cacheable_pages(&range), Some(pages.clone()));
        assert_eq!(both(range)[1], Some(pages));
    }

    #[test]
    fn text_of_the_program_may_not_be_cached() {
        let text = both as *const () as usize;
        assert_eq!(both(text..text + 1), [None, None]);
        let constant = HUGE_PAGES.as_ptr() as usize;
        assert_eq!(both(constant..constant + HUGE_PAGES.len()), [None, None]);
    }

    #[test]
    fn where_nothing_is_mapped_nothing_is_cached() {
        assert_eq!(both(0..page_size()), [None, None]);
    }
}

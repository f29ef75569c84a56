//! What this process itself takes of the machine's memory: what it does not use is given back.
//!
//! Most of what an idle agent has in memory it used once, to read its settings and ledger and to make its pods: code of the
//! program, and what the allocator keeps for the next time. The kernel would take the code away only when memory is short.

use std::fs;
use std::ops::Range;

use nix::libc;

/// Gives back free memory of the heap, and the pages of the program's code; those in use come again when they are touched, from
/// the page cache. Blocks for about a millisecond with a heap of some MiB.
pub fn give_back() {
    // SAFETY: it takes no pointers, and takes the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Some(code) = code(&maps, give_back as *const () as usize) else { return };
    // SAFETY: the range is one mapping of the program's file that cannot be written, so what its pages hold is what the file
    // holds, from which they are read again. It cannot be unmapped before this returns: this function lies in it.
    unsafe { libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED) };
}

/// The mapping around an address in the code, if it is the file's as it is.
///
/// Source: proc_pid_maps(5).
fn code(maps: &str, address: usize) -> Option<Range<usize>> {
    let number = |text| usize::from_str_radix(text, 16).ok();
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let range = number(start)?..number(end)?;
        (range.contains(&address) && rest.starts_with("r-xp ")).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_cannot_be_written_is_found() {
        let maps = "1000-2000 r--p 00000000 fe:00 7 /usr/bin/garrison\n\
                    2000-5000 r-xp 00001000 fe:00 7 /usr/bin/garrison\n\
                    5000-6000 rwxp 00000000 00:00 0\n";
        assert_eq!(code(maps, 0x2000), Some(0x2000..0x5000));
        assert_eq!(code(maps, 0x4fff), Some(0x2000..0x5000));
        for address in [0x1000, 0x5000, 0x6000] {
            assert_eq!(code(maps, address), None, "{address:x}");
        }
        assert_eq!(code("", 0x2000), None);
    }

    #[test]
    fn code_that_is_not_used_is_given_back() {
        let mapping =
            || code(&fs::read_to_string("/proc/self/maps").unwrap(), give_back as *const () as usize).unwrap();
        let resident_kib = || {
            let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
            let start = format!("{:x}-", mapping().start);
            let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
            let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
            rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
        };
        for page in mapping().step_by(4096) {
            // SAFETY: it lies in a mapping that can be read.
            unsafe { std::ptr::read_volatile(page as *const u8) };
        }
        let before = resident_kib();
        assert_eq!(before, mapping().len() / 1024);
        give_back();
        // Other tests need some of it meanwhile.
        assert!(resident_kib() < before / 2, "{} KiB of {before} are left", resident_kib());
    }
}

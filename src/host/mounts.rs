//! What is mounted where, as `/proc/self/mountinfo` tells it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{FileError, failed};

/// The kernel's list of this process's mounts.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is seen.
    pub(super) point: PathBuf,
    /// Mounts made below it are seen in its other namespaces, too.
    pub(super) shared: bool,
    /// `tmpfs`, `cgroup2` …
    pub(super) fs_type: String,
    /// The filesystem's own options, as `rw,cpu,cpuacct`.
    pub(super) super_options: String,
}

/// Every mount this process sees, in the order they were made.
///
/// # Errors
/// [`FileError`] where `/proc` is not there.
pub(super) fn mounts() -> Result<Vec<Mount>, FileError> {
    let text = fs::read(MOUNTINFO).map_err(failed("read", Path::new(MOUNTINFO)))?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
}

/// Fields before ` - `: id, parent, device, root, mount point, options, tags; after it: type, source, super options.
///
/// Source: proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<Mount> {
    let separator = line.windows(3).position(|window| window == b" - ")?;
    let mut before = line[..separator].split(|byte| *byte == b' ');
    let mut after = line[separator + 3..].split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    Some(Mount {
        point: OsString::from_vec(unescape(before.nth(4)?)).into(),
        shared: before.skip(1).any(|tag| tag.starts_with(b"shared:")),
        fs_type: text(after.next()?),
        super_options: text(after.nth(1)?),
    })
}

/// The kernel writes blank, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(escaped) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            plain.push(escaped);
            rest = &tail[3..];
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_whatever_its_tags_and_escapes() {
        let mount = |point: &str, shared, fs_type: &str, super_options: &str| {
            let (fs_type, super_options) = (fs_type.to_owned(), super_options.to_owned());
            Some(Mount { point: point.into(), shared, fs_type, super_options })
        };
        for (line, expected) in [
            (
                "36 35 98:0 /a /b/c rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=x",
                mount("/b/c", true, "ext3", "rw,errors=x"),
            ),
            (
                "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
                mount("/sys/fs/cgroup/cpu", false, "cgroup", "rw,cpu"),
            ),
            (r"40 1 0:1 / /with\040blank\134 rw - tmpfs none rw", mount(r"/with blank\", false, "tmpfs", "rw")),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(parse_line(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(mounts().unwrap().iter().any(|mount| mount.point == Path::new("/proc")));
    }
}

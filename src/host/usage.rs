//! How much of a disk is taken: by a tree, and as a whole.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use nix::sys::statvfs::statvfs;

use super::tree::open_dir;
use super::{FileError, failed};
use crate::plan::storage::Usage;

/// How deep a tree is looked into, each level costing an open file. Nobody nests deeper by accident, and who does it on
/// purpose hides what he wrote from the limits of his pod, not from those of the host.
const DEPTH_MAX: usize = 256;
/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// What a filesystem has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Which filesystem it is.
    pub device: u64,
    /// Its size.
    pub capacity_bytes: u64,
    /// What others than root may still take.
    pub available_bytes: u64,
    /// How many files it can hold; 0 where there is no such bound.
    pub inodes: u64,
    /// How many more it can hold.
    pub inodes_free: u64,
}

/// What lies below `path`, itself included. Links are not followed, and what is mounted below is not looked into. Nothing
/// there takes nothing.
///
/// # Errors
/// [`FileError`] where `path` cannot be read. What vanishes below while it is looked at is left out.
pub fn of_tree(path: &Path) -> Result<Usage, FileError> {
    let top = match File::open(path) {
        Ok(top) => OwnedFd::from(top),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Usage::default()),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let stat = fstat(&top).map_err(|errno| failed("look at", path)(errno.into()))?;
    let mut walk = Walk { device: stat.st_dev, seen: HashSet::new(), usage: Usage::default() };
    walk.count(&stat);
    if is_dir(&stat) {
        walk.add(top, 0).map_err(|errno| failed("read", path)(errno.into()))?;
    }
    Ok(walk.usage)
}

/// What the filesystem has that `path` is on, or will be on once it is made.
///
/// # Errors
/// [`FileError`] where the filesystem cannot be looked at.
pub fn space(path: &Path) -> Result<Space, FileError> {
    let path = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let fail = |errno: Errno| failed("look at the filesystem of", path)(errno.into());
    let stat = statvfs(path).map_err(fail)?;
    let device = nix::sys::stat::stat(path).map_err(fail)?.st_dev;
    Ok(Space {
        device,
        capacity_bytes: stat.blocks() * stat.fragment_size(),
        available_bytes: stat.blocks_available() * stat.fragment_size(),
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

struct Walk {
    device: u64,
    /// Files with several names, by inode.
    seen: HashSet<u64>,
    usage: Usage,
}

impl Walk {
    /// Adds what is in a directory.
    fn add(&mut self, dir: OwnedFd, depth: usize) -> Result<(), Errno> {
        let mut dir = Dir::from_fd(dir)?;
        let names: Vec<_> =
            dir.iter().map(|entry| entry.map(|entry| entry.file_name().to_owned())).collect::<Result<_, _>>()?;
        for name in names.iter().filter(|name| ![c".", c".."].contains(&name.as_c_str())) {
            let Ok(stat) = fstatat(&dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            if stat.st_dev != self.device || !self.count(&stat) || !is_dir(&stat) || depth == DEPTH_MAX {
                continue;
            }
            if let Ok(below) = open_dir(dir.as_fd(), name.as_c_str()) {
                self.add(below, depth + 1)?;
            }
        }
        Ok(())
    }

    /// False for what was counted before under another name.
    fn count(&mut self, stat: &FileStat) -> bool {
        let is_new = is_dir(stat) || stat.st_nlink < 2 || self.seen.insert(stat.st_ino);
        if is_new {
            self.usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
            self.usage.inodes += 1;
        }
        is_new
    }
}

fn is_dir(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_tree_takes_what_its_files_take_each_once_and_no_more() {
        let temp = tempfile::tempdir().unwrap();
        let (tree, other) = (temp.path().join("tree"), temp.path().join("other"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("large"), vec![1; 1 << 20]).unwrap();
        fs::write(tree.join("a/b/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(tree.join("a/b/file"), tree.join("again")).unwrap();
        File::create(tree.join("hole")).unwrap().set_len(1 << 30).unwrap();
        symlink(&other, tree.join("link")).unwrap();
        let alone = |path: &str| fs::symlink_metadata(tree.join(path)).unwrap().blocks() * BLOCK_BYTES;
        let bytes = ["", "a", "a/b", "a/b/file", "hole", "link"].map(alone).iter().sum();
        assert_eq!(of_tree(&tree).unwrap(), Usage { bytes, inodes: 6 });
        assert!(bytes < 1 << 20);
        assert_eq!(of_tree(&tree.join("hole")).unwrap(), Usage { bytes: alone("hole"), inodes: 1 });
        assert_eq!(of_tree(&tree.join("none")).unwrap(), Usage::default());
    }

    #[test]
    fn nesting_without_end_is_looked_into_only_so_far() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = OwnedFd::from(File::open(temp.path()).unwrap());
        for _ in 0..1000 {
            nix::sys::stat::mkdirat(&dir, c"d", nix::sys::stat::Mode::S_IRWXU).unwrap();
            dir = open_dir(dir.as_fd(), c"d").unwrap();
        }
        assert_eq!(of_tree(temp.path()).unwrap().inodes, 1 + u64::try_from(DEPTH_MAX).unwrap() + 1);
        super::super::tree::remove_tree(&temp.path().join("d")).unwrap();
    }

    #[test]
    fn this_machines_disk_has_a_size() {
        let space = space(Path::new("/")).unwrap();
        assert!(space.capacity_bytes > space.available_bytes, "{space:?}");
        assert!(space.inodes >= space.inodes_free, "{space:?}");
    }
}

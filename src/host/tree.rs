//! Removing a directory that others have written to, and nothing else.
//!
//! What lies below was made by containers, perhaps on purpose to hurt: links that lead outside, something mounted below,
//! directories nested without end. The walk goes from one open directory to the next by name, never by path, so that
//! nothing exchanged meanwhile leads it astray. It removes links, follows none, and stops before another mount.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::NixPath;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{FileError, failed};

/// How many directories are held open at the same time; what lies deeper is moved up first.
const DEPTH_MAX: usize = 64;

/// Removes `dir` and everything below it. Nothing there is success.
///
/// # Errors
/// [`FileError`] with the path it stopped at; a mount is one (`EBUSY`). What was removed until then stays removed.
pub(super) fn remove_tree(dir: &Path) -> Result<(), FileError> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(failed("remove", dir)(io::ErrorKind::InvalidInput.into()));
    };
    let parent = match File::open(parent) {
        Ok(parent) => OwnedFd::from(parent),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("open", parent)(error)),
    };
    let mount = mount_id(parent.as_fd()).map_err(failed("look at", dir))?;
    let top = match open_dir(parent.as_fd(), name) {
        Ok(top) => top,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(failed("open", dir)(errno.into())),
    };
    let mut walk = Walk { top, mount, moved: 0 };
    walk.check_mount(walk.top.as_fd(), dir)?;
    loop {
        let moved_before = walk.moved;
        let top = walk.top.try_clone().map_err(failed("open", dir))?;
        walk.empty(top, dir, 0)?;
        if walk.moved == moved_before {
            break;
        }
    }
    unlinkat(&parent, name, UnlinkatFlags::RemoveDir).map_err(|errno| failed("remove", dir)(errno.into()))
}

struct Walk {
    top: OwnedFd,
    /// All of the tree has to be on this mount.
    mount: u64,
    /// How many directories were moved up to `top`.
    moved: u32,
}

impl Walk {
    /// Removes everything in `dir`. `path` is for errors alone.
    fn empty(&mut self, dir: OwnedFd, path: &Path, depth: usize) -> Result<(), FileError> {
        let mut dir = Dir::from_fd(dir).map_err(|errno| failed("read", path)(errno.into()))?;
        // All names first: a directory that shrinks while it is read may skip some.
        let names = dir.iter().map(|entry| entry.map(|entry| entry.file_name().to_owned()));
        let names: Vec<CString> =
            names.collect::<Result<_, _>>().map_err(|errno| failed("read", path)(errno.into()))?;
        for name in names.iter().filter(|name| ![c".", c".."].contains(&name.as_c_str())) {
            let child = path.join(OsStr::from_bytes(name.to_bytes()));
            match unlinkat(&dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::EISDIR) => self.remove_dir(dir.as_fd(), name, &child, depth)?,
                Err(errno) => return Err(failed("remove", &child)(errno.into())),
            }
        }
        Ok(())
    }

    fn remove_dir(&mut self, parent: BorrowedFd<'_>, name: &CStr, path: &Path, depth: usize) -> Result<(), FileError> {
        let fail = |action, errno: Errno| failed(action, path)(errno.into());
        let dir = open_dir(parent, name).map_err(|errno| fail("open", errno))?;
        self.check_mount(dir.as_fd(), path)?;
        if depth == DEPTH_MAX {
            let name_above = format!(".removing-{}-{}", std::process::id(), self.moved);
            self.moved += 1;
            return renameat(parent, name, &self.top, name_above.as_str()).map_err(|errno| fail("move", errno));
        }
        self.empty(dir, path, depth + 1)?;
        unlinkat(parent, name, UnlinkatFlags::RemoveDir).map_err(|errno| fail("remove", errno))
    }

    fn check_mount(&self, dir: BorrowedFd<'_>, path: &Path) -> Result<(), FileError> {
        match mount_id(dir) {
            Ok(mount) if mount == self.mount => Ok(()),
            Ok(_) => Err(failed("remove what is mounted at", path)(Errno::EBUSY.into())),
            Err(error) => Err(failed("look at", path)(error)),
        }
    }
}

pub(super) fn open_dir(parent: BorrowedFd<'_>, name: &(impl NixPath + ?Sized)) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// The mount a directory is on. A bind mount of the same filesystem has the same device, but another id.
fn mount_id(dir: BorrowedFd<'_>) -> io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::other("the kernel does not tell the mount of an open file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_goes_away_and_what_its_links_lead_to_stays() {
        let temp = tempfile::tempdir().unwrap();
        let (tree, other) = (temp.path().join("pod"), temp.path().join("other"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "").unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        symlink(&other, tree.join("a/link")).unwrap();
        symlink("/nowhere", tree.join("dangling")).unwrap();

        remove_tree(&tree).unwrap();

        assert!(!tree.exists());
        assert!(other.join("kept").exists());
        remove_tree(&tree).expect("removing what is gone succeeds");
    }

    #[test]
    fn a_link_in_the_place_of_the_tree_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("other")).unwrap();
        symlink("other", temp.path().join("pod")).unwrap();
        remove_tree(&temp.path().join("pod")).unwrap_err();
        assert!(temp.path().join("other").exists());
    }

    #[test]
    fn nesting_without_end_takes_no_more_than_a_few_open_files() {
        let temp = tempfile::tempdir().unwrap();
        let tree = temp.path().join("pod");
        fs::create_dir(&tree).unwrap();
        // Deeper than any path may be long.
        let mut dir = OwnedFd::from(File::open(&tree).unwrap());
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&dir, c"d", Mode::S_IRWXU).unwrap();
            dir = open_dir(dir.as_fd(), c"d").unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}

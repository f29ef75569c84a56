//! Parts of volumes: found and bound to a path of their own, however the volume changes meanwhile.
//!
//! Whoever can write to a volume can put links into it, and exchange them at any moment. So nothing is ever named by a path:
//! the walk goes from one open directory to the next, follows links itself and only within the volume, and what it arrives
//! at is mounted by its descriptor. The runtime is told the path it is mounted at, which nobody but the agent can change.
//!
//! Source: kubernetes v1.36 `pkg/volume/util/subpath/subpath_linux.go`. We differ on purpose: a link that leaves the volume
//! and comes back into it is refused.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

use crate::host::mounts::mounts;
use crate::host::{FileError, failed};

/// How many links one path may lead over, as the kernel's own bound.
const LINKS_MAX: u32 = 40;
/// A file of variables has no more bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a part of a volume cannot be used. For logs: users are not told what the host has.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// A link in it leads out of the volume.
    #[error("subpath {path} is not within volume path {root}")]
    Outside {
        /// The volume on the host.
        root: PathBuf,
        /// The part.
        path: PathBuf,
    },
    /// The system would not.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Binds the part `path` of the volume at `root` to `target`. A part that is not there is made, as directories with the
/// volume's mode. What `target` was bound to before is left if it is the same, also by an agent before this one.
///
/// # Errors
/// [`PartError`].
pub fn bind(root: &Path, path: &Path, target: &Path) -> Result<(), PartError> {
    let part = open(root, path, true)?;
    let found = fstat(&part).map_err(|errno| failed("look at", path)(errno.into()))?;
    if release_unless(target, &found)? {
        return Ok(());
    }
    make_target(target, is(&found, SFlag::S_IFDIR)).map_err(failed("make", target))?;
    let by_descriptor = by_descriptor(&part);
    let bound = mount(Some(&by_descriptor), target, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    Ok(bound.map_err(|errno| failed("bind a volume's part to", target)(errno.into()))?)
}

/// The text of a file in the volume at `root`; none if there is no such file. What is no UTF-8 is replaced.
///
/// # Errors
/// [`PartError`]; also for what is no plain file, or too large.
pub fn read(root: &Path, path: &Path) -> Result<Option<String>, PartError> {
    let part = match open(root, path, false) {
        Err(PartError::File(error)) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
        part => part?,
    };
    let found = fstat(&part).map_err(|errno| failed("look at", path)(errno.into()))?;
    if !is(&found, SFlag::S_IFREG) {
        return Err(failed("read", path)(io::Error::other("it is not a plain file")).into());
    }
    let mut text = Vec::new();
    let read = File::open(by_descriptor(&part)).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text));
    read.map_err(failed("read", path))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed("read", path)(io::ErrorKind::FileTooLarge.into()).into());
    }
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// Releases what is bound to `target`, unless it is the file of `wanted`; true if it is.
fn release_unless(target: &Path, wanted: &FileStat) -> Result<bool, FileError> {
    // The kernel lists mounts by their true path.
    let true_path = match target.parent().map(fs::canonicalize).transpose() {
        Ok(parent) => parent.unwrap_or_default().join(target.file_name().unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("look at", target)(error)),
    };
    for _ in mounts()?.iter().filter(|mount| mount.point == true_path) {
        let bound = fs::symlink_metadata(target).map_err(failed("look at", target))?;
        if (bound.dev(), bound.ino()) == (wanted.st_dev, wanted.st_ino) {
            return Ok(true);
        }
        let released = umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        released.map_err(|errno| failed("unmount", target)(errno.into()))?;
    }
    Ok(false)
}

/// Something to mount upon: of the same kind as what is mounted.
fn make_target(target: &Path, is_dir: bool) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    }
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() == is_dir => return Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(_) => {}
    }
    if is_dir {
        return DirBuilder::new().mode(0o750).create(target);
    }
    OpenOptions::new().write(true).create_new(true).mode(0o640).open(target).map(drop)
}

fn is(found: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == kind
}

/// A name by which the kernel finds the open file itself, wherever its path leads by now.
fn by_descriptor(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

// === the walk ===

/// Opens (`O_PATH`) what lies at `path` below `root`.
fn open(root: &Path, path: &Path, make: bool) -> Result<OwnedFd, PartError> {
    let fail = |error| PartError::File(failed("open", &root.join(path))(error));
    let top = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(root).map_err(fail)?;
    let mode = top.metadata().map_err(fail)?.permissions().mode() & 0o7777;
    let steps = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(Step { name: name.to_owned(), may_make: make }),
        _ => None,
    });
    let mut walk = Walk { root, dirs: vec![top.into()], ahead: steps.collect(), links: 0, mode };
    match walk.go() {
        Ok(Some(part)) => Ok(part),
        Ok(None) => Err(PartError::Outside { root: root.to_owned(), path: path.to_owned() }),
        Err(error) => Err(fail(error)),
    }
}

/// One part of a path.
struct Step {
    name: OsString,
    /// It may be made if it is missing; what a link names may not.
    may_make: bool,
}

struct Walk<'a> {
    root: &'a Path,
    /// From the volume's root to where the walk is.
    dirs: Vec<OwnedFd>,
    ahead: VecDeque<Step>,
    links: u32,
    /// Of directories that are made.
    mode: u32,
}

impl Walk<'_> {
    /// Goes to the end of the path; none if that is not in the volume.
    fn go(&mut self) -> io::Result<Option<OwnedFd>> {
        while let Some(Step { name, may_make }) = self.ahead.pop_front() {
            if name == ".." {
                if !is(&fstat(self.here())?, SFlag::S_IFDIR) {
                    return Err(Errno::ENOTDIR.into());
                }
                if self.dirs.len() == 1 {
                    return Ok(None);
                }
                self.dirs.pop();
                continue;
            }
            let next = self.enter(&name, may_make)?;
            if !is(&fstat(&next)?, SFlag::S_IFLNK) {
                self.dirs.push(next);
            } else if !self.follow(&next)? {
                return Ok(None);
            }
        }
        Ok(self.dirs.pop())
    }

    fn here(&self) -> &OwnedFd {
        self.dirs.last().expect("the root is never left")
    }

    fn enter(&self, name: &OsStr, may_make: bool) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(self.here(), name, flags, Mode::empty()) {
            Err(Errno::ENOENT) if may_make => self.make(name),
            entered => Ok(entered?),
        }
    }

    /// Makes a directory. Whatever has taken its name meanwhile is not followed.
    fn make(&self, name: &OsStr) -> io::Result<OwnedFd> {
        match mkdirat(self.here(), name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = openat(self.here(), name, flags, Mode::empty())?;
        File::from(made.try_clone()?).set_permissions(Permissions::from_mode(self.mode))?;
        Ok(made)
    }

    /// Puts what a link says in front of what is ahead; false if it leads out of the volume. An absolute one is the host's:
    /// it has to begin with the volume's own path.
    fn follow(&mut self, link: &OwnedFd) -> io::Result<bool> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::ELOOP.into());
        }
        let target = PathBuf::from(readlinkat(link.as_fd(), "")?);
        let relative = if target.is_absolute() {
            let canonical = fs::canonicalize(self.root)?;
            let below = [self.root, &canonical].into_iter().find_map(|root| target.strip_prefix(root).ok());
            let Some(below) = below else { return Ok(false) };
            self.dirs.truncate(1);
            below
        } else {
            &target
        };
        for part in relative.components().rev() {
            let name = match part {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::new(".."),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => continue,
            };
            self.ahead.push_front(Step { name: name.to_owned(), may_make: false });
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;

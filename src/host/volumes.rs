//! Volumes of a pod: that they are there before a container is made.
//!
//! [`set_up`] may be repeated at any time, also by the next version of the agent on a pod that runs. Taking down goes with
//! the pod's directory ([`super::dirs::remove_pod`]); what a hostPath names is never removed.

use std::fs::{self, DirBuilder, FileType, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::mounts::mounts;
use super::{FileError, failed};
use crate::podspec::{HostPathKind, Volume, VolumeSource};

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// What is at the path, or that nothing is, does not fit `hostPath.type`. The kubelet's words.
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPathType {
        /// The volume's path.
        path: PathBuf,
        /// What has to be there.
        wanted: &'static str,
    },
    /// The system would not.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Checks or makes one volume. Everything above it in the pod's directory has to be there.
///
/// # Errors
/// [`VolumeError::HostPathType`] as the kubelet words it; [`VolumeError::File`] for what the system refuses.
///
/// Source: kubernetes v1.36 `pkg/volume/hostpath/host_path.go` and `pkg/volume/emptydir/empty_dir.go`.
pub fn set_up(volume: &Volume) -> Result<(), VolumeError> {
    match &volume.source {
        VolumeSource::HostPath { path, kind } => set_up_host_path(path, *kind),
        VolumeSource::EmptyDir { path } => Ok(make_world_writable(path)?),
        VolumeSource::Memory { path, size_bytes } => Ok(mount_tmpfs(path, *size_bytes)?),
    }
}

fn set_up_host_path(path: &Path, kind: HostPathKind) -> Result<(), VolumeError> {
    // Links are followed: the type is that of what they lead to.
    let found = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) if kind == HostPathKind::Unchecked => None,
        Err(error) => return Err(failed("look at", path)(error).into()),
    };
    let (fits, wanted): (fn(&FileType) -> bool, _) = match kind {
        HostPathKind::Unchecked => return Ok(()),
        HostPathKind::DirectoryOrCreate if found.is_none() => {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
            return Ok(made.map_err(failed("make directory", path))?);
        }
        HostPathKind::FileOrCreate if found.is_none() => {
            let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
            return Ok(made.map(drop).map_err(failed("make file", path))?);
        }
        HostPathKind::Directory | HostPathKind::DirectoryOrCreate => (FileType::is_dir, "directory"),
        HostPathKind::File | HostPathKind::FileOrCreate => (FileType::is_file, "file"),
        HostPathKind::Socket => (FileTypeExt::is_socket, "socket file"),
        HostPathKind::CharDevice => (FileTypeExt::is_char_device, "character device"),
        HostPathKind::BlockDevice => (FileTypeExt::is_block_device, "block device"),
    };
    match found {
        Some(found) if fits(&found) => Ok(()),
        _ => Err(VolumeError::HostPathType { path: path.to_owned(), wanted }),
    }
}

/// Whoever the containers run as, they may write; the mode is set apart from making, where the umask would cut it.
fn make_world_writable(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(failed("make directory", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o777)).map_err(failed("set the mode of", path))
}

/// A tmpfs that is there already is left as it is: it may hold what running containers wrote.
fn mount_tmpfs(path: &Path, size_bytes: u64) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(failed("make directory", path))?;
    // The kernel lists mounts by their true path.
    let path = &fs::canonicalize(path).map_err(failed("look at", path))?;
    if mounts()?.iter().any(|mount| mount.point == *path) {
        return Ok(());
    }
    make_world_writable(path)?;
    let mount_with = |options: &str| mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options));
    // Linux before 6.4 does not know noswap.
    let mounted = match mount_with(&format!("size={size_bytes},noswap")) {
        Err(Errno::EINVAL) => mount_with(&format!("size={size_bytes}")),
        mounted => mounted,
    };
    mounted.map_err(|errno| failed("mount a tmpfs at", path)(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn each_host_path_type_takes_what_it_names_and_says_what_it_misses() {
        use HostPathKind::{
            BlockDevice, CharDevice, Directory, DirectoryOrCreate, File, FileOrCreate, Socket, Unchecked,
        };
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("file"), "kept").unwrap();
        std::os::unix::fs::symlink("dir", at("link")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let device = PathBuf::from("/dev/null");
        let not_a = |wanted: &str, path: &Path| {
            Err(format!("hostPath type check failed: {} is not a {wanted}", path.display()))
        };

        for (kind, path, expected) in [
            (Unchecked, at("missing"), Ok(())),
            (Directory, at("dir"), Ok(())),
            (Directory, at("link"), Ok(())),
            (Directory, at("file"), not_a("directory", &at("file"))),
            (Directory, at("missing"), not_a("directory", &at("missing"))),
            (DirectoryOrCreate, at("made/deeply"), Ok(())),
            (DirectoryOrCreate, at("file"), not_a("directory", &at("file"))),
            (File, at("file"), Ok(())),
            (File, at("dir"), not_a("file", &at("dir"))),
            (FileOrCreate, at("made/file"), Ok(())),
            (FileOrCreate, at("file"), Ok(())),
            (FileOrCreate, at("no/parent"), Err(format!("cannot make file {}", at("no/parent").display()))),
            (Socket, at("socket"), Ok(())),
            (Socket, at("file"), not_a("socket file", &at("file"))),
            (CharDevice, device.clone(), Ok(())),
            (CharDevice, at("file"), not_a("character device", &at("file"))),
            (BlockDevice, device.clone(), not_a("block device", &device)),
        ] {
            let source = VolumeSource::HostPath { path: path.clone(), kind };
            let result = set_up(&Volume { name: "v".to_owned(), source });
            assert_eq!(result.map_err(|error| error.to_string()), expected, "{kind:?} {}", path.display());
        }
        assert!(!at("missing").exists());
        assert_eq!(fs::read(at("file")).unwrap(), b"kept");
        assert_eq!(fs::metadata(at("made/deeply")).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn an_empty_dir_is_open_to_all_and_keeps_its_content() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("volumes/kubernetes.io~empty-dir/cache");
        let volume = Volume { name: "cache".to_owned(), source: VolumeSource::EmptyDir { path: path.clone() } };
        set_up(&volume).unwrap();
        fs::write(path.join("file"), "kept").unwrap();
        set_up(&volume).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        assert_eq!(fs::read(path.join("file")).unwrap(), b"kept");
    }
}

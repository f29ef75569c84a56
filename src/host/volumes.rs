//! Volumes of a pod: that they are there before a container is made.
//!
//! [`set_up`] makes the place, [`files`] fills one that is made of files, [`parts`] binds what a container mounts of one. All
//! may be repeated at any time, also by the next version of the agent on a pod that runs. Taking down goes with the pod's
//! directory ([`super::dirs::remove_pod`]); what a hostPath names is never removed.

use std::fs::{self, DirBuilder, FileType, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::mounts::mounts;
use super::{FileError, failed};
use crate::podspec::bind::Payload;
use crate::podspec::{HostPathKind, Pod, Volume, VolumeSource};

pub mod files;
pub mod parts;

/// Below [`Pod::dir`]: where it is noted that an empty directory was made, as the kubelet does.
const READY_MARKERS: &str = "plugins/kubernetes.io~empty-dir";
/// What a pod's group may do with the root of a volume of its own: everything, and new files are the group's.
const GROUP_MODE: u32 = 0o2770;

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
    /// No size of huge pages can be chosen.
    #[error("{0}")]
    PageSize(String),
    /// The system would not.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Checks or makes one volume of the pod, without the files of one that is made of files. Everything above it in the pod's
/// directory has to be there.
///
/// # Errors
/// [`VolumeError::HostPathType`] and [`VolumeError::PageSize`] as the kubelet words it; [`VolumeError::File`] for what the
/// system refuses.
///
/// Source: kubernetes v1.36 `pkg/volume/hostpath/host_path.go` and `pkg/volume/emptydir/empty_dir.go`.
pub fn set_up(pod: &Pod, volume: &Volume) -> Result<(), VolumeError> {
    match &volume.source {
        VolumeSource::HostPath { path, kind } => return set_up_host_path(path, *kind),
        VolumeSource::EmptyDir { path } => once(pod, volume, |is_ready| {
            let is_new = !(is_ready && path.is_dir());
            if is_new { make_world_writable(path).map(|()| true) } else { Ok(false) }
        }),
        VolumeSource::Memory { path, size_bytes } => once(pod, volume, |_| mount_tmpfs(path, *size_bytes)),
        VolumeSource::HugePages { path, page_size } => {
            let page_size = page_size.clone().map_err(VolumeError::PageSize)?;
            once(pod, volume, |_| mount_huge_pages(path, page_size))
        }
        VolumeSource::Files { path, memory_bytes, .. } => {
            let made = match memory_bytes {
                Some(size_bytes) => mount_tmpfs(path, *size_bytes).map(drop),
                None => make_world_writable(path),
            };
            made.and_then(|()| give_to_group(path, pod))
        }
        VolumeSource::Image { .. } => Ok(()),
    }
    .map_err(VolumeError::File)
}

/// Writes the files of a volume that is made of files and was set up at `path`, and makes the places where containers mount
/// something else within it.
///
/// # Errors
/// As [`files::write`].
pub fn fill(pod: &Pod, volume: &str, path: &Path, payload: &Payload) -> Result<(), FileError> {
    files::write(path, payload, group(pod))?;
    for place in pod.nested_mounts(volume) {
        let place = path.join(place);
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&place);
        made.map_err(failed("make directory", &place))?;
    }
    Ok(())
}

/// Makes an empty directory the pod's, the first time only: from then on its mode and group are the containers' to change.
/// `make` is told whether it was done before, and tells whether there is a new one now. Its root is all there is to give
/// away: it is empty.
fn once(pod: &Pod, volume: &Volume, make: impl FnOnce(bool) -> Result<bool, FileError>) -> Result<(), FileError> {
    let marker = pod.dir.join(READY_MARKERS).join(&volume.name);
    let is_ready = marker.join("ready").exists();
    let is_new = make(is_ready)?;
    if is_ready && !is_new {
        return Ok(());
    }
    volume.source.path().map_or(Ok(()), |path| give_to_group(path, pod))?;
    DirBuilder::new().recursive(true).mode(0o750).create(&marker).map_err(failed("make directory", &marker))?;
    fs::write(marker.join("ready"), "").map_err(failed("write to", &marker))
}

/// The group of the pod's own volumes; a validated one is a group of the kernel's.
fn group(pod: &Pod) -> Option<u32> {
    pod.fs_group.and_then(|group| group.try_into().ok())
}

fn give_to_group(path: &Path, pod: &Pod) -> Result<(), FileError> {
    let Some(group) = group(pod) else { return Ok(()) };
    let mode = fs::metadata(path).map_err(failed("look at", path))?.permissions().mode();
    let given = chown(path, None, Some(group));
    let given = given.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode | GROUP_MODE)));
    given.map_err(failed("give to the pod's group", path))
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

/// A tmpfs that is there already is left as it is: it may hold what running containers wrote. True if there was none.
fn mount_tmpfs(path: &Path, size_bytes: u64) -> Result<bool, FileError> {
    mount_at(path, |path| {
        let mount_with = |options: &str| mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options));
        // Linux before 6.4 does not know noswap.
        match mount_with(&format!("size={size_bytes},noswap")) {
            Err(Errno::EINVAL) => mount_with(&format!("size={size_bytes}")),
            mounted => mounted,
        }
    })
}

/// Likewise with huge pages.
fn mount_huge_pages(path: &Path, page_size: u64) -> Result<bool, FileError> {
    mount_at(path, |path| {
        let options = format!("pagesize={page_size}");
        mount(Some("nodev"), path, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str()))
    })
}

fn mount_at(path: &Path, mount: impl FnOnce(&Path) -> Result<(), Errno>) -> Result<bool, FileError> {
    DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(failed("make directory", path))?;
    // The kernel lists mounts by their true path.
    let path = &fs::canonicalize(path).map_err(failed("look at", path))?;
    if mounts()?.iter().any(|mount| mount.point == *path) {
        return Ok(false);
    }
    make_world_writable(path)?;
    mount(path).map(|()| true).map_err(|errno| failed("mount a volume at", path)(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;

    use crate::testing::pods;

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
            let result = set_up(&pods::pod("web", temp.path()), &Volume { name: "v".to_owned(), source });
            assert_eq!(result.map_err(|error| error.to_string()), expected, "{kind:?} {}", path.display());
        }
        assert!(!at("missing").exists());
        assert_eq!(fs::read(at("file")).unwrap(), b"kept");
        assert_eq!(fs::metadata(at("made/deeply")).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn an_empty_dir_is_open_to_all_at_first_and_keeps_what_becomes_of_it() {
        let temp = tempfile::tempdir().unwrap();
        let pod = pods::pod("web", temp.path());
        let path = pod.dir.join("volumes/kubernetes.io~empty-dir/cache");
        let volume = Volume { name: "cache".to_owned(), source: VolumeSource::EmptyDir { path: path.clone() } };
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        set_up(&pod, &volume).unwrap();
        assert_eq!(mode(), 0o777);
        fs::write(path.join("file"), "kept").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        set_up(&pod, &volume).unwrap();
        assert_eq!((mode(), fs::read(path.join("file")).unwrap()), (0o700, b"kept".to_vec()));
        fs::remove_dir_all(&path).unwrap();
        set_up(&pod, &volume).unwrap();
        assert_eq!(mode(), 0o777, "one that was lost is made again");
    }

    #[test]
    fn the_pods_group_has_the_pods_own_volumes() {
        let temp = tempfile::tempdir().unwrap();
        // Any user may give a file to a group of their own.
        let own = nix::unistd::getegid().as_raw();
        let pod = Pod { fs_group: Some(own.into()), ..pods::pod("web", temp.path()) };
        let at = |name: &str| pod.dir.join("volumes").join(name);
        let files = VolumeSource::Files { path: at("files"), memory_bytes: None, sources: vec![] };
        for (name, source) in [("empty", VolumeSource::EmptyDir { path: at("empty") }), ("files", files)] {
            set_up(&pod, &Volume { name: name.to_owned(), source }).unwrap();
            let found = fs::metadata(at(name)).unwrap();
            assert_eq!((found.gid(), found.permissions().mode() & 0o7777), (own, 0o2777), "{name}");
        }
    }

    #[test]
    fn huge_pages_of_no_size_are_refused_in_the_kubelets_words() {
        let temp = tempfile::tempdir().unwrap();
        let page_size = Err("medium HugePages: no".to_owned());
        let source = VolumeSource::HugePages { path: temp.path().join("v"), page_size };
        let refused = set_up(&pods::pod("web", temp.path()), &Volume { name: "v".to_owned(), source });
        assert_eq!(refused.unwrap_err().to_string(), "medium HugePages: no");
    }
}

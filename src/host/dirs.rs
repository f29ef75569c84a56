//! What a pod has on disk: its directory in the kubelet's layout, and its logs.
//!
//! ```text
//! <root>/pods/<uid>/volumes/kubernetes.io~<kind>/<volume>      0777, or a tmpfs
//!                   volume-subpaths/<volume>/<container>/<n>   part of a volume that is mounted
//!                   containers/<container>/<attempt, 8 hex>    termination log, 0666
//!                   plugins/kubernetes.io~empty-dir/<volume>   says that the volume was made
//!                   etc-hosts                                  the containers' /etc/hosts
//! <logs>/<namespace>_<name>_<uid>/<container>/<attempt>.log    written by the runtime
//! <logs>/../containers/<name>_<namespace>_<container>-<id>.log link to the log
//! ```
//!
//! The layout is a frozen surface: daemons mount it and read it. Which path is which is said by [`Pod`]; this module makes
//! them and removes them with the pod.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::mounts::mounts;
use super::tree::remove_tree;
use super::{FileError, failed, logs, remove};
use crate::model::ContainerId;
use crate::podspec::{Container, Pod, hosts};

/// Where the pod's own volumes are, below its directory: `<kind>/<volume>`.
const VOLUMES: &str = "volumes";
/// Where parts of volumes are mounted, below its directory.
const PARTS: &str = "volume-subpaths";
/// What the agent mounts as a volume.
const VOLUME_TYPES: [&str; 2] = ["tmpfs", "hugetlbfs"];
/// The most that is read of a container's last words.
const TERMINATION_MESSAGE_BYTES_MAX: u64 = 4096;
/// The longest name a link may have, `.log` left out.
const LINK_NAME_MAX: usize = 251;
/// The host's own names.
const HOST_HOSTS: &str = "/etc/hosts";

/// What is left of a pod that should be gone: everything that could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|error| crate::error::Chain(error).to_string()).collect::<Vec<_>>().join("; "))]
pub struct Leftovers(pub Vec<FileError>);

/// Makes the pod's directories, volumes left out. Repeatable.
///
/// # Errors
/// [`FileError`] naming the directory.
pub fn make_pod(pod: &Pod) -> Result<(), FileError> {
    for name in ["volumes", "plugins", "containers"] {
        make_dir(&pod.dir.join(name), 0o750)?;
    }
    make_dir(&pod.log_dir, 0o755)
}

/// Makes what one instance of a container needs: a directory for its log and an empty file for its last words.
///
/// # Errors
/// [`FileError`] naming the file or directory.
pub fn make_container(pod: &Pod, container: &Container, attempt: u32) -> Result<(), FileError> {
    make_dir(&pod.log_dir.join(&container.name), 0o755)?;
    let file = pod.termination_log(container, attempt);
    if let Some(dir) = file.parent() {
        make_dir(dir, 0o750)?;
    }
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o666).open(&file);
    let made = made.and_then(|made| made.set_permissions(Permissions::from_mode(0o666)));
    made.map_err(failed("make", &file))
}

/// Writes the pod's `/etc/hosts`, in place: running containers see the same file. `pod_ips` play no part with the host's
/// network.
///
/// # Errors
/// [`FileError`], also when the host's own file is there and cannot be read.
pub fn write_etc_hosts(pod: &Pod, pod_ips: &[IpAddr]) -> Result<(), FileError> {
    let host_file = match fs::read_to_string(HOST_HOSTS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    };
    let host_file = host_file.map_err(failed("read", Path::new(HOST_HOSTS)))?;
    let content = hosts::content(pod, pod_ips, &host_file);
    let path = pod.etc_hosts();
    if fs::read_to_string(&path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let written = fs::write(&path, content).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o644)));
    written.map_err(failed("write", &path))
}

/// The end of a container's last words, 4096 bytes at most; empty if it left none. What is no UTF-8 is replaced.
///
/// # Errors
/// [`FileError`] for a file that is there and cannot be read.
pub fn termination_message(path: &Path) -> Result<String, FileError> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let mut end = Vec::new();
    let read = file.seek(SeekFrom::End(0)).and_then(|length| {
        file.seek(SeekFrom::Start(length.saturating_sub(TERMINATION_MESSAGE_BYTES_MAX)))?;
        file.take(TERMINATION_MESSAGE_BYTES_MAX).read_to_end(&mut end)
    });
    read.map_err(failed("read", path))?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// Links the log of a started container where log collectors look for it. Repeatable.
///
/// # Errors
/// [`FileError`] naming the link.
pub fn link_log(pod: &Pod, container: &Container, attempt: u32, id: &ContainerId) -> Result<(), FileError> {
    let Some(link) = log_link(pod, container, id) else { return Ok(()) };
    make_dir(link.parent().unwrap_or(Path::new("/")), 0o755)?;
    match symlink(pod.log_dir.join(container.log_path(attempt)), &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make link", &link)(error)),
        _ => Ok(()),
    }
}

/// Removes the log of one instance, what was moved aside of it and the link to it. Repeatable.
///
/// # Errors
/// [`FileError`] naming what could not be removed.
pub fn remove_log(pod: &Pod, container: &Container, attempt: u32, id: &ContainerId) -> Result<(), FileError> {
    logs::remove(&pod.log_dir.join(container.log_path(attempt)))?;
    log_link(pod, container, id).map_or(Ok(()), |link| remove(&link))
}

fn log_link(pod: &Pod, container: &Container, id: &ContainerId) -> Option<PathBuf> {
    let mut name = format!("{}_{}_{}-{id}", pod.key.name, pod.key.namespace, container.name);
    // Names and ids are ASCII: any place is one to cut at.
    name.truncate(LINK_NAME_MAX);
    Some(links_dir(&pod.log_dir)?.join(name + ".log"))
}

/// Removes the volumes of a pod that has come to its end, and what is in them. Goes on after a failure. Repeatable.
///
/// # Errors
/// [`Leftovers`], as for [`remove_pod`].
pub fn remove_volumes(pod: &Pod) -> Result<(), Leftovers> {
    let steps = [unmount_volumes(&pod.dir), remove_tree(&pod.dir.join("volumes"))];
    let failures: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(Leftovers(failures)) }
}

/// Removes everything a pod has on disk: what is mounted in its own volumes, its directory, its logs and links to them.
/// Goes on after a failure. Repeatable.
///
/// # Errors
/// [`Leftovers`] with each thing that is still there. A mount that is not one of the pod's volumes stays, and with it the
/// directories above it.
pub fn remove_pod(pod: &Pod) -> Result<(), Leftovers> {
    let steps =
        [unmount_volumes(&pod.dir), remove_tree(&pod.dir), remove_links(&pod.log_dir), remove_tree(&pod.log_dir)];
    let failures: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(Leftovers(failures)) }
}

/// Unmounts what the agent mounted for the pod; the newest mount first.
fn unmount_volumes(pod_dir: &Path) -> Result<(), FileError> {
    // The kernel lists mounts by their true path.
    let pod_dir = match fs::canonicalize(pod_dir) {
        Ok(pod_dir) => pod_dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", pod_dir)(error)),
    };
    let (volumes, parts) = (pod_dir.join(VOLUMES), pod_dir.join(PARTS));
    for mount in mounts()?.iter().rev() {
        let is_volume = VOLUME_TYPES.contains(&mount.fs_type.as_str())
            && mount.point.parent().and_then(Path::parent) == Some(&volumes);
        // Whatever is mounted over a part of a volume, too: only containers' own processes could look into it.
        if is_volume || mount.point.starts_with(&parts) {
            let unmounted = umount2(&mount.point, MntFlags::UMOUNT_NOFOLLOW);
            unmounted.map_err(|errno| failed("unmount", &mount.point)(errno.into()))?;
        }
    }
    Ok(())
}

/// Removes the links that lead into a log directory.
fn remove_links(log_dir: &Path) -> Result<(), FileError> {
    let Some(dir) = links_dir(log_dir) else { return Ok(()) };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", &dir)(error)),
    };
    for entry in entries {
        let link = entry.map_err(failed("read", &dir))?.path();
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(log_dir)) {
            fs::remove_file(&link).map_err(failed("remove", &link))?;
        }
    }
    Ok(())
}

/// `/var/log/containers` beside `/var/log/pods`.
fn links_dir(log_dir: &Path) -> Option<PathBuf> {
    Some(log_dir.parent()?.parent()?.join("containers"))
}

fn make_dir(path: &Path, mode: u32) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed("make directory", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pods::{container, pod};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_pod_has_the_kubelets_layout_and_leaves_nothing_behind() {
        let temp = tempfile::tempdir().unwrap();
        let (web, main) = (pod("web", temp.path()), container("main", "busybox", &[]));
        make_pod(&web).unwrap();
        make_container(&web, &main, 17).unwrap();
        link_log(&web, &main, 17, &"c1".into()).unwrap();

        let pod_dir = temp.path().join("pods/uid-web");
        for name in ["volumes", "plugins", "containers", "containers/main"] {
            assert_eq!(mode(&pod_dir.join(name)), 0o750, "{name}");
        }
        assert_eq!(mode(&pod_dir.join("containers/main/00000011")), 0o666);
        let logs = temp.path().join("logs");
        assert_eq!(mode(&logs.join("pods/default_web_uid-web/main")), 0o755);
        let link = logs.join("containers/web_default_main-c1.log");
        assert_eq!(fs::read_link(&link).unwrap(), logs.join("pods/default_web_uid-web/main/17.log"));

        make_container(&web, &main, 18).unwrap();
        link_log(&web, &main, 18, &"c2".into()).unwrap();
        for name in ["17.log", "17.log.20260131-120000", "17.log.20260130-120000.gz", "18.log"] {
            fs::write(logs.join("pods/default_web_uid-web/main").join(name), "").unwrap();
        }
        remove_log(&web, &main, 17, &"c1".into()).unwrap();
        assert!(fs::symlink_metadata(&link).is_err());
        let link = logs.join("containers/web_default_main-c2.log");
        assert!(fs::metadata(&link).is_ok());
        let left = fs::read_dir(logs.join("pods/default_web_uid-web/main")).unwrap();
        assert_eq!(left.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["18.log"]);
        remove_log(&web, &main, 17, &"c1".into()).expect("removing what is gone succeeds");

        let other = logs.join("containers/other.log");
        symlink(logs.join("pods/default_web_uid-web2/main/0.log"), &other).unwrap();
        remove_pod(&web).unwrap();
        assert!(!pod_dir.exists() && !logs.join("pods/default_web_uid-web").exists());
        assert!(fs::symlink_metadata(&link).is_err() && fs::symlink_metadata(&other).is_ok());
        remove_pod(&web).expect("removing what is gone succeeds");
    }

    #[test]
    fn a_links_name_is_cut_to_what_a_directory_takes() {
        let temp = tempfile::tempdir().unwrap();
        let (web, main) = (pod(&"w".repeat(230), temp.path()), container("main", "busybox", &[]));
        link_log(&web, &main, 0, &"c".repeat(64).into()).unwrap();
        let name = fs::read_dir(temp.path().join("logs/containers")).unwrap().next().unwrap().unwrap().file_name();
        assert_eq!(name.len(), 255);
        assert!(name.to_str().unwrap().ends_with("c.log"));
    }

    #[test]
    fn hosts_are_rewritten_in_the_same_file() {
        let temp = tempfile::tempdir().unwrap();
        let web = pod("web", temp.path());
        make_pod(&web).unwrap();
        write_etc_hosts(&web, &["10.0.0.7".parse().unwrap()]).unwrap();
        let seen_by_a_container = fs::File::open(web.etc_hosts()).unwrap();
        write_etc_hosts(&web, &["10.0.0.8".parse().unwrap()]).unwrap();
        let text = io::read_to_string(seen_by_a_container).unwrap();
        assert!(text.contains("10.0.0.8\tweb\n") && !text.contains("10.0.0.7"), "{text}");
        assert_eq!(mode(&web.etc_hosts()), 0o644);
    }

    #[test]
    fn of_last_words_the_end_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("message");
        assert_eq!(termination_message(&path).unwrap(), "");
        fs::write(&path, format!("{}the end", "x".repeat(5000))).unwrap();
        let message = termination_message(&path).unwrap();
        assert_eq!((message.len(), &message[4089..]), (4096, "the end"));
    }
}

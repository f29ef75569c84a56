//! Volumes and the mounts made of them.
//!
//! Source: kubernetes v1.36 `pkg/volume/hostpath/host_path.go`, `pkg/volume/emptydir/empty_dir.go`,
//! `pkg/kubelet/kubelet_pods.go` (`makeMounts`).

use std::path::{Path as FilePath, PathBuf};

use k8s_openapi::api::core::v1 as k8s;

use super::resources::{Amounts, MEMORY, memory_bound};
use super::{HostFacts, HostPathKind, Mount, Propagation, Volume, VolumeSource};
use crate::api::field::{FieldError, Path};
use crate::api::quantity::Quantity;

/// Managed by the agent unless a container mounts something there itself.
const ETC_HOSTS: &str = "/etc/hosts";

/// Below a pod's directory; the kubelet's layout, in which other daemons look for volumes.
const EMPTY_DIRS: &str = "volumes/kubernetes.io~empty-dir";

/// The kinds of `hostPath.type`, in the order in which upstream lists them.
const HOST_PATH_KINDS: [(&str, HostPathKind); 8] = [
    ("", HostPathKind::Unchecked),
    ("BlockDevice", HostPathKind::BlockDevice),
    ("CharDevice", HostPathKind::CharDevice),
    ("Directory", HostPathKind::Directory),
    ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
    ("File", HostPathKind::File),
    ("FileOrCreate", HostPathKind::FileOrCreate),
    ("Socket", HostPathKind::Socket),
];

/// What volumes depend on beside their own fields.
pub(super) struct Surroundings<'a> {
    /// The pod's directory.
    pub(super) dir: &'a FilePath,
    /// What the pod's containers ask for.
    pub(super) amounts: &'a [Amounts],
    /// The node.
    pub(super) host: &'a HostFacts,
}

/// One volume of the pod.
pub(super) fn volume(volume: &k8s::Volume, around: &Surroundings<'_>, at: &Path) -> Result<Volume, FieldError> {
    let source = if let Some(host_path) = &volume.host_path {
        host_path_source(host_path, &at.child("hostPath"))?
    } else {
        let empty_dir =
            volume.empty_dir.as_ref().ok_or_else(|| FieldError::required(at, "must specify a volume type"))?;
        let path = around.dir.join(EMPTY_DIRS).join(&volume.name);
        match empty_dir.medium.as_deref() {
            Some("Memory") => {
                VolumeSource::Memory { path, size_bytes: memory_size(empty_dir, around, &at.child("emptyDir"))? }
            }
            _ => VolumeSource::EmptyDir { path },
        }
    };
    Ok(Volume { name: volume.name.clone(), source })
}

fn host_path_source(host_path: &k8s::HostPathVolumeSource, at: &Path) -> Result<VolumeSource, FieldError> {
    let name = host_path.type_.as_deref().unwrap_or_default();
    let Some((_, kind)) = HOST_PATH_KINDS.iter().find(|(known, _)| *known == name) else {
        return Err(FieldError::not_supported(&at.child("type"), name, &HOST_PATH_KINDS.map(|(known, _)| known)));
    };
    Ok(VolumeSource::HostPath { path: PathBuf::from(&host_path.path), kind: *kind })
}

/// The size of a volume in memory: the smallest of its limit, what the pod may take, and what the node has for pods.
fn memory_size(empty_dir: &k8s::EmptyDirVolumeSource, around: &Surroundings<'_>, at: &Path) -> Result<u64, FieldError> {
    let written = empty_dir.size_limit.as_ref().map(|quantity| quantity.0.as_str());
    let bad = |text: &str, why: String| FieldError::invalid(&at.child("sizeLimit"), text, why);
    let size_limit = match written {
        None => None,
        Some(text) => {
            let quantity: Quantity = text.parse().map_err(|error| bad(text, format!("{error}")))?;
            Some(
                u64::try_from(quantity.value())
                    .map_err(|_| bad(text, "must be greater than or equal to 0".to_owned()))?,
            )
        }
    };
    let allocatable = around.host.allocatable.get(MEMORY).copied();
    let sizes = [size_limit, memory_bound(around.amounts), allocatable];
    Ok(sizes.into_iter().flatten().filter(|size| *size > 0).min().unwrap_or(0))
}

/// The mounts of one container. `relabelled` are the volumes that an earlier mount of the pod had labelled for SELinux.
pub(super) fn mounts(
    container: &k8s::Container,
    volumes: &[Volume],
    etc_hosts: PathBuf,
    relabelled: &mut Vec<String>,
    at: &Path,
) -> Result<Vec<Mount>, FieldError> {
    let mut mounts = Vec::new();
    for (index, written) in container.volume_mounts.iter().flatten().enumerate() {
        let at = at.child("volumeMounts").index(index);
        let volume = volumes.iter().find(|volume| volume.name == written.name);
        let volume = volume.ok_or_else(|| FieldError::not_found(&at.child("name"), written.name.as_str()))?;
        let is_own = !matches!(volume.source, VolumeSource::HostPath { .. });
        let selinux_relabel = is_own && !relabelled.contains(&volume.name);
        if selinux_relabel {
            relabelled.push(volume.name.clone());
        }
        mounts.push(Mount {
            host_path: volume.source.path().to_owned(),
            container_path: absolute(&written.mount_path),
            read_only: written.read_only == Some(true),
            propagation: propagation(written.mount_propagation.as_deref(), &at)?,
            selinux_relabel,
            volume: Some(volume.name.clone()),
        });
    }
    if !mounts.iter().any(|mount| mount.container_path == ETC_HOSTS) {
        mounts.push(Mount {
            host_path: etc_hosts,
            container_path: ETC_HOSTS.to_owned(),
            read_only: false,
            propagation: Propagation::Private,
            selinux_relabel: true,
            volume: None,
        });
    }
    Ok(mounts)
}

/// A relative mount path is taken from the root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn propagation(name: Option<&str>, at: &Path) -> Result<Propagation, FieldError> {
    match name {
        None | Some("None") => Ok(Propagation::Private),
        Some("HostToContainer") => Ok(Propagation::HostToContainer),
        Some("Bidirectional") => Ok(Propagation::Bidirectional),
        Some(other) => {
            let supported = ["Bidirectional", "HostToContainer", "None"];
            Err(FieldError::not_supported(&at.child("mountPropagation"), other, &supported))
        }
    }
}

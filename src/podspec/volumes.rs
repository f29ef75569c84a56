//! Volumes and the mounts made of them.
//!
//! Source: kubernetes v1.36 `pkg/volume/{hostpath,emptydir,configmap,secret,downwardapi,projected}`,
//! `pkg/kubelet/kubelet_pods.go` (`makeMounts`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};

use k8s_openapi::api::core::v1 as k8s;

use super::downward::Sources;
use super::objects::{Reference, token_spec};
use super::resources::{Demand, MEMORY, hugepage_size};
use super::{
    FileSource, HostPathKind, Item, Mount, Pod, Propagation, RecursiveReadOnly, SubPath, SubPathText, Volume,
    VolumeSource, image,
};
use crate::api::field::{FieldError, Path};
use crate::api::quantity::Quantity;

/// Managed by the agent unless a container mounts something there itself.
const ETC_HOSTS: &str = "/etc/hosts";
/// Below a pod's directory; the kubelet's layout, in which other daemons look for volumes.
const VOLUMES: &str = "volumes";
const EMPTY_DIR: &str = "kubernetes.io~empty-dir";
const CONFIG_MAP: &str = "kubernetes.io~configmap";
const SECRET: &str = "kubernetes.io~secret";
const DOWNWARD_API: &str = "kubernetes.io~downward-api";
const PROJECTED: &str = "kubernetes.io~projected";
/// Where parts of volumes are bound, below a pod's directory.
const SUB_PATHS: &str = "volume-subpaths";
/// The mode of files that are given none.
const MODE_DEFAULT: u32 = 0o644;
/// The mode of a token that only its user may read.
const MODE_TOKEN: u32 = 0o600;

const MEDIUM_MEMORY: &str = "Memory";
const MEDIUM_HUGE_PAGES: &str = "HugePages";

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
    /// What the pod asks for.
    pub(super) demand: &'a Demand,
    /// Values of the pod.
    pub(super) sources: &'a Sources<'a>,
    /// `fsGroup`.
    pub(super) fs_group: Option<i64>,
    /// The user of all containers, if they have one in common.
    pub(super) fs_user: Option<i64>,
}

/// One volume of the pod.
pub(super) fn volume(volume: &k8s::Volume, around: &Surroundings<'_>, at: &Path) -> Result<Volume, FieldError> {
    let path = |plugin: &str| around.dir.join(VOLUMES).join(plugin).join(&volume.name);
    let source = match volume {
        k8s::Volume { host_path: Some(host_path), .. } => host_path_source(host_path, &at.child("hostPath"))?,
        k8s::Volume { empty_dir: Some(empty_dir), .. } => {
            empty_dir_source(empty_dir, path(EMPTY_DIR), around, &at.child("emptyDir"))?
        }
        k8s::Volume { config_map: Some(source), .. } => {
            let object = (Reference::config_map(&source.name), source.items.as_deref());
            let sources = vec![object_files(object, mode(source.default_mode), source.optional)];
            VolumeSource::Files { path: path(CONFIG_MAP), memory_bytes: None, sources }
        }
        k8s::Volume { secret: Some(source), .. } => {
            let object = Reference::secret(source.secret_name.clone().unwrap_or_default());
            let object = (object, source.items.as_deref());
            let sources = vec![object_files(object, mode(source.default_mode), source.optional)];
            in_memory(path(SECRET), sources, around)
        }
        k8s::Volume { downward_api: Some(source), .. } => {
            let (items, at) = (source.items.as_deref().unwrap_or_default(), at.child("downwardAPI"));
            let sources = fields(items, mode(source.default_mode), around.sources, &at)?;
            in_memory(path(DOWNWARD_API), sources, around)
        }
        k8s::Volume { projected: Some(source), .. } => {
            in_memory(path(PROJECTED), projected(source, around, &at.child("projected"))?, around)
        }
        k8s::Volume { image: Some(source), .. } => image_source(source, &at.child("image"))?,
        _ => return Err(FieldError::required(at, "must specify a volume type")),
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

fn image_source(image: &k8s::ImageVolumeSource, at: &Path) -> Result<VolumeSource, FieldError> {
    let written = image.reference.clone().unwrap_or_default();
    Ok(VolumeSource::Image {
        image_reference: image::reference(&written),
        pull_policy: image::pull_policy(image.pull_policy.as_deref(), &at.child("pullPolicy"))?,
        image: written,
    })
}

// === empty directories ===

fn empty_dir_source(
    empty_dir: &k8s::EmptyDirVolumeSource,
    path: PathBuf,
    around: &Surroundings<'_>,
    at: &Path,
) -> Result<VolumeSource, FieldError> {
    Ok(match empty_dir.medium.as_deref().unwrap_or_default() {
        MEDIUM_MEMORY => VolumeSource::Memory { path, size_bytes: memory_size(size_limit(empty_dir, at)?, around) },
        medium if medium.starts_with(MEDIUM_HUGE_PAGES) => {
            VolumeSource::HugePages { path, page_size: page_size(medium, &around.demand.hugepage_sizes()) }
        }
        _ => VolumeSource::EmptyDir { path },
    })
}

fn size_limit(empty_dir: &k8s::EmptyDirVolumeSource, at: &Path) -> Result<Option<u64>, FieldError> {
    let Some(written) = &empty_dir.size_limit else { return Ok(None) };
    let bad = |why: String| FieldError::invalid(&at.child("sizeLimit"), written.0.as_str(), why);
    let quantity: Quantity = written.0.parse().map_err(|error| bad(format!("{error}")))?;
    let bytes = u64::try_from(quantity.value());
    bytes.map(Some).map_err(|_| bad("must be greater than or equal to 0".to_owned()))
}

/// The size of a volume in memory: the smallest of its limit, what the pod may take, and what the node has for pods.
fn memory_size(size_limit: Option<u64>, around: &Surroundings<'_>) -> u64 {
    let allocatable = around.sources.host.allocatable.get(MEMORY).copied();
    let sizes = [size_limit, around.demand.memory_bound(), allocatable];
    sizes.into_iter().flatten().filter(|size| *size > 0).min().unwrap_or(0)
}

/// The page size of a medium; where it names none, the only one of those that the pod asks for.
///
/// Source: kubernetes v1.36 `pkg/volume/emptydir/empty_dir.go`, `getPageSizeMountOption`.
fn page_size(medium: &str, asked: &BTreeSet<u64>) -> Result<u64, String> {
    let named = medium.strip_prefix(MEDIUM_HUGE_PAGES).unwrap_or_default();
    let named = hugepage_size(&format!("hugepages{named}"));
    let mut fitting = asked.iter().filter(|size| named.is_none_or(|named| named == **size));
    match (fitting.next(), fitting.next()) {
        (Some(size), None) => Ok(*size),
        (None, _) => Err(format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        )),
        (Some(_), Some(_)) => {
            Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes"))
        }
    }
}

// === files ===

fn in_memory(path: PathBuf, sources: Vec<FileSource>, around: &Surroundings<'_>) -> VolumeSource {
    VolumeSource::Files { path, memory_bytes: Some(memory_size(None, around)), sources }
}

/// A validated mode is from 0 to 0777.
fn mode(written: Option<i32>) -> u32 {
    written.and_then(|mode| mode.try_into().ok()).unwrap_or(MODE_DEFAULT)
}

fn object_files(
    (object, items): (Reference, Option<&[k8s::KeyToPath]>),
    mode: u32,
    optional: Option<bool>,
) -> FileSource {
    let item = |item: &k8s::KeyToPath| Item {
        key: item.key.clone(),
        path: item.path.clone(),
        mode: item.mode.and_then(|mode| mode.try_into().ok()),
    };
    let items = items.unwrap_or_default().iter().map(item).collect();
    FileSource::Object { object, items, mode, optional: optional == Some(true) }
}

fn fields(
    items: &[k8s::DownwardAPIVolumeFile],
    default_mode: u32,
    sources: &Sources<'_>,
    at: &Path,
) -> Result<Vec<FileSource>, FieldError> {
    let file = |(index, item): (usize, &k8s::DownwardAPIVolumeFile)| {
        let at = at.child("items").index(index);
        let field = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => sources.field(field, &at.child("fieldRef"))?,
            (None, Some(resource)) => sources.resource(resource, "", &at.child("resourceFieldRef"))?,
            (None, None) => {
                return Err(FieldError::required(&at, "one of fieldRef and resourceFieldRef is required"));
            }
        };
        let mode = item.mode.and_then(|mode| mode.try_into().ok()).unwrap_or(default_mode);
        Ok(FileSource::Field { path: item.path.clone(), field, mode })
    };
    items.iter().enumerate().map(file).collect()
}

fn projected(
    written: &k8s::ProjectedVolumeSource,
    around: &Surroundings<'_>,
    at: &Path,
) -> Result<Vec<FileSource>, FieldError> {
    let default_mode = mode(written.default_mode);
    let mut files = Vec::new();
    for (index, source) in written.sources.iter().flatten().enumerate() {
        let at = at.child("sources").index(index);
        match source {
            k8s::VolumeProjection { config_map: Some(source), .. } => {
                let object = (Reference::config_map(&source.name), source.items.as_deref());
                files.push(object_files(object, default_mode, source.optional));
            }
            k8s::VolumeProjection { secret: Some(source), .. } => {
                let object = (Reference::secret(&source.name), source.items.as_deref());
                files.push(object_files(object, default_mode, source.optional));
            }
            k8s::VolumeProjection { downward_api: Some(source), .. } => {
                let items = source.items.as_deref().unwrap_or_default();
                files.extend(fields(items, default_mode, around.sources, &at.child("downwardAPI"))?);
            }
            k8s::VolumeProjection { service_account_token: Some(source), .. } => {
                let is_private = around.fs_user.is_some() || around.fs_group.is_some();
                files.push(FileSource::Token {
                    path: source.path.clone(),
                    spec: token_spec(source),
                    mode: if is_private { MODE_TOKEN } else { default_mode },
                    owner: around.fs_user,
                });
            }
            _ => {}
        }
    }
    Ok(files)
}

// === mounts ===

/// The mounts of one container of a pod that is whole but for its containers. `relabelled` are the volumes that an earlier
/// mount of the pod had labelled for SELinux.
pub(super) fn mounts(
    container: &k8s::Container,
    pod: &Pod,
    relabelled: &mut BTreeSet<String>,
    at: &Path,
) -> Result<Vec<Mount>, FieldError> {
    let volumes: BTreeMap<_, _> = pod.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
    let mut mounts = Vec::new();
    for (index, written) in container.volume_mounts.iter().flatten().enumerate() {
        let at = at.child("volumeMounts").index(index);
        let volume = volumes.get(written.name.as_str());
        let volume = volume.ok_or_else(|| FieldError::not_found(&at.child("name"), written.name.as_str()))?;
        let is_own = !matches!(volume.source, VolumeSource::HostPath { .. } | VolumeSource::Image { .. });
        let target = pod.dir.join(SUB_PATHS).join(&volume.name).join(&container.name).join(index.to_string());
        mounts.push(Mount {
            host_path: volume.source.path().map(FilePath::to_owned),
            sub_path: sub_path(written).map(|text| SubPath { text, target }),
            container_path: absolute(&written.mount_path),
            read_only: written.read_only == Some(true) || volume.source.is_read_only(),
            recursive_read_only: recursive_read_only(written),
            propagation: propagation(written.mount_propagation.as_deref(), &at)?,
            selinux_relabel: is_own && relabelled.insert(volume.name.clone()),
            volume: Some(volume.name.clone()),
        });
    }
    if !mounts.iter().any(|mount| mount.container_path == ETC_HOSTS) {
        mounts.push(Mount {
            host_path: Some(pod.etc_hosts()),
            sub_path: None,
            container_path: ETC_HOSTS.to_owned(),
            read_only: false,
            recursive_read_only: RecursiveReadOnly::Disabled,
            propagation: Propagation::Private,
            selinux_relabel: true,
            volume: None,
        });
    }
    Ok(mounts)
}

fn sub_path(mount: &k8s::VolumeMount) -> Option<SubPathText> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let expression = given(&mount.sub_path_expr).map(SubPathText::Expression);
    expression.or_else(|| given(&mount.sub_path).map(SubPathText::Plain))
}

fn recursive_read_only(mount: &k8s::VolumeMount) -> RecursiveReadOnly {
    match mount.recursive_read_only.as_deref() {
        Some("IfPossible") => RecursiveReadOnly::IfPossible,
        Some("Enabled") => RecursiveReadOnly::Enabled,
        _ => RecursiveReadOnly::Disabled,
    }
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

//! Rules for volumes, and for mounts and devices that use them.
//!
//! Sources that no agent realizes (cloud disks, iSCSI …) are only counted here; `podspec` refuses them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, ProjectedVolumeSource,
    Volume, VolumeMount, VolumeProjection,
};

use super::env::{self, Place};
use super::{Owner, choice, text};
use crate::api::field::{FieldError, Path};
use crate::api::metadata::{invalid_each, json};
use crate::api::names;
use crate::api::quantity::Quantity;

/// The volumes of a pod that are in order, by name.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

const SHORTEST_TOKEN_SECS: i64 = 10 * 60;
const LONGEST_TOKEN_SECS: i64 = 1 << 32;

/// Checks the volumes and answers with those that mounts may name.
pub(super) fn validate<'a>(
    volumes: &'a [Volume],
    owner: Owner,
    path: &Path,
    errors: &mut Vec<FieldError>,
) -> Volumes<'a> {
    let mut good = Volumes::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let before = errors.len();
        validate_sources(volume, owner, &path, errors);
        let name_path = path.child("name");
        if volume.name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else {
            invalid_each(&name_path, &volume.name, names::dns_label(&volume.name), errors);
        }
        if good.contains_key(volume.name.as_str()) {
            errors.push(FieldError::duplicate(&name_path, volume.name.as_str()));
        }
        if errors.len() == before {
            good.insert(&volume.name, volume);
        }
    }
    good
}

/// The names of the sources given, in upstream's order.
fn sources(volume: &Volume) -> Vec<&'static str> {
    let all = [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ];
    all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
}

/// There must be one source: the first is checked, further ones are forbidden.
fn validate_sources(volume: &Volume, owner: Owner, path: &Path, errors: &mut Vec<FieldError>) {
    match sources(volume).as_slice() {
        [] => errors.push(FieldError::required(path, "must specify a volume type")),
        [first, further @ ..] => {
            validate_first_source(volume, owner, &path.child(first), errors);
            for name in further {
                errors.push(FieldError::forbidden(&path.child(name), "may not specify more than 1 volume type"));
            }
        }
    }
}

fn validate_first_source(volume: &Volume, owner: Owner, path: &Path, errors: &mut Vec<FieldError>) {
    match volume {
        Volume { empty_dir: Some(source), .. } => validate_empty_dir(source, path, errors),
        Volume { host_path: Some(source), .. } => validate_host_path(source, path, errors),
        Volume { secret: Some(source), .. } => {
            required(source.secret_name.as_deref(), &path.child("secretName"), errors);
            validate_files(source.default_mode, source.items.as_deref(), path, errors);
        }
        Volume { persistent_volume_claim: Some(source), .. } => {
            required(Some(&source.claim_name), &path.child("claimName"), errors);
        }
        Volume { downward_api: Some(source), .. } => {
            validate_mode(source.default_mode, &path.child("defaultMode"), errors);
            source.items.iter().flatten().for_each(|file| validate_downward_file(file, path, errors));
        }
        Volume { config_map: Some(source), .. } => {
            required(Some(&source.name), &path.child("name"), errors);
            validate_files(source.default_mode, source.items.as_deref(), path, errors);
        }
        Volume { projected: Some(source), .. } => validate_projected(source, path, errors),
        Volume { image: Some(source), .. } => {
            if owner == Owner::Pod {
                required(source.reference.as_deref(), &path.child("reference"), errors);
            }
            let policy = text(source.pull_policy.as_ref());
            choice(policy, &["Always", "IfNotPresent", "Never"], &path.child("pullPolicy"), errors);
        }
        _ => {}
    }
}

fn required(value: Option<&str>, path: &Path, errors: &mut Vec<FieldError>) {
    if value.unwrap_or_default().is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

fn validate_empty_dir(source: &EmptyDirVolumeSource, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(limit) = &source.size_limit else { return };
    if limit.0.parse::<Quantity>().map_or(true, Quantity::is_negative) {
        errors
            .push(FieldError::forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity"));
    }
}

fn validate_host_path(source: &HostPathVolumeSource, path: &Path, errors: &mut Vec<FieldError>) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if source.path.is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
        return;
    }
    no_backsteps(&source.path, &path.child("path"), errors);
    if let Some(kind) = source.type_.as_deref().filter(|kind| !TYPES.contains(kind)) {
        errors.push(FieldError::not_supported(&path.child("type"), kind, &TYPES));
    }
}

fn validate_mode(mode: Option<i32>, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, mode, detail));
    }
}

fn validate_files(mode: Option<i32>, items: Option<&[KeyToPath]>, path: &Path, errors: &mut Vec<FieldError>) {
    validate_mode(mode, &path.child("defaultMode"), errors);
    validate_items(items.unwrap_or_default(), path, errors);
}

fn validate_items(items: &[KeyToPath], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, item) in items.iter().enumerate() {
        let path = path.child("items").index(index);
        required(Some(&item.key), &path.child("key"), errors);
        required(Some(&item.path), &path.child("path"), errors);
        local_path(&item.path, &path.child("path"), errors);
        validate_mode(item.mode, &path.child("mode"), errors);
    }
}

fn validate_downward_file(file: &DownwardAPIVolumeFile, path: &Path, errors: &mut Vec<FieldError>) {
    required(Some(&file.path), &path.child("path"), errors);
    local_path(&file.path, &path.child("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field_ref), other) => {
            env::validate_field_ref(field_ref, Place::Volume, &path.child("fieldRef"), errors);
            if other.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
        (None, Some(resource)) => {
            env::validate_resource_ref(resource, Place::Volume, &path.child("resourceFieldRef"), errors);
        }
        (None, None) => errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required")),
    }
    validate_mode(file.mode, &path.child("mode"), errors);
}

fn validate_projected(source: &ProjectedVolumeSource, path: &Path, errors: &mut Vec<FieldError>) {
    validate_mode(source.default_mode, &path.child("defaultMode"), errors);
    let mut taken = BTreeSet::new();
    for (index, source) in source.sources.iter().flatten().enumerate() {
        let source_path = path.child("sources").index(index);
        validate_projection(source, path, &source_path, &mut taken, errors);
    }
}

/// `path` is the volume's, where clashes of paths are reported; `source_path` that of this source.
fn validate_projection<'a>(
    source: &'a VolumeProjection,
    path: &Path,
    source_path: &Path,
    taken: &mut BTreeSet<&'a str>,
    errors: &mut Vec<FieldError>,
) {
    let mut given = 0;
    let mut take = |file: &'a str, printed: &str, errors: &mut Vec<FieldError>| {
        if !file.is_empty() && !taken.insert(file) {
            errors.push(FieldError::invalid(path, printed, "conflicting duplicate paths"));
        }
    };
    let secret = source.secret.as_ref().map(|source| ("secret", &source.name, source.items.as_deref()));
    let config_map = source.config_map.as_ref().map(|source| ("configMap", &source.name, source.items.as_deref()));
    for (kind, name, items) in [secret, config_map].into_iter().flatten() {
        given += 1;
        required(Some(name), &source_path.child(kind).child("name"), errors);
        let items = items.unwrap_or_default();
        validate_items(items, &source_path.child(kind), errors);
        items.iter().for_each(|item| take(&item.path, name, errors));
    }
    if let Some(downward) = &source.downward_api {
        given += 1;
        for file in downward.items.iter().flatten() {
            validate_downward_file(file, &source_path.child("downwardAPI"), errors);
            take(&file.path, &file.path, errors);
        }
    }
    if let Some(token) = &source.service_account_token {
        given += 1;
        let seconds = token.expiration_seconds.unwrap_or(0);
        let seconds_path = source_path.child("serviceAccountToken").child("expirationSeconds");
        if seconds < SHORTEST_TOKEN_SECS {
            let detail = "may not specify a duration less than 10 minutes";
            errors.push(FieldError::invalid(&seconds_path, seconds, detail));
        }
        if seconds > LONGEST_TOKEN_SECS {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.push(FieldError::invalid(&seconds_path, seconds, detail));
        }
        required(Some(&token.path), &path.child("path"), errors);
        local_path(&token.path, &path.child("path"), errors);
    }
    given += usize::from(source.cluster_trust_bundle.is_some()) + usize::from(source.pod_certificate.is_some());
    if given > 1 {
        errors.push(FieldError::forbidden(source_path, "may not specify more than 1 volume type per source"));
    }
}

// === paths ===

pub(super) fn no_backsteps(value: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if has_backsteps(value) {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

fn has_backsteps(value: &str) -> bool {
    value.split('/').any(|part| part == "..")
}

/// Relative, and nowhere upwards.
pub(super) fn descending_path(value: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    no_backsteps(value, path, errors);
}

/// Relative, nowhere upwards, and not one of the names that atomic updates use.
fn local_path(value: &str, path: &Path, errors: &mut Vec<FieldError>) {
    descending_path(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.push(FieldError::invalid(path, value, "must not start with '..'"));
    }
}

// === use of volumes ===

pub(super) fn validate_mounts(container: &Container, volumes: &Volumes<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let mut mount_paths = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let item = path.index(index);
        required(Some(&mount.name), &item.child("name"), errors);
        if !volumes.contains_key(mount.name.as_str()) {
            errors.push(FieldError::not_found(&item.child("name"), mount.name.as_str()));
        }
        required(Some(&mount.mount_path), &item.child("mountPath"), errors);
        if !mount_paths.insert(mount.mount_path.as_str()) {
            errors.push(FieldError::invalid(&item.child("mountPath"), mount.mount_path.as_str(), "must be unique"));
        }
        if devices.iter().any(|device| device.name == mount.name) {
            let detail = "must not already exist in volumeDevices";
            errors.push(FieldError::invalid(&item.child("name"), mount.name.as_str(), detail));
        }
        if devices.iter().any(|device| device.device_path == mount.mount_path) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(&item.child("mountPath"), mount.mount_path.as_str(), detail));
        }
        validate_sub_path(mount, &item, path, errors);
        validate_propagation(mount, container, path, errors);
    }
}

/// Errors about a path's form are at the list, not at its item, as upstream has them.
fn validate_sub_path(mount: &VolumeMount, item: &Path, list: &Path, errors: &mut Vec<FieldError>) {
    let (sub_path, expression) = (text(mount.sub_path.as_ref()), text(mount.sub_path_expr.as_ref()));
    descending_path(sub_path, &list.child("subPath"), errors);
    if !expression.is_empty() && !sub_path.is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.push(FieldError::invalid(&item.child("subPathExpr"), expression, detail));
    }
    descending_path(expression, &list.child("subPathExpr"), errors);
}

fn validate_propagation(mount: &VolumeMount, container: &Container, list: &Path, errors: &mut Vec<FieldError>) {
    const MODES: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    const RECURSIVE: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];
    let propagation = mount.mount_propagation.as_deref();
    let path = list.child("mountPropagation");
    if let Some(mode) = propagation.filter(|mode| !MODES.contains(mode)) {
        errors.push(FieldError::not_supported(&path, mode, &MODES));
    }
    let privileged = container.security_context.as_ref().and_then(|security| security.privileged) == Some(true);
    if propagation == Some("Bidirectional") && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(&path, detail));
    }
    let path = list.child("recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.push(FieldError::forbidden(&path, "may only be specified when readOnly is true"));
            }
            if propagation.is_some_and(|mode| mode != "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(&path, detail));
            }
        }
        Some(other) => errors.push(FieldError::not_supported(&path, other, &RECURSIVE)),
    }
}

pub(super) fn validate_devices(
    container: &Container,
    volumes: &Volumes<'_>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (index, device) in container.volume_devices.iter().flatten().enumerate() {
        let (name_path, device_path) = (path.index(index).child("name"), path.index(index).child("devicePath"));
        let mut wrong = |path: &Path, value: &str, detail: &str| {
            errors.push(FieldError::invalid(path, value, detail));
        };
        if !device.name.is_empty() && !names.insert(device.name.as_str()) {
            wrong(&name_path, &device.name, "must be unique");
        }
        let block = |volume: &&Volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
        if volumes.get(device.name.as_str()).is_some_and(|volume| !block(volume)) {
            let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            wrong(&name_path, &device.name, detail);
        }
        if !paths.insert(device.device_path.as_str()) {
            wrong(&device_path, &device.device_path, "must be unique");
        }
        if has_backsteps(&device.device_path) {
            wrong(&device_path, &device.device_path, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|mount| mount.name == device.name) {
            wrong(&name_path, &device.name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| mount.mount_path == device.device_path) {
            wrong(&device_path, &device.device_path, "must not already exist as a path in volumeMounts");
        }
        required(Some(&device.name), &name_path, errors);
        required(Some(&device.device_path), &device_path, errors);
        if !volumes.contains_key(device.name.as_str()) {
            errors.push(FieldError::not_found(&name_path, json(&device.name)));
        }
    }
}

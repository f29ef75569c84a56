//! What a pod's configuration becomes on this host: its volumes in place, and each container bound to what it asks for.
//!
//! `podspec::bind` decides, `host::volumes` does; this joins the two, on threads that may block.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::agent::Shared;
use crate::agent::blocking::blocking;
use crate::cri::RuntimeVersion;
use crate::error::Chain;
use crate::host::volumes::{self, parts};
use crate::plan::memory::Outcome;
use crate::podspec::bind::{Bound, Content, Given, bind, env_files, payload};
use crate::podspec::objects::Objects;
use crate::podspec::{Container, EnvFile, Granted, Pod, RecursiveReadOnly, Volume, VolumeSource};

/// Sets up every volume of the pod, one after the other. Blocks.
///
/// # Errors
/// What is wrong with each that is not in place, as the kubelet words it; the others are in place.
pub(super) fn set_up_volumes(pod: &Pod, objects: &Objects) -> Result<(), String> {
    let trouble = |volume: &Volume| {
        let error = set_up_volume(pod, volume, objects).err()?;
        Some(format!("MountVolume.SetUp failed for volume \"{}\" : {error}", volume.name))
    };
    let troubles: Vec<_> = pod.volumes.iter().filter_map(trouble).collect();
    if troubles.is_empty() { Ok(()) } else { Err(troubles.join("; ")) }
}

fn set_up_volume(pod: &Pod, volume: &Volume, objects: &Objects) -> Result<(), String> {
    let VolumeSource::Files { path, sources, .. } = &volume.source else {
        return volumes::set_up(pod, volume).map_err(|error| Chain(&error).to_string());
    };
    let payload = payload(pod, sources, objects).map_err(|error| error.to_string())?;
    volumes::set_up(pod, volume).map_err(|error| Chain(&error).to_string())?;
    volumes::fill(pod, &volume.name, path, &payload).map_err(|error| Chain(&error).to_string())
}

/// Binds one of the pod's containers, and the parts of volumes it mounts. `images` are the ids of the images it mounts, by
/// their volumes' names, `granted` is what it gets with its devices.
///
/// # Errors
/// [`Outcome::Misconfigured`] with the reason why its configuration cannot be had, in the kubelet's words;
/// [`Outcome::Failed`] if the runtime does not say what it can do.
pub(super) async fn bind_container(
    shared: &Shared,
    pod: &Arc<Pod>,
    container: usize,
    pod_ips: &[IpAddr],
    images: &BTreeMap<String, String>,
    granted: Granted,
) -> Result<Bound, Outcome> {
    if !images.is_empty() {
        can_mount_images(shared).await?;
    }
    let can_be_recursive = can_be_recursive(shared, pod, &pod.containers[container]).await?;
    let (pod, pod_ips, images) = (pod.clone(), pod_ips.to_vec(), images.clone());
    let objects = shared.objects.borrow().clone();
    let bound = blocking(move || {
        let container = &pod.containers[container];
        let files = read_env_files(&pod, container)?;
        let given = Given {
            objects: &objects,
            pod_ips: &pod_ips,
            files: &files,
            images: &images,
            can_be_recursive,
            granted: &granted,
        };
        let bound = bind(&pod, container, &given).map_err(|error| error.to_string())?;
        bind_parts(&pod, container, &bound)?;
        Ok(bound)
    });
    bound.await.map_err(Outcome::Misconfigured)
}

/// A runtime that does not know of images in volumes takes such a mount for one of the host.
async fn can_mount_images(shared: &Shared) -> Result<(), Outcome> {
    let version = shared.runtime.version().await.map_err(|error| Outcome::Failed(Chain(&error).to_string()))?;
    if version.mounts_images() {
        return Ok(());
    }
    let RuntimeVersion { name, version } = version;
    Err(Outcome::Misconfigured(format!("{name} {version} does not support image volumes; containerd does since 2.1")))
}

/// Whether the pod's runtime can make a mount read-only with all below it. Asked each time it matters: the runtime may have
/// been upgraded.
async fn can_be_recursive(shared: &Shared, pod: &Pod, container: &Container) -> Result<bool, Outcome> {
    if container.mounts.iter().all(|mount| mount.recursive_read_only == RecursiveReadOnly::Disabled) {
        return Ok(false);
    }
    let status = shared.runtime.status().await.map_err(|error| Outcome::Failed(Chain(&error).to_string()))?;
    Ok(status.features.handler(&pod.runtime_handler).recursive_read_only_mounts)
}

fn read_env_files(pod: &Pod, container: &Container) -> Result<BTreeMap<EnvFile, Option<String>>, String> {
    let read = |file: &EnvFile| {
        let volume = pod.volumes.iter().find(|volume| volume.name == file.volume);
        let root = volume.and_then(|volume| volume.source.path());
        let root =
            root.ok_or_else(|| format!("cannot find the volume \"{}\" referenced by FileKeyRef", file.volume))?;
        let text = parts::read(root, Path::new(&file.path)).map_err(|error| {
            tracing::warn!(pod = %pod.key, container = container.name, error = %Chain(&error), "no file of variables");
            "couldn't parse env file".to_owned()
        })?;
        Ok((file.clone(), text))
    };
    env_files(container).into_iter().map(read).collect()
}

/// Users are not told what went wrong: it could tell them what the host has.
fn bind_parts(pod: &Pod, container: &Container, bound: &Bound) -> Result<(), String> {
    for mount in &bound.mounts {
        let Content::Part { volume, root, path, target } = &mount.content else { continue };
        parts::bind(root, path, target).map_err(|error| {
            let error = Chain(&error);
            tracing::warn!(pod = %pod.key, container = container.name, volume, %error, "a part of a volume cannot be mounted");
            format!("failed to prepare subPath for volumeMount \"{volume}\" of container \"{}\"", container.name)
        })?;
    }
    Ok(())
}

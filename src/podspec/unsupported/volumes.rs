//! Volumes and their mounts.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as k8s;

use super::{IsGiven, Refusals, configuration};
use crate::api::field::Path;
use crate::api::quantity::Quantity;

pub(super) const NO_SOURCE: &str = "not supported yet; this version has configMap, downwardAPI, emptyDir, hostPath, \
                                    image, projected and secret volumes";
const NO_PART: &str = "not supported yet for an image; mount all of it";
const HUGE_PAGES: &str = "HugePages";

impl Refusals {
    pub(super) fn volume(&mut self, volume: &k8s::Volume, at: &Path) {
        let k8s::Volume {
            aws_elastic_block_store,
            azure_disk,
            azure_file,
            cephfs,
            cinder,
            config_map,
            csi,
            downward_api,
            empty_dir,
            ephemeral,
            fc,
            flex_volume,
            flocker,
            gce_persistent_disk,
            git_repo,
            glusterfs,
            host_path,
            image,
            iscsi,
            // Realized.
            name: _,
            nfs,
            persistent_volume_claim,
            photon_persistent_disk,
            portworx_volume,
            projected,
            quobyte,
            rbd,
            scale_io,
            secret,
            storageos,
            vsphere_volume,
        } = volume;
        let sources = [
            (aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
            (azure_disk.is_some(), "azureDisk"),
            (azure_file.is_some(), "azureFile"),
            (cephfs.is_some(), "cephfs"),
            (cinder.is_some(), "cinder"),
            (csi.is_some(), "csi"),
            (ephemeral.is_some(), "ephemeral"),
            (fc.is_some(), "fc"),
            (flex_volume.is_some(), "flexVolume"),
            (flocker.is_some(), "flocker"),
            (gce_persistent_disk.is_some(), "gcePersistentDisk"),
            (git_repo.is_some(), "gitRepo"),
            (glusterfs.is_some(), "glusterfs"),
            (iscsi.is_some(), "iscsi"),
            (nfs.is_some(), "nfs"),
            (persistent_volume_claim.is_some(), "persistentVolumeClaim"),
            (photon_persistent_disk.is_some(), "photonPersistentDisk"),
            (portworx_volume.is_some(), "portworxVolume"),
            (quobyte.is_some(), "quobyte"),
            (rbd.is_some(), "rbd"),
            (scale_io.is_some(), "scaleIO"),
            (storageos.is_some(), "storageos"),
            (vsphere_volume.is_some(), "vsphereVolume"),
        ];
        for (given, field) in sources {
            self.refuse(given, at, field, NO_SOURCE);
        }
        if let Some(k8s::ConfigMapVolumeSource { default_mode: _, items, name: _, optional: _ }) = config_map {
            configuration::items(items.as_ref());
        }
        if let Some(k8s::SecretVolumeSource { default_mode: _, items, optional: _, secret_name: _ }) = secret {
            configuration::items(items.as_ref());
        }
        if let Some(k8s::DownwardAPIVolumeSource { default_mode: _, items }) = downward_api {
            configuration::fields(items.as_ref());
        }
        if let Some(k8s::ProjectedVolumeSource { default_mode: _, sources }) = projected {
            for (index, source) in sources.iter().flatten().enumerate() {
                self.projection(source, &at.child("projected").child("sources").index(index));
            }
        }
        if let Some(empty_dir) = empty_dir {
            self.empty_dir(empty_dir, &at.child("emptyDir"));
        }
        if let Some(k8s::HostPathVolumeSource {
            path,
            // Realized.
            type_: _,
        }) = host_path
        {
            let relative = !path.is_empty() && !path.starts_with('/');
            self.refuse(relative, &at.child("hostPath"), "path", "must be an absolute path");
        }
        if let Some(k8s::ImageVolumeSource {
            // Realized.
            pull_policy: _,
            reference: _,
        }) = image
        {}
    }

    /// Parts of images are the runtime's to mount.
    pub(super) fn image_parts(&mut self, spec: &k8s::PodSpec, at: &Path) {
        let images = spec.volumes.iter().flatten().filter(|volume| volume.image.is_some());
        let images: BTreeSet<_> = images.map(|volume| volume.name.as_str()).collect();
        let init_containers = spec.init_containers.as_deref().unwrap_or_default();
        for (list, containers) in [("containers", spec.containers.as_slice()), ("initContainers", init_containers)] {
            for (index, container) in containers.iter().enumerate() {
                let at = at.child(list).index(index).child("volumeMounts");
                for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
                    let (is_image, at) = (images.contains(mount.name.as_str()), at.index(index));
                    self.refuse(is_image && mount.sub_path.is_given(), &at, "subPath", NO_PART);
                    self.refuse(is_image && mount.sub_path_expr.is_given(), &at, "subPathExpr", NO_PART);
                }
            }
        }
    }

    fn projection(&mut self, source: &k8s::VolumeProjection, at: &Path) {
        let k8s::VolumeProjection {
            cluster_trust_bundle,
            config_map,
            downward_api,
            pod_certificate,
            secret,
            service_account_token,
        } = source;
        let no_kind = "there is no such kind of object here";
        self.refuse(cluster_trust_bundle.is_some(), at, "clusterTrustBundle", no_kind);
        self.refuse(pod_certificate.is_some(), at, "podCertificate", no_kind);
        if let Some(k8s::ConfigMapProjection { items, name: _, optional: _ }) = config_map {
            configuration::items(items.as_ref());
        }
        if let Some(k8s::SecretProjection { items, name: _, optional: _ }) = secret {
            configuration::items(items.as_ref());
        }
        if let Some(k8s::DownwardAPIProjection { items }) = downward_api {
            configuration::fields(items.as_ref());
        }
        if let Some(k8s::ServiceAccountTokenProjection {
            // Realized.
            audience: _,
            expiration_seconds: _,
            path: _,
        }) = service_account_token
        {}
    }

    fn empty_dir(&mut self, empty_dir: &k8s::EmptyDirVolumeSource, at: &Path) {
        let k8s::EmptyDirVolumeSource { medium, size_limit } = empty_dir;
        let is_page_size = |size: &str| size.parse::<Quantity>().is_ok_and(|size| size.value() > 0);
        let medium = medium.as_deref().unwrap_or_default();
        let huge_pages = medium.strip_prefix(HUGE_PAGES);
        if !huge_pages.is_some_and(|size| size.is_empty() || size.strip_prefix('-').is_some_and(is_page_size)) {
            self.only(Some(medium), &["HugePages", "HugePages-<size>", "Memory"], at, "medium");
        }
        self.refuse(huge_pages.is_some() && size_limit.is_some(), at, "sizeLimit", "not supported for huge pages");
    }
}

//! The runtime's image service: is an image here, pull it, how full is its disk.

use std::collections::BTreeSet;
use std::time::Duration;

use containerd_client::services::v1 as containerd;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{DeleteImageRequest, ListImagesRequest};
use k8s_cri::v1;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use tonic::transport::Channel;

use super::{CRI_NAMESPACE, CriError, DEADLINE, MESSAGE_BYTES_MAX, Runtime, unless_gone};
use crate::podspec::{Credentials, ImageUser, full_reference};

/// An image the runtime holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What containers are created from: the configuration's digest.
    pub id: String,
    /// Compressed size in the content store, in bytes.
    pub size_bytes: u64,
    /// `repository:tag`, any number.
    pub repo_tags: Vec<String>,
    /// `repository@digest`, any number.
    pub repo_digests: Vec<String>,
    /// Who the image's process runs as, where the pod does not say.
    pub user: ImageUser,
    /// The runtime needs it itself.
    pub is_pinned: bool,
}

impl Image {
    /// Its names for people; without any, nothing.
    pub fn names(&self) -> String {
        if self.repo_tags.is_empty() { self.repo_digests.join(", ") } else { self.repo_tags.join(", ") }
    }
}

/// How much a filesystem holds for the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFs {
    /// A path on it.
    pub mountpoint: String,
    /// Bytes used by images (not by others on the same filesystem).
    pub used_bytes: u64,
}

impl Runtime {
    /// The image `reference` names (tag, digest or id); `None` if the runtime does not hold it.
    ///
    /// # Errors
    /// As every call: [`CriError`].
    pub async fn image_status(&self, reference: &str) -> Result<Option<Image>, CriError> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(reference)), verbose: false };
        let reply = self.call("ImageStatus", DEADLINE, self.images().image_status(request)).await?;
        Ok(reply.image.map(image))
    }

    /// Pulls `reference`, anonymously without `auth`, and gives what to create containers from.
    ///
    /// Has no deadline, as with the kubelet: a large image over a slow line may take hours, and the runtime gives up
    /// by itself on a line that moves nothing. Dropping the future cancels the pull.
    ///
    /// # Errors
    /// [`CriError`]; what the registry had to say is in its text.
    pub async fn pull_image(&self, reference: &str, auth: Option<&Credentials>) -> Result<String, CriError> {
        let auth = auth.map(|auth| v1::AuthConfig {
            username: auth.username.clone(),
            password: auth.password.clone(),
            identity_token: auth.identity_token.clone(),
            registry_token: auth.registry_token.clone(),
            ..Default::default()
        });
        let request = v1::PullImageRequest { image: Some(image_spec(reference)), auth, sandbox_config: None };
        let reply = self.call("PullImage", Duration::MAX, self.images().pull_image(request)).await?;
        Ok(reply.image_ref)
    }

    /// The images the runtime holds.
    ///
    /// # Errors
    /// As every call: [`CriError`].
    pub async fn list_images(&self) -> Result<Vec<Image>, CriError> {
        let request = v1::ListImagesRequest::default();
        let reply = self.call("ListImages", DEADLINE, self.images().list_images(request)).await?;
        Ok(reply.images.into_iter().map(image).collect())
    }

    /// The ids of the images that any container, of whomever, running or not, was made from.
    ///
    /// # Errors
    /// As every call: [`CriError`].
    pub async fn images_in_use(&self) -> Result<BTreeSet<String>, CriError> {
        let request = v1::ListContainersRequest::default();
        let reply = self.call("ListContainers", DEADLINE, self.pods().list_containers(request)).await?;
        Ok(reply.containers.into_iter().map(|container| container.image_ref).collect())
    }

    /// Removes the image that `reference` names (tag, digest or id), under all its names. No such image is success.
    ///
    /// # Errors
    /// As every call: [`CriError`].
    pub async fn remove_image(&self, reference: &str) -> Result<(), CriError> {
        let request = v1::RemoveImageRequest { image: Some(image_spec(reference)) };
        self.call("RemoveImage", DEADLINE, self.images().remove_image(request)).await.map(drop)
    }

    /// Forgets an image under all its names, so that the next pull brings every part of it anew. What containers hold of it stays.
    /// No such image is success.
    ///
    /// A containerd that cannot read the image's configuration does not show it through CRI; it is removed there, too.
    ///
    /// # Errors
    /// As every call: [`CriError`].
    pub async fn discard_image(&self, reference: &str) -> Result<(), CriError> {
        self.remove_image(reference).await?;
        match self.discard_from_containerd(&full_reference(reference)).await {
            Err(error) if error.is_unimplemented() => Ok(()),
            result => result,
        }
    }

    /// `name` is as containerd writes it.
    async fn discard_from_containerd(&self, name: &str) -> Result<(), CriError> {
        let mut client = ImagesClient::new(self.channel.clone());
        let request = in_cri_namespace(ListImagesRequest::default());
        let known = self.call("List", DEADLINE, client.list(request)).await?.images;
        let digest = |image: &containerd::Image| image.target.as_ref().map(|target| target.digest.clone());
        let Some(wanted) = known.iter().find(|image| image.name == name).map(digest) else { return Ok(()) };
        for image in known.iter().filter(|image| digest(image) == wanted) {
            let request = DeleteImageRequest { name: image.name.clone(), sync: true, ..Default::default() };
            unless_gone(self.call("Delete", DEADLINE, client.delete(in_cri_namespace(request))).await)?;
        }
        Ok(())
    }

    /// The filesystems images lie on; containerd has one.
    ///
    /// # Errors
    /// As every call: [`CriError`].
    pub async fn image_fs_info(&self) -> Result<Vec<ImageFs>, CriError> {
        let request = v1::ImageFsInfoRequest {};
        let reply = self.call("ImageFsInfo", DEADLINE, self.images().image_fs_info(request)).await?;
        Ok(reply.image_filesystems.into_iter().map(image_fs).collect())
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

fn in_cri_namespace<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let namespace = CRI_NAMESPACE.parse().expect("it is plain text");
    request.metadata_mut().insert("containerd-namespace", namespace);
    request
}

fn image_spec(reference: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: reference.to_owned(), ..Default::default() }
}

fn image(image: v1::Image) -> Image {
    let user = match (image.uid, image.username) {
        (Some(uid), _) => ImageUser::Uid(uid.value),
        (None, name) if name.is_empty() => ImageUser::Uid(0),
        (None, name) => ImageUser::Name(name),
    };
    Image {
        id: image.id,
        size_bytes: image.size,
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        user,
        is_pinned: image.pinned,
    }
}

fn image_fs(usage: v1::FilesystemUsage) -> ImageFs {
    ImageFs {
        mountpoint: usage.fs_id.unwrap_or_default().mountpoint,
        used_bytes: usage.used_bytes.unwrap_or_default().value,
    }
}

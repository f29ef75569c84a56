//! Closing what a resolved pod leaves open: a container's command, environment and mounts, and the files of its volumes.
//!
//! Pure: a pod, one of its containers and what is known by now ([`Given`]) to what the runtime is asked for ([`Bound`]), or to
//! why that cannot be said yet ([`ConfigError`], in Kubernetes' words). It is asked anew for each instance, so a restarted
//! container sees the objects as they are then; what volumes hold ([`payload`]) follows their objects.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go` (`makeEnvironmentVariables`, `makeMounts`),
//! `pkg/kubelet/container/helpers.go` (`ExpandContainerCommandAndArgs`, `ExpandContainerVolumeMounts`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use super::env::{expand, file_value};
use super::objects::{Found, Object, ObjectKind, Objects, Reference};
use super::{
    Container, DeviceNode, EnvFile, EnvSource, Granted, GrantedMount, Mount, Pod, Propagation, RecursiveReadOnly,
    SubPathText, VolumeSource,
};
use crate::model::ObjectKey;

pub use self::files::{File, Payload, payload};

mod files;

/// What is known when a container is made.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// ConfigMaps, Secrets and tokens.
    pub objects: &'a Objects,
    /// The sandbox's addresses, or the host's for a pod with the host's network; first one first.
    pub pod_ips: &'a [IpAddr],
    /// The files that the container's variables are read from ([`env_files`]): their texts. `None`: there is no such file.
    pub files: &'a BTreeMap<EnvFile, Option<String>>,
    /// The images of image volumes by the volumes' names: their ids.
    pub images: &'a BTreeMap<String, String>,
    /// The pod's runtime can make a mount read-only with all that is mounted below it.
    pub can_be_recursive: bool,
    /// What the container gets with its devices.
    pub granted: &'a Granted,
}

/// What of a container depends on what is given. Its `Debug` form shows no values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bound {
    /// Empty: the image's entrypoint.
    pub command: Vec<String>,
    /// Empty: the image's command.
    pub args: Vec<String>,
    /// Name and value, each name once: those of its devices, `envFrom`, then `env`, then those of the API.
    pub env: Vec<(String, String)>,
    /// In the order they are made.
    pub mounts: Vec<BoundMount>,
    /// Device nodes.
    pub nodes: Vec<DeviceNode>,
    /// Devices by their names in the Container Device Interface.
    pub cdi_devices: Vec<String>,
    /// Annotations for the runtime beside the container's own.
    pub annotations: BTreeMap<String, String>,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Bound").field("env", &names).field("mounts", &self.mounts).finish_non_exhaustive()
    }
}

/// One mount as the runtime is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundMount {
    /// What is mounted.
    pub content: Content,
    /// In the container; absolute.
    pub container_path: String,
    /// No writes through this mount.
    pub read_only: bool,
    /// Nor through anything mounted below.
    pub recursive_read_only: bool,
    /// Whether later mounts below are seen on the other side.
    pub propagation: Propagation,
    /// Ask the runtime to label the content for the container.
    pub selinux_relabel: bool,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A path of the host.
    Path(PathBuf),
    /// A part of a volume; to be bound to `target` before the container is made.
    Part {
        /// `volumes[].name`.
        volume: String,
        /// The volume on the host.
        root: PathBuf,
        /// Below it; relative, without `..`.
        path: PathBuf,
        /// What the runtime is told to mount.
        target: PathBuf,
    },
    /// An image, by its id.
    Image {
        /// As the pod names it.
        written: String,
        /// The runtime's id of it.
        id: String,
    },
}

/// Why a container cannot be made, or a volume not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such object.
    #[error("{} \"{}\" not found", .0.kind.to_string().to_lowercase(), .0.name)]
    NotFound(Reference),
    /// This node may not have the object.
    #[error("{kind} {key} is withheld from this node: {why}")]
    Withheld {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        key: ObjectKey,
        /// For people.
        why: String,
    },
    /// It is not known yet whether there is one.
    #[error("{kind} {key} has not arrived on this node yet")]
    Unheard {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        key: ObjectKey,
    },
    /// A variable's key is not in its object.
    #[error("couldn't find key {name} in {kind} {key}")]
    NoKey {
        /// Of the object.
        kind: ObjectKind,
        /// Its name.
        key: ObjectKey,
        /// The key.
        name: String,
    },
    /// A variable cannot have such a value.
    #[error("the value of key {name} in {kind} {key} is not UTF-8 text, which a variable has to be")]
    NotText {
        /// Of the object.
        kind: ObjectKind,
        /// Its name.
        key: ObjectKey,
        /// The key.
        name: String,
    },
    /// A volume's key is not in its object.
    #[error("{}: {key}", no_item(*.kind))]
    NoItem {
        /// Of the object.
        kind: ObjectKind,
        /// The key.
        key: String,
    },
    /// A file of variables that is none.
    #[error("couldn't parse env file {} in volume {}: {why}", .file.path, .file.volume)]
    BadEnvFile {
        /// The file.
        file: EnvFile,
        /// What is wrong.
        why: String,
    },
    /// A file of variables is not there, or lacks the key.
    #[error("environment variable key \"{key}\" not found in file {} in volume {}", .file.path, .file.volume)]
    NoFileKey {
        /// The file.
        file: EnvFile,
        /// The key.
        key: String,
    },
    /// `subPathExpr` names variables that are not there or empty.
    #[error("missing value for {}", .0.join(", "))]
    NoVariables(Vec<String>),
    /// A part of a volume that would not be in it.
    #[error("unable to provision SubPath `{path}`: {why}")]
    SubPath {
        /// After variables were put in.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The runtime cannot do it.
    #[error(
        "failed to resolve recursive read-only mode: volume \"{0}\" requested recursive read-only mode, but it is not \
         supported by the runtime"
    )]
    RecursiveReadOnly(String),
    /// The image of a volume has not been pulled.
    #[error("the image of volume \"{0}\" is not on this host")]
    NoImage(String),
    /// There is no token.
    #[error("failed to fetch token: {0}")]
    Token(String),
    /// A file would not be in its volume.
    #[error("invalid path: {0}")]
    Path(String),
    /// All that is wrong with the sources of one volume.
    #[error("[{}]", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<ConfigError>),
}

fn no_item(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::ConfigMap => "configmap references non-existent config key",
        ObjectKind::Secret => "references non-existent secret key",
    }
}

/// Binds one container.
///
/// # Errors
/// The first [`ConfigError`], in the order: `envFrom`, `env`, mounts.
pub fn bind(pod: &Pod, container: &Container, given: &Given<'_>) -> Result<Bound, ConfigError> {
    let Granted { env: mut env_granted, nodes, cdi_devices, annotations, .. } = given.granted.clone();
    let own = environment(pod, container, given)?;
    own.iter().for_each(|(name, _)| drop(env_granted.remove(name)));
    let env: Vec<_> = env_granted.into_iter().chain(own).collect();
    let value = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let expanded = |texts: &[String]| texts.iter().map(|text| expand(text, value)).collect();
    let mounts = container.mounts.iter().map(|mount| bound_mount(pod, mount, value, given));
    let mounts = given.granted.mounts.iter().map(granted_mount).map(Ok).chain(mounts);
    Ok(Bound {
        command: expanded(&container.command),
        args: expanded(&container.args),
        mounts: mounts.collect::<Result<_, _>>()?,
        env,
        nodes,
        cdi_devices,
        annotations,
    })
}

/// Whether all that the pod asks of objects is there: what would come of binding its containers and writing its volumes,
/// but for addresses, files and tokens that exist only once the pod does.
///
/// # Errors
/// The first [`ConfigError`].
pub fn check(pod: &Pod, objects: &Objects) -> Result<(), ConfigError> {
    for container in &pod.containers {
        for from in &container.env_from {
            whole(pod, &from.object, from.optional, objects)?;
        }
        for variable in &container.env {
            if let EnvSource::Key { object, key, optional } = &variable.source {
                key_text(pod, object, key, *optional, objects)?;
            }
        }
    }
    pod.volumes.iter().try_for_each(|volume| files::check(pod, volume, objects))
}

/// The files that a container's variables are read from.
pub fn env_files(container: &Container) -> BTreeSet<&EnvFile> {
    let files = container.env.iter().filter_map(|variable| match &variable.source {
        EnvSource::FileKey { file, .. } => Some(file),
        _ => None,
    });
    files.collect()
}

// === environment ===

/// Variables under construction: each name once, where it stood first, with its last value.
#[derive(Default)]
struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn environment(pod: &Pod, container: &Container, given: &Given<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut environment = Environment::default();
    for from in &container.env_from {
        let object = whole(pod, &from.object, from.optional, given.objects)?;
        for (key, value) in object.iter().flat_map(|object| &object.data) {
            let text = text(pod, &from.object, key, value)?;
            environment.set(&format!("{}{key}", from.prefix), text);
        }
    }
    let of_api = |name: &str| pod.service_env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    for variable in &container.env {
        let value = match &variable.source {
            EnvSource::Text(text) => Some(expand(text, |name| environment.get(name).or_else(|| of_api(name)))),
            EnvSource::Field(field) => Some(field.text(pod, given.pod_ips)),
            EnvSource::Key { object, key, optional } => key_text(pod, object, key, *optional, given.objects)?,
            EnvSource::FileKey { file, key, optional } => file_key(file, key, *optional, given)?,
        };
        // Without a value there is no variable, and one that was set before stays.
        if let Some(value) = value {
            environment.set(&variable.name, value);
        }
    }
    for (name, value) in pod.service_env.iter().filter(|(name, _)| environment.get(name).is_none()).collect::<Vec<_>>()
    {
        environment.set(name, value.clone());
    }
    Ok(environment.0)
}

/// An object as a whole; none if it is optional and not there.
fn whole<'a>(
    pod: &Pod,
    reference: &Reference,
    optional: bool,
    objects: &'a Objects,
) -> Result<Option<&'a Object>, ConfigError> {
    let (kind, key) = (reference.kind, ObjectKey::new(&pod.key.namespace, &reference.name));
    match objects.find(pod, reference) {
        Found::Present(object) => Ok(Some(object)),
        Found::Absent if optional => Ok(None),
        Found::Absent => Err(ConfigError::NotFound(reference.clone())),
        Found::Refused(why) => Err(ConfigError::Withheld { kind, key, why: why.to_owned() }),
        Found::Unheard => Err(ConfigError::Unheard { kind, key }),
    }
}

/// The text under one key; none if it is optional and not there.
fn key_text(
    pod: &Pod,
    reference: &Reference,
    name: &str,
    optional: bool,
    objects: &Objects,
) -> Result<Option<String>, ConfigError> {
    let Some(object) = whole(pod, reference, optional, objects)? else { return Ok(None) };
    match object.data.get(name) {
        Some(value) => text(pod, reference, name, value).map(Some),
        None if optional => Ok(None),
        None => Err(ConfigError::NoKey {
            kind: reference.kind,
            key: ObjectKey::new(&pod.key.namespace, &reference.name),
            name: name.to_owned(),
        }),
    }
}

fn text(pod: &Pod, reference: &Reference, name: &str, value: &[u8]) -> Result<String, ConfigError> {
    std::str::from_utf8(value).map(str::to_owned).map_err(|_| ConfigError::NotText {
        kind: reference.kind,
        key: ObjectKey::new(&pod.key.namespace, &reference.name),
        name: name.to_owned(),
    })
}

/// An empty value is one, where upstream takes it for none.
fn file_key(file: &EnvFile, key: &str, optional: bool, given: &Given<'_>) -> Result<Option<String>, ConfigError> {
    let read = given.files.get(file).and_then(Option::as_ref);
    let value = read.map_or(Ok(None), |text| file_value(text, key));
    let value = value.map_err(|bad| ConfigError::BadEnvFile { file: file.clone(), why: bad.to_string() })?;
    if value.is_none() && !optional {
        return Err(ConfigError::NoFileKey { file: file.clone(), key: key.to_owned() });
    }
    Ok(value)
}

// === mounts ===

fn granted_mount(mount: &GrantedMount) -> BoundMount {
    BoundMount {
        content: Content::Path(PathBuf::from(&mount.host_path)),
        container_path: mount.container_path.clone(),
        read_only: mount.read_only,
        recursive_read_only: false,
        propagation: Propagation::Private,
        selinux_relabel: false,
    }
}

fn bound_mount<'a>(
    pod: &Pod,
    mount: &Mount,
    value: impl Fn(&str) -> Option<&'a str>,
    given: &Given<'_>,
) -> Result<BoundMount, ConfigError> {
    let recursive_read_only = match mount.recursive_read_only {
        RecursiveReadOnly::Disabled => false,
        RecursiveReadOnly::Enabled if !given.can_be_recursive => {
            return Err(ConfigError::RecursiveReadOnly(mount.volume.clone().unwrap_or_default()));
        }
        RecursiveReadOnly::IfPossible | RecursiveReadOnly::Enabled => given.can_be_recursive,
    };
    Ok(BoundMount {
        content: content(pod, mount, value, given)?,
        container_path: mount.container_path.clone(),
        read_only: mount.read_only,
        recursive_read_only,
        propagation: mount.propagation,
        selinux_relabel: mount.selinux_relabel,
    })
}

fn content<'a>(
    pod: &Pod,
    mount: &Mount,
    value: impl Fn(&str) -> Option<&'a str>,
    given: &Given<'_>,
) -> Result<Content, ConfigError> {
    let volume = mount.volume.clone().unwrap_or_default();
    let Some(root) = &mount.host_path else {
        let id = given.images.get(&volume).ok_or_else(|| ConfigError::NoImage(volume.clone()))?;
        return Ok(Content::Image { written: written_image(pod, &volume), id: id.clone() });
    };
    let Some(sub_path) = &mount.sub_path else { return Ok(Content::Path(root.clone())) };
    let path = match &sub_path.text {
        SubPathText::Plain(path) => path.clone(),
        SubPathText::Expression(expression) => expanded_sub_path(expression, value)?,
    };
    let wrong = |why| ConfigError::SubPath { path: path.clone(), why };
    let clean = below(&path).map_err(wrong)?;
    Ok(if clean.as_os_str().is_empty() {
        Content::Path(root.clone())
    } else {
        Content::Part { volume, root: root.clone(), path: clean, target: sub_path.target.clone() }
    })
}

fn written_image(pod: &Pod, volume: &str) -> String {
    let volume = pod.volumes.iter().find(|known| known.name == volume);
    match volume.map(|volume| &volume.source) {
        Some(VolumeSource::Image { image, .. }) => image.clone(),
        _ => String::new(),
    }
}

/// Here a variable has to be there, and has to have a value.
fn expanded_sub_path<'a>(expression: &str, value: impl Fn(&str) -> Option<&'a str>) -> Result<String, ConfigError> {
    let mut missing = BTreeSet::new();
    let path = expand(expression, |name| {
        let value = value(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.insert(name.to_owned());
        }
        value
    });
    if missing.is_empty() { Ok(path) } else { Err(ConfigError::NoVariables(missing.into_iter().collect())) }
}

/// A path below some directory, without empty parts and dots; empty for the directory itself.
fn below(path: &str) -> Result<PathBuf, &'static str> {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err("must not contain '..'"),
            Component::RootDir | Component::Prefix(_) => return Err("must not be an absolute path"),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests;

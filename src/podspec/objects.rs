//! ConfigMaps and Secrets: which of them a pod asks for, and what this node has of them.
//!
//! [`references`] is the list by which a node asks and control authorizes. [`Objects`] is what has come of it, as the node's
//! ledger holds it: whoever binds a container, writes a volume or pulls an image looks up there. Tokens of service accounts
//! are beside them, since pods use them the same way and they change the same way.
//!
//! Pure data. Where the content comes from and how long it is kept is not decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;
use serde::{Deserialize, Serialize};

use super::Pod;
use crate::model::{ObjectKey, Source, Uid};

/// The kinds that hold configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKind {
    /// Configuration.
    ConfigMap,
    /// Configuration that must not be seen.
    Secret,
}

impl fmt::Display for ObjectKind {
    /// As the API writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        })
    }
}

/// Names an object of the pod's own namespace; a pod can name no other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Which kind.
    pub kind: ObjectKind,
    /// `metadata.name`.
    pub name: String,
}

impl Reference {
    /// A ConfigMap.
    pub fn config_map(name: impl Into<String>) -> Self {
        Self { kind: ObjectKind::ConfigMap, name: name.into() }
    }

    /// A Secret.
    pub fn secret(name: impl Into<String>) -> Self {
        Self { kind: ObjectKind::Secret, name: name.into() }
    }
}

/// Every ConfigMap and Secret that a pod of this spec asks for, optional ones included: in `env` and `envFrom` of all its
/// containers and of those that were added to it, in volumes and projected sources, in `imagePullSecrets`. Empty names are left
/// out.
pub fn references(spec: &k8s::PodSpec, ephemeral: &[k8s::EphemeralContainer]) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        of_environment(container.env.as_deref(), container.env_from.as_deref(), &mut found);
    }
    for container in ephemeral {
        of_environment(container.env.as_deref(), container.env_from.as_deref(), &mut found);
    }
    spec.volumes.iter().flatten().for_each(|volume| of_volume(volume, &mut found));
    found.extend(spec.image_pull_secrets.iter().flatten().map(|secret| Reference::secret(&secret.name)));
    found.retain(|reference| !reference.name.is_empty());
    found
}

fn of_environment(
    env: Option<&[k8s::EnvVar]>,
    env_from: Option<&[k8s::EnvFromSource]>,
    found: &mut BTreeSet<Reference>,
) {
    for source in env_from.unwrap_or_default() {
        found.extend(source.config_map_ref.as_ref().map(|object| Reference::config_map(&object.name)));
        found.extend(source.secret_ref.as_ref().map(|object| Reference::secret(&object.name)));
    }
    for source in env.unwrap_or_default().iter().filter_map(|variable| variable.value_from.as_ref()) {
        found.extend(source.config_map_key_ref.as_ref().map(|object| Reference::config_map(&object.name)));
        found.extend(source.secret_key_ref.as_ref().map(|object| Reference::secret(&object.name)));
    }
}

fn of_volume(volume: &k8s::Volume, found: &mut BTreeSet<Reference>) {
    found.extend(volume.config_map.as_ref().map(|object| Reference::config_map(&object.name)));
    let secret = volume.secret.as_ref().and_then(|object| object.secret_name.as_ref());
    found.extend(secret.map(Reference::secret));
    let projected = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
    for source in projected.into_iter().flatten() {
        found.extend(source.config_map.as_ref().map(|object| Reference::config_map(&object.name)));
        found.extend(source.secret.as_ref().map(|object| Reference::secret(&object.name)));
    }
}

/// A token of a service account that a pod asks for in a projected volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenSpec {
    /// Whom it is for; empty for the API itself.
    pub audience: String,
    /// How long it is to hold.
    pub expiration_secs: u64,
}

/// The account that a pod of this spec runs under: the one it names, or the one every namespace has.
pub fn service_account(spec: &k8s::PodSpec) -> &str {
    let named = [&spec.service_account_name, &spec.service_account].into_iter().flatten();
    named.map(String::as_str).find(|name| !name.is_empty()).unwrap_or("default")
}

/// Every token that a pod of this spec asks for.
pub fn token_specs(spec: &k8s::PodSpec) -> BTreeSet<TokenSpec> {
    let projected = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let sources = projected.flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.as_ref()).map(token_spec).collect()
}

pub(super) fn token_spec(source: &k8s::ServiceAccountTokenProjection) -> TokenSpec {
    /// What the API server fills in.
    const DEFAULT_SECS: u64 = 3600;
    TokenSpec {
        audience: source.audience.clone().unwrap_or_default(),
        expiration_secs: source.expiration_seconds.and_then(|secs| secs.try_into().ok()).unwrap_or(DEFAULT_SECS),
    }
}

// === what there is ===

/// The content of one ConfigMap or Secret. Its `Debug` form shows no values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// `data`: text of a ConfigMap, bytes of a Secret.
    pub data: BTreeMap<String, Vec<u8>>,
    /// `binaryData` of a ConfigMap; no environment variable can be made of it.
    pub binary_data: BTreeMap<String, Vec<u8>>,
    /// `type` of a Secret.
    pub type_: String,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.data.keys().chain(self.binary_data.keys()).collect();
        f.debug_struct("Object").field("type_", &self.type_).field("keys", &keys).finish_non_exhaustive()
    }
}

impl Object {
    /// Reads an object as the API stores it.
    ///
    /// # Errors
    /// Where the JSON is none of that kind; the text may quote values, so it is not for logs.
    pub fn decode(kind: ObjectKind, json: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            ObjectKind::ConfigMap => {
                let object: k8s::ConfigMap = serde_json::from_slice(json)?;
                let text = object.data.unwrap_or_default().into_iter();
                let binary = object.binary_data.unwrap_or_default().into_iter();
                Self {
                    data: text.map(|(key, value)| (key, value.into_bytes())).collect(),
                    binary_data: binary.map(|(key, value)| (key, value.0)).collect(),
                    type_: String::new(),
                }
            }
            ObjectKind::Secret => {
                let object: k8s::Secret = serde_json::from_slice(json)?;
                let data = object.data.unwrap_or_default().into_iter();
                Self {
                    data: data.map(|(key, value)| (key, value.0)).collect(),
                    binary_data: BTreeMap::new(),
                    type_: object.type_.unwrap_or_default(),
                }
            }
        })
    }
}

/// What a pod finds under a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// The object.
    Present(&'a Arc<Object>),
    /// There is no such object.
    Absent,
    /// This node may not have it, and why, for people.
    Refused(&'a str),
    /// Control has not answered yet.
    Unheard,
}

/// What a pod finds where it asks for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundToken<'a> {
    /// The token, to be written as it is.
    Present(&'a TokenText),
    /// It was asked for in vain, and why, for people.
    Failed(&'a str),
    /// Control has not answered yet.
    Unheard,
}

/// A token as it is written into a file; its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenText(pub String);

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Names one object on this node. What a folder of manifests holds and what control sends are told apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectId {
    /// Where it was learnt from.
    pub source: Source,
    /// Which kind.
    pub kind: ObjectKind,
    /// Namespace and name.
    pub key: ObjectKey,
}

/// An object this node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its content.
    pub object: Arc<Object>,
    /// Once it was withdrawn: the pods that had it before and keep it. Empty while it is in force for all.
    pub kept_for: BTreeSet<Uid>,
}

/// Why a pod gets no object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Withheld {
    /// There is none.
    Absent,
    /// This node may not have it, and why, for people.
    Refused(String),
}

/// All that this node has of ConfigMaps, Secrets and tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// The objects there are.
    pub held: BTreeMap<ObjectId, Held>,
    /// Those of which it is known that there are none; for pods that do not keep them.
    pub withheld: BTreeMap<ObjectId, Withheld>,
    /// The DaemonSets of the folder of manifests: their pods use the folder's objects, all others control's.
    pub local: BTreeSet<Uid>,
    /// Tokens by the uid of the pod they are for; `Err` says why there is none.
    pub tokens: BTreeMap<(Uid, TokenSpec), Result<TokenText, String>>,
}

impl Objects {
    /// What the pod finds under a reference.
    pub fn find(&self, pod: &Pod, reference: &Reference) -> Found<'_> {
        let source = self.source(pod);
        let id = ObjectId { source, kind: reference.kind, key: ObjectKey::new(&pod.key.namespace, &reference.name) };
        if let Some(held) = self.held.get(&id)
            && (held.kept_for.is_empty() || held.kept_for.contains(&pod.key.uid))
        {
            return Found::Present(&held.object);
        }
        match (self.withheld.get(&id), source) {
            (Some(Withheld::Refused(why)), _) => Found::Refused(why),
            (Some(Withheld::Absent), _) | (None, Source::Files) => Found::Absent,
            (None, Source::Link) => Found::Unheard,
        }
    }

    /// What the pod finds under the name of a Secret.
    pub fn secret(&self, pod: &Pod, name: &str) -> Found<'_> {
        self.find(pod, &Reference::secret(name))
    }

    /// What the pod finds where it asks for a token.
    pub fn token(&self, pod: &Pod, spec: &TokenSpec) -> FoundToken<'_> {
        match self.tokens.get(&(pod.key.uid.clone(), spec.clone())) {
            Some(Ok(token)) => FoundToken::Present(token),
            Some(Err(why)) => FoundToken::Failed(why),
            None => FoundToken::Unheard,
        }
    }

    /// Whether the pod would find something else now than it did `before`.
    pub fn differs(&self, before: &Self, pod: &Pod) -> bool {
        pod.references.iter().any(|reference| self.find(pod, reference) != before.find(pod, reference))
            || pod.tokens.iter().any(|spec| self.token(pod, spec) != before.token(pod, spec))
    }

    /// Whether control has answered for everything the pod asks for, tokens apart.
    pub fn is_heard(&self, pod: &Pod) -> bool {
        pod.references.iter().all(|reference| self.find(pod, reference) != Found::Unheard)
    }

    /// Whether everything the pod asks for has an answer, its tokens included: they are made for this very pod.
    pub fn is_complete(&self, pod: &Pod) -> bool {
        self.is_heard(pod) && pod.tokens.iter().all(|spec| self.token(pod, spec) != FoundToken::Unheard)
    }

    fn source(&self, pod: &Pod) -> Source {
        let is_local = pod.origin.daemonset.as_ref().is_some_and(|set| self.local.contains(set));
        if is_local { Source::Files } else { Source::Link }
    }
}

#[cfg(test)]
mod tests;

//! What a node gets of one revision of a DaemonSet, or of a pod that was posted to it: on the wire and in the ledger, named by
//! the hash of its bytes.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{EphemeralContainer, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::daemonset::{leading_number, template_generation};
use super::document::{SyntaxError, Written, parse_json};
use super::field::Path;
use super::revision::REVISION_LABEL;
use super::strict::{self, DecodeError, Finding};
use crate::model::{ObjectKey, RevisionHash, Uid};

/// The format this version writes, and the only one it reads.
///
/// A field that an older agent could not leave out without harm needs a new number, and so does a changed meaning.
pub const FORMAT: u32 = 1;

/// On a DaemonSet, `false` keeps nodes that are cut off from going back to the revision before by themselves.
pub const LOCAL_FALLBACK_ANNOTATION: &str = "garrison.io/local-fallback";

/// One revision of a DaemonSet as admitted: everything a node needs to decide and realize, looked up once.
///
/// The template is defaulted and valid. Equal bundles have equal bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    /// Always [`FORMAT`].
    pub format: u32,
    /// `metadata.uid` of the DaemonSet.
    pub uid: Uid,
    /// `metadata.namespace` of the DaemonSet and of its pods.
    pub namespace: String,
    /// `metadata.name` of the DaemonSet.
    pub name: String,
    /// `metadata.generation` of the DaemonSet when this was made.
    pub generation: i64,
    /// Names the revision.
    pub revision: RevisionHash,
    /// Counts changes of the template; the value of the label `pod-template-generation`.
    pub template_generation: i64,
    /// The pod template.
    pub template: PodTemplateSpec,
    /// How long a pod must be ready before it counts as available.
    pub min_ready_seconds: i32,
    /// How a running pod is replaced by one of a newer revision.
    pub update_strategy: UpdateStrategy,
    /// What `priorityClassName` resolved to.
    pub priority: i32,
    /// CRI's runtime handler, from the RuntimeClass; `None` is the runtime's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_handler: Option<String>,
    /// Nodes that are cut off do not go back from a revision that does not work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_fallback: bool,
    /// It is a single pod, posted with the node's name or let go by its DaemonSet: `uid`, `namespace` and `name` are its own,
    /// and its template is all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posted: Option<Posted>,
}

/// What a single pod has beyond a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Posted {
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
    /// `spec.ephemeralContainers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ephemeral_containers: Vec<EphemeralContainer>,
    /// The DaemonSet that has adopted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemonset: Option<Uid>,
}

/// The revision of every pod that is its own: there is none that another could take the place of.
pub const POSTED_REVISION: &str = "posted";

/// `spec.updateStrategy` as far as one node is concerned; the budget is control's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UpdateStrategy {
    /// The old pod ends, then the new one starts.
    RollingUpdate,
    /// The new pod starts beside the old one, which ends when the new one is available (`maxSurge` above zero).
    RollingUpdateWithSurge,
    /// A running pod is left alone until something else ends it.
    OnDelete,
}

/// The bytes are no bundle this version can follow.
#[derive(Debug, thiserror::Error)]
pub enum BadBundle {
    /// Damaged.
    #[error("the bundle is not JSON")]
    Syntax(#[source] SyntaxError),
    /// Written by a version with another format.
    #[error("the bundle has format {0}, this version reads format {FORMAT}; upgrade the agent")]
    Format(String),
    /// A value of another type than this version knows.
    #[error("the bundle does not decode")]
    Decode(#[source] DecodeError),
    /// Fields this version cannot realize, because it does not know them.
    #[error("this version does not know {}; upgrade the agent", list(.0))]
    Unknown(Vec<Path>),
}

fn list(paths: &[Path]) -> String {
    paths.iter().map(Path::as_str).collect::<Vec<_>>().join(", ")
}

impl Bundle {
    /// How long a pod must be ready before it counts as available.
    pub fn min_ready(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.min_ready_seconds).unwrap_or(0))
    }

    /// Takes the parts a node needs from a DaemonSet that was defaulted and found valid. The template has yet to be
    /// admitted.
    pub fn from_daemonset(daemonset: &DaemonSet, revision: RevisionHash) -> Self {
        let metadata = &daemonset.metadata;
        let spec = daemonset.spec.clone().unwrap_or_default();
        Self {
            format: FORMAT,
            uid: metadata.uid.clone().unwrap_or_default().into(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or(1),
            revision,
            template_generation: template_generation(daemonset).unwrap_or(1),
            update_strategy: update_strategy(daemonset),
            template: spec.template,
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            priority: 0,
            runtime_handler: None,
            no_fallback: is_fallback_off(metadata),
            posted: None,
        }
    }

    /// A single pod, defaulted, admitted and found valid. `runtime_handler` is what its RuntimeClass came to. One that a
    /// DaemonSet has adopted is of the revision that its label names.
    pub fn from_pod(pod: Pod, runtime_handler: Option<String>) -> Self {
        let metadata = pod.metadata;
        let mut spec = pod.spec.unwrap_or_default();
        let mut owners = metadata.owner_references.iter().flatten();
        let controller = owners.find(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet");
        let posted = Posted {
            created_at: metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            ephemeral_containers: spec.ephemeral_containers.take().unwrap_or_default(),
            daemonset: controller.map(|owner| Uid(owner.uid.clone())),
        };
        let label = metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL));
        let revision = label.filter(|_| posted.daemonset.is_some()).map_or(POSTED_REVISION, String::as_str).into();
        let own = ObjectMeta { labels: metadata.labels, annotations: metadata.annotations, ..ObjectMeta::default() };
        Self {
            format: FORMAT,
            uid: metadata.uid.unwrap_or_default().into(),
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            generation: metadata.generation.unwrap_or(1),
            revision,
            template_generation: 0,
            update_strategy: UpdateStrategy::OnDelete,
            min_ready_seconds: 0,
            priority: spec.priority.unwrap_or(0),
            template: PodTemplateSpec { metadata: Some(own), spec: Some(spec) },
            runtime_handler,
            no_fallback: false,
            posted: Some(posted),
        }
    }

    /// The DaemonSet that a pod of this bundle belongs to; none if it is its own.
    pub fn daemonset(&self) -> Option<&Uid> {
        self.posted.as_ref().map_or(Some(&self.uid), |posted| posted.daemonset.as_ref())
    }

    /// Namespace and name of the DaemonSet, or of the pod.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }

    /// The bytes that are stored, sent and hashed.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a bundle is JSON: its map keys are strings")
    }

    /// Reads what [`Bundle::encode`] wrote, here or in another version.
    ///
    /// # Errors
    /// [`BadBundle::Unknown`] names each field of a newer Kubernetes that this version would have to leave out; a node
    /// keeps the pod it has then. The other variants say what is damaged or too new.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadBundle> {
        let written = parse_json(bytes).map_err(BadBundle::Syntax)?;
        match written.get("format") {
            Some(Written::Number(number)) if number.as_u64() == Some(FORMAT.into()) => {}
            Some(Written::Number(number)) => return Err(BadBundle::Format(number.to_string())),
            _ => return Err(BadBundle::Format("none".to_owned())),
        }
        let decoded = strict::decode::<Self>(&written).map_err(BadBundle::Decode)?;
        if decoded.findings.is_empty() {
            return Ok(decoded.value);
        }
        let path = |finding| match finding {
            Finding::Unknown(path) | Finding::Duplicate(path) => path,
        };
        Err(BadBundle::Unknown(decoded.findings.into_iter().map(path).collect()))
    }
}

fn is_fallback_off(metadata: &ObjectMeta) -> bool {
    let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(LOCAL_FALLBACK_ANNOTATION));
    annotation.is_some_and(|value| value == "false")
}

fn update_strategy(daemonset: &DaemonSet) -> UpdateStrategy {
    let strategy = daemonset.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return UpdateStrategy::OnDelete;
    }
    let surge =
        strategy.and_then(|strategy| strategy.rolling_update.as_ref()).and_then(|update| update.max_surge.as_ref());
    if surge.is_some_and(|surge| leading_number(surge) != 0) {
        UpdateStrategy::RollingUpdateWithSurge
    } else {
        UpdateStrategy::RollingUpdate
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::daemonset::TEMPLATE_GENERATION_ANNOTATION;
    use crate::error::Chain;

    fn bundle(strategy: &Value) -> Bundle {
        let daemonset = serde_json::from_value(json!({
            "metadata": {
                "name": "web", "namespace": "default", "uid": "u", "generation": 7,
                "annotations": {TEMPLATE_GENERATION_ANNOTATION: "3"},
            },
            "spec": {
                "selector": {}, "minReadySeconds": 5, "updateStrategy": strategy,
                "template": {"spec": {"containers": [{"name": "web", "image": "nginx"}]}},
            },
        }));
        Bundle { priority: 10, ..Bundle::from_daemonset(&daemonset.expect("a DaemonSet"), "abc".into()) }
    }

    /// The format is on disks and wires: a changed text here is a new format number.
    #[test]
    fn a_bundle_is_these_bytes() {
        let bundle =
            bundle(&json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "10%", "maxUnavailable": 0}}));
        let bytes = bundle.encode();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            concat!(
                r#"{"format":1,"uid":"u","namespace":"default","name":"web","generation":7,"revision":"abc","#,
                r#""templateGeneration":3,"template":{"spec":{"containers":[{"image":"nginx","name":"web"}]}},"#,
                r#""minReadySeconds":5,"updateStrategy":"rollingUpdateWithSurge","priority":10}"#,
            )
        );
        assert_eq!(Bundle::decode(&bytes).expect("a bundle"), bundle);
    }

    #[test]
    fn a_posted_pod_is_these_bytes() {
        let pod = json!({
            "metadata": {
                "name": "probe", "namespace": "default", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"a": "b"}, "finalizers": ["x/y"],
            },
            "spec": {
                "nodeName": "edge-1", "priority": 7, "restartPolicy": "Never", "containers": [{"name": "main"}],
                "ephemeralContainers": [{"name": "debug"}],
            },
        });
        let bundle = Bundle::from_pod(serde_json::from_value(pod).expect("a pod"), Some("runsc".to_owned()));
        let bytes = bundle.encode();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            concat!(
                r#"{"format":1,"uid":"u","namespace":"default","name":"probe","generation":1,"revision":"posted","#,
                r#""templateGeneration":0,"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"main"}],"#,
                r#""nodeName":"edge-1","priority":7,"restartPolicy":"Never"}},"minReadySeconds":0,"updateStrategy":"onDelete","#,
                r#""priority":7,"runtimeHandler":"runsc","posted":{"createdAt":"2026-01-01T00:00:00Z","#,
                r#""ephemeralContainers":[{"name":"debug"}]}}"#,
            )
        );
        assert_eq!(Bundle::decode(&bytes).expect("a bundle"), bundle);
    }

    #[test]
    fn a_single_pod_is_its_own_until_a_daemonset_has_it() {
        let of = |owner: &Value, labels: &Value| {
            let metadata = json!({"name": "a", "ownerReferences": [owner], "labels": labels});
            let pod = json!({"metadata": metadata, "spec": {"containers": []}});
            let bundle = Bundle::from_pod(serde_json::from_value(pod).expect("a pod"), None);
            (bundle.daemonset().cloned(), bundle.revision)
        };
        let owner = |kind: &str| json!({"apiVersion": "v1", "kind": kind, "name": "o", "uid": "o", "controller": true});
        let labels = json!({REVISION_LABEL: "abc"});
        assert_eq!(of(&owner("ConfigMap"), &labels), (None, POSTED_REVISION.into()));
        assert_eq!(of(&owner("DaemonSet"), &labels), (Some("o".into()), "abc".into()));
        assert_eq!(of(&owner("DaemonSet"), &json!({})), (Some("o".into()), POSTED_REVISION.into()));
        assert_eq!(bundle(&json!({})).daemonset(), Some(&"u".into()));
    }

    #[test]
    fn surge_is_asked_for_by_a_number_above_zero() {
        for (strategy, expected) in [
            (json!({"type": "OnDelete"}), UpdateStrategy::OnDelete),
            (json!({}), UpdateStrategy::RollingUpdate),
            (json!({"rollingUpdate": {"maxSurge": "0%"}}), UpdateStrategy::RollingUpdate),
            (json!({"rollingUpdate": {"maxSurge": 1}}), UpdateStrategy::RollingUpdateWithSurge),
        ] {
            assert_eq!(bundle(&strategy).update_strategy, expected);
        }
    }

    #[test]
    fn falling_back_is_turned_off_by_an_annotation() {
        for (value, off) in [("false", true), ("true", false), ("", false)] {
            let metadata = json!({"annotations": {LOCAL_FALLBACK_ANNOTATION: value}});
            assert_eq!(is_fallback_off(&serde_json::from_value(metadata).expect("metadata")), off, "{value}");
        }
    }

    #[test]
    fn what_an_agent_does_not_know_makes_it_refuse() {
        let mut value: Value = serde_json::from_slice(&bundle(&json!({})).encode()).expect("json");
        value["template"]["spec"]["containers"][0]["teleport"] = json!(true);
        for (value, message) in [
            (value, "this version does not know template.spec.containers[0].teleport; upgrade the agent"),
            (json!({"format": 2}), "the bundle has format 2, this version reads format 1; upgrade the agent"),
            (
                json!({"format": 1, "priority": "x"}),
                "the bundle does not decode: json: cannot unmarshal string into Go",
            ),
        ] {
            let error = Bundle::decode(value.to_string().as_bytes()).expect_err("refused");
            assert!(Chain(&error).to_string().starts_with(message), "{}", Chain(&error));
        }
    }
}

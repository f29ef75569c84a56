//! What users say of single pods: those they post, and what they change of others.
//!
//! The pod itself says what; the record says that there is something to tell its node, so that nobody has to look through
//! all pods for it. It is written with the pod and goes with it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::records::parse;
use super::{ObjectError, Objects, keys};
use crate::api::field::{FieldError, Path};
use crate::control::kinds::{Kind, POD};
use crate::control::meta;
use crate::control::registry::Part;
use crate::model::{NodeName, ObjectKey, Uid};

/// What there is to tell a node of one pod. Part of the store's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodIntent {
    /// `metadata.uid`.
    pub uid: Uid,
    /// Namespace and name.
    pub key: ObjectKey,
    /// `spec.nodeName`.
    pub node: NodeName,
    /// The position's `seq` that the last change brought about.
    pub seq: u64,
    /// The pod was posted; otherwise its node made it for a DaemonSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posted: Option<PostedPod>,
}

/// What admission made of a posted pod that does not stand in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PostedPod {
    /// CRI's runtime handler; none is the runtime's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_handler: Option<String>,
}

impl Objects {
    /// Everything that users say of pods, with the pods. One that is gone meanwhile is left out.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn pod_intents(&self) -> Result<Vec<(PodIntent, Value)>, ObjectError> {
        let range = self.inner.store.range(keys::PODS, None, 0, None).await.map_err(ObjectError::Store)?;
        let mut intents = Vec::new();
        for entry in &range.entries {
            let intent: PodIntent = parse(&entry.key, &entry.value)?;
            let found = self.find(&keys::object(&POD, &intent.key.namespace, &intent.key.name)).await?;
            let pod = found.map(|(_, pod)| pod).filter(|pod| meta::uid(pod) == intent.uid.as_str());
            intents.extend(pod.map(|pod| (intent, pod)));
        }
        Ok(intents)
    }

    /// What the node of a changed pod has to hear; nothing if nothing that concerns it has changed.
    ///
    /// # Errors
    /// [`ObjectError::Invalid`] for another spec of a pod that its node made.
    pub(super) async fn touched(
        &self,
        kind: &'static Kind,
        part: Part,
        object: &Value,
        current: &Value,
    ) -> Result<Option<PodIntent>, ObjectError> {
        if *kind != POD || said(object) == said(current) {
            return Ok(None);
        }
        let entry = self.inner.store.get(&keys::pod(meta::uid(current))).await.map_err(ObjectError::Store)?;
        let known: Option<PodIntent> = entry.map(|entry| parse(&entry.key, &entry.value)).transpose()?;
        let posted = known.and_then(|known| known.posted);
        if posted.is_none() && part == Part::Main && object["spec"] != current["spec"] {
            let detail = "a pod's spec comes from its DaemonSet; change the DaemonSet";
            let errors = vec![FieldError::forbidden(&Path::new("spec"), detail)];
            return Err(ObjectError::Invalid { kind, name: meta::name(current).to_owned(), errors });
        }
        Ok(intent(object, posted))
    }
}

/// What there is to tell of a pod on a node; its `seq` is set by the commit.
pub(super) fn intent(pod: &Value, posted: Option<PostedPod>) -> Option<PodIntent> {
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())?;
    let key = ObjectKey::new(meta::namespace(pod), meta::name(pod));
    Some(PodIntent { uid: meta::uid(pod).into(), key, node: node.into(), seq: 0, posted })
}

/// The parts of a pod that its node acts on.
fn said(pod: &Value) -> [&Value; 3] {
    [&pod["metadata"]["labels"], &pod["metadata"]["annotations"], &pod["spec"]]
}

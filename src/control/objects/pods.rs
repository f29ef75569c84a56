//! What there is to tell nodes of single pods: those that users post, those that no DaemonSet has any more, and what users change
//! of others.
//!
//! The pod itself says what; the record says that there is something to tell its node, so that nobody has to look through
//! all pods for it. It is written with the pod and goes with it.

use k8s_openapi::api::apps::v1::DaemonSet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::records::{Intent, parse, put, unchanged};
use super::{ATTEMPTS, ObjectError, Objects, contended, keys};
use crate::api::field::{FieldError, Path};
use crate::api::revision::{self, REVISION_LABEL};
use crate::control::kinds::{DAEMON_SET, Kind, NODE, POD};
use crate::control::registry::Part;
use crate::control::{meta, nodes};
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
    /// The pod stands by itself: it was posted, or a DaemonSet has let it go. Otherwise its node made it for a DaemonSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posted: Option<PostedPod>,
}

/// What there is to know of a pod that stands by itself and does not stand in it. A DaemonSet that adopts it changes nothing here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PostedPod {
    /// CRI's runtime handler; none is the runtime's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_handler: Option<String>,
    /// `metadata.uid` of the DaemonSet that has let it go last: its node has it already. None for one that was posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub let_go_by: Option<Uid>,
    /// It was let go where it had no place by what can be relied upon of its Node: for its sake the node is given nothing. A node
    /// can report pods of any DaemonSet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unentitled: bool,
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

    /// Makes a DaemonSet the controller of a pod, if `is_so` still holds for the two, in this order.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn adopt(
        &self,
        set: &ObjectKey,
        pod: &ObjectKey,
        is_so: impl Fn(&Value, &Value) -> bool,
    ) -> Result<(), ObjectError> {
        let key = keys::object(&POD, &pod.namespace, &pod.name);
        for _ in 0..ATTEMPTS {
            let set = self.find(&keys::object(&DAEMON_SET, &set.namespace, &set.name)).await?;
            let (Some((set_entry, set)), Some((entry, mut adopted))) = (set, self.find(&key).await?) else {
                return Ok(());
            };
            if !is_so(&set, &adopted) {
                return Ok(());
            }
            meta::own(&mut adopted, &DAEMON_SET, &set);
            let Some(intent) = intent(&adopted, self.posted(&adopted).await?) else { return Ok(()) };
            // One that is deleted meanwhile would leave the pod to be cleared up.
            let conditions = vec![unchanged(&entry), unchanged(&set_entry)];
            let write = put(&POD, Part::Main, &key, &adopted);
            if self.commit(conditions, vec![write], Intent::Tells(intent)).await?.is_some() {
                return Ok(());
            }
        }
        Err(contended(&POD, &pod.name))
    }

    /// The record of a pod that stands by itself; nothing for any other.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn posted(&self, pod: &Value) -> Result<Option<PostedPod>, ObjectError> {
        let entry = self.inner.store.get(&keys::pod(meta::uid(pod))).await.map_err(ObjectError::Store)?;
        let known: Option<PodIntent> = entry.map(|entry| parse(&entry.key, &entry.value)).transpose()?;
        Ok(known.and_then(|known| known.posted))
    }

    /// What the node of a changed pod has to hear; nothing if nothing that concerns it has changed. A pod that its DaemonSet
    /// does not control any more stands by itself from then on.
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
        let left = meta::controller(current).filter(|set| meta::controller(object).as_ref() != Some(set));
        if *kind != POD || left.is_none() && said(object) == said(current) {
            return Ok(None);
        }
        let posted = self.posted(current).await?;
        if posted.is_none() && part == Part::Main && object["spec"] != current["spec"] {
            let detail = "a pod's spec comes from its DaemonSet; change the DaemonSet";
            let errors = vec![FieldError::forbidden(&Path::new("spec"), detail)];
            return Err(ObjectError::Invalid { kind, name: meta::name(current).to_owned(), errors });
        }
        let posted = match (left, posted) {
            (None, posted) => posted,
            (let_go_by, Some(posted)) => Some(PostedPod { let_go_by, ..posted }),
            (Some(set), None) => {
                let runtime_handler = self.runtime_handler(&set, current).await?;
                let unentitled = !self.has_place(&set, current).await?;
                Some(PostedPod { runtime_handler, let_go_by: Some(set), unentitled })
            }
        };
        Ok(intent(object, posted))
    }

    /// Whether the node of a DaemonSet's pod is one for the newest revision, by what can be relied upon.
    async fn has_place(&self, set: &Uid, pod: &Value) -> Result<bool, ObjectError> {
        let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let name = owners.filter(|owner| owner["uid"] == set.as_str()).find_map(|owner| owner["name"].as_str());
        let set_key = keys::object(&DAEMON_SET, meta::namespace(pod), name.unwrap_or_default());
        let node_key = keys::object(&NODE, "", pod["spec"]["nodeName"].as_str().unwrap_or_default());
        let (Some((_, object)), Some((_, node))) = (self.find(&set_key).await?, self.find(&node_key).await?) else {
            return Ok(false);
        };
        let found =
            DaemonSet::deserialize(object).ok().filter(|found| found.metadata.uid.as_deref() == Some(set.as_str()));
        let Some(found) = found else { return Ok(false) };
        let admitted = self.admitted_revision(set, &revision::of(&found)).await?.map(|admitted| admitted.template);
        let template = admitted.or_else(|| found.spec.map(|spec| spec.template)).unwrap_or_default();
        Ok(nodes::has_place(&node, &template))
    }

    /// The runtime handler of a pod that its node made for a DaemonSet. If that is not on record any more, it is the name of the
    /// class: rather none that the runtime knows than its default.
    async fn runtime_handler(&self, set: &Uid, pod: &Value) -> Result<Option<String>, ObjectError> {
        let class = pod["spec"]["runtimeClassName"].as_str().filter(|class| !class.is_empty());
        let Some(class) = class else { return Ok(None) };
        let revision = pod["metadata"]["labels"][REVISION_LABEL].as_str().unwrap_or_default();
        let admitted = self.admitted_revision(set, &revision.into()).await?;
        Ok(admitted.map_or_else(|| Some(class.to_owned()), |admitted| admitted.runtime_handler))
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

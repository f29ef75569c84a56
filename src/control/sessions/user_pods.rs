//! What users say of single pods: those they post, and what they change of the pods of DaemonSets. Pure.
//!
//! A posted pod travels whole, as a bundle of its own, and anew whenever something of it changes. Of a DaemonSet's pod only
//! what users may change of it is told, by a command.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::Value;

use super::desired::{Blob, hash, named};
use crate::api::bundle::Bundle;
use crate::control::objects::{PodIntent, Tombstone};
use crate::link::{Amendment, Entry, Kind, ObjectRef};
use crate::model::{BlobHash, NodeName, Uid};

/// What there is to tell nodes of single pods.
#[derive(Debug, Default)]
pub(super) struct UserPods {
    by_node: HashMap<NodeName, Vec<UserPod>>,
}

/// One pod.
#[derive(Debug)]
pub(super) enum UserPod {
    Posted(Posted),
    Amended(Amended),
}

/// A pod that was posted with the node's name.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) entry: Entry,
    blob: Arc<Blob>,
    /// The objects it names.
    objects: Vec<ObjectRef>,
}

/// A pod of a DaemonSet that users changed.
#[derive(Debug)]
pub(super) struct Amended {
    pub(super) uid: Uid,
    /// Of the last change.
    pub(super) seq: u64,
    /// The objects that the containers name which were added to it.
    objects: Vec<ObjectRef>,
    pub(super) amendment: Amendment,
}

impl UserPods {
    /// Works out what to tell. `before` keeps what has not changed; pods that are to end are left out.
    pub(super) fn of(
        pods: Vec<(PodIntent, Value)>,
        tombstones: &HashMap<Uid, Tombstone>,
        before: Option<&Self>,
        seq: u64,
    ) -> Self {
        let mut by_node: HashMap<_, Vec<_>> = HashMap::new();
        for (intent, pod) in pods.into_iter().filter(|(intent, _)| !tombstones.contains_key(&intent.uid)) {
            let node = intent.node.clone();
            let known = before.and_then(|before| before.posted(&node).find(|posted| posted.entry.uid == intent.uid));
            by_node.entry(node).or_default().extend(user_pod(intent, pod, known, seq));
        }
        Self { by_node }
    }

    fn on(&self, node: &NodeName) -> impl Iterator<Item = &UserPod> {
        self.by_node.get(node).into_iter().flatten()
    }

    /// The pods posted to a node.
    pub(super) fn posted(&self, node: &NodeName) -> impl Iterator<Item = &Posted> {
        self.on(node).filter_map(|pod| if let UserPod::Posted(posted) = pod { Some(posted) } else { None })
    }

    /// The pods of DaemonSets on a node that users changed.
    pub(super) fn amended(&self, node: &NodeName) -> impl Iterator<Item = &Amended> {
        self.on(node).filter_map(|pod| if let UserPod::Amended(amended) = pod { Some(amended) } else { None })
    }

    /// Whether a pod was posted to this node.
    pub(super) fn is_posted(&self, node: &NodeName, uid: &Uid) -> bool {
        self.posted(node).any(|posted| posted.entry.uid == *uid)
    }

    /// Whether users named an object for this node: in a pod that they posted to it, or in a container that they added to one.
    pub(super) fn name(&self, node: &NodeName, object: &ObjectRef) -> bool {
        self.on(node).any(|pod| match pod {
            UserPod::Posted(Posted { objects, .. }) | UserPod::Amended(Amended { objects, .. }) => {
                objects.contains(object)
            }
        })
    }

    /// The blob of a pod posted to this node.
    pub(super) fn blob(&self, node: &NodeName, hash: &BlobHash) -> Option<&Blob> {
        self.posted(node).find(|posted| posted.entry.hash == *hash).map(|posted| &*posted.blob)
    }
}

fn user_pod(intent: PodIntent, pod: Value, known: Option<&Posted>, seq: u64) -> Option<UserPod> {
    let uid = intent.uid.clone();
    let pod = Pod::deserialize(pod)
        .inspect_err(|error| tracing::error!(pod = %intent.key, %error, "a pod in the store cannot be read"))
        .ok()?;
    let Some(handler) = intent.posted.map(|posted| posted.runtime_handler) else {
        let added = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
        let objects = named(&intent.key.namespace, None, added);
        return Some(UserPod::Amended(Amended { uid, seq: intent.seq, objects, amendment: amendment(pod) }));
    };
    let bundle = Bundle::from_pod(pod, handler);
    let added = bundle.posted.as_ref().map(|posted| &posted.ephemeral_containers[..]).unwrap_or_default();
    let objects = named(&bundle.namespace, bundle.template.spec.as_ref(), added);
    let content = Bytes::from(bundle.encode());
    let hash = hash(&content);
    let same = known.filter(|known| known.entry.hash == hash);
    let seq = same.map_or(seq, |same| same.entry.seq);
    let blob = same.map_or_else(|| Arc::new(Blob::new(&hash, &content)), |same| same.blob.clone());
    Some(UserPod::Posted(Posted { entry: Entry { uid, kind: Kind::Pod, seq, hash, written: None }, blob, objects }))
}

fn amendment(pod: Pod) -> Amendment {
    let added = pod.spec.and_then(|spec| spec.ephemeral_containers).unwrap_or_default();
    let json = |container| serde_json::to_vec(&container).expect("Kubernetes' types have string keys only").into();
    Amendment {
        labels: pod.metadata.labels.unwrap_or_default(),
        annotations: pod.metadata.annotations.unwrap_or_default(),
        ephemeral_containers: added.into_iter().map(json).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::objects::PostedPod;
    use crate::model::ObjectKey;

    fn pod(name: &str, seq: u64, posted: bool, label: &str) -> (PodIntent, Value) {
        let intent = PodIntent {
            uid: name.into(),
            key: ObjectKey::new("default", name),
            node: "edge-1".into(),
            seq,
            posted: posted.then(PostedPod::default),
        };
        let volume = json!({"name": "v", "secret": {"secretName": "keys"}});
        let debug = json!({"name": "debug", "envFrom": [{"secretRef": {"name": "tools"}}]});
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"a": label}},
            "spec": {
                "nodeName": "edge-1", "containers": [], "volumes": [volume], "ephemeralContainers": [debug],
            },
            "status": {"phase": "Running"},
        });
        (intent, pod)
    }

    fn told(pods: &UserPods) -> Vec<(String, u64)> {
        pods.posted(&"edge-1".into()).map(|posted| (posted.entry.uid.0.clone(), posted.entry.seq)).collect()
    }

    #[test]
    fn a_posted_pod_is_told_again_when_something_of_it_changes() {
        let none = HashMap::new();
        let first = UserPods::of(vec![pod("probe", 3, true, "1")], &none, None, 5);
        let same = UserPods::of(vec![pod("probe", 3, true, "1")], &none, Some(&first), 6);
        let other = UserPods::of(vec![pod("probe", 7, true, "2")], &none, Some(&same), 7);
        assert_eq!([told(&first), told(&same), told(&other)], [5, 5, 7].map(|seq| vec![("probe".to_owned(), seq)]));
        let node = NodeName::from("edge-1");
        let hash = |pods: &UserPods| pods.posted(&node).next().unwrap().entry.hash.clone();
        assert!(hash(&first) == hash(&same) && hash(&first) != hash(&other));
        assert!(other.blob(&node, &hash(&other)).is_some() && other.blob(&node, &hash(&first)).is_none());
        assert!(other.blob(&"edge-2".into(), &hash(&other)).is_none(), "it is nobody else's");

        let secret = |name: &str| ObjectRef { kind: Kind::Secret, key: ObjectKey::new("default", name) };
        let names = |node: &str, name: &str| other.name(&node.into(), &secret(name));
        assert!(names("edge-1", "keys") && names("edge-1", "tools") && !names("edge-1", "others"));
        assert!(!names("edge-2", "keys"));
    }

    #[test]
    fn of_a_daemon_sets_pod_only_what_users_may_change_is_told() {
        let pods = UserPods::of(vec![pod("web-1", 3, false, "1")], &HashMap::new(), None, 5);
        let node = NodeName::from("edge-1");
        assert!(!pods.is_posted(&node, &"web-1".into()) && told(&pods).is_empty());
        let amended = pods.amended(&node).next().unwrap();
        assert_eq!((amended.uid.as_str(), amended.seq, &amended.amendment.labels["a"]), ("web-1", 3, &"1".to_owned()));
        let [debug] = &amended.amendment.ephemeral_containers[..] else { panic!("one was added") };
        assert_eq!(serde_json::from_slice::<Value>(debug).unwrap()["name"], "debug");
        let named = |name: &str| {
            let object = ObjectRef { kind: Kind::Secret, key: ObjectKey::new("default", name) };
            pods.name(&node, &object)
        };
        assert!(named("tools") && !named("keys"), "what its template names is for its DaemonSet to have");
    }

    #[test]
    fn a_pod_that_is_to_end_is_not_told_again() {
        let tombstone = Tombstone {
            kind: "Pod".into(),
            namespace: "default".into(),
            name: "probe".into(),
            uid: "probe".into(),
            seq: 4,
            node: Some("edge-1".into()),
            grace_period_seconds: Some(3),
        };
        let tombstones = HashMap::from([(Uid::from("probe"), tombstone)]);
        let pods = UserPods::of(vec![pod("probe", 3, true, "1"), pod("web-1", 3, false, "1")], &tombstones, None, 5);
        assert!(!pods.is_posted(&"edge-1".into(), &"probe".into()));
        assert_eq!(pods.amended(&"edge-1".into()).count(), 1);
    }
}

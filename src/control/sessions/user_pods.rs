//! What there is to tell of single pods: those that stand by themselves, and what users change of the pods of DaemonSets. Pure.
//!
//! A pod that was posted, or let go by its DaemonSet, travels whole, as a bundle of its own, and anew whenever something of it
//! changes, as when a DaemonSet adopts it. Of other pods of a DaemonSet only what users may change of them is told, by a command.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::Value;

use super::desired::{Blob, hash, named};
use crate::api::bundle::Bundle;
use crate::control::objects::{PodIntent, PostedPod, Tombstone};
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

/// A pod that was posted with the node's name, or let go by its DaemonSet.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) entry: Entry,
    /// The DaemonSet that has adopted it.
    daemonset: Option<Uid>,
    /// A DaemonSet had it before, so its node knows it.
    was_let_go: bool,
    /// For its sake the node may have what it names.
    is_entitled: bool,
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
    /// Works out what to tell. `before` keeps what has not changed; pods that are to end are left out, and those that are gone and
    /// kept in the API by a finalizer; and those of a DaemonSet that is `orphaning` as long as nodes know of that one: they would
    /// make others in their place.
    pub(super) fn of(
        pods: Vec<(PodIntent, Value)>,
        tombstones: &HashMap<Uid, Tombstone>,
        orphaning: &BTreeSet<Uid>,
        before: Option<&Self>,
        seq: u64,
    ) -> Self {
        let let_go_by = |intent: &PodIntent| intent.posted.as_ref().and_then(|posted| posted.let_go_by.clone());
        let is_early = |intent: &PodIntent| {
            let_go_by(intent).is_some_and(|set| orphaning.contains(&set) && !tombstones.contains_key(&set))
        };
        let is_told = |intent: &PodIntent| !tombstones.contains_key(&intent.uid) && !is_early(intent);
        let mut by_node: HashMap<_, Vec<_>> = HashMap::new();
        for (intent, pod) in pods.into_iter().filter(|(intent, _)| is_told(intent)) {
            let node = intent.node.clone();
            let known = before.and_then(|before| before.posted(&node).find(|posted| posted.entry.uid == intent.uid));
            by_node.entry(node).or_default().extend(user_pod(intent, pod, known, seq));
        }
        Self { by_node }
    }

    fn on(&self, node: &NodeName) -> impl Iterator<Item = &UserPod> {
        self.by_node.get(node).into_iter().flatten()
    }

    /// The pods of a node that stand by themselves.
    pub(super) fn posted(&self, node: &NodeName) -> impl Iterator<Item = &Posted> {
        self.on(node).filter_map(|pod| if let UserPod::Posted(posted) = pod { Some(posted) } else { None })
    }

    /// The pods of DaemonSets on a node that users changed.
    pub(super) fn amended(&self, node: &NodeName) -> impl Iterator<Item = &Amended> {
        self.on(node).filter_map(|pod| if let UserPod::Amended(amended) = pod { Some(amended) } else { None })
    }

    /// Whether a pod of this node stands by itself.
    pub(super) fn is_single(&self, node: &NodeName, uid: &Uid) -> bool {
        self.posted(node).any(|posted| posted.entry.uid == *uid)
    }

    /// Whether a pod of this node stands by itself and has a right to be there.
    pub(super) fn is_entitled(&self, node: &NodeName, uid: &Uid) -> bool {
        self.posted(node).any(|posted| posted.entry.uid == *uid && posted.is_entitled)
    }

    /// Whether a pod of this node stands by itself and is to be there, whatever the node holds.
    pub(super) fn is_owed(&self, node: &NodeName, uid: &Uid) -> bool {
        self.posted(node).any(|posted| posted.entry.uid == *uid && !posted.is_replaceable())
    }

    /// The pods of a node that are not a DaemonSet's any more, though the node may take them for its.
    pub(super) fn kept<'a>(&'a self, node: &NodeName, set: &'a Uid) -> impl Iterator<Item = &'a Uid> {
        let kept = self.posted(node).filter(move |pod| pod.was_let_go && pod.daemonset.as_ref() != Some(set));
        kept.map(|posted| &posted.entry.uid)
    }

    /// Whether users named an object for this node: in a single pod that has a right to be there, or in a container that they
    /// added to a pod of a DaemonSet.
    pub(super) fn name(&self, node: &NodeName, object: &ObjectRef) -> bool {
        self.on(node).any(|pod| match pod {
            UserPod::Posted(posted) => posted.is_entitled && posted.objects.contains(object),
            UserPod::Amended(amended) => amended.objects.contains(object),
        })
    }

    /// The blob of a single pod of this node.
    pub(super) fn blob(&self, node: &NodeName, hash: &BlobHash) -> Option<&Blob> {
        self.posted(node).find(|posted| posted.entry.hash == *hash).map(|posted| &*posted.blob)
    }
}

impl Posted {
    /// Its node knows it, and would put another in its place: it is there, or nowhere.
    pub(super) fn is_replaceable(&self) -> bool {
        self.was_let_go && self.daemonset.is_some()
    }
}

fn user_pod(intent: PodIntent, pod: Value, known: Option<&Posted>, seq: u64) -> Option<UserPod> {
    let uid = intent.uid.clone();
    let pod = Pod::deserialize(pod)
        .inspect_err(|error| tracing::error!(pod = %intent.key, %error, "a pod in the store cannot be read"))
        .ok()?;
    let added = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
    if intent.posted.is_some() && pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let Some(PostedPod { runtime_handler, let_go_by, unentitled }) = intent.posted else {
        let objects = named(&intent.key.namespace, None, added);
        return Some(UserPod::Amended(Amended { uid, seq: intent.seq, objects, amendment: amendment(pod) }));
    };
    let objects = named(&intent.key.namespace, pod.spec.as_ref(), added);
    let bundle = Bundle::from_pod(pod, runtime_handler);
    let daemonset = bundle.daemonset().cloned();
    let content = Bytes::from(bundle.encode());
    let hash = hash(&content);
    let same = known.filter(|known| known.entry.hash == hash);
    let seq = same.map_or(seq, |same| same.entry.seq);
    let blob = same.map_or_else(|| Arc::new(Blob::new(&hash, &content)), |same| same.blob.clone());
    let entry = Entry { uid, kind: Kind::Pod, seq, hash, written: None };
    let was_let_go = let_go_by.is_some();
    Some(UserPod::Posted(Posted { entry, daemonset, was_let_go, is_entitled: !unentitled, blob, objects }))
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
        let first = UserPods::of(vec![pod("probe", 3, true, "1")], &none, &[].into(), None, 5);
        let same = UserPods::of(vec![pod("probe", 3, true, "1")], &none, &[].into(), Some(&first), 6);
        let other = UserPods::of(vec![pod("probe", 7, true, "2")], &none, &[].into(), Some(&same), 7);
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
        let pods = UserPods::of(vec![pod("web-1", 3, false, "1")], &HashMap::new(), &[].into(), None, 5);
        let node = NodeName::from("edge-1");
        assert!(!pods.is_entitled(&node, &"web-1".into()) && told(&pods).is_empty());
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
    fn a_pod_that_was_let_go_is_told_when_nodes_may_hear_of_it() {
        let node = NodeName::from("edge-1");
        let let_go = |owner: Option<&str>| {
            let (mut intent, mut pod) = pod("web-1", 3, true, "1");
            intent.posted.as_mut().unwrap().let_go_by = Some("set".into());
            let reference =
                |uid| json!({"kind": "DaemonSet", "uid": uid, "controller": true, "apiVersion": "", "name": ""});
            pod["metadata"]["ownerReferences"] = owner.into_iter().map(reference).collect();
            vec![(intent, pod)]
        };
        let (none, orphaning) = (HashMap::new(), BTreeSet::from([Uid::from("set")]));
        let early = UserPods::of(let_go(None), &none, &orphaning, None, 5);
        assert!(told(&early).is_empty(), "its node would make another");
        let gone = Tombstone { kind: "DaemonSet".into(), uid: "set".into(), node: None, ..tombstone() };
        let gone = HashMap::from([(Uid::from("set"), gone)]);
        let uid = Uid::from("web-1");
        for (owner, kept_of, replaceable) in [
            (None, vec!["set", "other"], false),
            (Some("other"), vec!["set"], true),
            (Some("set"), vec!["other"], true),
        ] {
            let pods = UserPods::of(let_go(owner), &gone, &orphaning, None, 5);
            let kept = |set: &&str| pods.kept(&node, &Uid::from(*set)).next() == Some(&uid);
            assert_eq!(["set", "other"].into_iter().filter(kept).collect::<Vec<_>>(), kept_of, "{owner:?}");
            assert_eq!((told(&pods).len(), pods.is_owed(&node, &uid)), (1, !replaceable), "{owner:?}");
        }
        let keys = ObjectRef { kind: Kind::Secret, key: ObjectKey::new("default", "keys") };
        for unentitled in [false, true] {
            let mut pod = let_go(None);
            pod[0].0.posted.as_mut().unwrap().unentitled = unentitled;
            let pods = UserPods::of(pod, &gone, &orphaning, None, 5);
            assert_eq!((pods.is_entitled(&node, &uid), pods.name(&node, &keys)), (!unentitled, !unentitled));
        }
        // Nothing is kept of what was only posted.
        let pods = UserPods::of(vec![pod("probe", 3, true, "1")], &none, &orphaning, None, 5);
        assert!(pods.is_owed(&node, &"probe".into()) && pods.kept(&node, &"set".into()).next().is_none());
    }

    fn tombstone() -> Tombstone {
        Tombstone {
            kind: "Pod".into(),
            namespace: "default".into(),
            name: "probe".into(),
            uid: "probe".into(),
            seq: 4,
            node: Some("edge-1".into()),
            grace_period_seconds: Some(3),
        }
    }

    #[test]
    fn a_pod_that_is_to_end_is_not_told_again() {
        let tombstones = HashMap::from([(Uid::from("probe"), tombstone())]);
        let pods = UserPods::of(
            vec![pod("probe", 3, true, "1"), pod("web-1", 3, false, "1")],
            &tombstones,
            &[].into(),
            None,
            5,
        );
        assert!(told(&pods).is_empty());
        assert_eq!(pods.amended(&"edge-1".into()).count(), 1);
    }
}

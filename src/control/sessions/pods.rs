//! Pod objects of DaemonSets: rendered from the revision a node says it runs and what it reports.
//!
//! Pure. Metadata is the API's once the object exists; the spec never changes; status and existence are the node's.
//!
//! Source: kubernetes v1.36 `pkg/controller/daemon/util/daemonset_util.go` (`CreatePodTemplate`,
//! `ReplaceDaemonSetPodNodeNameNodeAffinity`) and `pkg/controller/controller_utils.go` (`GetPodFromTemplate`). We
//! differ in that the pod is bound from the start.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde_json::Value;

use crate::api::bundle::Bundle;
use crate::api::pod::default_pod_only;
use crate::api::revision::REVISION_LABEL;
use crate::control::meta;
use crate::eligibility::daemon_tolerations;
use crate::link::PodReport;
use crate::model::NodeName;

/// The Pod that a node reports for the first time. `bundle` is the revision it runs, `status` the report's, as JSON.
pub(super) fn rendered(report: &PodReport, bundle: &Bundle, node: &NodeName, status: Value) -> Value {
    let pod = Pod {
        metadata: metadata(report, bundle),
        spec: Some(spec(&bundle.template, bundle.priority, node)),
        status: None,
    };
    let object = serde_json::to_value(pod).expect("a pod is JSON: its map keys are strings");
    updated(&object, report, status)
}

/// The Pod after a report.
pub(super) fn updated(pod: &Value, report: &PodReport, status: Value) -> Value {
    let mut pod = pod.clone();
    pod["status"] = status;
    if let Some(ending) = report.ending.as_ref().filter(|_| !meta::is_deleting(&pod)) {
        let grace = ending.grace_period_secs;
        let at = ending.since.saturating_add(SignedDuration::from_secs(grace.into())).unwrap_or(ending.since);
        let metadata = meta::metadata_mut(&mut pod);
        metadata.insert("deletionTimestamp".to_owned(), meta::time(at).into());
        metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    }
    pod
}

/// The Pod of a node that is not heard of any more; nothing if it is not ready anyway.
///
/// Source: kubernetes v1.36 `pkg/controller/util/node/controller_utils.go`, `MarkPodsNotReady`.
pub(super) fn not_ready(pod: &Value, now: Timestamp) -> Option<Value> {
    let mut pod = pod.clone();
    let conditions = pod["status"]["conditions"].as_array_mut()?;
    let ready = conditions.iter_mut().find(|one| one["type"] == "Ready" && one["status"] == "True")?;
    ready["status"] = "False".into();
    ready["lastTransitionTime"] = meta::time(now).into();
    Some(pod)
}

fn metadata(report: &PodReport, bundle: &Bundle) -> ObjectMeta {
    let template = bundle.template.metadata.clone().unwrap_or_default();
    let mut labels = template.labels.unwrap_or_default();
    labels.insert(REVISION_LABEL.to_owned(), bundle.revision.0.clone());
    labels.insert("pod-template-generation".to_owned(), bundle.template_generation.to_string());
    ObjectMeta {
        name: Some(report.key.name.clone()),
        generate_name: Some(format!("{}-", bundle.name)),
        namespace: Some(report.key.namespace.clone()),
        uid: Some(report.key.uid.0.clone()),
        generation: Some(1),
        creation_timestamp: Some(Time(report.created_at)),
        labels: Some(labels),
        annotations: template.annotations,
        finalizers: template.finalizers,
        owner_references: Some(vec![OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "DaemonSet".to_owned(),
            name: bundle.name.clone(),
            uid: bundle.uid.0.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

fn spec(template: &PodTemplateSpec, priority: i32, node: &NodeName) -> PodSpec {
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.tolerations = Some(daemon_tolerations(&spec));
    pin(spec.affinity.get_or_insert_default(), node);
    spec.node_name = Some(node.0.clone());
    spec.priority = Some(priority);
    default_pod_only(&mut spec);
    spec
}

/// Replaces the required node affinity, which has been judged, by the one node.
fn pin(affinity: &mut Affinity, node: &NodeName) {
    let this_node = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.0.clone()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![this_node]), match_expressions: None };
    let node_affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    node_affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;
    use serde_json::json;

    use super::*;
    use crate::api::daemonset;
    use crate::link::PodEnding;
    use crate::model::PodKey;

    fn report() -> PodReport {
        PodReport {
            key: PodKey { namespace: "default".into(), name: "web-abcde".into(), uid: "pod".into() },
            daemonset: Some("set".into()),
            revision: "hash".into(),
            created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            available: true,
            ending: None,
            gone: false,
            status: Default::default(),
        }
    }

    fn bundle() -> Bundle {
        let template = json!({
            "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}},
            "spec": {
                "containers": [{"name": "web", "image": "web"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "site", "operator": "Exists"}]},
                ]}}},
            },
        });
        let bundle = json!({
            "format": 1, "uid": "set", "namespace": "default", "name": "web", "generation": 2, "revision": "hash",
            "templateGeneration": 3, "template": template, "minReadySeconds": 0, "updateStrategy": "onDelete",
            "priority": 7,
        });
        serde_json::from_value(bundle).unwrap()
    }

    #[test]
    fn a_pod_is_what_the_daemonset_controller_would_have_made() {
        let pod = rendered(&report(), &bundle(), &"edge-1".into(), json!({"phase": "Running"}));
        assert_eq!(
            pod["metadata"],
            json!({
                "name": "web-abcde", "generateName": "web-", "namespace": "default", "uid": "pod", "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app": "web", "controller-revision-hash": "hash", "pod-template-generation": "3"},
                "annotations": {"a": "b"},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": "set",
                    "controller": true, "blockOwnerDeletion": true,
                }],
            })
        );
        assert_eq!(
            pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"],
            json!({"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["edge-1"]}]},
            ]})
        );
        assert_eq!((&pod["spec"]["nodeName"], &pod["spec"]["priority"]), (&json!("edge-1"), &json!(7)));
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 6);
        assert_eq!((&pod["kind"], &pod["apiVersion"]), (&json!("Pod"), &json!("v1")));
        assert_eq!(pod["status"], json!({"phase": "Running"}));
    }

    /// Whoever has a pod, its node realizes the same: nothing is started anew when its DaemonSet lets it go.
    #[test]
    fn a_pod_that_stands_by_itself_is_realized_as_its_daemonsets_was() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/corpus");
        let files = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path());
        let manifests: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "yaml")).collect();
        assert!(manifests.len() >= 25);
        for file in manifests {
            let options = serde_saphyr::options! { legacy_octal_numbers: true };
            let text = std::fs::read_to_string(&file).unwrap();
            let mut set: DaemonSet = serde_saphyr::from_str_with_options(&text, options).unwrap();
            daemonset::default(&mut set);
            set.metadata.uid = Some("set".to_owned());
            set.metadata.namespace = Some("default".to_owned());
            let bundle = Bundle::from_daemonset(&set, "hash".into());
            let mut host = crate::testing::pods::host();
            host.node_name = "edge-1".into();
            let report = report();
            let pod = rendered(&report, &bundle, &host.node_name, json!({}));
            let single = Bundle::from_pod(serde_json::from_value(pod).unwrap(), None);
            let realized = |bundle| crate::podspec::resolve(bundle, &report.key, &host, &[]).unwrap();
            let (before, mut after) = (realized(&bundle), realized(&single));
            after.origin.clone_from(&before.origin);
            assert_eq!(after, before, "{}", file.display());
        }
    }

    #[test]
    fn a_report_changes_the_status_and_says_when_the_pod_ends() {
        let mut pod = rendered(&report(), &bundle(), &"edge-1".into(), json!({"phase": "Pending"}));
        pod["metadata"]["labels"]["by"] = json!("user");
        let ending = Some(PodEnding { since: "2026-01-01T01:00:00Z".parse().unwrap(), grace_period_secs: 30 });
        let after = updated(&pod, &PodReport { ending: ending.clone(), ..report() }, json!({"phase": "Running"}));
        assert_eq!(after["metadata"]["labels"]["by"], "user");
        assert_eq!(after["metadata"]["deletionTimestamp"], "2026-01-01T01:00:30Z");
        assert_eq!(after["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!((&after["spec"], &after["status"]["phase"]), (&pod["spec"], &json!("Running")));
        // A user's own deletion came first.
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:30:00Z");
        let after = updated(&pod, &PodReport { ending, ..report() }, json!({}));
        assert_eq!(after["metadata"]["deletionTimestamp"], "2026-01-01T00:30:00Z");
    }

    #[test]
    fn a_pod_of_a_lost_node_is_not_ready() {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let pod = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let after = not_ready(&pod, now).unwrap();
        assert_eq!(after["status"]["conditions"][0]["status"], "False");
        assert_eq!(not_ready(&after, now), None);
    }
}

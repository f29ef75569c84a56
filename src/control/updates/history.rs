//! The revisions of one DaemonSet: which record is the present one, which are too many.
//!
//! Source: kubernetes v1.36 `pkg/controller/daemon/update.go` (`constructHistory`, `cleanupHistory`).

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::apps::v1::DaemonSet;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::daemonset::selects;
use crate::api::revision::{self, REVISION_LABEL};
use crate::control::meta;
use crate::model::{RevisionHash, Uid};

/// How many old revisions are kept if the DaemonSet does not say.
const REVISION_HISTORY_LIMIT: i32 = 10;

/// What has to be done to the records.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    /// The present revision has no record yet: this one.
    pub(super) create: Option<Value>,
    /// The present revision has a record that is not the newest: its name and its new number.
    pub(super) raise: Option<(String, i64)>,
    /// Records to remove: name, uid, and the revision they are of.
    pub(super) remove: Vec<(String, Uid, RevisionHash)>,
}

/// Whether a record is of a DaemonSet: it controls it, or selects it and nobody controls it.
///
/// Source: kubernetes v1.36 `pkg/controller/daemon/update.go` (`controlledHistories`).
pub(super) fn is_of(set: &DaemonSet, record: &Value) -> bool {
    if meta::is_controlled(record) {
        return meta::controller(record).map(|uid| uid.0) == set.metadata.uid;
    }
    let labels = BTreeMap::deserialize(&record["metadata"]["labels"]).unwrap_or_default();
    !meta::is_deleting(record) && selects(set, &labels)
}

/// Says what has to be done so that the newest record is of `hash`. `records` are the DaemonSet's own, in any order;
/// `in_use` are the revisions of its pods, which are not removed.
pub(super) fn changes(
    set: &DaemonSet,
    hash: &RevisionHash,
    records: &[Value],
    in_use: &HashSet<&RevisionHash>,
) -> Changes {
    let number = |record: &Value| record["revision"].as_i64().unwrap_or(0);
    let is_present = |record: &&Value| label(record) == hash.as_str();
    let present = records.iter().find(is_present);
    let mut old: Vec<_> = records.iter().filter(|record| !is_present(record)).collect();
    old.sort_by_key(|record| number(record));
    let next = old.last().map_or(0, |record| number(record)) + 1;

    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(REVISION_HISTORY_LIMIT);
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let unused = old.iter().filter(|record| !in_use.contains(&RevisionHash::from(label(record))));
    Changes {
        create: present.is_none().then(|| record(set, hash, next)),
        raise: present.filter(|record| number(record) < next).map(|record| (meta::name(record).to_owned(), next)),
        remove: unused.take(surplus).map(|record| removed(record)).collect(),
    }
}

fn removed(record: &Value) -> (String, Uid, RevisionHash) {
    (meta::name(record).to_owned(), meta::uid(record).into(), label(record).into())
}

fn label(record: &Value) -> &str {
    record["metadata"]["labels"][REVISION_LABEL].as_str().unwrap_or_default()
}

/// The record of a revision of `set`, whose template is that revision's.
pub(in crate::control) fn record(set: &DaemonSet, hash: &RevisionHash, number: i64) -> Value {
    let metadata = &set.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    labels.insert(REVISION_LABEL.to_owned(), hash.0.clone());
    json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": format!("{name}-{hash}"),
            "labels": labels,
            "annotations": metadata.annotations.clone().unwrap_or_default(),
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "uid": metadata.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "data": revision::history_data(&template),
        "revision": number,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_nobody_has_are_adopted_with_their_pods() {
        let selector = json!({"matchLabels": {"app": "web"}});
        let set = json!({"metadata": {"name": "web", "uid": "set"}, "spec": {"selector": selector, "template": {}}});
        let set = serde_json::from_value(set).unwrap();
        let is = |owner: Option<&str>, label: &str| {
            let owner = owner.map(|uid| json!({"kind": "DaemonSet", "uid": uid, "controller": true}));
            let owners: Vec<_> = owner.into_iter().collect();
            is_of(&set, &json!({"metadata": {"labels": {"app": label}, "ownerReferences": owners}}))
        };
        assert!(is(Some("set"), "web") && is(Some("set"), "log") && is(None, "web"));
        assert!(!is(Some("other"), "web") && !is(None, "log"));
    }

    fn old(hash: &str, number: i64) -> Value {
        json!({
            "metadata": {"name": format!("web-{hash}"), "uid": hash, "labels": {"controller-revision-hash": hash}},
            "revision": number,
        })
    }

    fn ask(limit: i32, records: &[Value], in_use: &[&str]) -> (Option<i64>, Option<(String, i64)>, Vec<String>) {
        let set = json!({
            "metadata": {"name": "web", "uid": "set"},
            "spec": {"selector": {}, "revisionHistoryLimit": limit, "template": {"metadata": {"labels": {"app": "web"}}}},
        });
        let in_use: Vec<_> = in_use.iter().map(|hash| RevisionHash::from(*hash)).collect();
        let changes = changes(&serde_json::from_value(set).unwrap(), &"new".into(), records, &in_use.iter().collect());
        let number = changes.create.map(|record| record["revision"].as_i64().unwrap());
        (number, changes.raise, changes.remove.into_iter().map(|(name, ..)| name).collect())
    }

    #[test]
    fn a_new_template_gets_the_next_number() {
        assert_eq!(ask(10, &[], &[]), (Some(1), None, vec![]));
        assert_eq!(ask(10, &[old("b", 4), old("a", 3)], &[]), (Some(5), None, vec![]));
        assert_eq!(ask(10, &[old("new", 1)], &[]), (None, None, vec![]));
    }

    #[test]
    fn going_back_raises_the_old_record() {
        assert_eq!(ask(10, &[old("new", 1), old("a", 2)], &[]), (None, Some(("web-new".into(), 3)), vec![]));
    }

    #[test]
    fn the_oldest_unused_records_go_first() {
        let records = [old("a", 1), old("b", 2), old("c", 3), old("new", 4)];
        assert_eq!(ask(1, &records, &[]).2, ["web-a", "web-b"]);
        assert_eq!(ask(1, &records, &["a"]).2, ["web-b", "web-c"]);
        assert_eq!(ask(0, &records, &["a", "b", "c"]).2, [""; 0]);
    }

    #[test]
    fn a_record_is_what_kubectl_rolls_back_to() {
        let set = json!({
            "metadata": {"name": "web", "uid": "set", "annotations": {"kubernetes.io/change-cause": "why"}},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"app": "web"}}}},
        });
        let record = record(&serde_json::from_value(set).unwrap(), &"abc".into(), 3);
        assert_eq!(record["metadata"]["name"], "web-abc");
        assert_eq!(record["metadata"]["labels"], json!({"app": "web", "controller-revision-hash": "abc"}));
        assert_eq!(record["metadata"]["annotations"]["kubernetes.io/change-cause"], "why");
        assert_eq!(record["data"]["spec"]["template"]["$patch"], "replace");
    }
}

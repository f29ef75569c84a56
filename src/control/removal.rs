//! What a DELETE means for an object: gone at once, or marked until somebody lets it go.
//!
//! Pure. A pod on a node stays until its node says it ended, or is removed by force; what is deleted in the foreground
//! stays until what it owns is gone, what is orphaned until what it owned is let go; anything with finalizers stays until
//! they are taken off; a namespace stays until it is empty. What is left behind is cleared up by [`collector`](super::collector).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::kinds::{DAEMON_SET, Kind, NAMESPACE, NODE, POD};
use super::meta;
use super::objects::ObjectError;
use super::registry::BUILT_IN_NAMESPACES;

/// Keeps an owner until its dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Keeps an owner until its dependents do not name it any more.
pub const ORPHAN: &str = "orphan";

/// `DEFAULT` of `Pod.spec.terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECS: i64 = 30;

/// What a DELETE asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// What happens to what the object owns.
    pub propagation: Propagation,
    /// How long a pod may take to end; the pod's own setting if absent.
    pub grace_period_seconds: Option<i64>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
    /// Do everything but write (`dryRun=All`).
    pub dry_run: bool,
}

/// `propagationPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// The object goes first, what it owns afterwards.
    #[default]
    Background,
    /// What it owns goes first.
    Foreground,
    /// What it owns stays.
    Orphan,
}

/// What is to be done with an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Removal {
    /// Nothing: it is on its way out already and not to go any faster.
    Nothing,
    /// Take it away now.
    Remove,
    /// Keep it, marked as being deleted.
    Mark {
        /// The marked object.
        object: Value,
        /// Nodes begin to act with the mark, not only with the removal.
        for_nodes: bool,
    },
}

/// Decides what a DELETE does to an object as it is now.
///
/// # Errors
/// [`ObjectError::Precondition`] for one that does not hold; [`ObjectError::Forbidden`] for a built-in namespace.
///
/// Source: kubernetes v1.36, `k8s.io/apiserver/pkg/registry/rest/delete.go`, `BeforeDelete`;
/// `pkg/registry/core/pod/strategy.go`, `CheckGracefulDelete`.
pub fn plan(
    kind: &'static Kind,
    object: &Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Removal, ObjectError> {
    check(kind, object, options)?;
    if *kind == POD {
        return Ok(plan_pod(object, options.grace_period_seconds, now));
    }
    let foreground = options.propagation == Propagation::Foreground;
    let mut marked = object.clone();
    match options.propagation {
        // What lives in a namespace always goes first.
        _ if *kind == NAMESPACE => {}
        Propagation::Background => {}
        Propagation::Foreground => replace_finalizer(&mut marked, ORPHAN, FOREGROUND),
        Propagation::Orphan => replace_finalizer(&mut marked, FOREGROUND, ORPHAN),
    }
    if *kind == NAMESPACE {
        meta::map_mut(&mut marked, "status").insert("phase".into(), "Terminating".into());
    } else if meta::finalizers(&marked).next().is_none() {
        return Ok(Removal::Remove);
    }
    if !meta::is_deleting(object) {
        marked = mark(marked, 0, now);
    }
    Ok(if marked == *object {
        Removal::Nothing
    } else {
        Removal::Mark { object: marked, for_nodes: foreground && *kind == DAEMON_SET }
    })
}

fn plan_pod(pod: &Value, asked: Option<i64>, now: Timestamp) -> Removal {
    let done = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let grace = match asked.unwrap_or_else(|| grace_period_seconds(pod)) {
        _ if done || !is_on_a_node(pod) => 0,
        negative if negative < 0 => 1,
        grace => grace,
    };
    if grace == 0 && meta::finalizers(pod).next().is_none() {
        return Removal::Remove;
    }
    let before = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if meta::is_deleting(pod) && before.is_none_or(|before| before <= grace) {
        return Removal::Nothing;
    }
    Removal::Mark { object: mark(pod.clone(), grace, now), for_nodes: is_on_a_node(pod) }
}

/// How long a pod may take to end if nobody says otherwise.
pub fn grace_period_seconds(pod: &Value) -> i64 {
    pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(DEFAULT_GRACE_SECS)
}

/// Marks an object as being deleted, with so much time left.
pub fn mark(mut object: Value, grace_period_seconds: i64, now: Timestamp) -> Value {
    let grace = SignedDuration::from_secs(grace_period_seconds);
    let metadata = meta::metadata_mut(&mut object);
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    metadata.insert("deletionTimestamp".into(), meta::time(now.saturating_add(grace).unwrap_or(now)).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace_period_seconds.into());
    object
}

/// An object marked for deletion waits until what it owned does not name it any more.
pub fn is_orphaning(object: &Value) -> bool {
    meta::is_deleting(object) && meta::finalizers(object).any(|finalizer| finalizer == ORPHAN)
}

/// An object marked for deletion that has no time left: only finalizers keep it.
pub fn is_over(object: &Value) -> bool {
    meta::is_deleting(object) && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// An object marked for deletion that nothing keeps any more. An empty namespace is let go by the collector only.
pub fn is_released(kind: &Kind, object: &Value) -> bool {
    is_over(object) && meta::finalizers(object).next().is_none() && *kind != NAMESPACE
}

/// Nodes may hold something of this object: its deletion needs a record for them.
pub fn concerns_nodes(kind: &Kind, object: &Value) -> bool {
    *kind == DAEMON_SET || *kind == NODE || *kind == POD && is_on_a_node(object)
}

fn is_on_a_node(pod: &Value) -> bool {
    pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty())
}

fn check(kind: &'static Kind, object: &Value, options: &DeleteOptions) -> Result<(), ObjectError> {
    let name = meta::name(object);
    let conflict = |what: &str, precondition: &str, record: &str| ObjectError::Precondition {
        kind,
        name: name.to_owned(),
        reason: format!(
            "the {what} in the precondition ({precondition}) does not match the {what} in record ({record}). \
             The object might have been deleted and then recreated"
        ),
    };
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != meta::uid(object)) {
        return Err(conflict("UID", uid, meta::uid(object)));
    }
    let version = meta::text(object, "resourceVersion");
    if let Some(asked) = options.resource_version.as_deref().filter(|asked| *asked != version) {
        return Err(conflict("ResourceVersion", asked, version));
    }
    if *kind == NAMESPACE && BUILT_IN_NAMESPACES.contains(&name) {
        let reason = "this namespace may not be deleted".to_owned();
        return Err(ObjectError::Forbidden { kind, name: name.to_owned(), reason });
    }
    Ok(())
}

/// Adds one of the two finalizers of deletions, of which an object has one at most.
fn replace_finalizer(object: &mut Value, before: &str, finalizer: &str) {
    let mut finalizers: Vec<String> =
        meta::finalizers(object).filter(|own| *own != before).map(str::to_owned).collect();
    if !finalizers.iter().any(|own| own == finalizer) {
        finalizers.push(finalizer.to_owned());
    }
    meta::metadata_mut(object).insert("finalizers".into(), json!(finalizers));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::kinds::CONFIG_MAP;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn grace(seconds: i64) -> DeleteOptions {
        DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() }
    }

    #[test]
    fn a_pod_gets_the_time_it_was_given_and_never_more() {
        let pod = |node: &str, phase: &str| {
            json!({
                "metadata": {"name": "p", "generation": 1},
                "spec": {"nodeName": node, "terminationGracePeriodSeconds": 20},
                "status": {"phase": phase},
            })
        };
        let running = || pod("one", "Running");
        let marked = |seconds: i64| Removal::Mark { object: mark(running(), seconds, now()), for_nodes: true };
        let mut ending = mark(running(), 10, now());
        let cases = [
            ("its own time", running(), DeleteOptions::default(), marked(20)),
            ("the time asked for", running(), grace(5), marked(5)),
            ("as good as at once", running(), grace(-1), marked(1)),
            ("by force", running(), grace(0), Removal::Remove),
            ("on no node", pod("", "Pending"), grace(5), Removal::Remove),
            ("already ended", pod("one", "Failed"), grace(5), Removal::Remove),
            ("longer than before", ending.clone(), grace(11), Removal::Nothing),
            (
                "shorter than before",
                ending.clone(),
                grace(9),
                Removal::Mark { object: mark(ending.clone(), 9, now()), for_nodes: true },
            ),
        ];
        for (case, pod, options, expected) in cases {
            assert_eq!(plan(&POD, &pod, &options, now()).unwrap(), expected, "{case}");
        }
        ending["metadata"]["finalizers"] = json!(["example.com/hold"]);
        let Removal::Mark { object, .. } = plan(&POD, &ending, &grace(0), now()).unwrap() else { panic!("kept") };
        assert_eq!(object["metadata"]["deletionTimestamp"], NOW);
        assert!(!is_released(&POD, &object));
    }

    #[test]
    fn other_objects_go_at_once_unless_somebody_keeps_them() {
        let named = |name: &str| json!({"metadata": {"name": name, "generation": 3}});
        let foreground = DeleteOptions { propagation: Propagation::Foreground, ..DeleteOptions::default() };
        let orphan = DeleteOptions { propagation: Propagation::Orphan, ..DeleteOptions::default() };
        let background = DeleteOptions::default();
        assert_eq!(plan(&DAEMON_SET, &named("a"), &background, now()).unwrap(), Removal::Remove);
        for (options, finalizer) in [(&foreground, FOREGROUND), (&orphan, ORPHAN)] {
            let Removal::Mark { object, for_nodes: false } = plan(&CONFIG_MAP, &named("a"), options, now()).unwrap()
            else {
                panic!("the collector lets it go")
            };
            assert_eq!(meta::finalizers(&object).collect::<Vec<_>>(), [finalizer]);
        }
        let Removal::Mark { object, for_nodes: true } = plan(&DAEMON_SET, &named("a"), &foreground, now()).unwrap()
        else {
            panic!("waits for its pods")
        };
        let expected = json!({"metadata": {
            "name": "a", "generation": 4, "finalizers": [FOREGROUND],
            "deletionTimestamp": NOW, "deletionGracePeriodSeconds": 0,
        }});
        assert_eq!(object, expected);
        assert_eq!(plan(&DAEMON_SET, &object, &foreground, now()).unwrap(), Removal::Nothing);
        // Its pods are let go one by one; nodes hear of it when that is done. One way takes the other's place.
        let Removal::Mark { object, for_nodes: false } = plan(&DAEMON_SET, &object, &orphan, now()).unwrap() else {
            panic!("the collector lets its pods go")
        };
        assert_eq!(meta::finalizers(&object).collect::<Vec<_>>(), [ORPHAN]);
        assert!(is_orphaning(&object) && !is_orphaning(&named("a")));
        let Removal::Mark { object, for_nodes: false } = plan(&NAMESPACE, &named("a"), &background, now()).unwrap()
        else {
            panic!("waits until it is empty")
        };
        assert_eq!(object["status"]["phase"], "Terminating");
        assert!(plan(&NAMESPACE, &named("default"), &background, now()).is_err());
    }
}

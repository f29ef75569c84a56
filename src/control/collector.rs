//! Clears up behind deletions: what a deleted object owned, what lived in a deleted namespace, the pods of a removed
//! Node; and events and certificate requests nobody will look at any more. Kubernetes' garbage collector, namespace
//! controller, pod collector and cleaner of certificate requests in one.
//!
//! One task. It sleeps until something was deleted, then reads what matters of all objects, asks the pure `plan` for the
//! next steps, takes them, and asks again until there are none. It remembers nothing: what a crash left undone is found
//! by the next pass.

mod plan;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::kinds::{CERTIFICATE_SIGNING_REQUEST, EVENT, KINDS, Kind, LEASE, POD};
use super::meta;
use super::objects::{Event, Expired, ListOptions, ObjectError, Objects, Watcher, WriteOptions};
use super::registry::Part;
use super::removal::{self, DeleteOptions};
use crate::api::certificates::{APPROVED, DENIED, FAILED};
use crate::error::Chain;
use plan::{Facts, Step, plan};

/// How often to look without cause: events grow old in silence.
const PERIOD: Duration = Duration::from_secs(300);
/// When to look again after something failed.
const RETRY: Duration = Duration::from_secs(10);
/// How long deletions are gathered before they are worked out; they come in flocks.
const GATHER: Duration = Duration::from_millis(200);
/// How long an event is kept. As upstream.
const EVENT_TTL: SignedDuration = SignedDuration::from_hours(1);
/// How long a certificate request is kept that nobody has decided on. As upstream.
const PENDING_TTL: SignedDuration = SignedDuration::from_hours(24);
/// How long one is kept from its denial, its failure, or the approval of what was issued. As upstream.
const SETTLED_TTL: SignedDuration = SignedDuration::from_hours(1);
/// How many objects are read at a time.
const PAGE: usize = 500;
/// How often in a row steps may call for further steps. A namespace takes three rounds.
const ROUNDS: usize = 10;

/// Runs until dropped.
pub async fn run(objects: Objects) {
    loop {
        let mut causes = Causes::begin(&objects);
        let (waiting, until) = match pass(&objects).await {
            Ok(waiting) => (waiting, PERIOD),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "clearing up behind deletions failed, it is tried again");
                (true, RETRY)
            }
        };
        // An expired watch is a cause, too: deletions may have been missed.
        let _ = causes.next(waiting, Instant::now() + until).await;
        tokio::time::sleep(GATHER).await;
    }
}

/// The deletions after the moment it was begun.
struct Causes {
    /// Of everything that may own something, and pods apart: they come and go without a cause.
    others: Vec<Watcher>,
    pods: Watcher,
}

impl Causes {
    fn begin(objects: &Objects) -> Self {
        let after = objects.revision();
        let watch = |kind| objects.watch(kind, None, after);
        let owners = KINDS.iter().filter(|kind| kind.is_kept_as_itself() && ![&POD, &EVENT, &LEASE].contains(kind));
        Self { others: owners.map(|kind| watch(kind)).collect(), pods: watch(&POD) }
    }

    /// Waits for a cause to look again, `until` at the latest. Pods going away are one only if somebody is `waiting` for that.
    async fn next(&mut self, waiting: bool, until: Instant) -> Result<(), Expired> {
        loop {
            let others = select_all(self.others.iter_mut().map(|watcher| watcher.next().boxed()));
            // All arms are cancel safe.
            let found = tokio::select! {
                (events, ..) = others => events?.iter().any(|event| event.deleted || is_marked(event)),
                events = self.pods.next(), if waiting => events?.iter().any(|event| event.deleted),
                () = sleep_until(until) => true,
            };
            if found {
                return Ok(());
            }
        }
    }
}

fn is_marked(event: &Event) -> bool {
    serde_json::from_slice(&event.object).is_ok_and(|object: Value| meta::is_deleting(&object))
}

/// Looks and acts until there is nothing to do. Tells whether somebody waits for pods to go.
async fn pass(objects: &Objects) -> Result<bool, ObjectError> {
    for _ in 0..ROUNDS {
        let facts = read(objects).await?;
        let steps = plan(&facts);
        if steps.is_empty() {
            return Ok(facts.iter().any(|fact| fact.deleting && *fact.kind != POD));
        }
        for step in steps {
            take(objects, step).await?;
        }
    }
    Ok(true)
}

/// What matters of every object; what has had its time is removed on the way.
async fn read(objects: &Objects) -> Result<Vec<Facts>, ObjectError> {
    let mut facts = Vec::new();
    let now = Timestamp::now();
    for kind in KINDS.iter().copied().filter(|kind| kind.is_kept_as_itself()) {
        let mut next = None;
        loop {
            let page = objects.list(kind, ListOptions { limit: PAGE, next: next.as_deref(), ..ListOptions::default() });
            let page = page.await?;
            for object in &page.items {
                if is_over(kind, object, now) {
                    take(objects, Step::remove(kind, object)).await?;
                } else {
                    facts.push(Facts::of(kind, object));
                }
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
    }
    Ok(facts)
}

/// Whether an object has had its time.
fn is_over(kind: &Kind, object: &Value, now: Timestamp) -> bool {
    if *kind == EVENT {
        return now.duration_since(last_seen(object, now)) > EVENT_TTL;
    }
    let is_past = |time: &Value, ttl| {
        let time: Option<Timestamp> = time.as_str().and_then(|time| time.parse().ok());
        time.is_some_and(|time| now.duration_since(time) > ttl)
    };
    *kind == CERTIFICATE_SIGNING_REQUEST && is_request_over(object, is_past)
}

/// Source: kubernetes v1.36, `pkg/controller/certificates/cleaner/cleaner.go`.
fn is_request_over(request: &Value, is_past: impl Fn(&Value, SignedDuration) -> bool) -> bool {
    let is_issued = !request["status"]["certificate"].is_null();
    match request["status"]["conditions"].as_array().map(Vec::as_slice) {
        None | Some([]) => is_past(&request["metadata"]["creationTimestamp"], PENDING_TTL),
        Some(conditions) => conditions.iter().any(|condition| {
            let is_settled = match condition["type"].as_str() {
                Some(APPROVED) => is_issued,
                Some(DENIED | FAILED) => true,
                _ => false,
            };
            is_settled && is_past(&condition["lastUpdateTime"], SETTLED_TTL)
        }),
    }
}

/// When an event was last seen; now, if it does not tell. The clock of the node that tells may be any: what is yet to come does not
/// count, and an event was seen when it was made here.
fn last_seen(event: &Value, now: Timestamp) -> Timestamp {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    times.into_iter().filter_map(|time| time.as_str()?.parse().ok()).filter(|time| *time <= now).max().unwrap_or(now)
}

async fn take(objects: &Objects, step: Step) -> Result<(), ObjectError> {
    tracing::debug!(?step, "clearing up behind a deletion");
    let done = match &step {
        Step::Delete { kind, namespace, name } => {
            objects.delete(kind, namespace, name, &DeleteOptions::default()).await.map(drop)
        }
        Step::End { namespace, name } => end(objects, namespace, name).await,
        Step::Remove { kind, namespace, name, uid } => objects.remove(kind, namespace, name, uid).await,
        Step::Release { kind, namespace, name, finalizer } => {
            change(objects, kind, namespace, name, |object| take_finalizer(object, finalizer)).await
        }
        Step::Disown { kind, namespace, name, owners } => {
            change(objects, kind, namespace, name, |object| meta::disown(object, owners)).await
        }
    };
    match done {
        Err(ObjectError::NotFound { .. }) => Ok(()),
        done => done,
    }
}

/// Marks a pod as one that is ending: its node learns that from the deletion of the owner. One that was adopted the node may not
/// even know as that owner's.
async fn end(objects: &Objects, namespace: &str, name: &str) -> Result<(), ObjectError> {
    let pod = objects.get(&POD, namespace, name).await?;
    if objects.posted(&pod).await?.is_some() {
        return objects.delete(&POD, namespace, name, &DeleteOptions::default()).await.map(drop);
    }
    let end = |pod: Option<&Value>| {
        let pod = pod.filter(|pod| !meta::is_deleting(pod))?.clone();
        let grace = removal::grace_period_seconds(&pod);
        Some(removal::mark(pod, grace, Timestamp::now()))
    };
    objects.report(&POD, namespace, name, end).await.map(drop)
}

fn take_finalizer(object: &mut Value, finalizer: &str) {
    let kept: Vec<Value> = meta::finalizers(object).filter(|name| *name != finalizer).map(Value::from).collect();
    meta::metadata_mut(object).insert("finalizers".to_owned(), kept.into());
}

async fn change(
    objects: &Objects,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    change: impl Fn(&mut Value),
) -> Result<(), ObjectError> {
    let change = |current: &Value| {
        let mut object = current.clone();
        change(&mut object);
        Ok::<_, ObjectError>(object)
    };
    objects.update(kind, namespace, name, Part::Main, WriteOptions::default(), change).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::kinds::{CONFIG_MAP, CONTROLLER_REVISION, DAEMON_SET, NAMESPACE, NODE};
    use crate::model::Uid;
    use crate::store::Memory;

    const SET: &str = "set";

    /// A DaemonSet with a revision and a pod on a node, in a namespace of its own.
    async fn fleet() -> Objects {
        let objects = Objects::open(Memory::new()).await.unwrap();
        let create = async |kind, object| objects.create(kind, "n", object, WriteOptions::default()).await.unwrap();
        create(&NAMESPACE, json!({"metadata": {"name": "n"}})).await;
        create(&NODE, json!({"metadata": {"name": "one"}})).await;
        create(&CONFIG_MAP, json!({"metadata": {"name": "map"}})).await;
        let labels = json!({"app": "set"});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        let spec = json!({"selector": {"matchLabels": labels}, "template": template});
        let set = create(&DAEMON_SET, json!({"metadata": {"name": SET}, "spec": spec})).await;
        let owner = json!([{
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": SET, "uid": meta::uid(&set), "controller": true,
        }]);
        let metadata = json!({"name": "owned", "ownerReferences": owner});
        create(&CONTROLLER_REVISION, json!({"metadata": metadata, "data": {}, "revision": 1})).await;
        let pod = json!({"metadata": metadata, "spec": {"nodeName": "one", "containers": []}});
        objects.report(&POD, "n", "owned", |_| Some(pod.clone())).await.unwrap();
        objects
    }

    async fn count(objects: &Objects, kind: &'static Kind) -> usize {
        let options = ListOptions { namespace: Some("n"), ..ListOptions::default() };
        objects.list(kind, options).await.unwrap().items.len()
    }

    /// Waits until an object of a kind is deleted, or marked if `marked` says so.
    async fn until(watcher: &mut Watcher, marked: bool) {
        while !watcher.next().await.unwrap().iter().any(|event| event.deleted || marked && is_marked(event)) {}
    }

    async fn pod_ends(objects: &Objects) {
        let pod = objects.get(&POD, "n", "owned").await.unwrap();
        assert!(meta::is_deleting(&pod));
        objects.remove(&POD, "n", "owned", &meta::uid(&pod).into()).await.unwrap();
    }

    #[test]
    fn events_and_requests_for_certificates_have_their_time() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let request =
            |status: Value| json!({"metadata": {"creationTimestamp": "2026-01-01T11:00:00Z"}, "status": status});
        let since = |kind: &str, at: &str| {
            let condition = json!({"type": kind, "lastUpdateTime": format!("2026-01-02T{at}:00Z")});
            json!({"conditions": [condition], "certificate": "QQ=="})
        };
        let mut never_issued = since(APPROVED, "10:59");
        never_issued["certificate"] = Value::Null;
        let csr = &CERTIFICATE_SIGNING_REQUEST;
        for (case, kind, object, expected) in [
            ("an event", &EVENT, json!({"lastTimestamp": "2026-01-02T10:59:00Z"}), true),
            ("an event seen again", &EVENT, json!({"lastTimestamp": "2026-01-02T11:01:00Z"}), false),
            ("an event that does not tell", &EVENT, json!({}), false),
            ("undecided", csr, request(json!({})), true),
            ("undecided since today", csr, json!({"metadata": {"creationTimestamp": "2026-01-02T00:00:00Z"}}), false),
            ("issued", csr, request(since(APPROVED, "10:59")), true),
            ("just issued", csr, request(since(APPROVED, "11:01")), false),
            ("never issued", csr, request(never_issued), false),
            ("denied", csr, request(since(DENIED, "10:59")), true),
            ("failed", csr, request(since(FAILED, "10:59")), true),
            ("of another kind", &CONFIG_MAP, request(json!({})), false),
        ] {
            assert_eq!(is_over(kind, &object, now), expected, "{case}");
        }
    }

    #[test]
    fn an_event_is_as_old_as_what_it_tells_and_no_older_than_itself() {
        let event =
            |last: &str| json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": last});
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        for (case, last, seen) in [
            ("told again", "2026-01-01T01:30:00Z", "2026-01-01T01:30:00Z"),
            ("by a clock at 1970", "1970-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("by a clock that is ahead", "2027-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(last_seen(&event(last), now).to_string(), seen, "{case}");
        }
        assert_eq!(last_seen(&json!({}), now), now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_namespace_takes_everything_with_it_and_waits_for_pods() {
        let objects = fleet().await;
        let (mut pods, mut namespaces) =
            (objects.watch(&POD, None, objects.revision()), objects.watch(&NAMESPACE, None, objects.revision()));
        let collector = tokio::spawn(run(objects.clone()));
        objects.delete(&NAMESPACE, "", "n", &DeleteOptions::default()).await.unwrap();
        until(&mut pods, true).await;
        assert_eq!(count(&objects, &DAEMON_SET).await, 0);
        assert_eq!(objects.get(&NAMESPACE, "", "n").await.unwrap()["status"]["phase"], "Terminating");
        let refused =
            objects.create(&CONFIG_MAP, "n", json!({"metadata": {"name": "x"}}), WriteOptions::default()).await;
        assert!(matches!(refused, Err(ObjectError::NamespaceTerminating { .. })));
        pod_ends(&objects).await;
        until(&mut namespaces, false).await;
        let kinds = [&CONFIG_MAP, &CONTROLLER_REVISION, &POD];
        for kind in kinds {
            assert_eq!(count(&objects, kind).await, 0, "{}", kind.kind);
        }
        collector.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_foreground_deletion_ends_with_the_last_pod() {
        let objects = fleet().await;
        let (mut pods, mut sets) =
            (objects.watch(&POD, None, objects.revision()), objects.watch(&DAEMON_SET, None, objects.revision()));
        let collector = tokio::spawn(run(objects.clone()));
        let options = DeleteOptions { propagation: removal::Propagation::Foreground, ..DeleteOptions::default() };
        objects.delete(&DAEMON_SET, "n", SET, &options).await.unwrap();
        until(&mut pods, true).await;
        assert_eq!(count(&objects, &DAEMON_SET).await, 1);
        pod_ends(&objects).await;
        until(&mut sets, false).await;
        assert_eq!(count(&objects, &CONTROLLER_REVISION).await, 0);
        let (tombstones, _) = objects.tombstones().await.unwrap();
        assert_eq!(tombstones.iter().map(|tombstone| tombstone.kind.as_str()).collect::<Vec<_>>(), ["DaemonSet"]);
        collector.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_orphaning_deletion_is_final_for_nodes_when_all_are_let_go() {
        let objects = fleet().await;
        let hold = |finalizers: Value| {
            move |set: &Value| {
                let mut set = set.clone();
                set["metadata"]["finalizers"] = finalizers.clone();
                Ok::<_, ObjectError>(set)
            }
        };
        let update = async |finalizers| {
            let options = WriteOptions::default();
            objects.update(&DAEMON_SET, "n", SET, Part::Main, options, hold(finalizers)).await.unwrap()
        };
        let set = update(json!(["example.com/hold"])).await;
        let options = DeleteOptions { propagation: removal::Propagation::Orphan, ..DeleteOptions::default() };
        objects.delete(&DAEMON_SET, "n", SET, &options).await.unwrap();
        assert_eq!(objects.tombstones().await.unwrap().0, []);
        let mut sets = objects.watch(&DAEMON_SET, None, objects.revision());
        let collector = tokio::spawn(run(objects.clone()));
        until(&mut sets, true).await;
        collector.abort();

        let set_uid = Uid::from(meta::uid(&set));
        let (tombstones, _) = objects.tombstones().await.unwrap();
        assert_eq!(tombstones.iter().map(|tombstone| &tombstone.uid).collect::<Vec<_>>(), [&set_uid]);
        for kind in [&POD, &CONTROLLER_REVISION] {
            let owned = objects.get(kind, "n", "owned").await.unwrap();
            assert_eq!((meta::owner_uids(&owned).count(), meta::is_deleting(&owned)), (0, false), "{}", kind.kind);
        }
        let intents = objects.pod_intents().await.unwrap();
        let let_go_by = intents.iter().map(|(intent, _)| intent.posted.clone().unwrap().let_go_by);
        assert_eq!(let_go_by.collect::<Vec<_>>(), [Some(set_uid)]);
        // Whoever else kept it has no say in that.
        update(json!([])).await;
        assert_eq!(count(&objects, &DAEMON_SET).await, 0);
        assert_eq!(count(&objects, &POD).await, 1);
    }
}

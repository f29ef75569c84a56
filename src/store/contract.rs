//! The contract's cases, run on every implementation.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::poll;
use tokio::time::advance;

use super::election::{campaign, key as leader_key};
use super::history::HISTORY_BYTES;
use super::watcher::PROGRESS_INTERVAL;
use super::*;

/// Runs each case on each implementation, on a paused clock.
macro_rules! contract {
    ($($case:ident)+) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                super::$case(super::Memory::new()).await;
            })+
        }

        mod embedded {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                let dir = tempfile::tempdir().unwrap();
                let store = super::Embedded::open(dir.path()).await.unwrap();
                super::$case(store.clone()).await;
                store.close().await.unwrap();
            })+
        }
    };
}

contract! {
    a_commit_happens_only_if_every_condition_holds
    a_refused_commit_changes_nothing
    a_commit_has_one_revision_for_all_its_writes
    a_commit_that_changes_nothing_has_no_revision
    the_last_write_of_a_key_counts
    pages_of_a_range_are_of_one_revision
    a_range_at_an_old_revision_shows_that_revision
    a_watch_from_every_revision_sees_exactly_the_changes_after_it
    a_watch_wakes_for_its_prefix_and_tells_progress_for_the_rest
    compaction_ends_old_ranges_and_watches_and_keeps_values
    a_watcher_that_falls_behind_is_told_and_ended
    revisions_that_have_not_happened_are_refused
    concurrent_commits_lose_no_update
    a_lease_kept_alive_keeps_its_keys_and_one_that_ends_deletes_them
    a_revoked_lease_deletes_its_keys_at_once
    a_key_rewritten_without_the_lease_outlives_it
    one_candidate_leads_and_the_next_follows_when_its_lease_ends
    a_leader_that_resigns_makes_room
}

const PERSISTENCES: [Persistence; 4] =
    [Persistence::Durable, Persistence::Ending, Persistence::Checkpointed, Persistence::Volatile];

pub(super) fn put(key: &str, value: &str, persistence: Persistence) -> Write {
    Write::Put { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), persistence }
}

fn volatile(key: &str, value: &str) -> Write {
    put(key, value, Persistence::Volatile)
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.to_owned() }
}

fn absent(key: &str) -> Condition {
    Condition::Absent { key: key.to_owned() }
}

fn modified_at(key: &str, revision: Revision) -> Condition {
    Condition::ModifiedAt { key: key.to_owned(), revision }
}

async fn write(store: &dyn Store, writes: Vec<Write>) -> Revision {
    store.commit(vec![], writes).await.unwrap()
}

/// `key=value` of everything with the prefix.
pub(super) async fn list(store: &dyn Store, prefix: &str, at: Option<Revision>) -> Vec<String> {
    let range = store.range(prefix, None, 0, at).await.unwrap();
    assert!(!range.more);
    range.entries.iter().map(show).collect()
}

fn show(entry: &Entry) -> String {
    format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value))
}

/// Everything a watch has to tell now, progress left out.
pub(super) async fn drain(watch: &mut Watch) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Poll::Ready(Some(change)) = poll!(watch.next()) {
        changes.push(change.unwrap());
    }
    changes.retain(|change| !matches!(change, Change::Progress { .. }));
    changes
}

/// Lets tasks run until the condition holds.
async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), wait).await.expect("becomes so");
}

async fn a_commit_happens_only_if_every_condition_holds(store: Arc<dyn Store>) {
    let old = write(&*store, vec![volatile("a", "1")]).await;
    let now = write(&*store, vec![volatile("a", "2"), volatile("gone", "1")]).await;
    write(&*store, vec![delete("gone")]).await;
    let rows = [
        (vec![absent("new")], None),
        (vec![absent("gone")], None),
        (vec![modified_at("a", now), absent("b")], None),
        (vec![absent("a")], Some("a")),
        (vec![modified_at("a", old)], Some("a")),
        (vec![modified_at("new", now)], Some("new")),
        (vec![modified_at("gone", now)], Some("gone")),
        (vec![modified_at("a", now), absent("new"), modified_at("b", now)], Some("b")),
    ];
    for (conditions, refused) in rows {
        let outcome = store.commit(conditions.clone(), vec![]).await;
        match (outcome, refused) {
            (Ok(_), None) => {}
            (Err(StoreError::Conflict { key }), Some(expected)) => assert_eq!(key, expected),
            (outcome, _) => panic!("{conditions:?}: {outcome:?}"),
        }
    }
}

async fn a_refused_commit_changes_nothing(store: Arc<dyn Store>) {
    for persistence in PERSISTENCES {
        write(&*store, vec![put("a", "1", persistence)]).await;
        let before = store.revision();
        let writes = vec![put("b", "1", persistence), put("a", "2", persistence)];
        let outcome = store.commit(vec![absent("a")], writes).await;
        assert!(matches!(outcome, Err(StoreError::Conflict { .. })), "{outcome:?}");
        assert_eq!(list(&*store, "", None).await, ["a=1"]);
        assert_eq!(store.revision(), before);
    }
}

async fn a_commit_has_one_revision_for_all_its_writes(store: Arc<dyn Store>) {
    let first = write(&*store, vec![volatile("a", "1"), put("b", "1", Persistence::Durable)]).await;
    let second = write(&*store, vec![volatile("b", "2")]).await;
    assert!(second > first);
    assert_eq!(store.revision(), second);
    let entry = |key: &str, value: &str, created, modified| {
        Some(Entry { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), created, modified })
    };
    assert_eq!(store.get("a").await.unwrap(), entry("a", "1", first, first));
    assert_eq!(store.get("b").await.unwrap(), entry("b", "2", first, second));
    write(&*store, vec![delete("b")]).await;
    assert_eq!(store.get("b").await.unwrap(), None);
    let again = write(&*store, vec![volatile("b", "3")]).await;
    assert_eq!(store.get("b").await.unwrap(), entry("b", "3", again, again));
}

async fn a_commit_that_changes_nothing_has_no_revision(store: Arc<dyn Store>) {
    let revision = write(&*store, vec![volatile("a", "1")]).await;
    assert_eq!(write(&*store, vec![]).await, revision);
    assert_eq!(write(&*store, vec![delete("b")]).await, revision);
    assert_eq!(store.revision(), revision);
}

async fn the_last_write_of_a_key_counts(store: Arc<dyn Store>) {
    write(&*store, vec![volatile("a", "1"), volatile("b", "1"), volatile("a", "2"), delete("b")]).await;
    assert_eq!(list(&*store, "", None).await, ["a=2"]);
}

async fn pages_of_a_range_are_of_one_revision(store: Arc<dyn Store>) {
    write(&*store, ["p/a", "p/b", "p/c", "p/d", "q/a", "o"].map(|key| volatile(key, "1")).into()).await;
    let mut seen = Vec::new();
    let mut page = store.range("p/", None, 2, None).await.unwrap();
    let at = page.revision;
    loop {
        seen.extend(page.entries.iter().map(show));
        // Before, at and behind the place the next page begins.
        write(&*store, vec![volatile("p/a2", "2"), delete("p/c"), volatile("p/d", "2"), volatile("p/e", "2")]).await;
        if !page.more {
            break;
        }
        let last = page.entries.last().unwrap().key.clone();
        page = store.range("p/", Some(&last), 2, Some(at)).await.unwrap();
        assert_eq!(page.revision, at);
    }
    assert_eq!(seen, ["p/a=1", "p/b=1", "p/c=1", "p/d=1"]);
    let rest = store.range("p/", Some("p/b"), 1, None).await.unwrap();
    assert_eq!((rest.entries.iter().map(show).collect::<Vec<_>>(), rest.more), (vec!["p/d=2".to_owned()], true));
    let none = store.range("p/", Some("p/e"), 1, None).await.unwrap();
    assert_eq!((none.entries, none.more), (vec![], false));
    assert_eq!(list(&*store, "p/d", Some(at)).await, ["p/d=1"]);
    let from_before = store.range("p/", Some("a"), 1, None).await.unwrap();
    assert_eq!(show(&from_before.entries[0]), "p/a=1");
}

async fn a_range_at_an_old_revision_shows_that_revision(store: Arc<dyn Store>) {
    let empty = store.revision();
    let made = write(&*store, vec![volatile("a", "1"), volatile("b", "1")]).await;
    let changed = write(&*store, vec![volatile("a", "2")]).await;
    let deleted = write(&*store, vec![delete("a"), volatile("c", "1")]).await;
    let again = write(&*store, vec![volatile("a", "3")]).await;
    let rows: [(_, &[&str]); 5] = [
        (empty, &[]),
        (made, &["a=1", "b=1"]),
        (changed, &["a=2", "b=1"]),
        (deleted, &["b=1", "c=1"]),
        (again, &["a=3", "b=1", "c=1"]),
    ];
    for (revision, expected) in rows {
        assert_eq!(list(&*store, "", Some(revision)).await, expected, "at {revision}");
    }
}

async fn a_watch_from_every_revision_sees_exactly_the_changes_after_it(store: Arc<dyn Store>) {
    let start = store.revision();
    let mut live = store.watch("p/", start).await.unwrap();
    let mut all = Vec::new();
    let mut revisions = vec![start];
    for (round, persistence) in PERSISTENCES.into_iter().cycle().take(9).enumerate() {
        let value = round.to_string();
        let writes = vec![put("p/b", &value, persistence), put("other", &value, persistence), volatile("p/a", "x")];
        let made = write(&*store, writes).await;
        let gone = write(&*store, vec![delete("p/a")]).await;
        let previous = |value: &str| Some(Bytes::copy_from_slice(value.as_bytes()));
        let entry = |key: &str, value: &str, created| Entry {
            key: key.into(),
            value: Bytes::copy_from_slice(value.as_bytes()),
            created,
            modified: made,
        };
        let first = if round == 0 { made } else { revisions[1] };
        let before = (round > 0).then(|| round - 1).and_then(|before| previous(&before.to_string()));
        all.push((made, Change::Put { entry: entry("p/a", "x", made), previous: None }));
        all.push((made, Change::Put { entry: entry("p/b", &value, first), previous: before }));
        let key = "p/a".to_owned();
        all.push((gone, Change::Delete { key, revision: gone, previous: Bytes::from_static(b"x") }));
        revisions.extend([made, gone]);
    }
    for after in revisions {
        let mut watch = store.watch("p/", after).await.unwrap();
        let expected: Vec<_> =
            all.iter().filter(|(revision, _)| *revision > after).map(|(_, change)| change.clone()).collect();
        assert_eq!(drain(&mut watch).await, expected, "after {after}");
    }
    assert_eq!(drain(&mut live).await, all.into_iter().map(|(_, change)| change).collect::<Vec<_>>());
}

async fn a_watch_wakes_for_its_prefix_and_tells_progress_for_the_rest(store: Arc<dyn Store>) {
    let start = write(&*store, vec![volatile("q", "1")]).await;
    let mut watch = store.watch("p/", start).await.unwrap();
    let item = watch.next().await.unwrap().unwrap();
    assert_eq!(item, Change::Progress { revision: start });
    assert!(poll!(watch.next()).is_pending());

    let other = write(&*store, vec![volatile("q", "2")]).await;
    assert!(poll!(watch.next()).is_pending());
    advance(PROGRESS_INTERVAL).await;
    assert_eq!(watch.next().await.unwrap().unwrap(), Change::Progress { revision: other });

    let mut next = watch.next();
    assert!(poll!(&mut next).is_pending());
    let own = write(&*store, vec![volatile("p/a", "1")]).await;
    let change = next.await.unwrap().unwrap();
    assert!(matches!(&change, Change::Put { entry, .. } if entry.modified == own), "{change:?}");
}

async fn compaction_ends_old_ranges_and_watches_and_keeps_values(store: Arc<dyn Store>) {
    let first = write(&*store, vec![volatile("a", "1"), volatile("b", "1"), volatile("c", "1")]).await;
    let second = write(&*store, vec![volatile("a", "2"), delete("b")]).await;
    let mut idle = store.watch("", second).await.unwrap();
    let third = write(&*store, vec![volatile("a", "3"), volatile("b", "3")]).await;
    store.compact(second).await.unwrap();
    store.compact(first).await.unwrap();

    assert!(matches!(store.range("", None, 0, Some(first)).await, Err(StoreError::Compacted { asked, oldest })
            if asked == first && oldest == second));
    let watch = store.watch("", first).await.err();
    assert!(matches!(watch, Some(StoreError::Compacted { .. })), "{watch:?}");
    assert_eq!(list(&*store, "", Some(second)).await, ["a=2", "c=1"]);
    assert_eq!(list(&*store, "", Some(third)).await, ["a=3", "b=3", "c=1"]);
    assert_eq!(drain(&mut idle).await.len(), 2);
    let mut late = store.watch("", second).await.unwrap();
    assert_eq!(drain(&mut late).await.len(), 2);
    store.compact(third).await.unwrap();
    assert_eq!(list(&*store, "", None).await, ["a=3", "b=3", "c=1"]);
}

async fn a_watcher_that_falls_behind_is_told_and_ended(store: Arc<dyn Store>) {
    let start = store.revision();
    let mut slow = store.watch("", start).await.unwrap();
    let mut quick = store.watch("", start).await.unwrap();
    let value = Bytes::from(vec![0; HISTORY_BYTES / 8]);
    for _ in 0..10 {
        let put = Write::Put { key: "a".into(), value: value.clone(), persistence: Persistence::Volatile };
        write(&*store, vec![put]).await;
        assert_eq!(drain(&mut quick).await.len(), 1);
    }
    let item = slow.next().await.unwrap();
    assert!(matches!(item, Err(StoreError::Lagged)), "{item:?}");
    assert!(slow.next().await.is_none());
}

async fn revisions_that_have_not_happened_are_refused(store: Arc<dyn Store>) {
    let last = write(&*store, vec![volatile("a", "1")]).await;
    let asked = Revision(last.0 + 1);
    let is_future = |error: Option<StoreError>| matches!(error, Some(StoreError::Future { .. }));
    assert!(is_future(store.range("", None, 0, Some(asked)).await.err()));
    assert!(is_future(store.watch("", asked).await.err()));
    assert!(is_future(store.compact(asked).await.err()));
}

async fn concurrent_commits_lose_no_update(store: Arc<dyn Store>) {
    const TASKS: usize = 8;
    const ROUNDS: usize = 10;
    write(&*store, vec![put("count", "0", Persistence::Durable)]).await;
    let start = store.revision();
    let tasks = (0..TASKS).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            while revisions.len() < ROUNDS {
                let now = store.get("count").await.unwrap().unwrap();
                let count: usize = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
                let writes = vec![put("count", &(count + 1).to_string(), PERSISTENCES[task % 3])];
                match store.commit(vec![modified_at("count", now.modified)], writes).await {
                    Ok(revision) => revisions.push(revision),
                    Err(StoreError::Conflict { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error:?}"),
                }
            }
            revisions
        })
    });
    let revisions: Vec<_> = join_all(tasks).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(list(&*store, "", None).await, [format!("count={}", TASKS * ROUNDS)]);
    assert_eq!(revisions.iter().collect::<BTreeSet<_>>().len(), TASKS * ROUNDS);
    let mut watch = store.watch("", start).await.unwrap();
    let seen = drain(&mut watch).await.into_iter().map(|change| match change {
        Change::Put { entry, .. } => show(&entry),
        change => panic!("{change:?}"),
    });
    assert!(seen.eq((1..=TASKS * ROUNDS).map(|count| format!("count={count}"))));
}

const TTL: Duration = Duration::from_secs(9);

async fn a_lease_kept_alive_keeps_its_keys_and_one_that_ends_deletes_them(store: Arc<dyn Store>) {
    let lease = store.grant(TTL).await.unwrap();
    let under = Persistence::Leased(lease);
    let start = write(&*store, vec![put("a", "1", under), put("b", "1", under), volatile("c", "1")]).await;
    for _ in 0..5 {
        advance(TTL * 2 / 3).await;
        store.keep_alive(lease).await.unwrap();
    }
    assert_eq!(list(&*store, "", None).await, ["a=1", "b=1", "c=1"]);
    let mut watch = store.watch("", start).await.unwrap();

    advance(TTL).await;
    // Ended by the clock, whether or not its keys are gone yet.
    let ended = |error: Option<StoreError>| matches!(error, Some(StoreError::LeaseEnded { lease: it }) if it == lease);
    assert!(ended(store.keep_alive(lease).await.err()));
    assert!(ended(store.commit(vec![], vec![volatile("d", "1"), put("a", "2", under)]).await.err()));
    until(async || list(&*store, "", None).await == ["c=1"]).await;
    let changes = drain(&mut watch).await;
    let at = store.revision();
    let gone = |key: &str| Change::Delete { key: key.into(), revision: at, previous: Bytes::from_static(b"1") };
    assert_eq!(changes, [gone("a"), gone("b")]);
}

async fn a_revoked_lease_deletes_its_keys_at_once(store: Arc<dyn Store>) {
    let (lease, other) = (store.grant(TTL).await.unwrap(), store.grant(TTL).await.unwrap());
    write(&*store, vec![put("a", "1", Persistence::Leased(lease)), put("b", "1", Persistence::Leased(other))]).await;
    store.revoke(lease).await.unwrap();
    assert_eq!(list(&*store, "", None).await, ["b=1"]);
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseEnded { .. })));
    store.revoke(lease).await.unwrap();
}

async fn a_key_rewritten_without_the_lease_outlives_it(store: Arc<dyn Store>) {
    let lease = store.grant(TTL).await.unwrap();
    write(&*store, vec![put("a", "1", Persistence::Durable), volatile("b", "1")]).await;
    let under = Persistence::Leased(lease);
    write(&*store, vec![put("a", "2", under), put("b", "2", under), put("c", "2", under)]).await;
    write(&*store, vec![put("b", "3", Persistence::Durable)]).await;
    store.revoke(lease).await.unwrap();
    assert_eq!(list(&*store, "", None).await, ["b=3"]);
}

async fn one_candidate_leads_and_the_next_follows_when_its_lease_ends(store: Arc<dyn Store>) {
    let first_lease = store.grant(TTL).await.unwrap();
    let first = campaign(&*store, "rollout", Bytes::from_static(b"one"), first_lease).await.unwrap();
    let second_lease = store.grant(TTL * 100).await.unwrap();
    let mut second = Box::pin(campaign(&*store, "rollout", Bytes::from_static(b"two"), second_lease));
    // Another election is no matter of this one.
    campaign(&*store, "rollout2", Bytes::from_static(b"two"), second_lease).await.unwrap();
    for _ in 0..3 {
        assert!(poll!(&mut second).is_pending());
        store.commit(vec![first.condition()], vec![volatile("granted", "one")]).await.unwrap();
        advance(TTL / 2).await;
        store.keep_alive(first_lease).await.unwrap();
    }
    let second = second.await.unwrap();
    let late = store.commit(vec![first.condition()], vec![volatile("granted", "late")]).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    first.resign(&*store).await.unwrap();
    store.commit(vec![second.condition()], vec![volatile("granted", "two")]).await.unwrap();
    assert_eq!(list(&*store, &leader_key("rollout"), None).await, ["elections/rollout/leader=two"]);
    let ended = campaign(&*store, "other", Bytes::new(), first_lease).await;
    assert!(matches!(ended, Err(StoreError::LeaseEnded { .. })), "{ended:?}");
}

async fn a_leader_that_resigns_makes_room(store: Arc<dyn Store>) {
    let (one, two) = (store.grant(TTL).await.unwrap(), store.grant(TTL).await.unwrap());
    let first = campaign(&*store, "rollout", Bytes::new(), one).await.unwrap();
    let mut second = Box::pin(campaign(&*store, "rollout", Bytes::new(), two));
    assert!(poll!(&mut second).is_pending());
    first.resign(&*store).await.unwrap();
    let before = tokio::time::Instant::now();
    second.await.unwrap();
    assert!(before.elapsed() < TTL);
}

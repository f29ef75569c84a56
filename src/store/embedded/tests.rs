//! What only a store with a disk can get wrong: crashes, faults, damage, older copies.

mod property;
mod tape;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

use bytes::Bytes;
use futures_util::future::join_all;
use redb::TableDefinition;
use tempfile::TempDir;
use tokio::time::advance;

use super::continuity::Doubt;
use super::*;
use crate::store::contract::{drain, list, put};
use crate::store::{Change, Persistence, Store};
use Persistence::{Checkpointed, Durable, Volatile};
use tape::Tape;

const INODE: u64 = 1;

/// A store on a tape; its mark is a real file.
async fn open_on(dir: &Path, tape: &Tape) -> Arc<Embedded> {
    let tape = tape.clone();
    let (mark_file, found) = disk::open_mark(dir).unwrap();
    let open = Box::new(move || disk::builder().create_with_backend(tape.clone()));
    Embedded::run(disk::load(dir, open, INODE, mark_file, found).unwrap())
}

/// Ends the store as `kill -9` does, but for the lock, which is free when this returns.
async fn kill(store: Arc<Embedded>) {
    let writer = lock(&store.committer.writer).take().unwrap();
    writer.abort();
    let _ = writer.await;
}

/// Lets the time of a checkpoint come, and the checkpoint end.
async fn checkpoint(store: &Embedded) {
    advance(CHECKPOINT_INTERVAL).await;
    // The first may be received before the writer looks at the clock, the second is not.
    for _ in 0..2 {
        write(store, vec![]).await;
    }
}

async fn write(store: &Embedded, writes: Vec<Write>) -> Revision {
    store.commit(vec![], writes).await.unwrap()
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.to_owned() }
}

/// The whole chain of an error, as a user sees it.
fn refusal<T>(result: Result<T, OpenError>) -> String {
    result.map_or_else(|error| Chain(&error).to_string(), |_| panic!("opened"))
}

#[tokio::test(start_paused = true)]
async fn a_store_opened_again_has_what_was_to_last_at_a_higher_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).await.unwrap();
    assert_eq!(store.continuity(), Continuity::New);
    let kept = write(&store, vec![put("a", "1", Durable), put("b", "1", Durable), put("c", "1", Checkpointed)]).await;
    let changed = write(&store, vec![put("a", "2", Volatile), put("d", "2", Volatile), delete("b")]).await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    write(&store, vec![put("e", "1", Persistence::Leased(lease))]).await;
    let (last, history) = (store.revision(), store.history());
    store.close().await.unwrap();
    let closed = store.commit(vec![], vec![]).await;
    assert!(matches!(closed, Err(StoreError::Closed)), "{closed:?}");
    drop(store);

    let store = Embedded::open(dir.path()).await.unwrap();
    assert_eq!((store.continuity(), store.history()), (Continuity::Proven, history));
    assert_eq!(list(&*store, "", None).await, ["a=2", "c=1"]);
    let entry = store.get("a").await.unwrap().unwrap();
    assert_eq!((entry.created, entry.modified), (kept, changed));
    assert!(store.revision() > last);
    assert!(matches!(store.watch("", last).await.err(), Some(StoreError::Compacted { .. })));
    assert!(write(&store, vec![put("f", "1", Volatile)]).await > last);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_files_after_each_commit_has_everything_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).await.unwrap();
    let mut expected = Vec::new();
    for round in 0..5 {
        let key = format!("key-{round}");
        let status = put("status", &round.to_string(), Checkpointed);
        write(&store, vec![put("event", "1", Volatile), status]).await;
        let revision = write(&store, vec![put(&key, "1", Durable)]).await;
        expected.push(format!("{key}=1"));
        let copy = copy_of(dir.path());
        let copied = Embedded::open(copy.path()).await.unwrap();
        assert_eq!(list(&*copied, "key", None).await, expected);
        assert_eq!(list(&*copied, "", None).await.last(), Some(&format!("status={round}")));
        assert!(copied.revision() > revision);
        assert_eq!(copied.continuity(), Continuity::Unproven(Doubt::OtherFile));
    }
}

fn copy_of(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// Commits one after the other; `true` where a write in it is durable.
fn workload() -> Vec<(bool, Vec<Write>)> {
    let long = "x".repeat(9000);
    vec![
        (true, vec![put("a", "1", Durable), put("b", &long, Durable)]),
        (false, vec![put("c", "1", Checkpointed)]),
        (true, vec![put("d", "1", Durable), put("a", "2", Checkpointed)]),
        (true, vec![delete("b"), put("e", &long, Checkpointed)]),
        (false, vec![put("c", "2", Checkpointed)]),
        (true, vec![put("b", "3", Durable), delete("d")]),
    ]
}

fn apply(content: &mut BTreeMap<String, Bytes>, writes: &[Write]) {
    for write in writes {
        match write.clone() {
            Write::Put { key, value, .. } => drop(content.insert(key, value)),
            Write::Delete { key } => drop(content.remove(&key)),
        }
    }
}

async fn content(store: &Embedded) -> BTreeMap<String, Bytes> {
    let range = store.range("", None, 0, None).await.unwrap();
    range.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_moment_loses_nothing_acknowledged_as_durable() {
    for operations in 0.. {
        let (dir, tape) = (tempfile::tempdir().unwrap(), Tape::default());
        let store = open_on(dir.path(), &tape).await;
        tape.fail_after(operations);
        let (mut acknowledged, mut asked) = (BTreeMap::new(), BTreeMap::new());
        let mut survived = true;
        for (durable, writes) in workload() {
            apply(&mut asked, &writes);
            survived = store.commit(vec![], writes).await.is_ok();
            if !survived {
                break;
            }
            if durable {
                acknowledged = asked.clone();
            }
        }
        let (last, history) = (store.revision(), store.history());
        let cuts = [0, 1, 2].map(|seed| tape.cut(seed * 1000 + operations as u64));
        kill(store).await;
        let mark = fs::read(dir.path().join("store.mark")).unwrap();
        for cut in cuts {
            fs::write(dir.path().join("store.mark"), &mark).unwrap();
            let again = open_on(dir.path(), &cut).await;
            let found = content(&again).await;
            assert!(found == acknowledged || found == asked, "after {operations} operations: {:?}", found.keys());
            assert!(again.revision() > last);
            assert_eq!((again.continuity(), again.history()), (Continuity::Proven, history));
            kill(again).await;
        }
        if survived {
            assert!(operations > 20, "the workload writes");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_commits_whole_and_is_got_over_when_there_is_room_again() {
    for operations in 0.. {
        let (dir, tape) = (tempfile::tempdir().unwrap(), Tape::default());
        let store = open_on(dir.path(), &tape).await;
        let mut watch = store.watch("", store.revision()).await.unwrap();
        tape.fail_after(operations);
        let (mut expected, mut failed) = (BTreeMap::new(), false);
        for (durable, writes) in workload() {
            let before = store.revision();
            match store.commit(vec![], writes.clone()).await {
                Ok(_) => apply(&mut expected, &writes),
                Err(error) => {
                    assert!(durable, "what needs no disk goes on: {error}");
                    assert!(Chain(&error).to_string().contains("store.redb failed: "), "{}", Chain(&error));
                    assert_eq!(store.revision(), before);
                    failed = true;
                }
            }
            assert_eq!(content(&store).await, expected, "after {operations} operations");
        }
        tape.heal();
        let writes = vec![put("after", "1", Durable)];
        write(&store, writes.clone()).await;
        apply(&mut expected, &writes);
        let mut replayed = BTreeMap::new();
        for change in drain(&mut watch).await {
            match change {
                Change::Put { entry, .. } => drop(replayed.insert(entry.key, entry.value)),
                Change::Delete { key, .. } => drop(replayed.remove(&key)),
                Change::Progress { .. } => {}
            }
        }
        assert_eq!(replayed, expected);
        let cut = tape.cut(0);
        kill(store).await;
        let again = open_on(dir.path(), &cut).await;
        assert_eq!(content(&again).await, expected, "after {operations} operations");
        if !failed {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn commits_that_wait_together_share_one_sync() {
    let (dir, tape) = (tempfile::tempdir().unwrap(), Tape::default());
    let store = open_on(dir.path(), &tape).await;
    let syncs = async |writes: Vec<Write>| {
        let before = tape.syncs();
        join_all(writes.into_iter().map(|write| store.commit(vec![], vec![write]))).await;
        tape.syncs() - before
    };
    syncs(vec![put("first", "1", Durable)]).await;
    assert_eq!(syncs(vec![put("a", "1", Durable)]).await, 1);
    // Not one, as tokio lets a task send only so many messages before it must yield.
    assert!(syncs((0..500).map(|key| put(&key.to_string(), "1", Durable)).collect()).await < 10);
    assert_eq!(syncs((0..500).map(|key| put(&key.to_string(), "2", Checkpointed)).collect()).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_check_pointed_write_reaches_the_disk_in_time_and_a_volatile_one_never() {
    let (dir, tape) = (tempfile::tempdir().unwrap(), Tape::default());
    let store = open_on(dir.path(), &tape).await;
    write(&store, vec![put("status", "check-pointed", Checkpointed), put("event", "memory only", Volatile)]).await;
    assert!(!tape.holds(b"check-pointed"));
    let synced = tape.syncs();
    checkpoint(&store).await;
    assert_eq!(tape.syncs(), synced + 1);
    assert!(tape.holds(b"check-pointed"));

    tape.fail_after(0);
    write(&store, vec![put("status", "while broken", Checkpointed)]).await;
    checkpoint(&store).await;
    tape.heal();
    checkpoint(&store).await;
    assert!(tape.holds(b"while broken"));
    store.close().await.unwrap();
    assert!(!tape.holds(b"memory only"));
}

#[tokio::test(start_paused = true)]
async fn a_start_is_above_every_revision_handed_out_for_writes_that_are_not_on_disk() {
    let (dir, tape) = (tempfile::tempdir().unwrap(), Tape::default());
    let store = open_on(dir.path(), &tape).await;
    for _ in 0..=REVISION_BLOCK / 1000 {
        join_all((0..1000).map(|_| store.commit(vec![], vec![put("event", "1", Volatile)]))).await;
    }
    let last = store.revision();
    assert!(last.0 > REVISION_BLOCK);
    let cut = tape.cut(1);
    kill(store).await;
    let store = open_on(dir.path(), &cut).await;
    assert!(store.revision() >= last);
    assert!(write(&store, vec![put("event", "1", Volatile)]).await > last);
}

#[tokio::test(start_paused = true)]
async fn an_older_copy_begins_a_new_history_above_all_revisions() {
    type Restore = fn(store: &Path, mark: &Path, backup: &Path);
    let rows: [(&str, Restore, Option<Doubt>); 6] = [
        ("nothing", |_, _, _| {}, None),
        ("copied over", |store, _, backup| assert!(fs::copy(backup, store).is_ok()), Some(Doubt::Older)),
        ("moved there", |store, _, backup| fs::rename(backup, store).unwrap(), Some(Doubt::OtherFile)),
        ("mark removed", |_, mark, _| fs::remove_file(mark).unwrap(), Some(Doubt::NoMark)),
        ("mark damaged", |_, mark, _| fs::write(mark, [7; 10_000]).unwrap(), Some(Doubt::BadMark)),
        (
            "copied over, mark removed",
            |store, mark, backup| {
                fs::copy(backup, store).unwrap();
                fs::remove_file(mark).unwrap();
            },
            Some(Doubt::NoMark),
        ),
    ];
    for killed in [false, true] {
        for (name, restore, doubt) in rows {
            let dir = tempfile::tempdir().unwrap();
            let paths = ["store.redb", "store.mark", "backup"].map(|name| dir.path().join(name));
            let store = Embedded::open(dir.path()).await.unwrap();
            write(&store, vec![put("a", "1", Durable)]).await;
            fs::copy(&paths[0], &paths[2]).unwrap();
            write(&store, vec![put("b", "1", Durable)]).await;
            let (last, history) = (store.revision(), store.history());
            if killed {
                kill(store).await;
            } else {
                store.close().await.unwrap();
            }
            restore(&paths[0], &paths[1], &paths[2]);

            let store = Embedded::open(dir.path()).await.unwrap();
            let expected = doubt.map_or(Continuity::Proven, Continuity::Unproven);
            assert_eq!(store.continuity(), expected, "{name}, killed: {killed}");
            assert_eq!(store.history() == history, doubt.is_none(), "{name}");
            assert!(store.revision() > last, "{name}");
            let history = store.history();
            kill(store).await;
            let store = Embedded::open(dir.path()).await.unwrap();
            assert_eq!((store.continuity(), store.history()), (Continuity::Proven, history), "{name}, next start");
        }
    }
}

/// A closed store of some size, and the path of its file.
async fn closed_store() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).await.unwrap();
    let writes = (0..200).map(|key| put(&format!("key-{key:03}"), &"value".repeat(50), Durable)).collect();
    write(&store, writes).await;
    store.close().await.unwrap();
    let file = dir.path().join("store.redb");
    (dir, file)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_damaged_or_gone_is_refused_with_the_file_and_the_way_out() {
    type Damage = fn(store: &Path);
    let rows: [(&str, Damage, &str); 5] = [
        (
            "half of it",
            |store| fs::File::options().write(true).open(store).unwrap().set_len(40_000).unwrap(),
            "is damaged",
        ),
        ("another file", |store| fs::write(store, "not a store ".repeat(1000)).unwrap(), "is damaged"),
        ("emptied", |store| fs::write(store, "").unwrap(), "is missing or empty"),
        ("removed", |store| fs::remove_file(store).unwrap(), "is missing or empty"),
        (
            "written by a later version",
            |store| {
                let database = redb::Database::open(store).unwrap();
                let transaction = database.begin_write().unwrap();
                let meta = TableDefinition::<&str, u64>::new("meta");
                transaction.open_table(meta).unwrap().insert("format", FORMAT + 1).unwrap();
                transaction.commit().unwrap();
            },
            "run the version that wrote it",
        ),
    ];
    for (name, damage, expected) in rows {
        let (dir, file) = closed_store().await;
        damage(&file);
        let before = fs::read(&file).ok();
        for _ in 0..2 {
            let refusal = refusal(Embedded::open(dir.path()).await);
            assert!(refusal.contains(expected), "{name}: {refusal}");
            assert!(refusal.contains(file.to_str().unwrap()), "{name}: {refusal}");
            assert!(refusal.contains("back-up"), "{name}: {refusal}");
        }
        if expected == "is damaged" {
            assert_eq!(fs::read(&file).ok(), before, "{name}: left as it was");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_is_refused_or_tells_itself_and_never_changes_a_value() {
    let (dir, file) = closed_store().await;
    let paths = [file.clone(), dir.path().join("store.mark")];
    let originals = paths.each_ref().map(|path| fs::read(path).unwrap());
    let expected = {
        let store = Embedded::open(dir.path()).await.unwrap();
        let expected = content(&store).await;
        kill(store).await;
        expected
    };
    let len = originals[0].len();
    let mut refused = 0;
    for offset in (0..320).step_by(5).chain((4096..len).step_by(509)) {
        for (path, original) in paths.iter().zip(&originals) {
            fs::write(path, original).unwrap();
        }
        let flipped = [originals[0][offset] ^ 0x10];
        fs::File::options().write(true).open(&file).unwrap().write_all_at(&flipped, offset as u64).unwrap();
        match Embedded::open(dir.path()).await {
            Err(error) => {
                let refusal = Chain(&error).to_string();
                assert!(refusal.contains(file.to_str().unwrap()), "byte {offset}: {refusal}");
                refused += 1;
            }
            Ok(store) => {
                let whole = content(&store).await == expected;
                assert!(whole || store.continuity() != Continuity::Proven, "byte {offset}");
                kill(store).await;
            }
        }
    }
    assert!(refused > 50, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn the_files_are_for_one_process_and_one_user() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state/store");
    fs::create_dir_all(&dir).unwrap();
    let store = Embedded::open(&dir).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("store.redb")), 0o600);
    assert_eq!(mode(&dir.join("store.mark")), 0o600);
    let refusal = refusal(Embedded::open(&dir).await);
    assert!(refusal.contains("in use by another process"), "{refusal}");
    drop(store);
}

//! Any sequence of commits, closings and crashes, against a model of three maps.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::store::Condition;

const KEYS: [&str; 4] = ["a", "b", "b2", "c"];

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Guess>, Vec<(usize, Option<Persistence>)>),
    Checkpoint,
    Compact,
    Close,
    /// A power cut, with a seed for what it leaves.
    Crash(u64),
}

#[derive(Debug, Clone)]
enum Guess {
    Absent(usize),
    /// It is as it was last written.
    Unchanged(usize),
    /// It is as it was before.
    Older(usize),
}

/// One key's value as the model knows it.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    value: String,
    created: Revision,
    modified: Revision,
    stored: bool,
}

type Content = BTreeMap<&'static str, Known>;

#[derive(Default)]
struct Model {
    now: Content,
    disk: Content,
    /// The content at each revision since `oldest`, as `key=value`.
    past: BTreeMap<Revision, Vec<String>>,
    commits: usize,
}

impl Model {
    fn holds(&self, guess: &Guess) -> bool {
        match guess {
            Guess::Absent(key) => !self.now.contains_key(KEYS[*key]),
            Guess::Unchanged(key) => self.now.contains_key(KEYS[*key]),
            Guess::Older(_) => false,
        }
    }

    fn condition(&self, guess: &Guess) -> Condition {
        let modified = |key: usize| self.now.get(KEYS[key]).map_or(0, |known| known.modified.0);
        let at = |key: usize, revision| Condition::ModifiedAt { key: KEYS[key].into(), revision: Revision(revision) };
        match guess {
            Guess::Absent(key) => Condition::Absent { key: KEYS[*key].into() },
            Guess::Unchanged(key) => at(*key, modified(*key)),
            Guess::Older(key) => at(*key, modified(*key).saturating_sub(1)),
        }
    }

    /// Applies writes whose conditions held, and says what they were.
    fn apply(&mut self, revision: Revision, writes: &[(usize, Option<Persistence>)]) {
        let mut durable = false;
        for (key, write) in in_order(writes) {
            let before = self.now.get(key);
            let was_stored = before.is_some_and(|before| before.stored);
            match write {
                None => {
                    durable |= was_stored;
                    self.now.remove(key);
                }
                Some(persistence) => {
                    durable |= persistence == Durable;
                    let created = before.map_or(revision, |before| before.created);
                    let stored = was_stored || persistence != Volatile;
                    let known = Known { value: self.commits.to_string(), created, modified: revision, stored };
                    self.now.insert(key, known);
                }
            }
        }
        self.past.insert(revision, shown(&self.now));
        if durable {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        self.disk =
            self.now.iter().filter(|(_, known)| known.stored).map(|(key, known)| (*key, known.clone())).collect();
    }

    fn restart(&mut self, start: Revision) {
        self.now = self.disk.clone();
        self.past = BTreeMap::from([(start, shown(&self.now))]);
    }
}

/// Each key once, with the last write to it.
fn in_order(writes: &[(usize, Option<Persistence>)]) -> BTreeMap<&'static str, Option<Persistence>> {
    writes.iter().map(|(key, write)| (KEYS[*key], *write)).collect()
}

fn shown(content: &Content) -> Vec<String> {
    content.iter().map(|(key, known)| format!("{key}={}", known.value)).collect()
}

/// Ranges now and at each remembered revision, and a watch after each, must tell the same.
async fn compare(store: &Embedded, model: &Model) {
    for entry in store.range("", None, 0, None).await.unwrap().entries {
        let known = &model.now[entry.key.as_str()];
        assert_eq!((entry.created, entry.modified), (known.created, known.modified), "{}", entry.key);
    }
    let (_, newest) = model.past.last_key_value().unwrap();
    for (revision, then) in &model.past {
        assert_eq!(&list(store, "", Some(*revision)).await, then, "at {revision}");
        let of_prefix: Vec<_> = then.iter().filter(|it| it.starts_with('b')).cloned().collect();
        assert_eq!(list(store, "b", Some(*revision)).await, of_prefix);
        let mut replayed: BTreeMap<String, String> =
            then.iter().map(|it| it.split_once('=').unwrap()).map(|(key, value)| (key.into(), value.into())).collect();
        for change in drain(&mut store.watch("", *revision).await.unwrap()).await {
            let (key, value, previous) = match change {
                Change::Put { entry, previous } => (entry.key, Some(entry.value), previous),
                Change::Delete { key, previous, .. } => (key, None, Some(previous)),
                Change::Progress { .. } => continue,
            };
            let text = |bytes: Bytes| String::from_utf8(bytes.into()).unwrap();
            assert_eq!(replayed.get(&key).cloned(), previous.map(text), "what {key} was before");
            match value {
                Some(value) => drop(replayed.insert(key, text(value))),
                None => drop(replayed.remove(&key)),
            }
        }
        let replayed: Vec<_> = replayed.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(&replayed, newest, "watched after {revision}");
    }
}

async fn run(steps: Vec<Step>) {
    let (dir, mut tape) = (tempfile::tempdir().unwrap(), Tape::default());
    let mut store = open_on(dir.path(), &tape).await;
    let history = store.history();
    let mut model = Model::default();
    model.restart(store.revision());
    for step in steps {
        let last = store.revision();
        let restarts = matches!(step, Step::Close | Step::Crash(_));
        match step {
            Step::Commit(guesses, writes) => {
                model.commits += 1;
                let conditions = guesses.iter().map(|guess| model.condition(guess)).collect();
                let puts = writes.iter().map(|(key, write)| match write {
                    Some(persistence) => put(KEYS[*key], &model.commits.to_string(), *persistence),
                    None => delete(KEYS[*key]),
                });
                let changes = in_order(&writes).iter().any(|(key, it)| it.is_some() || model.now.contains_key(key));
                let outcome = store.commit(conditions, puts.collect()).await;
                if !guesses.iter().all(|guess| model.holds(guess)) {
                    assert!(matches!(outcome, Err(StoreError::Conflict { .. })), "{outcome:?}");
                } else if changes {
                    assert!(outcome.as_ref().is_ok_and(|revision| *revision > last), "{outcome:?} after {last}");
                    model.apply(outcome.unwrap(), &writes);
                } else {
                    assert_eq!(outcome.unwrap(), last);
                }
            }
            Step::Checkpoint => {
                checkpoint(&store).await;
                model.checkpoint();
            }
            Step::Compact => {
                store.compact(last).await.unwrap();
                model.past = model.past.split_off(&last);
            }
            Step::Close => {
                store.close().await.unwrap();
                model.checkpoint();
                store = open_on(dir.path(), &tape).await;
            }
            Step::Crash(seed) => {
                tape = tape.cut(seed);
                kill(store).await;
                store = open_on(dir.path(), &tape).await;
            }
        }
        if restarts {
            assert!(store.revision() > last);
            assert_eq!((store.continuity(), store.history()), (Continuity::Proven, history));
            model.restart(store.revision());
        }
        compare(&store, &model).await;
    }
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let guess = prop_oneof![
        key.clone().prop_map(Guess::Absent),
        key.clone().prop_map(Guess::Unchanged),
        key.clone().prop_map(Guess::Older),
    ];
    let change = prop_oneof![Just(Some(Durable)), Just(Some(Checkpointed)), Just(Some(Volatile)), Just(None)];
    prop_oneof![
        12 => (vec(guess, 0..2), vec((key, change), 1..4)).prop_map(|(guesses, writes)| Step::Commit(guesses, writes)),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Compact),
        1 => Just(Step::Close),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_commits_closings_and_crashes_leave_what_the_model_says(steps in vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(steps));
    }
}

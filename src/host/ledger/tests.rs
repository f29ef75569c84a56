use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

fn a_key() -> Key {
    Key::new(&std::array::from_fn(|at| u8::try_from(at).unwrap()))
}

/// Without a key, and with one.
fn keys() -> [Option<Key>; 2] {
    [None, Some(a_key())]
}

fn pod(name: &str, bundle: &[u8]) -> PodRecord {
    PodRecord {
        key: PodKey { namespace: "default".into(), name: name.into(), uid: name.into() },
        daemonset: Some("set".into()),
        revision: RevisionRecord { hash: "rev".into(), bundle: blob_hash(bundle) },
        created_at: Timestamp::UNIX_EPOCH,
        ending: None,
        finished: None,
        amended: None,
        ephemeral_containers: vec![],
    }
}

fn contents(session: u64, pods: &[PodRecord]) -> Contents {
    let pods = pods.iter().map(|pod| (pod.key.uid.clone(), pod.clone())).collect();
    Contents { session, pods, ..Contents::default() }
}

/// Copies a ledger's folder, as a power cut would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("ledger/blobs")).unwrap();
    for part in ["ledger", "ledger/blobs"] {
        for entry in fs::read_dir(from.join(part)).unwrap().flatten() {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.join(part).join(entry.file_name())).unwrap();
            }
        }
    }
}

fn open(dir: &Path, key: &Option<Key>) -> Ledger {
    Ledger::open(dir, key.clone()).unwrap().ledger
}

fn reopen(dir: &Path, key: &Option<Key>) -> (Contents, Vec<String>) {
    let opened = Ledger::open(dir, key.clone()).unwrap();
    (opened.contents, opened.notes)
}

/// The slot that is not the same in both, as it is in each.
fn changed_slot(before: &Path, after: &Path) -> (PathBuf, Vec<u8>, Vec<u8>) {
    let slots = ["ledger/manifest.a", "ledger/manifest.b"].map(PathBuf::from).into_iter();
    let read = |slot: PathBuf| {
        let (old, new) = (fs::read(before.join(&slot)).unwrap(), fs::read(after.join(&slot)).unwrap());
        (slot, old, new)
    };
    slots.map(read).find(|(_, old, new)| old != new).expect("one was written")
}

fn number(slot: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(slot[at..at + 8].try_into().unwrap())
}

/// What is not padding.
fn used(slot: &[u8]) -> usize {
    HEADER_BYTES + usize::try_from(number(slot, 24)).unwrap()
}

#[test]
fn the_last_commit_is_what_the_next_start_finds() {
    for key in keys() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), &key);
        for session in 1..=5 {
            let bundle = format!("bundle {session}");
            let written = contents(session, &[pod("a", bundle.as_bytes())]);
            ledger.commit(&written.snapshot(), &[Bytes::from(bundle.clone())]).unwrap();
            assert_eq!(reopen(dir.path(), &key), (written, vec![]));
        }
        assert_eq!(ledger.blob(&blob_hash(b"bundle 5")).unwrap(), b"bundle 5");
        let blobs = fs::read_dir(dir.path().join("ledger/blobs")).unwrap().count();
        assert_eq!(blobs, 2, "only the blobs of the two slots are kept");
    }
}

#[test]
fn a_cut_at_any_byte_of_a_commit_leaves_the_contents_before_or_after() {
    for key in keys() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), &key);
        let before = contents(1, &[pod("a", b"one")]);
        ledger.commit(&before.snapshot(), &[Bytes::from_static(b"one")]).unwrap();
        let cut = tempfile::tempdir().unwrap();
        copy(dir.path(), cut.path());
        let after = contents(2, &[pod("a", b"one"), pod("b", b"two")]);
        ledger.commit(&after.snapshot(), &[Bytes::from_static(b"two")]).unwrap();

        let (slot, old, new) = changed_slot(cut.path(), dir.path());
        let blob = Path::new("ledger/blobs").join(&*blob_name(key.as_ref(), &blob_hash(b"two")));
        let content = fs::read(dir.path().join(&blob)).unwrap();
        for length in [0, 2, content.len()] {
            fs::write(cut.path().join(&blob), &content[..length]).unwrap();
            for end in 0..=used(&new) {
                let torn = [&new[..end], &old[end..]].concat();
                fs::write(cut.path().join(&slot), &torn).unwrap();
                let is_whole = torn == new && length == content.len();
                let found = reopen(cut.path(), &key).0;
                assert_eq!(found, if is_whole { after.clone() } else { before.clone() }, "cut at byte {end}");
            }
        }
    }
}

#[test]
fn a_damaged_copy_is_passed_over_and_named() {
    for key in keys() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), &key);
        ledger.commit(&contents(1, &[]).snapshot(), &[]).unwrap();
        let before = tempfile::tempdir().unwrap();
        copy(dir.path(), before.path());
        ledger.commit(&contents(2, &[]).snapshot(), &[]).unwrap();
        let (newest, _, mut bytes) = changed_slot(before.path(), dir.path());
        bytes[HEADER_BYTES + 3] ^= 1;
        fs::write(dir.path().join(&newest), &bytes).unwrap();

        let (found, notes) = reopen(dir.path(), &key);
        assert_eq!(found.session, 1);
        let damage = format!("{} is damaged (its checksum does not match)", dir.path().join(newest).display());
        assert!(notes[0].contains(&damage), "{notes:?}");

        // Writing goes on, over the damaged copy and not over the good one.
        let mut ledger = open(dir.path(), &key);
        ledger.commit(&contents(3, &[]).snapshot(), &[]).unwrap();
        assert_eq!(reopen(dir.path(), &key), (contents(3, &[]), vec![]));
    }
}

#[test]
fn two_damaged_copies_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = open(dir.path(), &None);
    ledger.commit(&contents(1, &[]).snapshot(), &[]).unwrap();
    for name in ["manifest.a", "manifest.b"] {
        fs::write(dir.path().join("ledger").join(name), b"garbage").unwrap();
    }
    let error = Ledger::open(dir.path(), None).unwrap_err();
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("restore the folder"), "{error}");
    assert_eq!(fs::read(dir.path().join("ledger/manifest.a")).unwrap(), b"garbage");
}

/// Damages a file of `content`, of which there is another one.
type Damage = fn(path: &Path, content: &[u8], other: &Path);

#[test]
fn a_lost_blob_costs_its_pod_and_nothing_else() {
    let damages: [Damage; 4] = [
        |path, _, _| fs::remove_file(path).unwrap(),
        |path, content, _| fs::write(path, &content[..content.len() - 1]).unwrap(),
        |path, content, _| fs::write(path, [&content[..1], b"~", &content[2..]].concat()).unwrap(),
        |path, _, other| assert!(fs::copy(other, path).unwrap() > 0),
    ];
    for (key, damage) in keys().into_iter().flat_map(|key| damages.map(|damage| (key.clone(), damage))) {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), &key);
        let pods = [pod("a", b"one"), pod("b", b"two")];
        let blobs = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        ledger.commit(&contents(1, &pods).snapshot(), &blobs).unwrap();
        ledger.commit(&contents(2, &pods).snapshot(), &[]).unwrap();
        let path = |blob: &[u8]| ledger.blob_path(key.as_ref(), &blob_hash(blob));
        damage(&path(b"one"), &fs::read(path(b"one")).unwrap(), &path(b"two"));
        let (found, notes) = reopen(dir.path(), &key);
        assert_eq!(found.session, 2, "the newest contents stay");
        assert!(notes.len() == 1 && notes[0].contains("cannot be made anew"), "{notes:?}");
        assert!(matches!(ledger.blob(&blob_hash(b"one")), Err(LedgerError::Blob { .. })));
        assert_eq!(ledger.blob(&blob_hash(b"two")).unwrap(), b"two");
    }
}

#[test]
fn a_cut_over_an_older_copy_leaves_the_newer_one() {
    for key in keys() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), &key);
        for session in 1..=2 {
            ledger.commit(&contents(session, &[pod("a", b"one")]).snapshot(), &[Bytes::from_static(b"one")]).unwrap();
        }
        let cut = tempfile::tempdir().unwrap();
        copy(dir.path(), cut.path());
        let (before, after) = (contents(2, &[pod("a", b"one")]), contents(3, &[pod("b", b"one")]));
        ledger.commit(&after.snapshot(), &[]).unwrap();

        // The third commit goes over the first. A disk writes its sectors in any order.
        let (slot, old, new) = changed_slot(cut.path(), dir.path());
        for end in 0..=used(&new) {
            for (name, first, second) in [("its end", &new, &old), ("its beginning", &old, &new)] {
                let torn = [&first[..end], &second[end..]].concat();
                fs::write(cut.path().join(&slot), &torn).unwrap();
                let found = reopen(cut.path(), &key).0;
                let expected = if torn == new { &after } else { &before };
                assert_eq!(found, *expected, "cut at {end}, without {name}");
            }
        }
    }
}

#[test]
fn a_second_cut_leaves_the_copy_that_was_whole_after_the_first() {
    for key in keys() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), &key);
        let whole = contents(1, &[pod("a", b"one")]);
        ledger.commit(&whole.snapshot(), &[Bytes::from_static(b"one")]).unwrap();
        let after = contents(2, &[pod("a", b"one"), pod("b", b"two")]);
        ledger.commit(&after.snapshot(), &[Bytes::from_static(b"two")]).unwrap();
        // The slot came to the disk, the blob did not.
        fs::write(ledger.blob_path(key.as_ref(), &blob_hash(b"two")), b"").unwrap();

        let cut = tempfile::tempdir().unwrap();
        copy(dir.path(), cut.path());
        let Opened { mut ledger, contents, .. } = Ledger::open(dir.path(), key.clone()).unwrap();
        assert_eq!(contents, whole);
        ledger.commit(&contents.snapshot(), &[]).unwrap();
        let (slot, _, _) = changed_slot(cut.path(), dir.path());
        fs::write(dir.path().join(slot), b"torn").unwrap();
        let (found, notes) = reopen(dir.path(), &key);
        assert_eq!(found, whole);
        assert!(!notes.iter().any(|note| note.contains("cannot be made anew")), "{notes:?}");
    }
}

/// A slot as a version wrote it.
fn slot(format: u32, oldest_reader: u32, json: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(format.to_le_bytes());
    bytes.extend(oldest_reader.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend((json.len() as u64).to_le_bytes());
    let checksum = Sha256::new().chain_update(&bytes).chain_update(json).finalize();
    bytes.extend(checksum);
    bytes.extend(json);
    bytes
}

#[test]
fn a_newer_format_is_refused_and_an_unknown_field_is_not() {
    let json = br#"{"session":4,"fromTheFuture":{"x":1}}"#;
    let read = decode_slot(&slot(9, 1, json), None);
    assert!(matches!(read, Ok(Slot::Good { generation: 1, contents, .. }) if contents.session == 4));
    assert!(matches!(decode_slot(&slot(9, 9, json), None), Err(9)));
}

#[test]
fn every_field_of_each_earlier_format_is_understood() {
    // A format that changes gets a file of its own here, and the earlier ones stay. The second is the first one, sealed.
    let read = |name| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ledger").join(name)).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&read("format-1.json")).unwrap();
    let first = slot(1, 1, &serde_json::to_vec(&written).unwrap());
    for (slot, format) in [(first, 1), (read("format-2.slot"), 2)] {
        assert_eq!(number(&slot, 8), format | format << 32, "the format, and who can read it");
        let Ok(Slot::Good { contents, .. }) = decode_slot(&slot, Some(&a_key())) else {
            panic!("format {format} is not understood");
        };
        assert_eq!(serde_json::to_value(&contents).unwrap(), written);
    }
}

#[test]
fn nobody_else_may_read_the_ledger() {
    for key in keys() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), &key);
        ledger.commit(&contents(1, &[pod("a", b"secret")]).snapshot(), &[Bytes::from_static(b"secret")]).unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.path().join("ledger")), 0o700);
        assert_eq!(mode(dir.path().join("ledger/manifest.a")), 0o600);
        assert_eq!(mode(ledger.blob_path(key.as_ref(), &blob_hash(b"secret"))), 0o600);
    }
}

#[test]
fn more_than_a_ledger_may_hold_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slot");
    let file = File::create(&path).unwrap();
    let refused = reserve(&file, &path, SLOT_BYTES_MAX + 1);
    assert!(matches!(refused, Err(LedgerError::TooLarge { bytes }) if bytes == SLOT_BYTES_MAX + 1), "{refused:?}");
    assert_eq!(file.metadata().unwrap().len(), 0);
}

// === with a key ===

const SECRET: &[u8] = b"the password is hunter2";

/// All files below the ledger's folder.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files(dir: &Path) -> Files {
    let entries = ["ledger", "ledger/blobs"].map(|part| fs::read_dir(dir.join(part)).unwrap());
    let paths = entries.into_iter().flatten().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    paths.map(|path| (path.strip_prefix(dir).unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

/// A folder with these files.
fn with_files(files: &Files) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("ledger/blobs")).unwrap();
    files.iter().for_each(|(path, content)| fs::write(dir.path().join(path), content).unwrap());
    dir
}

/// A ledger in clear that has been written twice, the second time with less.
fn in_clear() -> (TempDir, Contents) {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = open(dir.path(), &None);
    let pods: Vec<_> = (0..20).map(|number| pod(&format!("known-{number}"), SECRET)).collect();
    ledger.commit(&contents(1, &pods).snapshot(), &[Bytes::from_static(SECRET)]).unwrap();
    let contents = contents(2, &[pod("known-0", SECRET), pod("known-1", b"one")]);
    ledger.commit(&contents.snapshot(), &[Bytes::from_static(b"one")]).unwrap();
    (dir, contents)
}

/// Says that nothing in any file tells what it holds.
fn says_nothing(dir: &Path) {
    for (path, mut content) in files(dir) {
        content.truncate(content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        for said in [SECRET, b"known-", b"bundle", blob_hash(SECRET).as_str().as_bytes()] {
            let text = [path.to_str().unwrap().as_bytes(), &content].concat();
            let is_said = text.windows(said.len()).any(|part| part == said);
            assert!(!is_said, "{} says {}", path.display(), String::from_utf8_lossy(said));
        }
    }
}

#[test]
fn a_sealed_ledger_says_nothing_without_its_key_and_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = open(dir.path(), &Some(a_key()));
    let contents = contents(1, &[pod("known-0", SECRET)]);
    ledger.commit(&contents.snapshot(), &[Bytes::from_static(SECRET)]).unwrap();
    says_nothing(dir.path());

    // Nor where one copy is damaged, and may be what there is to be read.
    let mut damaged = files(dir.path());
    damaged.get_mut(Path::new("ledger/manifest.a")).unwrap()[HEADER_BYTES] ^= 1;
    for before in [files(dir.path()), damaged] {
        let dir = with_files(&before);
        for (key, why) in [(None, "there is no key"), (Some(Key::new(&[9; 32])), "not with the key there is")] {
            let error = Ledger::open(dir.path(), key).unwrap_err();
            assert!(matches!(&error, LedgerError::Sealed { why: said, .. } if *said == why), "{error}");
            assert!(error.to_string().contains("/etc/credstore.encrypted/garrison.ledger"), "{error}");
            assert_eq!(files(dir.path()), before);
        }
        assert_eq!(reopen(dir.path(), &Some(a_key())).0, contents);
    }
}

/// What may be on disk of a file when the power goes while it is written or removed.
fn cuts(before: Option<&Vec<u8>>, after: Option<&Vec<u8>>) -> Vec<Option<Vec<u8>>> {
    let Some(new) = after else { return vec![before.cloned(), None] };
    let ends = match new.starts_with(MAGIC) {
        true => vec![0, HEADER_BYTES + 40, used(new), new.len()],
        false => vec![new.len() / 2, new.len()],
    };
    let old = before.cloned().unwrap_or_default();
    let torn = ends.into_iter().map(|end| Some([&new[..end], old.get(end..).unwrap_or_default()].concat()));
    torn.chain([before.cloned()]).collect()
}

#[test]
fn a_ledger_in_clear_that_gets_a_key_is_sealed_and_lost_at_no_cut() {
    let key = Some(a_key());
    let (dir, before) = in_clear();
    let after = contents(3, &[pod("known-1", b"one"), pod("known-2", SECRET), pod("known-3", b"new")]);
    let mut ledger = open(dir.path(), &key);
    // What a commit does, from one flush to the next. A slot in clear is wiped first.
    let wiped = |mut files: Files, slot: &str| {
        files.get_mut(Path::new(slot)).unwrap().fill(0);
        files
    };
    let mut states = vec![files(dir.path()), wiped(files(dir.path()), "ledger/manifest.a")];
    ledger.write(&after.snapshot(), &[Bytes::from_static(b"new")]).unwrap();
    states.extend([files(dir.path()), wiped(files(dir.path()), "ledger/manifest.b")]);
    ledger.seal_rest(&after.snapshot()).unwrap();
    states.push(files(dir.path()));
    ledger.collect_blobs();
    states.push(files(dir.path()));
    says_nothing(dir.path());
    assert_eq!(reopen(dir.path(), &key), (after.clone(), vec![]));

    for (stage, pair) in states.windows(2).enumerate() {
        let paths: BTreeSet<_> = pair[0].keys().chain(pair[1].keys()).collect();
        let mut on_disk = vec![pair[0].clone()];
        for path in paths.into_iter().filter(|path| pair[0].get(*path) != pair[1].get(*path)) {
            let cuts = cuts(pair[0].get(path), pair[1].get(path));
            let with = |files: &Files, cut: &Option<Vec<u8>>| {
                let mut files = files.clone();
                match cut {
                    Some(content) => drop(files.insert(path.clone(), content.clone())),
                    None => drop(files.remove(path)),
                }
                files
            };
            on_disk = on_disk.iter().flat_map(|files| cuts.iter().map(move |cut| with(files, cut))).collect();
        }
        for files in on_disk {
            let dir = with_files(&files);
            // Without the key it is what it was, or not read.
            match Ledger::open(dir.path(), None) {
                Ok(opened) => assert_eq!((stage < 2, opened.contents), (true, before.clone())),
                Err(error) => assert!(matches!(error, LedgerError::Sealed { .. }), "{error}"),
            }
            let Opened { mut ledger, contents, notes } = Ledger::open(dir.path(), key.clone()).unwrap();
            assert!(contents == after || (stage < 2 && contents == before), "{contents:?}");
            assert!(!notes.iter().any(|note| note.contains("cannot be made anew")), "{notes:?}");
            // What the next start does.
            ledger.commit(&contents.snapshot(), &[]).unwrap();
            says_nothing(dir.path());
            assert_eq!(reopen(dir.path(), &key), (contents.clone(), vec![]));
            assert!(contents.blobs().into_iter().all(|hash| ledger.blob(hash).is_ok()));
        }
    }
}

#[test]
fn what_cannot_be_sealed_yet_keeps_no_deletion_out_and_is_sealed_later() {
    let key = Some(a_key());
    let (dir, _) = in_clear();
    let mut ledger = open(dir.path(), &key);
    // Where a blob is to come there is something that cannot be written, as on a full disk.
    let obstacle = ledger.blob_path(key.as_ref(), &blob_hash(SECRET));
    fs::create_dir(&obstacle).unwrap();
    let fewer = contents(3, &[pod("known-0", SECRET)]);
    ledger.commit(&fewer.snapshot(), &[]).unwrap();
    assert_eq!(reopen(dir.path(), &key).0, fewer);
    assert_eq!(ledger.blob(&blob_hash(SECRET)).unwrap(), SECRET, "the copy in clear is kept");

    fs::remove_dir(&obstacle).unwrap();
    ledger.commit(&fewer.snapshot(), &[]).unwrap();
    says_nothing(dir.path());
    assert_eq!(reopen(dir.path(), &key), (fewer, vec![]));
}

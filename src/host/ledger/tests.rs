use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

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

fn reopen(dir: &Path) -> (Contents, Vec<String>) {
    let opened = Ledger::open(dir).unwrap();
    (opened.contents, opened.notes)
}

#[test]
fn the_last_commit_is_what_the_next_start_finds() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap().ledger;
    for session in 1..=5 {
        let bundle = format!("bundle {session}");
        let written = contents(session, &[pod("a", bundle.as_bytes())]);
        ledger.commit(&written.snapshot(), &[Bytes::from(bundle.clone())]).unwrap();
        assert_eq!(reopen(dir.path()), (written, vec![]));
    }
    assert_eq!(ledger.blob(&blob_hash(b"bundle 5")).unwrap(), b"bundle 5");
    let blobs = fs::read_dir(dir.path().join("ledger/blobs")).unwrap().count();
    assert_eq!(blobs, 2, "only the blobs of the two slots are kept");
}

#[test]
fn a_cut_at_any_byte_of_a_commit_leaves_the_contents_before_or_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap().ledger;
    let before = contents(1, &[pod("a", b"one")]);
    ledger.commit(&before.snapshot(), &[Bytes::from_static(b"one")]).unwrap();
    let cut = tempfile::tempdir().unwrap();
    copy(dir.path(), cut.path());
    let after = contents(2, &[pod("a", b"one"), pod("b", b"two")]);
    ledger.commit(&after.snapshot(), &[Bytes::from_static(b"two")]).unwrap();

    // The second commit went to the slot that was empty; its blob came with it.
    let slot = fs::read(dir.path().join("ledger/manifest.b")).unwrap();
    let used = HEADER_BYTES + serde_json::to_vec(&after).unwrap().len();
    let torn = cut.path().join("ledger/manifest.b");
    let blob = cut.path().join("ledger/blobs").join(blob_hash(b"two").as_str());
    for (blob_content, whole_blob) in [(&b""[..], false), (b"tw", false), (b"two", true)] {
        fs::write(&blob, blob_content).unwrap();
        for end in 0..=used {
            let mut bytes = vec![0; slot.len()];
            bytes[..end].copy_from_slice(&slot[..end]);
            fs::write(&torn, &bytes).unwrap();
            let whole = end == used && whole_blob;
            let found = reopen(cut.path()).0;
            assert_eq!(found, if whole { after.clone() } else { before.clone() }, "cut at byte {end}");
        }
    }
}

#[test]
fn a_damaged_copy_is_passed_over_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap().ledger;
    ledger.commit(&contents(1, &[]).snapshot(), &[]).unwrap();
    ledger.commit(&contents(2, &[]).snapshot(), &[]).unwrap();
    let newest = dir.path().join("ledger/manifest.b");
    let mut bytes = fs::read(&newest).unwrap();
    bytes[HEADER_BYTES + 3] ^= 1;
    fs::write(&newest, &bytes).unwrap();

    let (found, notes) = reopen(dir.path());
    assert_eq!(found.session, 1);
    assert!(notes[0].contains("manifest.b is damaged (its checksum does not match)"), "{notes:?}");

    // Writing goes on, over the damaged copy and not over the good one.
    let mut ledger = Ledger::open(dir.path()).unwrap().ledger;
    ledger.commit(&contents(3, &[]).snapshot(), &[]).unwrap();
    assert_eq!(reopen(dir.path()), (contents(3, &[]), vec![]));
}

#[test]
fn two_damaged_copies_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap().ledger;
    ledger.commit(&contents(1, &[]).snapshot(), &[]).unwrap();
    for name in ["manifest.a", "manifest.b"] {
        fs::write(dir.path().join("ledger").join(name), b"garbage").unwrap();
    }
    let error = Ledger::open(dir.path()).unwrap_err();
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("restore the folder"), "{error}");
    assert_eq!(fs::read(dir.path().join("ledger/manifest.a")).unwrap(), b"garbage");
}

#[test]
fn a_lost_blob_costs_its_pod_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap().ledger;
    let kept = contents(1, &[pod("a", b"one")]);
    ledger.commit(&kept.snapshot(), &[Bytes::from_static(b"one")]).unwrap();
    ledger.commit(&contents(2, &[pod("a", b"one")]).snapshot(), &[]).unwrap();
    fs::remove_file(ledger.blob_path(&blob_hash(b"one"))).unwrap();
    let (found, notes) = reopen(dir.path());
    assert_eq!(found.session, 2, "the newest contents stay");
    assert!(notes[0].contains("cannot be made anew"), "{notes:?}");
}

#[test]
fn a_cut_over_an_older_copy_leaves_the_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap().ledger;
    for session in 1..=2 {
        ledger.commit(&contents(session, &[pod("a", b"one")]).snapshot(), &[Bytes::from_static(b"one")]).unwrap();
    }
    let cut = tempfile::tempdir().unwrap();
    copy(dir.path(), cut.path());
    let (before, after) = (contents(2, &[pod("a", b"one")]), contents(3, &[pod("b", b"one")]));
    ledger.commit(&after.snapshot(), &[]).unwrap();

    // The third commit goes over the first. A disk writes its sectors in any order.
    let slot = |dir: &TempDir| dir.path().join("ledger/manifest.a");
    let (old, new) = (fs::read(slot(&cut)).unwrap(), fs::read(slot(&dir)).unwrap());
    let used = HEADER_BYTES + serde_json::to_vec(&after).unwrap().len();
    for end in 0..=used {
        for (name, first, second) in [("its end", &new, &old), ("its beginning", &old, &new)] {
            let torn = [&first[..end], &second[end..]].concat();
            fs::write(slot(&cut), &torn).unwrap();
            let found = reopen(cut.path()).0;
            assert_eq!(found, if torn == new { after.clone() } else { before.clone() }, "cut at {end}, without {name}");
        }
    }
}

#[test]
fn a_second_cut_leaves_the_copy_that_was_whole_after_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap().ledger;
    let whole = contents(1, &[pod("a", b"one")]);
    ledger.commit(&whole.snapshot(), &[Bytes::from_static(b"one")]).unwrap();
    let after = contents(2, &[pod("a", b"one"), pod("b", b"two")]);
    ledger.commit(&after.snapshot(), &[Bytes::from_static(b"two")]).unwrap();
    // The slot came to the disk, the blob did not.
    fs::write(ledger.blob_path(&blob_hash(b"two")), b"").unwrap();

    let cut = tempfile::tempdir().unwrap();
    copy(dir.path(), cut.path());
    let Opened { mut ledger, contents, .. } = Ledger::open(dir.path()).unwrap();
    assert_eq!(contents, whole);
    ledger.commit(&contents.snapshot(), &[]).unwrap();
    for slot in ["ledger/manifest.a", "ledger/manifest.b"].map(|slot| dir.path().join(slot)) {
        let was = fs::read(cut.path().join(slot.strip_prefix(dir.path()).unwrap())).unwrap();
        if fs::read(&slot).unwrap() != was {
            fs::write(&slot, b"torn").unwrap();
        }
    }
    let (found, notes) = reopen(dir.path());
    assert_eq!(found, whole);
    assert!(!notes.iter().any(|note| note.contains("cannot be made anew")), "{notes:?}");
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
    let read = decode_slot(&slot(9, 1, json));
    assert!(matches!(read, Ok(Slot::Good { generation: 1, contents }) if contents.session == 4));
    assert!(matches!(decode_slot(&slot(9, 9, json)), Err(9)));
}

#[test]
fn every_field_of_each_earlier_format_is_understood() {
    // A format that changes gets a file of its own here, and the earlier ones stay.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ledger/format-1.json");
    let written: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let Ok(Slot::Good { contents, .. }) = decode_slot(&slot(1, 1, &serde_json::to_vec(&written).unwrap())) else {
        panic!("format 1 is not understood");
    };
    assert_eq!(serde_json::to_value(&contents).unwrap(), written);
}

#[test]
fn nobody_else_may_read_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap().ledger;
    ledger.commit(&contents(1, &[pod("a", b"secret")]).snapshot(), &[Bytes::from_static(b"secret")]).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path().join("ledger")), 0o700);
    assert_eq!(mode(dir.path().join("ledger/manifest.a")), 0o600);
    assert_eq!(mode(ledger.blob_path(&blob_hash(b"secret"))), 0o600);
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

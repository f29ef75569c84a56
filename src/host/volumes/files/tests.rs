use super::*;

fn payload(files: &[(&str, &str)]) -> Payload {
    let file = |content: &str| File { content: content.as_bytes().to_vec(), mode: 0o644, owner: None };
    files.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
}

/// What a container sees: every file that does not hide, by its path, read through the links.
fn shown(dir: &Path) -> BTreeMap<String, String> {
    fn walk(dir: &Path, below: &str, shown: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{below}{name}");
            if name.starts_with(HIDDEN) {
                continue;
            }
            match fs::read_to_string(entry.path()) {
                Ok(content) => drop(shown.insert(path, content)),
                Err(_) if entry.path().is_dir() => walk(&entry.path(), &format!("{path}/"), shown),
                // A link whose file is not there (any more).
                Err(_) => {}
            }
        }
    }
    let mut shown_here = BTreeMap::new();
    walk(dir, "", &mut shown_here);
    shown_here
}

fn expected(payload: &Payload) -> BTreeMap<String, String> {
    let text = |file: &File| String::from_utf8(file.content.clone()).unwrap();
    payload.iter().map(|(path, file)| (path.clone(), text(file))).collect()
}

/// The names in the volume itself.
fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_volume_has_the_kubelets_layout() {
    let temp = tempfile::tempdir().unwrap();
    let mut files = payload(&[("a", "1"), ("sub/b", "2"), ("sub/deep/c", "3")]);
    files.get_mut("a").unwrap().mode = 0o400;
    write(temp.path(), &files, None).unwrap();

    let version = fs::read_link(temp.path().join("..data")).unwrap();
    let name = version.to_str().unwrap();
    assert!(name.len() == "..2026_01_31_12_00_00.1234567890".len() && name.starts_with("..2"), "{name}");
    assert_eq!(names(temp.path()), ["..data", name, "a", "sub"].map(str::to_owned).into());
    assert_eq!(fs::read_link(temp.path().join("a")).unwrap(), Path::new("..data/a"));
    assert_eq!(fs::read_link(temp.path().join("sub")).unwrap(), Path::new("..data/sub"));
    assert_eq!(shown(temp.path()), expected(&files));
    let modes = ["..data", "a", "sub", "sub/deep", "sub/deep/c"].map(|path| mode(&temp.path().join(path)));
    assert_eq!(modes, [0o755, 0o400, 0o755, 0o755, 0o644]);
}

#[test]
fn what_is_there_already_is_not_written_again() {
    let temp = tempfile::tempdir().unwrap();
    let files = payload(&[("a", "1"), ("sub/b", "2")]);
    write(temp.path(), &files, None).unwrap();
    let version = fs::read_link(temp.path().join("..data")).unwrap();
    write(temp.path(), &files, None).unwrap();
    assert_eq!(fs::read_link(temp.path().join("..data")).unwrap(), version);
    assert!(plan(&look(temp.path(), &files, None).unwrap(), &files, "..new").is_empty());

    // A mode is part of it, and so is what is missing or too much.
    for changed in [payload(&[("a", "1")]), payload(&[("a", "1"), ("sub/b", "2"), ("c", "")])] {
        assert!(!look(temp.path(), &changed, None).unwrap().is_payload, "{changed:?}");
    }
    fs::set_permissions(temp.path().join("a"), Permissions::from_mode(0o600)).unwrap();
    write(temp.path(), &files, None).unwrap();
    assert_eq!(mode(&temp.path().join("a")), 0o644);
}

#[test]
fn an_update_replaces_everything_and_takes_stale_names_away() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path(), &payload(&[("a", "1"), ("sub/b", "2"), ("gone", "3")]), None).unwrap();
    // What is not ours stays: a directory made for a part of the volume.
    fs::create_dir(temp.path().join("part")).unwrap();
    let files = payload(&[("a", "new"), ("sub/other", "2"), ("part", "hidden by the directory")]);
    write(temp.path(), &files, None).unwrap();
    assert_eq!(shown(temp.path()), [("a", "new"), ("sub/other", "2")].map(|(a, b)| (a.into(), b.into())).into());
    let version = fs::read_link(temp.path().join("..data")).unwrap().into_os_string().into_string().unwrap();
    assert_eq!(names(temp.path()), ["..data".to_owned(), version, "a".into(), "part".into(), "sub".into()].into());
    write(temp.path(), &Payload::new(), None).unwrap();
    assert_eq!(shown(temp.path()), BTreeMap::new());
}

/// Cuts a write off before each of its steps, and in the middle of each file.
#[test]
fn a_write_that_is_cut_off_anywhere_shows_one_version_and_is_made_good_by_the_next() {
    let before = payload(&[("a", "old"), ("gone", "old"), ("sub/b", "old")]);
    let after = payload(&[("a", "new"), ("added", "new"), ("sub/b", "new")]);
    for from in [None, Some(&before)] {
        for cut in 0.. {
            let temp = tempfile::tempdir().unwrap();
            if let Some(from) = from {
                write(temp.path(), from, None).unwrap();
            }
            let seen = look(temp.path(), &after, None).unwrap();
            let steps = plan(&seen, &after, "..2000_01_01_00_00_00.0000000000");
            for step in &steps[..cut.min(steps.len())] {
                carry_out(temp.path(), step, None).unwrap();
            }
            if let Some(Step::Write(path, file)) = steps.get(cut) {
                fs::write(temp.path().join(path), &file.content[..1]).unwrap();
            }

            // A reader sees no mixture; names may come late and go late.
            let visible = shown(temp.path());
            let versions: BTreeSet<_> = visible.values().map(String::as_str).collect();
            assert!(versions.len() <= 1, "cut before step {cut} of {steps:?}: {visible:?}");
            let is_old = versions.contains("old");
            assert!(!is_old || visible.len() == 3, "cut before step {cut}: {visible:?}");

            write(temp.path(), &after, None).unwrap();
            assert_eq!(shown(temp.path()), expected(&after), "cut before step {cut} of {steps:?}");
            let hidden = names(temp.path()).into_iter().filter(|name| name.starts_with(HIDDEN));
            assert_eq!(hidden.count(), 2, "one version and the link to it are left after a cut before step {cut}");
            if cut >= steps.len() {
                break;
            }
        }
    }
}

#[test]
fn a_version_that_lost_its_content_is_written_again() {
    let temp = tempfile::tempdir().unwrap();
    let files = payload(&[("a", "1")]);
    write(temp.path(), &files, None).unwrap();
    // As a power cut may leave what was never flushed.
    fs::write(temp.path().join("a"), "").unwrap();
    write(temp.path(), &files, None).unwrap();
    assert_eq!(shown(temp.path()), expected(&files));
    let version = fs::canonicalize(temp.path().join("..data")).unwrap();
    fs::remove_dir_all(version).unwrap();
    write(temp.path(), &files, None).unwrap();
    assert_eq!(shown(temp.path()), expected(&files));
}

#[test]
fn the_volumes_group_may_read_and_a_token_is_its_users() {
    use std::os::unix::fs::MetadataExt;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: giving files away needs root");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let token = File { content: b"t".to_vec(), mode: 0o600, owner: Some(1000) };
    let files = [("token".to_owned(), token)].into_iter().chain(payload(&[("sub/a", "1")])).collect();
    write(temp.path(), &files, Some(2000)).unwrap();
    let owned = |path: &str| {
        let found = fs::metadata(temp.path().join(path)).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(owned("token"), (1000, 2000, 0o640));
    assert_eq!(owned("sub/a"), (0, 2000, 0o644));
    assert_eq!((owned("..data"), owned("sub")), ((0, 2000, 0o2755), (0, 2000, 0o2755)));
    assert!(look(temp.path(), &files, Some(2000)).unwrap().is_payload);
}

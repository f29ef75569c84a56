use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{RenameFlags, renameat2};
use proptest::prelude::*;

use super::*;

/// Where a descriptor leads.
fn place(file: &OwnedFd) -> PathBuf {
    fs::read_link(by_descriptor(file)).unwrap()
}

/// A volume beside something that is none of its business.
struct Scene {
    temp: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("volume/dir/sub")).unwrap();
        fs::create_dir_all(temp.path().join("outside/sub")).unwrap();
        fs::write(temp.path().join("volume/dir/file"), "inside").unwrap();
        fs::write(temp.path().join("outside/file"), "secret").unwrap();
        Self { temp }
    }

    fn volume(&self) -> PathBuf {
        fs::canonicalize(self.temp.path()).unwrap().join("volume")
    }

    fn link(&self, name: &str, target: impl AsRef<Path>) {
        symlink(target, self.volume().join(name)).unwrap();
    }
}

#[test]
fn a_part_is_found_over_links_that_stay_in_the_volume() {
    let scene = Scene::new();
    let volume = scene.volume();
    scene.link("link", "dir");
    scene.link("dir/up", "../dir/./sub");
    scene.link("absolute", volume.join("dir"));
    scene.link("here", ".");
    for (path, expected) in [
        ("dir", "dir"),
        ("dir/file", "dir/file"),
        ("link/sub", "dir/sub"),
        ("link/up", "dir/sub"),
        ("absolute/file", "dir/file"),
        ("here/here/dir", "dir"),
    ] {
        assert_eq!(place(&open(&volume, Path::new(path), false).unwrap()), volume.join(expected), "{path}");
    }
    assert_eq!(place(&open(&volume, Path::new("here"), false).unwrap()), volume);
    assert_eq!(read(&volume, Path::new("link/file")).unwrap().as_deref(), Some("inside"));
    assert_eq!(read(&volume, Path::new("link/missing")).unwrap(), None);
    read(&volume, Path::new("dir")).unwrap_err();
}

#[test]
fn no_link_leads_out_of_the_volume() {
    let scene = Scene::new();
    let volume = scene.volume();
    scene.link("out", "../outside");
    scene.link("dir/out", "../../outside");
    scene.link("absolute", volume.parent().unwrap().join("outside"));
    scene.link("passwd", "/etc/passwd");
    scene.link("back", "../volume/dir");
    scene.link("beside", format!("{}-other", volume.display()));
    for path in ["out", "out/sub", "out/file", "dir/out/file", "absolute", "passwd", "back", "beside"] {
        let refused = open(&volume, Path::new(path), true);
        assert!(matches!(refused, Err(PartError::Outside { .. })), "{path}: {refused:?}");
    }
    scene.link("loop", "loop");
    let refused = open(&volume, Path::new("loop"), true).unwrap_err();
    assert!(
        matches!(refused, PartError::File(FileError { source, .. }) if source.raw_os_error() == Some(libc_eloop()))
    );
    open(&volume, Path::new("dir/file/sub"), true).unwrap_err();
    assert!(!volume.parent().unwrap().join("outside/made").exists());
}

fn libc_eloop() -> i32 {
    Errno::ELOOP as i32
}

#[test]
fn a_missing_part_is_made_with_the_volumes_mode_and_never_where_a_link_points() {
    let scene = Scene::new();
    let volume = scene.volume();
    fs::set_permissions(&volume, Permissions::from_mode(0o2777)).unwrap();
    let made = open(&volume, Path::new("dir/new/deeper"), true).unwrap();
    assert_eq!(place(&made), volume.join("dir/new/deeper"));
    for path in ["dir/new", "dir/new/deeper"] {
        assert_eq!(fs::metadata(volume.join(path)).unwrap().permissions().mode() & 0o7777, 0o2777, "{path}");
    }
    scene.link("dangling", "dir/nothing");
    open(&volume, Path::new("dangling"), true).unwrap_err();
    open(&volume, Path::new("dangling/below"), true).unwrap_err();
    assert!(!volume.join("dir/nothing").exists());
    open(&volume, Path::new("other"), false).unwrap_err();
    assert!(!volume.join("other").exists());
}

#[test]
fn links_exchanged_while_the_walk_is_under_way_lead_nowhere_else() {
    let scene = Scene::new();
    let volume = scene.volume();
    scene.link("evil", "../outside");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (volume.join("dir"), volume.join("evil"));
            while !stop.load(Ordering::Relaxed) {
                renameat2(nix::fcntl::AT_FDCWD, &a, nix::fcntl::AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        let mut found = [0, 0];
        for _ in 0..5000 {
            match open(&volume, Path::new("dir/sub"), true) {
                Ok(part) => {
                    assert!(place(&part).starts_with(&volume), "{}", place(&part).display());
                    found[0] += 1;
                }
                Err(_) => found[1] += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(found[0] > 0 && found[1] > 0, "both were met: {found:?}");
    });
    let beside: Vec<_> = fs::read_dir(volume.parent().unwrap().join("outside")).unwrap().flatten().collect();
    assert_eq!(beside.len(), 2, "nothing was made outside: {beside:?}");
}

/// What a container may do to its volume.
#[derive(Debug, Clone)]
enum Act {
    Dir(String),
    File(String),
    Link(String, String),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"))
}

fn act() -> impl Strategy<Value = Act> {
    let part = prop_oneof![4 => "[abc]".boxed(), 2 => Just("..".to_owned()).boxed(), 1 => Just(".".to_owned()).boxed()];
    let relative = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    // `@` stands for the volume itself.
    let target = prop_oneof![4 => relative.clone(), 1 => relative.prop_map(|path| format!("@/{path}")), 1 => Just("/".to_owned())];
    prop_oneof![
        path().prop_map(Act::Dir),
        path().prop_map(Act::File),
        (path(), target).prop_map(|(at, to)| Act::Link(at, to)),
    ]
}

proptest! {
    #[test]
    fn whatever_a_volume_holds_a_part_is_in_it_and_is_what_the_kernel_finds(
        acts in prop::collection::vec(act(), 0..12),
        wanted in path(),
    ) {
        let scene = Scene::new();
        let volume = scene.volume();
        for act in acts {
            let (Act::Dir(at) | Act::File(at) | Act::Link(at, _)) = &act;
            let at = volume.join(at);
            // A container reaches nothing outside; what cannot be done is not done.
            if !at.parent().and_then(|above| fs::canonicalize(above).ok()).is_some_and(|above| above.starts_with(&volume)) {
                continue;
            }
            match &act {
                Act::Dir(_) => drop(fs::create_dir(at)),
                Act::File(_) => drop(File::create_new(at)),
                Act::Link(_, to) => drop(symlink(to.replace('@', &volume.display().to_string()), at)),
            }
        }
        let by_kernel = fs::canonicalize(volume.join(&wanted));
        let by_walk = open(&volume, Path::new(&wanted), false);
        match (&by_kernel, &by_walk) {
            (Ok(by_kernel), Ok(part)) => {
                prop_assert!(by_kernel.starts_with(&volume));
                prop_assert_eq!(by_kernel, &place(part));
            }
            // Here `.` behind a file is the file.
            (Err(_), Ok(part)) => prop_assert!(place(part).starts_with(&volume)),
            // Out of the volume, perhaps only for a part of the way.
            (Ok(_), Err(error)) => prop_assert!(matches!(error, PartError::Outside { .. }), "{error:?}"),
            (Err(_), Err(_)) => {}
        }
    }
}

//! The folder of manifests: read whole whenever something in it changes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use super::blocking::blocking;
use super::desired::Folder;
use super::manifest::{self, Manifests};
use super::roster::Input;
use crate::error::Chain;
use crate::host::ledger::FolderId;
use crate::host::watch::FolderWatch;
use crate::model::ObjectKey;

/// What a manifest's name ends with; anything else in the folder is left alone, as are hidden files.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// A manifest larger than this is refused; the API server's own bound on a request.
const FILE_BYTES_MAX: u64 = 3 * 1024 * 1024;

/// How often it is looked whether something was mounted on top of the folder, which makes no event.
const MOUNT_INTERVAL: Duration = Duration::from_secs(60);

/// Runs until the roster is gone: reads the folder, and again after each change.
///
/// # Errors
/// When the kernel cannot watch any more folders.
pub(super) async fn run(path: PathBuf, inputs_tx: mpsc::Sender<Input>) -> io::Result<()> {
    let mut watch = FolderWatch::new(&path)?;
    loop {
        let folder = path.clone();
        let folder = blocking(move || read(&folder)).await;
        let known = folder.as_ref().ok().map(|folder| folder.id);
        if inputs_tx.send(Input::Folder(folder)).await.is_err() {
            return Ok(());
        }
        loop {
            match tokio::time::timeout(MOUNT_INTERVAL, watch.changed()).await {
                Ok(changed) => break changed?,
                Err(_) if tokio::fs::metadata(&path).await.ok().as_ref().map(id) != known => {
                    watch = FolderWatch::new(&path)?;
                    break;
                }
                Err(_) => {}
            }
        }
    }
}

fn id(folder: &fs::Metadata) -> FolderId {
    FolderId { device: folder.dev(), inode: folder.ino() }
}

/// Reads every manifest of the folder, in the order of the files' names.
fn read(path: &Path) -> Result<Folder, String> {
    let trouble = |error: io::Error| format!("cannot read the folder of manifests {}: {error}", path.display());
    let id_now = || fs::metadata(path).map(|folder| id(&folder)).map_err(trouble);
    let id = id_now()?;
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(trouble)? {
        let file = entry.map_err(trouble)?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let known = file.extension().and_then(|end| end.to_str()).is_some_and(|end| EXTENSIONS.contains(&end));
        if known && !hidden {
            files.push(file);
        }
    }
    files.sort();
    let mut folder = Folder { id, sets: Vec::new(), objects: Vec::new(), troubles: Vec::new() };
    for file in files {
        match read_file(&file) {
            Ok(manifests) => add(&mut folder, manifests, &file),
            Err(error) => folder.troubles.push(format!("{}: {error}", file.display())),
        }
    }
    // What was read of a mount that came or went meanwhile must not pass for the content of the other folder.
    if id_now()? != id {
        return Err(format!("the folder of manifests {} was exchanged while it was read", path.display()));
    }
    Ok(folder)
}

/// Of two manifests with the same name the first file's holds.
fn add(folder: &mut Folder, manifests: Manifests, file: &Path) {
    let twice = |kind: &str, key: &ObjectKey| format!("{}: {kind} {key} is in another file already", file.display());
    for set in manifests.sets {
        let key = set.key();
        if folder.sets.iter().any(|other| other.key() == key) {
            folder.troubles.push(twice("DaemonSet", &key));
        } else {
            folder.sets.push(set);
        }
    }
    for object in manifests.objects {
        if folder.objects.iter().any(|other| (other.kind, &other.key) == (object.kind, &object.key)) {
            folder.troubles.push(twice(&object.kind.to_string(), &object.key));
        } else {
            folder.objects.push(object);
        }
    }
}

fn read_file(file: &Path) -> Result<Manifests, String> {
    let length = fs::metadata(file).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("{length} bytes are more than a manifest may have, {FILE_BYTES_MAX}"));
    }
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    manifest::read(&text).map_err(|error| Chain(&error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::wait::LIMIT;

    fn manifest(name: &str) -> String {
        include_str!("../../examples/gpu-monitor.yaml").replace("gpu-monitor", name)
    }

    #[test]
    fn every_manifest_counts_and_what_is_wrong_with_others_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\n";
        write("b.yaml", &format!("{}---\n{}---\n{config}", manifest("web"), manifest("log")));
        write("c.yml", &format!("{}---\n{config}", manifest("web")));
        write("a.json", "{\"kind\": ");
        write("d.yaml", &" ".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1));
        write(".hidden.yaml", &manifest("hidden"));
        write("notes.txt", &manifest("notes"));
        fs::create_dir(dir.path().join("e.yaml")).unwrap();

        let folder = read(dir.path()).unwrap();
        let names: Vec<_> = folder.sets.iter().map(|set| set.name.as_str()).collect();
        assert_eq!(names, ["web", "log"]);
        assert_eq!(folder.objects.iter().map(|object| object.key.to_string()).collect::<Vec<_>>(), ["default/app"]);
        let at = |file: &str| dir.path().join(file).display().to_string();
        let expected = [
            format!("{}: not YAML: ", at("a.json")),
            format!("{}: DaemonSet default/web is in another file already", at("c.yml")),
            format!("{}: ConfigMap default/app is in another file already", at("c.yml")),
            format!("{}: 3145729 bytes are more than a manifest may have, 3145728", at("d.yaml")),
            format!("{}: Is a directory", at("e.yaml")),
        ];
        assert_eq!(folder.troubles.len(), expected.len(), "{:?}", folder.troubles);
        for (said, expected) in folder.troubles.iter().zip(expected) {
            assert!(said.starts_with(&expected), "{said}");
        }
    }

    #[tokio::test]
    async fn the_folder_is_read_again_after_each_change_and_may_come_late() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifests");
        let (inputs_tx, mut inputs_rx) = mpsc::channel(8);
        let task = tokio::spawn(run(path.clone(), inputs_tx));
        // Several changes may be one reading.
        let mut until = async |wanted: Result<usize, ()>| loop {
            let input = tokio::time::timeout(LIMIT, inputs_rx.recv()).await.expect("the folder is read").unwrap();
            let Input::Folder(folder) = input else { panic!("{input:?}") };
            if folder.map(|folder| folder.sets.len()).map_err(drop) == wanted {
                return;
            }
        };
        until(Err(())).await;
        fs::create_dir(&path).unwrap();
        until(Ok(0)).await;
        fs::write(path.join("web.yaml"), manifest("web")).unwrap();
        until(Ok(1)).await;
        fs::remove_file(path.join("web.yaml")).unwrap();
        until(Ok(0)).await;
        task.abort();
    }
}

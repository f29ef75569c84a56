//! Writing a volume of files so that a reader sees all of one version or all of the next, whatever happens in between.
//!
//! ```text
//! <volume>/..2026_01_31_12_00_00.1234567890/   all files of one version
//! <volume>/..data  -> ..2026_01_31_12_00_00.1234567890
//! <volume>/<first part of a path>  -> ..data/<first part of a path>
//! ```
//!
//! What is there is looked at, what is to be done follows from it ([`plan`], pure), and is done step by step. A writer that
//! was cut off leaves a volume of which the next one makes the right one: leftovers are removed, and files that are not as
//! they should be are another version. The layout and its order are the kubelet's; daemons watch `..data`.
//!
//! Source: kubernetes v1.36 `pkg/volume/util/atomic_writer.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::host::{FileError, failed};
use crate::podspec::bind::{File, Payload};

/// The link to the present version.
const DATA: &str = "..data";
/// What becomes that link.
const DATA_NEW: &str = "..data_tmp";
/// What names of versions and of their links begin with; no file's does.
const HIDDEN: &str = "..";
/// Every directory of a version.
const DIR_MODE: u32 = 0o755;
/// What the volume's group may do beside: read files, and look into directories, where new files are its own.
const GROUP_FILE_MODE: u32 = 0o440;
const GROUP_DIR_MODE: u32 = 0o2550;

/// Writes `payload` into the directory `dir`; nothing if that is what it holds. `group` is whose the files are besides
/// their owner, and then may be read by.
///
/// # Errors
/// [`FileError`]; readers then see the version before, and the next call goes on.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> Result<(), FileError> {
    let seen = look(dir, payload, group)?;
    for step in plan(&seen, payload, &fresh_name()) {
        carry_out(dir, &step, group)?;
    }
    Ok(())
}

/// A name no version had before.
fn fresh_name() -> String {
    let random = uuid::Uuid::new_v4().as_u128() % 10_000_000_000;
    format!("{}.{random:010}", Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S"))
}

/// What is in the directory.
#[derive(Debug, Default)]
struct Seen {
    /// The version that `..data` leads to.
    current: Option<String>,
    /// It is the payload.
    is_payload: bool,
    /// Links to files of the present version, by name.
    links: BTreeSet<String>,
    /// Every hidden name but `..data`: versions and beginnings of links.
    hidden: BTreeSet<String>,
}

/// One step. Paths are below the volume.
#[derive(Debug)]
enum Step<'a> {
    /// A file, a link, or a directory with all that is in it.
    Remove(PathBuf),
    MakeDir(PathBuf),
    Write(PathBuf, &'a File),
    Link {
        at: PathBuf,
        to: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
}

// === look ===

fn look(dir: &Path, payload: &Payload, group: Option<u32>) -> Result<Seen, FileError> {
    let mut seen = Seen::default();
    for entry in fs::read_dir(dir).map_err(failed("read", dir))? {
        let entry = entry.map_err(failed("read", dir))?;
        // The names we make are text; any other is not ours.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let target = fs::read_link(entry.path()).ok();
        if name == DATA {
            seen.current = target.and_then(|target| target.into_os_string().into_string().ok());
        } else if name.starts_with(HIDDEN) {
            seen.hidden.insert(name);
        } else if target.is_some_and(|target| target.starts_with(DATA)) {
            seen.links.insert(name);
        }
    }
    if let Some(current) = &seen.current {
        seen.is_payload = holds(&dir.join(current), payload, group);
    }
    Ok(seen)
}

/// Whether a version is the payload, to the last bit. What cannot be read is not.
fn holds(version: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let mut found = BTreeMap::new();
    let is_readable = collect(version, Path::new(""), &mut found).is_ok();
    let expected = payload.iter().map(|(path, file)| (PathBuf::from(path), (file_mode(file, group), &file.content)));
    is_readable
        && found.len() == payload.len()
        && expected
            .zip(&found)
            .all(|((path, (mode, content)), found)| *found.0 == path && found.1.0 == mode && found.1.1 == *content)
}

/// Adds mode and content of every file in `dir` and below.
fn collect(dir: &Path, below: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, below) = (entry.path(), below.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            collect(&path, &below, found)?;
        } else {
            let mode = fs::symlink_metadata(&path)?.permissions().mode() & 0o7777;
            found.insert(below, (mode, fs::read(&path)?));
        }
    }
    Ok(())
}

// === plan ===

/// What leads from what is there to the payload. `fresh` names a version that is not there yet.
fn plan<'a>(seen: &Seen, payload: &'a Payload, fresh: &str) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    let kept = seen.current.as_ref().filter(|_| seen.is_payload);
    // What a writer before left that was cut off; the present version goes last.
    let leftovers = seen.hidden.iter().filter(|name| Some(*name) != seen.current.as_ref());
    steps.extend(leftovers.map(|name| Step::Remove(name.into())));
    if kept.is_none() {
        steps.extend(version(payload, Path::new(fresh)));
        steps.push(Step::Link { at: DATA_NEW.into(), to: fresh.into() });
        steps.push(Step::Rename { from: DATA_NEW.into(), to: DATA.into() });
    }
    let names: BTreeSet<String> =
        payload.keys().map(|path| path.split('/').next().unwrap_or_default().to_owned()).collect();
    let link = |name: &String| Step::Link { at: name.into(), to: Path::new(DATA).join(name) };
    steps.extend(names.difference(&seen.links).map(link));
    steps.extend(seen.links.difference(&names).map(|name| Step::Remove(name.into())));
    let old = seen.current.as_ref().filter(|name| kept.is_none() && seen.hidden.contains(*name));
    steps.extend(old.map(|name| Step::Remove(name.into())));
    steps
}

/// Makes one version: each directory before what is in it.
fn version<'a>(payload: &'a Payload, root: &Path) -> Vec<Step<'a>> {
    let mut dirs = BTreeSet::from([root.to_owned()]);
    for path in payload.keys() {
        let above = Path::new(path).ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
        dirs.extend(above.map(|above| root.join(above)));
    }
    let files = payload.iter().map(|(path, file)| Step::Write(root.join(path), file));
    dirs.into_iter().map(Step::MakeDir).chain(files).collect()
}

// === carry out ===

fn carry_out(dir: &Path, step: &Step<'_>, group: Option<u32>) -> Result<(), FileError> {
    match step {
        Step::Remove(path) => {
            let path = dir.join(path);
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(failed("remove", &path))
        }
        Step::MakeDir(path) => {
            let path = dir.join(path);
            let made = DirBuilder::new().mode(0o700).create(&path);
            let made = made.and_then(|()| chown(&path, None, group));
            let mode = if group.is_some() { DIR_MODE | GROUP_DIR_MODE } else { DIR_MODE };
            let made = made.and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)));
            made.map_err(failed("make directory", &path))
        }
        Step::Write(path, file) => {
            let path = dir.join(path);
            write_file(&path, file, group).map_err(failed("write", &path))
        }
        Step::Link { at, to } => {
            let at = dir.join(at);
            match symlink(to, &at) {
                // Something that is not ours has the name: a directory made for a part of the volume, as upstream makes it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                linked => linked.map_err(failed("make link", &at)),
            }
        }
        Step::Rename { from, to } => {
            fs::rename(dir.join(from), dir.join(to)).map_err(failed("rename", &dir.join(from)))
        }
    }
}

/// Nobody else may look in before the file is whose it is to be.
fn write_file(path: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    made.write_all(&file.content)?;
    let owner = file.owner.and_then(|owner| u32::try_from(owner).ok());
    std::os::unix::fs::fchown(&made, owner, group)?;
    made.set_permissions(Permissions::from_mode(file_mode(file, group)))
}

fn file_mode(file: &File, group: Option<u32>) -> u32 {
    if group.is_some() { file.mode | GROUP_FILE_MODE } else { file.mode }
}

#[cfg(test)]
mod tests;

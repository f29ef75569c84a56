//! Rotating a container's log: the live file is moved aside, older ones are compressed, the oldest removed.
//!
//! ```text
//! 0.log   0.log.20260131-120000   0.log.20260131-110000.gz   0.log.20260131-100000.gz …
//! live    moved aside last        compressed when the next is moved aside
//! ```
//!
//! Whoever moves a live file aside has to have the runtime open another one; until then it writes to the old one. A log
//! is looked at by path only and no link is followed: daemons may mount the logs' directory.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/logs/container_log_manager.go`. Times are in UTC, not in the host's zone, so that
//! their order is that of the files also when clocks are put back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use nix::fcntl::OFlag;

use crate::host::{self, FileError, failed};

/// How large a log gets (the kubelet's `containerLogMaxSize`).
const SIZE_MAX: u64 = 10 * 1024 * 1024;
/// How many files a log has, the live one included (the kubelet's `containerLogMaxFiles`).
const FILES_MAX: usize = 5;
/// What is being compressed.
const TMP: &str = ".tmp";
/// What was compressed.
const GZ: &str = ".gz";

/// What a log calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It goes on.
    Nothing,
    /// It is not there: the runtime has to open it again.
    Reopen,
    /// It is too large.
    Rotate,
}

/// A live file that was moved aside.
#[derive(Debug)]
#[must_use = "the runtime has to open another"]
pub struct Rotated {
    path: PathBuf,
    aside: PathBuf,
}

/// Looks at the live file at `path`.
///
/// # Errors
/// [`FileError`] if that is not possible.
pub fn due(path: &Path) -> Result<Due, FileError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() >= SIZE_MAX => Ok(Due::Rotate),
        Ok(_) => Ok(Due::Nothing),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Due::Reopen),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// Makes room among the older files and moves the live one at `path` aside. Blocks for as long as compressing takes.
///
/// # Errors
/// [`FileError`] naming what could not be done; the live file is where it was.
pub fn rotate(path: &Path, now: Timestamp) -> Result<Rotated, FileError> {
    let dir = dir_of(path);
    let tidying = tidy(moved_aside(path)?);
    for name in tidying.remove {
        host::remove(&dir.join(name))?;
    }
    for name in tidying.compress {
        compress(&dir.join(name))?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = dir.join(format!("{name}.{}", now.strftime("%Y%m%d-%H%M%S")));
    fs::rename(path, &aside).map_err(failed("rename", path))?;
    Ok(Rotated { path: path.to_owned(), aside })
}

/// Removes the log at `path`, with all that was moved aside of it. Nothing there is success.
///
/// # Errors
/// [`FileError`] naming what could not be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let dir = dir_of(path);
    if !dir.exists() {
        return Ok(());
    }
    for name in moved_aside(path)? {
        host::remove(&dir.join(name))?;
    }
    host::remove(path)
}

/// The names of files that were moved aside, in no order, half-done ones included.
fn moved_aside(path: &Path) -> Result<Vec<String>, FileError> {
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let dir = dir_of(path);
    let entries = fs::read_dir(dir).map_err(failed("list", dir))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(&prefix)).collect())
}

fn dir_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

impl Rotated {
    /// Puts the file back, since the runtime did not open another.
    ///
    /// # Errors
    /// [`FileError`] if that is not possible.
    pub fn undo(self) -> Result<(), FileError> {
        fs::rename(&self.aside, &self.path).map_err(failed("rename", &self.aside))
    }
}

/// What becomes of the files that were moved aside before.
#[derive(Debug, PartialEq, Eq)]
struct Tidying {
    remove: Vec<String>,
    compress: Vec<String>,
}

/// `names` are all that begin as the log does, the live file left out.
fn tidy(mut names: Vec<String>) -> Tidying {
    names.sort();
    // What was left half done: the file it was made from is still there, or is not needed any more.
    let is_surplus = |name: &String| name.ends_with(TMP) || names.contains(&format!("{name}{GZ}"));
    let (mut remove, mut kept): (Vec<_>, Vec<_>) = names.iter().cloned().partition(is_surplus);
    // Beside them there are the live one and the one it becomes.
    let excess = kept.len().saturating_sub(FILES_MAX - 2);
    remove.extend(kept.drain(..excess));
    kept.retain(|name| !name.ends_with(GZ));
    Tidying { remove, compress: kept }
}

fn compress(path: &Path) -> Result<(), FileError> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (tmp, gz) = (with(TMP), with(GZ));
    let open = |options: &mut OpenOptions, path: &Path| {
        options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path).map_err(failed("open", path))
    };
    let mut plain = open(OpenOptions::new().read(true), path)?;
    let compressed = open(OpenOptions::new().write(true).create_new(true).mode(0o640), &tmp)?;
    let written = write_compressed(&mut plain, compressed);
    if let Err(error) = written.and_then(|()| fs::rename(&tmp, &gz)) {
        // Otherwise it is removed before the next rotation.
        let _ = fs::remove_file(&tmp);
        return Err(failed("compress", path)(error));
    }
    fs::remove_file(path).map_err(failed("remove", path))
}

fn write_compressed(plain: &mut File, compressed: File) -> io::Result<()> {
    let mut encoder = GzEncoder::new(BufWriter::new(compressed), Compression::default());
    io::copy(plain, &mut encoder)?;
    encoder.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn the_newest_are_kept_and_what_was_left_half_done_goes() {
        let names = |list: &str| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (there, remove, compress) in [
            ("", "", ""),
            ("l.3", "", "l.3"),
            ("l.3 l.2.gz l.1.gz", "", "l.3"),
            ("l.4 l.3.gz l.2.gz l.1.gz", "l.1.gz", "l.4"),
            ("l.1 l.2 l.3 l.4 l.5", "l.1 l.2", "l.3 l.4 l.5"),
            ("l.2 l.2.gz l.1.gz.tmp l.3.tmp l.3", "l.1.gz.tmp l.2 l.3.tmp", "l.3"),
        ] {
            let expected = Tidying { remove: names(remove), compress: names(compress) };
            assert_eq!(tidy(names(there)), expected, "{there}");
        }
    }

    #[test]
    fn a_log_that_is_too_large_is_moved_aside_and_kept_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        assert_eq!(due(&path).unwrap(), Due::Reopen);
        let at = |second: i64| Timestamp::from_second(1_769_860_800 + second).unwrap();
        for round in 0..7_u8 {
            let file = File::create(&path).unwrap();
            (&file).write_all(&[b'0' + round]).unwrap();
            assert_eq!(due(&path).unwrap(), Due::Nothing);
            file.set_len(SIZE_MAX).unwrap();
            assert_eq!(due(&path).unwrap(), Due::Rotate);
            let _ = rotate(&path, at(round.into())).unwrap();
            // What the runtime goes on writing to another container's log of a like name stays.
            fs::write(dir.path().join("10.log"), "").unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let of = |second: &str, suffix: &str| format!("0.log.20260131-12000{second}{suffix}");
        assert_eq!(names, [of("3", ".gz"), of("4", ".gz"), of("5", ".gz"), of("6", ""), "10.log".to_owned()]);
        let mut first = [0];
        GzDecoder::new(File::open(dir.path().join(&names[0])).unwrap()).read_exact(&mut first).unwrap();
        assert_eq!(first, *b"3");

        fs::write(&path, "live").unwrap();
        rotate(&path, at(9)).unwrap().undo().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "live");
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("0.log"), dir.path().join("secret"));
        fs::write(&path, "live").unwrap();
        fs::write(&secret, "secret").unwrap();
        std::os::unix::fs::symlink(&secret, dir.path().join("0.log.20260131-120000")).unwrap();
        let error = rotate(&path, Timestamp::now()).unwrap_err();
        assert!(error.to_string().starts_with("cannot open "), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "live");
    }
}

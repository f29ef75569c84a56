//! What device plugins have on disk: the folder in which they and the agent have their sockets, and who holds which devices.
//!
//! `<root>/device-plugins/kubelet.sock` is where a plugin registers, `<root>/pod-resources/kubelet.sock` where others ask who has what: both
//! folders are mounted by daemons, their layout is frozen. `<state-dir>/devices.json` is the agent's own:
//!
//! ```text
//! { "format": 1, "bootId": …, "holdings": [{ "pod", "container", "resource", "devices", "granted", "preStart" }] }
//! ```
//!
//! It counts as long as the host runs: with another boot no container is there that has anything, and plugins are asked anew. So
//! it need not reach the disk, and is replaced in one step.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{FileError, failed, socket};
use crate::fit::devices::Holding;

/// Where plugins and the agent have their sockets, below the root directory.
pub const PLUGINS: &str = "device-plugins";
/// Where the agent tells who has what, below the root directory.
pub const POD_RESOURCES: &str = "pod-resources";
/// In either folder.
pub const SOCKET: &str = "kubelet.sock";
/// Below the state directory.
pub const FILE: &str = "devices.json";
/// The format this version reads and writes.
const FORMAT: u32 = 1;

/// Makes a folder and listens there, in place of an agent that is gone. The sockets of plugins go: they notice, and register
/// again.
///
/// # Errors
/// [`FileError`], also for a folder whose path is too long for a socket (107 bytes in all).
pub fn listen(folder: &Path) -> Result<UnixListener, FileError> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(folder);
    made.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o750)))
        .map_err(failed("make directory", folder))?;
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let entry = entry.map_err(failed("read", folder))?;
        if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            super::remove(&entry.path())?;
        }
    }
    socket::bind(&folder.join(SOCKET))
}

/// Who holds which devices, beyond the life of an agent.
#[derive(Debug)]
pub struct HoldingsFile {
    path: PathBuf,
    boot_id: String,
}

/// What stands in it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    format: u32,
    boot_id: String,
    holdings: Vec<Holding>,
}

/// Why it is not known who holds what.
#[derive(Debug, thiserror::Error)]
pub enum HoldingsError {
    /// The system would not.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what was written.
    #[error("{path} cannot be understood")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Another version wrote it.
    #[error("{path} is of format {format}, and this version reads {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
}

impl HoldingsFile {
    /// The file of a state directory, for this boot of the host.
    pub fn new(state_dir: &Path, boot_id: &str) -> Self {
        Self { path: state_dir.join(FILE), boot_id: boot_id.to_owned() }
    }

    /// Who held what when it was last written; nobody where it is not there, or of another boot.
    ///
    /// # Errors
    /// [`HoldingsError`].
    pub fn read(&self) -> Result<Vec<Holding>, HoldingsError> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(failed("read", &self.path))?,
        };
        parse(&text, &self.boot_id, &self.path)
    }

    /// Replaces it.
    ///
    /// # Errors
    /// [`FileError`]; it is then as it was.
    pub fn write(&self, holdings: Vec<Holding>) -> Result<(), FileError> {
        let written = Written { format: FORMAT, boot_id: self.boot_id.clone(), holdings };
        let text = serde_json::to_vec(&written).expect("its map keys are strings");
        let new = self.path.with_extension("new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        file.and_then(|mut file| file.write_all(&text)).map_err(failed("write", &new))?;
        fs::rename(&new, &self.path).map_err(failed("replace", &self.path))
    }
}

/// What the text of the file at `path` says in this boot.
pub(crate) fn parse(text: &[u8], boot_id: &str, path: &Path) -> Result<Vec<Holding>, HoldingsError> {
    let damaged = |source| HoldingsError::Damaged { path: path.to_owned(), source };
    /// What every format has.
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let Head { format } = serde_json::from_slice(text).map_err(damaged)?;
    if format != FORMAT {
        return Err(HoldingsError::Format { path: path.to_owned(), format });
    }
    let written: Written = serde_json::from_slice(text).map_err(damaged)?;
    Ok(if written.boot_id == boot_id { written.holdings } else { Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Chain;
    use crate::podspec::Granted;

    #[test]
    fn listening_removes_the_sockets_of_plugins_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(PLUGINS);
        drop(listen(&folder).unwrap());
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o750);
        drop(UnixListener::bind(folder.join("plugin.sock")).unwrap());
        fs::write(folder.join("plugin.conf"), "").unwrap();
        let _listener = listen(&folder).unwrap();
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [SOCKET, "plugin.conf"]);
    }

    #[test]
    fn holdings_are_read_back_within_the_same_boot_and_garbage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = HoldingsFile::new(dir.path(), "boot");
        assert_eq!(file.read().unwrap(), []);
        let holding = Holding {
            pod: "uid".into(),
            container: "main".to_owned(),
            resource: "example.com/thing".to_owned(),
            devices: ["a".to_owned()].into(),
            granted: Some(Granted { env: [("A".to_owned(), "a".to_owned())].into(), ..Granted::default() }),
            pre_start: true,
        };
        file.write(vec![holding.clone()]).unwrap();
        assert_eq!(file.read().unwrap(), [holding]);
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(HoldingsFile::new(dir.path(), "next").read().unwrap(), []);

        let words = |text: &str| {
            fs::write(&path, text).unwrap();
            Chain(&file.read().unwrap_err()).to_string()
        };
        assert!(words("{").starts_with(&format!("{} cannot be understood: EOF", path.display())));
        let newer = r#"{"format": 2, "holdings": {}}"#;
        assert_eq!(words(newer), format!("{} is of format 2, and this version reads 1", path.display()));
    }
}

//! Files with keys in them: private, and replaced whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::TlsError;

/// Puts `content` at `path`, mode 0600, on disk when this returns. Makes the folder if it is not there.
///
/// # Errors
/// [`TlsError::File`] naming the file.
pub fn write_private(path: &Path, content: &str) -> Result<(), TlsError> {
    let folder = path.parent().expect("every path here is in the state directory");
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(error("make", folder))?;
    let new = path.with_added_extension("new");
    // One that a crash left behind may have another mode.
    remove_private(&new)?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(error("make", &new))?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(error("write", &new))?;
    fs::rename(&new, path).map_err(error("replace", path))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(error("write", folder))
}

/// What is at `path`; nothing if there is no such file.
///
/// # Errors
/// [`TlsError::File`] naming the file.
pub fn read_private(path: &Path) -> Result<Option<String>, TlsError> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(error("read", path)(source)),
    }
}

/// Removes what is at `path`, if there is such a file.
///
/// # Errors
/// [`TlsError::File`] naming the file.
pub fn remove_private(path: &Path) -> Result<(), TlsError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error("remove", path)(source)),
        _ => Ok(()),
    }
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::File { action, path, source }
}

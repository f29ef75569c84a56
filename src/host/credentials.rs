//! The node's own credentials for registries, as a kubelet has them: docker's `config.json` in its root directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{FileError, failed};
use crate::podspec::{BadCredentials, Keyring};

/// Below the root directory. Read anew for each pull, so that it can be changed at any time.
const FILE: &str = "config.json";

/// Why the node has no credentials though there is a file with some.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The system would not.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not docker's.
    #[error("cannot use the registry credentials in {path}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BadCredentials,
    },
}

/// What the node may show to registries; nothing where there is no such file.
///
/// # Errors
/// [`CredentialsError`], which quotes nothing of the file.
pub fn keyring(root_dir: &Path) -> Result<Keyring, CredentialsError> {
    let path = root_dir.join(FILE);
    let mut keyring = Keyring::default();
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keyring),
        read => read.map_err(failed("read", &path))?,
    };
    keyring.add_config_json(&text).map_err(|source| CredentialsError::Content { path, source })?;
    Ok(keyring)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Chain;

    #[test]
    fn a_file_need_not_be_there_but_has_to_be_dockers() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(keyring(temp.path()).unwrap().lookup("a.example/x"), []);
        let file = temp.path().join(FILE);
        fs::write(&file, r#"{"auths": {"a.example": {"username": "node", "password": "p"}}}"#).unwrap();
        assert_eq!(keyring(temp.path()).unwrap().lookup("a.example/x")[0].username, "node");
        fs::write(&file, "secret").unwrap();
        let error = keyring(temp.path()).unwrap_err();
        let expected = format!(
            "cannot use the registry credentials in {}: it is no docker configuration: wrong at line 1 column 1",
            file.display()
        );
        assert_eq!(Chain(&error).to_string(), expected);
    }
}

//! The ledger's key, which the operator of a host makes or does not make.
//!
//! It is a credential of the agent's unit, that systemd decrypts with the host's TPM or its key of this host. A command that
//! somebody calls beside the unit is handed none, and has systemd-creds(1) decrypt the same file.
//!
//! Source: systemd.exec(5), `LoadCredentialEncrypted=`.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::host::{FileError, service, units};
use crate::seal::{KEY_BYTES, Key};

/// The name of the credential.
pub const CREDENTIAL: &str = "garrison.ledger";
/// Where an operator puts it, and systemd finds it by its name.
const FILE: &str = "/etc/credstore.encrypted/garrison.ledger";

/// Why the key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The credential.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no such program, or it cannot be run.
    #[error("cannot run systemd-creds decrypt {FILE}")]
    Run(#[source] io::Error),
    /// systemd says no.
    #[error("systemd-creds decrypt {FILE}: {0}")]
    Refused(String),
    /// It is no key.
    #[error(
        "the credential {CREDENTIAL} has {0} bytes, and a key has {KEY_BYTES}. Where it was changed, put {FILE} back as it was; for a \
         ledger that is not sealed yet make it with: head -c {KEY_BYTES} /dev/urandom | systemd-creds encrypt --name={CREDENTIAL} - {FILE}"
    )]
    Length(usize),
}

/// The key of this host's ledger; none where nobody has made one. Waits for the TPM if there is one.
///
/// # Errors
/// [`KeyError`] for one that is there and cannot be used.
pub fn find() -> Result<Option<Key>, KeyError> {
    let found = match service::credential_bytes(CREDENTIAL)? {
        None if Path::new(FILE).exists() => Some(decrypt()?),
        found => found,
    };
    found.map(|bytes| of(&bytes)).transpose()
}

fn of(bytes: &[u8]) -> Result<Key, KeyError> {
    bytes.try_into().map(Key::new).map_err(|_| KeyError::Length(bytes.len()))
}

fn decrypt() -> Result<Vec<u8>, KeyError> {
    let run = Command::new("systemd-creds").args(["decrypt", &format!("--name={CREDENTIAL}"), FILE, "-"]).output();
    let output = run.map_err(KeyError::Run)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(KeyError::Refused(units::said(&output)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_length_and_another_is_told_how_to_make_one() {
        assert!(of(&[7; KEY_BYTES]).is_ok());
        for bytes in [&b""[..], &[7; KEY_BYTES - 1], &[7; KEY_BYTES + 1]] {
            let error = of(bytes).unwrap_err().to_string();
            assert!(error.contains(&format!("garrison.ledger has {} bytes", bytes.len())), "{error}");
            assert!(
                error.contains("head -c 32 /dev/urandom | systemd-creds encrypt --name=garrison.ledger"),
                "{error}"
            );
        }
    }
}

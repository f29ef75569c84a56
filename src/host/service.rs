//! The service manager that started this process, if one did: systemd, or whatever speaks its protocol.
//!
//! It is told when a role has begun, what it waits for and that it is alive, and it hands over credentials. Without one
//! every call does nothing. What it is told is never needed for anything to work, so nothing here fails for want of it.
//!
//! Source: sd_notify(3), sd_watchdog_enabled(3), systemd.exec(5) on credentials.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use sd_notify::NotifyState;

use super::{FileError, failed};

/// The role has begun; `doing` is what `systemctl status` shows.
pub fn ready(doing: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(doing)]);
}

/// The role is about to end, on purpose.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// How long the service manager waits for a sign of life before it starts the process anew; none if it does not wait.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// A sign of life.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// The credential of this name that the service manager was told to hand over (`LoadCredential=`), without surrounding
/// blanks; none if it has none.
///
/// # Errors
/// [`FileError`] for one that is there and cannot be read.
pub fn credential(name: &str) -> Result<Option<String>, FileError> {
    Ok(credential_bytes(name)?.and_then(|content| text(&content)))
}

/// The same as it is.
///
/// # Errors
/// As [`credential`].
pub fn credential_bytes(name: &str) -> Result<Option<Vec<u8>>, FileError> {
    let dir = env::var_os("CREDENTIALS_DIRECTORY");
    dir.map_or(Ok(None), |dir| credential_in(&dir, name))
}

fn credential_in(dir: &OsStr, name: &str) -> Result<Option<Vec<u8>>, FileError> {
    let path = Path::new(dir).join(name);
    match fs::read(&path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

fn text(content: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(content).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_there_or_not_and_blanks_around_it_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "secret\n").unwrap();
        fs::write(dir.path().join("empty"), "\n").unwrap();
        fs::create_dir(dir.path().join("directory")).unwrap();
        let read = |name| credential_in(dir.path().as_os_str(), name);
        let read_text = |name| read(name).unwrap().and_then(|content| text(&content));
        assert_eq!(read("token").unwrap().as_deref(), Some(&b"secret\n"[..]));
        assert_eq!(read_text("token").as_deref(), Some("secret"));
        assert_eq!((read_text("empty"), read_text("other")), (None, None));
        assert!(read("directory").is_err());
    }
}

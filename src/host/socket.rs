//! The socket at which an agent tells people on its host how it is. Whoever connects gets one answer, and the end.
//!
//! It lies in the state directory, which is the agent's own, so only root gets there.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{FileError, failed};

/// Below the state directory.
const FILE_NAME: &str = "agent.sock";
/// How long an agent may take for its answer before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens, in place of an agent that is gone. The caller holds the state directory's lock.
///
/// # Errors
/// [`FileError`], also for a directory whose path is too long for a socket (107 bytes in all).
pub fn listen(state_dir: &Path) -> Result<UnixListener, FileError> {
    let path = path(state_dir);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
        _ => {}
    }
    bind(&path)
}

/// Listens at a path where nothing is, for tasks that do not block.
pub(super) fn bind(path: &Path) -> Result<UnixListener, FileError> {
    let listener = UnixListener::bind(path).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(failed("listen on", path))
}

/// Asks the agent of a state directory. None if there is none that runs.
///
/// # Errors
/// [`FileError`] for an agent that does not answer in time, or a socket that may not be used.
pub fn ask(state_dir: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let path = path(state_dir);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(failed("connect to", &path)(error)),
    };
    let mut answer = Vec::new();
    let read = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.read_to_end(&mut answer));
    read.map_err(failed("read from", &path))?;
    Ok(Some(answer))
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_answer_or_word_that_nobody_is_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ask(dir.path()).unwrap(), None);
        let listener = listen(dir.path()).unwrap();
        drop(listener);
        assert_eq!(ask(dir.path()).unwrap(), None, "what an agent left behind when it ended");

        let listener = listen(dir.path()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let answers = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"well"));
        assert_eq!(ask(dir.path()).unwrap().as_deref(), Some(b"well".as_slice()));
        answers.join().unwrap().unwrap();
    }
}

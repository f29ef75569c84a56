//! The mark beside the store file: how far the store had come, written where a copy of the store put back cannot undo
//! it.
//!
//! The store file alone cannot tell whether it is an older copy of itself. So the revision reached and the revisions
//! reserved are also noted in a second file, together with the store's history and the inode of the store file. At
//! the next start [`judge`] compares the two. The mark is fsynced when revisions are reserved and when the store is
//! closed; between those it is written without fsync, which a kill of the process survives and a power cut may not.
//!
//! What this cannot see: a whole file system set back (a snapshot of a virtual machine), and after a power cut a copy
//! from within the same block of revisions copied over the very same file. Nodes that have seen more than such a
//! store can account for notice it by their position (design.md §5).
//!
//! The mark file is also what keeps a second process out: it is locked as long as the store is open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::store::{HistoryId, Revision};

/// Two slots, written in turn, so that a torn write leaves the other. A block of the disk each.
const SLOT_BYTES: u64 = 4096;
const MAGIC: &[u8; 8] = b"gmark\0\0\x01";
const FIELDS_BYTES: usize = 8 + 5 * 8;
const RECORD_BYTES: usize = FIELDS_BYTES + 32;

/// How far a store had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The store's history.
    pub history: HistoryId,
    /// Inode of the store file.
    pub inode: u64,
    /// Revisions up to here may have been handed out.
    pub reserved: Revision,
    /// The newest revision in the store file.
    pub revision: Revision,
}

/// What the mark file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing yet: the file was just made.
    Empty,
    /// The last mark written.
    Mark(Mark),
    /// Neither slot holds a mark.
    Unreadable,
}

/// Whether a store holds everything it ever acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// The store was made at this start.
    New,
    /// Nothing is missing that the mark knows of.
    Proven,
    /// Something may be missing; the store began a new history.
    Unproven(Doubt),
}

/// Why a store cannot prove that it holds everything it ever acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The mark file was missing.
    #[error("the file that marks how far the store had come is missing")]
    NoMark,
    /// The mark file held no valid mark.
    #[error("the file that marks how far the store had come is damaged")]
    BadMark,
    /// The mark is of another history.
    #[error("the mark belongs to another store or another history of this one")]
    OtherHistory,
    /// The store file was replaced or moved to another disk.
    #[error("the store file is another file than the one last used")]
    OtherFile,
    /// The store file is behind the mark.
    #[error("the store file is older than the one last used")]
    Older,
}

/// Compares the mark with the store file: `disk` is the file's own account.
pub fn judge(found: Found, disk: &Mark) -> Continuity {
    match found {
        Found::Empty => Continuity::Unproven(Doubt::NoMark),
        Found::Unreadable => Continuity::Unproven(Doubt::BadMark),
        Found::Mark(mark) if mark.history != disk.history => Continuity::Unproven(Doubt::OtherHistory),
        Found::Mark(mark) if mark.inode != disk.inode => Continuity::Unproven(Doubt::OtherFile),
        Found::Mark(mark) if mark.reserved > disk.reserved || mark.revision > disk.revision => {
            Continuity::Unproven(Doubt::Older)
        }
        Found::Mark(_) => Continuity::Proven,
    }
}

/// The open and locked mark file.
#[derive(Debug)]
pub struct MarkFile {
    file: File,
    serial: u64,
}

/// Why the mark file cannot be used.
#[derive(Debug)]
pub enum MarkFileError {
    /// Another process has it.
    Locked,
    /// It cannot be opened, made or read.
    Io(io::Error),
}

impl From<io::Error> for MarkFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl MarkFile {
    /// Opens or makes the file, locks it and reads it.
    pub fn open(path: &Path) -> Result<(Self, Found), MarkFileError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(MarkFileError::Locked),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        if file.metadata()?.len() == 0 {
            return Ok((Self { file, serial: 0 }, Found::Empty));
        }
        let newest = [0, 1].into_iter().filter_map(|slot| read_slot(&file, slot)).max_by_key(|(serial, _)| *serial);
        Ok(match newest {
            Some((serial, mark)) => (Self { file, serial }, Found::Mark(mark)),
            None => (Self { file, serial: 0 }, Found::Unreadable),
        })
    }

    /// Writes the mark over the older slot; with `sync` it is on disk when this returns.
    pub fn write(&mut self, mark: &Mark, sync: bool) -> io::Result<()> {
        let serial = self.serial + 1;
        self.file.write_all_at(&encode(serial, mark), (serial % 2) * SLOT_BYTES)?;
        self.serial = serial;
        if sync { self.file.sync_all() } else { Ok(()) }
    }
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, Mark)> {
    let mut record = [0; RECORD_BYTES];
    file.read_exact_at(&mut record, slot * SLOT_BYTES).ok()?;
    decode(&record)
}

fn encode(serial: u64, mark: &Mark) -> Vec<u8> {
    let mut record = MAGIC.to_vec();
    for field in [serial, mark.history.0, mark.inode, mark.reserved.0, mark.revision.0] {
        record.extend_from_slice(&field.to_le_bytes());
    }
    let digest = Sha256::digest(&record);
    record.extend_from_slice(&digest);
    record
}

fn decode(record: &[u8]) -> Option<(u64, Mark)> {
    let (fields, digest) = record.split_at_checked(FIELDS_BYTES)?;
    if Sha256::digest(fields).as_slice() != digest {
        return None;
    }
    let (numbers, _) = fields.strip_prefix(MAGIC)?.as_chunks::<8>();
    let &[serial, history, inode, reserved, revision] = numbers else { return None };
    let mark = Mark {
        history: HistoryId(u64::from_le_bytes(history)),
        inode: u64::from_le_bytes(inode),
        reserved: Revision(u64::from_le_bytes(reserved)),
        revision: Revision(u64::from_le_bytes(revision)),
    };
    Some((u64::from_le_bytes(serial), mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { history: HistoryId(7), inode: 40, reserved: Revision(10_000), revision: Revision(12) };

    #[test]
    fn only_a_store_at_or_past_its_mark_proves_continuity() {
        use Continuity::{Proven, Unproven};
        let rows = [
            (Found::Mark(MARK), Proven),
            (Found::Mark(Mark { revision: Revision(11), ..MARK }), Proven),
            (Found::Mark(Mark { reserved: Revision(0), revision: Revision(0), ..MARK }), Proven),
            (Found::Mark(Mark { revision: Revision(13), ..MARK }), Unproven(Doubt::Older)),
            (Found::Mark(Mark { reserved: Revision(20_000), ..MARK }), Unproven(Doubt::Older)),
            (Found::Mark(Mark { inode: 41, ..MARK }), Unproven(Doubt::OtherFile)),
            (Found::Mark(Mark { history: HistoryId(8), inode: 41, ..MARK }), Unproven(Doubt::OtherHistory)),
            (Found::Unreadable, Unproven(Doubt::BadMark)),
            (Found::Empty, Unproven(Doubt::NoMark)),
        ];
        for (found, expected) in rows {
            assert_eq!(judge(found, &MARK), expected, "{found:?}");
        }
    }

    #[test]
    fn a_torn_mark_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let (mut file, found) = MarkFile::open(&path).unwrap();
        assert_eq!(found, Found::Empty);
        assert!(matches!(MarkFile::open(&path), Err(MarkFileError::Locked)));
        let later = Mark { revision: Revision(13), ..MARK };
        file.write(&MARK, true).unwrap();
        file.write(&later, false).unwrap();
        drop(file);
        let reread = || MarkFile::open(&path).unwrap().1;
        assert_eq!(reread(), Found::Mark(later));

        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1; // the second mark is in the first slot
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(reread(), Found::Mark(MARK));
        bytes[usize::try_from(SLOT_BYTES).unwrap() + 20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(reread(), Found::Unreadable);
    }
}

//! The store file: what is in it, how it is opened and written. All of this blocks.
//!
//! `store.redb` is a redb database of two tables. `entries` holds one [`Row`] per stored key; `meta` holds the format
//! ([`FORMAT`]), the history, the revision last written and the revisions reserved. Every write is one transaction
//! with one fsync that replaces `meta` too. redb keeps two commit slots, so a transaction torn by a power cut leaves
//! the one before; no other copy is kept. A file that redb finds damaged is refused, never replaced.
//!
//! redb refuses to go on after a failed write, so the database is then dropped and opened again, from the same open
//! file, at the next write. Whether the failed transaction reached the disk does not matter: its keys count as
//! unwritten and go into the next one. A disk that reports a failed fsync and then forgets the data can still lose
//! pages; the checksums find that at the next start.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, set_permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, TableError,
};
use tracing::warn;

use super::ballast::Ballast;
use super::continuity::{Continuity, Found, Mark, MarkFile, MarkFileError, judge};
use crate::store::history::Row;
use crate::store::{HistoryId, Revision};

/// The version of the store file's layout that this program writes.
pub const FORMAT: u64 = 1;

/// How many revisions are reserved at a time; so many revision numbers at most are skipped by a restart.
pub const REVISION_BLOCK: u64 = 10_000;

const STORE_FILE: &str = "store.redb";
const MARK_FILE: &str = "store.mark";

/// redb's page cache. Small: it is read at start only, and after that serves the inner pages of writes.
const CACHE_BYTES: usize = 4 << 20;

const ENTRIES: TableDefinition<&str, (u64, u64, &[u8])> = TableDefinition::new("entries");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";
const META_HISTORY: &str = "history";
const META_REVISION: &str = "revision";
const META_RESERVED: &str = "reserved";

/// Why a store cannot be opened. What it holds is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or the folder cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("the store in {} is in use by another process; stop that one first", dir.display())]
    Locked {
        /// The store's folder.
        dir: PathBuf,
    },
    /// The mark says there was a store, and there is none.
    #[error(
        "the store file {} is missing or empty; put it back from a back-up, or remove {} to begin with an empty store",
        path.display(), mark.display()
    )]
    Missing {
        /// Where the store file should be.
        path: PathBuf,
        /// The mark file.
        mark: PathBuf,
    },
    /// The file is no store, or its content is not what was written.
    #[error(
        "the store file {} is damaged; put it back from a back-up, or move it and {} away to begin with an empty store",
        path.display(), mark.display()
    )]
    Damaged {
        /// The store file.
        path: PathBuf,
        /// The mark file.
        mark: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<redb::Error>,
    },
    /// A later version of the program wrote the file.
    #[error(
        "the store file {} has format {found}, this version reads up to {FORMAT}; run the version that wrote it, or put \
         back the back-up made before that version was installed",
        path.display()
    )]
    NewerFormat {
        /// The store file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
}

/// Opens the database; called again after a failed write.
pub type OpenDatabase = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The open store file with its mark.
pub struct Disk {
    open: OpenDatabase,
    /// None after a failed write, until the next.
    database: Option<Database>,
    mark_file: MarkFile,
    ballast: Ballast,
    /// What the store file says of itself.
    written: Mark,
    path: PathBuf,
}

/// What a store was opened with.
pub struct Opened {
    /// The file.
    pub disk: Disk,
    /// Every row, ascending by key.
    pub rows: Vec<(String, Row)>,
    /// At or above every revision ever handed out.
    pub start: Revision,
    /// Revisions up to here can be handed out.
    pub reserved: Revision,
    /// The history from here on.
    pub history: HistoryId,
    /// Whether it is the one before.
    pub continuity: Continuity,
}

/// One transaction: keys with their rows, none to remove it, as of a revision.
#[derive(Debug)]
pub struct Job {
    /// By key, in any order, each key once.
    pub rows: Vec<(Arc<str>, Option<Row>)>,
    /// The last revision the rows reflect.
    pub revision: Revision,
    /// Revisions reserved from then on.
    pub reserved: Revision,
    /// Somebody deletes, or says that something is to go: it may use the room that is kept for that.
    pub deletes: bool,
}

/// Opens or makes the store in `dir`, which is made if there is none.
///
/// # Errors
/// As [`OpenError`] says.
pub fn open(dir: &Path) -> Result<Opened, OpenError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { action, path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make the folder", dir))?;
    set_permissions(dir, Permissions::from_mode(0o700)).map_err(io("protect the folder", dir))?;
    let (mark_file, found) = open_mark(dir)?;

    let path = dir.join(STORE_FILE);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(found == Found::Empty).mode(0o600);
    let file = match options.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(dir)),
        file => file.map_err(io("open", &path))?,
    };
    let metadata = file.metadata().map_err(io("read", &path))?;
    if metadata.len() == 0 && found != Found::Empty {
        return Err(missing(dir));
    }
    let open = Box::new(move || database_in(file.try_clone()?));
    let opened = load(dir, open, metadata.ino(), mark_file, found)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync the folder", dir))?;
    Ok(opened)
}

/// Opens and locks the mark file of the store in `dir`.
pub fn open_mark(dir: &Path) -> Result<(MarkFile, Found), OpenError> {
    let path = dir.join(MARK_FILE);
    MarkFile::open(&path).map_err(|error| match error {
        MarkFileError::Locked => OpenError::Locked { dir: dir.to_owned() },
        MarkFileError::Io(source) => OpenError::Io { action: "open", path, source },
    })
}

/// Reads the database, judges its continuity and reserves revisions above all that were ever handed out.
pub fn load(
    dir: &Path,
    open: OpenDatabase,
    inode: u64,
    mut mark_file: MarkFile,
    found: Found,
) -> Result<Opened, OpenError> {
    let path = dir.join(STORE_FILE);
    let failed = |error: redb::Error| failed(dir, error);
    let database = open().map_err(|error| failed(error.into()))?;
    let (written, rows) = match read_format(&database).map_err(failed)? {
        Some(found) if found > FORMAT => return Err(OpenError::NewerFormat { path, found }),
        Some(_) => {
            let written = read_meta(&database, inode).map_err(failed)?;
            (Some(written), read_rows(&database).map_err(failed)?)
        }
        None if found == Found::Empty => (None, Vec::new()),
        None => return Err(missing(dir)),
    };
    let continuity = written.map_or(Continuity::New, |written| judge(found, &written));
    let history = match (written, continuity) {
        (Some(written), Continuity::Proven) => written.history,
        _ => HistoryId::random(),
    };
    let marked = if let Found::Mark(mark) = found { mark.reserved } else { Revision(0) };
    let start = written.map_or(marked, |written| written.reserved.max(marked));
    let mark = Mark { history, inode, reserved: Revision(start.0 + REVISION_BLOCK), revision: start };
    write_rows(&database, &[], &mark).map_err(failed)?;
    mark_file.write(&mark, true).map_err(|source| OpenError::Io {
        action: "write",
        path: dir.join(MARK_FILE),
        source,
    })?;
    let ballast = Ballast::of(dir);
    let disk = Disk { open, database: Some(database), mark_file, ballast, written: mark, path };
    Ok(Opened { disk, rows, start, reserved: mark.reserved, history, continuity })
}

// === impl Disk ===

impl Disk {
    /// Writes one transaction; it is on disk when this returns.
    ///
    /// # Errors
    /// redb's. Whether the transaction is on disk is then unknown; put the same keys into the next.
    pub fn write(&mut self, job: &Job) -> Result<(), redb::Error> {
        match self.try_write(job) {
            Err(error) if job.deletes && is_disk_full(&error) && self.ballast.release() => self.try_write(job),
            Ok(()) => {
                self.ballast.restore();
                Ok(())
            }
            failed => failed,
        }
    }

    fn try_write(&mut self, job: &Job) -> Result<(), redb::Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.open)()?,
        };
        let written = Mark { reserved: job.reserved, revision: job.revision, ..self.written };
        write_rows(&database, &job.rows, &written)?;
        self.database = Some(database);
        let reserves = written.reserved > self.written.reserved;
        self.written = written;
        self.mark(reserves);
        Ok(())
    }

    /// Closes the database, so that the next start need not check it, and makes the mark exact.
    ///
    /// # Errors
    /// redb's; everything acknowledged is on disk all the same.
    pub fn close(&mut self) -> Result<(), redb::Error> {
        self.database.take().map_or(Ok(()), Database::close)?;
        self.mark(true);
        Ok(())
    }

    /// The store file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A mark that stays behind weakens what the next start can notice, and nothing else.
    fn mark(&mut self, sync: bool) {
        if let Err(error) = self.mark_file.write(&self.written, sync) {
            warn!(path = %self.path.with_file_name(MARK_FILE).display(), %error, "store mark not written");
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).finish_non_exhaustive()
    }
}

fn database_in(file: File) -> Result<Database, DatabaseError> {
    builder().create_with_backend(FileBackend::new(file)?)
}

/// How every store's database is opened, whatever it lies on.
pub fn builder() -> Builder {
    let mut builder = Builder::new();
    // The whole file is read anyway; a damaged page is then an error and not a panic later.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// The format; none in a database that was never written to. Every later format keeps this number in this place.
fn read_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => meta(&table?, META_FORMAT).map(Some),
    }
}

/// What the store file says of itself.
fn read_meta(database: &Database, inode: u64) -> Result<Mark, redb::Error> {
    let table = database.begin_read()?.open_table(META)?;
    Ok(Mark {
        history: HistoryId(meta(&table, META_HISTORY)?),
        inode,
        reserved: Revision(meta(&table, META_RESERVED)?),
        revision: Revision(meta(&table, META_REVISION)?),
    })
}

fn meta(table: &ReadOnlyTable<&str, u64>, name: &str) -> Result<u64, redb::Error> {
    let value = table.get(name)?;
    value.map(|value| value.value()).ok_or_else(|| redb::Error::Corrupted(format!("{name} is missing")))
}

fn read_rows(database: &Database) -> Result<Vec<(String, Row)>, redb::Error> {
    let table = database.begin_read()?.open_table(ENTRIES)?;
    let mut rows = Vec::new();
    for entry in table.iter()? {
        let (key, row) = entry?;
        let (created, modified, value) = row.value();
        let row =
            Row { created: Revision(created), modified: Revision(modified), value: Bytes::copy_from_slice(value) };
        rows.push((key.value().to_owned(), row));
    }
    Ok(rows)
}

fn write_rows(database: &Database, rows: &[(Arc<str>, Option<Row>)], meta: &Mark) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        for (key, row) in rows {
            match row {
                Some(row) => drop(entries.insert(&**key, (row.created.0, row.modified.0, &*row.value))?),
                None => drop(entries.remove(&**key)?),
            }
        }
        let mut table = transaction.open_table(META)?;
        table.insert(META_FORMAT, FORMAT)?;
        table.insert(META_HISTORY, meta.history.0)?;
        table.insert(META_REVISION, meta.revision.0)?;
        table.insert(META_RESERVED, meta.reserved.0)?;
    }
    Ok(transaction.commit()?)
}

fn is_disk_full(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(source) if source.kind() == io::ErrorKind::StorageFull)
}

fn missing(dir: &Path) -> OpenError {
    OpenError::Missing { path: dir.join(STORE_FILE), mark: dir.join(MARK_FILE) }
}

/// Tells a file that is wrong from one that cannot be reached.
fn failed(dir: &Path, error: redb::Error) -> OpenError {
    let path = dir.join(STORE_FILE);
    let is_content =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
    match error {
        redb::Error::DatabaseAlreadyOpen => OpenError::Locked { dir: dir.to_owned() },
        redb::Error::Io(source) if !is_content(&source) => OpenError::Io { action: "use", path, source },
        error => OpenError::Damaged { path, mark: dir.join(MARK_FILE), source: Box::new(error) },
    }
}

//! What is known of the registry, on disk, so that a data plane can start while no control plane is there.
//!
//! This file owns the one file it is kept in; `format` owns what is in it. A file that is damaged, too old or of another
//! version is refused with the reason; it never yields half a snapshot. Everything here blocks: callers keep it off async
//! threads.

pub(super) mod format;

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Guard, Refusal, Services, Snapshot};
use format::SCHEMA;

/// Far above what the largest snapshot encodes to: a stray file must not fill the memory.
const MAX_BYTES: u64 = 512 << 20;

/// Of a data plane that carries all services.
const FILE: &str = "snapshot.bin";

/// Where the snapshot is kept, and how old it may be to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    directory: PathBuf,
    file: String,
    max_age: Duration,
}

/// What was on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Cached {
    /// What the registry had.
    pub snapshot: Snapshot,
    /// What the guard held beyond that.
    pub guard: Guard,
    /// How long ago it was known to be current; zero when the wall clock has gone back since.
    pub age: Duration,
}

/// Why there is no snapshot from disk.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The file is larger than any snapshot.
    #[error("is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// The file is something else.
    #[error("is no snapshot cache")]
    Foreign,
    /// Another version of the gateway wrote it.
    #[error("has schema version {0}, this data plane reads {SCHEMA}")]
    OtherSchema(u32),
    /// Bytes are missing or not those that were written.
    #[error("is damaged")]
    Damaged,
    /// It was current too long ago to be trusted.
    #[error("was current {} ago, at most {} is allowed", humantime::format_duration(*.age), humantime::format_duration(*.max_age))]
    TooOld {
        /// Since it was known to be current, in whole seconds.
        age: Duration,
        /// What is allowed.
        max_age: Duration,
    },
    /// Its bytes are right and its content is not.
    #[error("holds what is no snapshot: {0}")]
    Invalid(Refusal),
}

impl Cache {
    /// A cache in `directory`, which is made when the first snapshot is saved.
    pub fn new(directory: impl Into<PathBuf>, max_age: Duration) -> Self {
        Self { directory: directory.into(), file: FILE.into(), max_age }
    }

    /// The same for these services: what was kept of others is neither read nor overwritten, for a control plane that is
    /// asked what is new since then would not tell what is missing.
    #[must_use]
    pub fn of(self, services: &Services) -> Self {
        let file = match services.fingerprint() {
            Some(fingerprint) => format!("snapshot-{fingerprint:016x}.bin"),
            None => FILE.into(),
        };
        Self { file, ..self }
    }

    /// The file the snapshot is kept in.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.file)
    }

    /// Makes the directory and tries whether files can be written there.
    ///
    /// # Errors
    /// When a later [`Cache::save`] would fail now.
    pub fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let trial = self.directory.join(format!("trial.{}.tmp", std::process::id()));
        write_synced(&trial, b"can files be written here?").and_then(|()| fs::remove_file(&trial))
    }

    /// Reads the snapshot; `None` when none was ever saved.
    ///
    /// # Errors
    /// [`CacheError`] when there is a file that must not be used.
    pub fn load(&self, now: SystemTime) -> Result<Option<Cached>, CacheError> {
        let file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(CacheError::TooLarge);
        }
        format::decode(&bytes, now, self.max_age).map(Some)
    }

    /// How old a loaded snapshot may be.
    pub(super) fn max_age(&self) -> Duration {
        self.max_age
    }

    /// Replaces what is saved by a snapshot that was known to be current at `current_at`, and what the guard holds beyond
    /// it. After a crash at any moment the file is the old or the new one, whole.
    ///
    /// # Errors
    /// When the directory cannot be made or written; the old file stays.
    pub fn save(&self, snapshot: &Snapshot, guard: &Guard, current_at: SystemTime) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        // Two processes that share the directory by mistake must not write into one temporary file.
        let temporary = self.directory.join(format!("snapshot.{}.tmp", std::process::id()));
        let written = write_synced(&temporary, &format::encode(snapshot, guard, current_at))
            .and_then(|()| fs::rename(&temporary, self.path()))
            .and_then(|()| File::open(&self.directory)?.sync_all());
        if written.is_err() {
            // Whatever kept it from being written may keep it from being removed; the first error is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;

//! The snapshot on disk, so that a data plane can start while no control plane is there.
//!
//! This file owns the format and the one file it is kept in. A file that is damaged, too old or of another version
//! is refused with the reason; it never yields half a snapshot. Everything here blocks: callers keep it off async
//! threads.
//!
//! Layout, little endian: magic 8 bytes · schema version u32 · crc32 u32 of all that follows · known to be current at,
//! unix milliseconds u64 · revision i64 · length of the epoch u32 · epoch · protobuf `FullSnapshot`.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gateway_proto::v1::{self, stream_snapshots_response::Update};
use prost::Message;

use super::{Assembly, Received, Refusal, Snapshot};

const MAGIC: [u8; 8] = *b"GWSNAPSH";
const SCHEMA: u32 = 1;
/// Far above what the largest snapshot encodes to: a stray file must not fill the memory.
const MAX_BYTES: u64 = 512 << 20;

/// Where the snapshot is kept, and how old it may be to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    directory: PathBuf,
    max_age: Duration,
}

/// A snapshot from disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Cached {
    /// What was held.
    pub snapshot: Snapshot,
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
        Self { directory: directory.into(), max_age }
    }

    /// The file the snapshot is kept in.
    pub fn path(&self) -> PathBuf {
        self.directory.join("snapshot.bin")
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
        decode(&bytes, now, self.max_age).map(Some)
    }

    /// How old a loaded snapshot may be.
    pub(super) fn max_age(&self) -> Duration {
        self.max_age
    }

    /// Replaces the saved snapshot by one that was known to be current at `current_at`. After a crash at any moment the file is the old or the new one, whole.
    ///
    /// # Errors
    /// When the directory cannot be made or written; the old file stays.
    pub fn save(&self, snapshot: &Snapshot, current_at: SystemTime) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        // Two processes that share the directory by mistake must not write into one temporary file.
        let temporary = self.directory.join(format!("snapshot.{}.tmp", std::process::id()));
        let written = write_synced(&temporary, &encode(snapshot, current_at))
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

fn encode(snapshot: &Snapshot, current_at: SystemTime) -> Vec<u8> {
    let content = snapshot.to_wire();
    let epoch = snapshot.epoch().as_bytes();
    let current_at = current_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut checked = Vec::with_capacity(20 + epoch.len() + content.encoded_len());
    checked.extend_from_slice(&u64::try_from(current_at).unwrap_or(u64::MAX).to_le_bytes());
    checked.extend_from_slice(&snapshot.revision().to_le_bytes());
    checked.extend_from_slice(&u32::try_from(epoch.len()).unwrap_or(u32::MAX).to_le_bytes());
    checked.extend_from_slice(epoch);
    content.encode(&mut checked).expect("a Vec grows to what a message needs");
    let mut bytes = Vec::with_capacity(16 + checked.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&SCHEMA.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&checked).to_le_bytes());
    bytes.append(&mut checked);
    bytes
}

fn decode(bytes: &[u8], now: SystemTime, max_age: Duration) -> Result<Cached, CacheError> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(CacheError::Foreign)?;
    let (schema, rest) = take(rest).ok_or(CacheError::Damaged)?;
    // The version comes before the checksum: another version may check differently.
    let schema = u32::from_le_bytes(schema);
    if schema != SCHEMA {
        return Err(CacheError::OtherSchema(schema));
    }
    let (checksum, checked) = take(rest).ok_or(CacheError::Damaged)?;
    if crc32fast::hash(checked) != u32::from_le_bytes(checksum) {
        return Err(CacheError::Damaged);
    }
    let (age, snapshot) = decode_checked(checked, now).ok_or(CacheError::Damaged)?;
    if age > max_age {
        return Err(CacheError::TooOld { age: Duration::from_secs(age.as_secs()), max_age });
    }
    // The same door as the stream's: what was valid there is valid here.
    let mut held = Snapshot::default();
    match Assembly::default().receive(&mut held, snapshot) {
        Received::Refused(refusal) => Err(CacheError::Invalid(refusal)),
        _ => Ok(Cached { snapshot: held, age }),
    }
}

fn decode_checked(checked: &[u8], now: SystemTime) -> Option<(Duration, v1::StreamSnapshotsResponse)> {
    let (current_at, rest) = take(checked)?;
    let (revision, rest) = take(rest)?;
    let (epoch_length, rest) = take(rest)?;
    let length = usize::try_from(u32::from_le_bytes(epoch_length)).ok()?;
    let (epoch, content) = rest.split_at_checked(length)?;
    let current_at = UNIX_EPOCH.checked_add(Duration::from_millis(u64::from_le_bytes(current_at)))?;
    let response = v1::StreamSnapshotsResponse {
        epoch: String::from_utf8(epoch.to_vec()).ok()?,
        revision: i64::from_le_bytes(revision),
        update: Some(Update::Full(v1::FullSnapshot::decode(content).ok()?)),
        ..Default::default()
    };
    Some((now.duration_since(current_at).unwrap_or_default(), response))
}

fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    bytes.split_first_chunk().map(|(chunk, rest)| (*chunk, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::tests::held;

    const HOUR: Duration = Duration::from_secs(3600);

    fn noon() -> SystemTime {
        UNIX_EPOCH + 500_000 * HOUR
    }

    #[test]
    fn a_saved_snapshot_is_loaded_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("made/when/needed"), HOUR);
        assert_eq!(cache.load(noon()).unwrap(), None);
        cache.save(&held(), noon()).unwrap();
        let loaded = cache.load(noon() + HOUR).unwrap();
        assert_eq!(loaded, Some(Cached { snapshot: held(), age: HOUR }), "as old as allowed");
        let files = fs::read_dir(cache.path().parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_later_save_replaces_an_earlier_one() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path(), HOUR);
        cache.save(&held(), noon()).unwrap();
        let empty = Snapshot::new("f", 9, vec![]);
        cache.save(&empty, noon()).unwrap();
        assert_eq!(cache.load(noon()).unwrap().unwrap().snapshot, empty);
    }

    #[test]
    fn a_snapshot_that_is_too_old_is_refused_with_both_ages() {
        let bytes = encode(&held(), noon());
        let error = decode(&bytes, noon() + 2 * HOUR, HOUR).unwrap_err();
        assert_eq!(error.to_string(), "was current 2h ago, at most 1h is allowed");
    }

    #[test]
    fn a_wall_clock_that_went_back_makes_the_snapshot_new() {
        let bytes = encode(&held(), noon());
        assert_eq!(decode(&bytes, noon() - HOUR, HOUR).unwrap().age, Duration::ZERO);
    }

    #[test]
    fn another_schema_is_refused_whatever_follows_it() {
        let mut bytes = encode(&held(), noon());
        bytes.truncate(12);
        bytes[8] = 2;
        let error = decode(&bytes, noon(), HOUR).unwrap_err();
        assert_eq!(error.to_string(), "has schema version 2, this data plane reads 1");
    }

    #[test]
    fn one_flipped_bit_anywhere_is_found() {
        let good = encode(&held(), noon());
        for offset in 0..good.len() {
            let mut bytes = good.clone();
            bytes[offset] ^= 1 << (offset % 8);
            assert!(decode(&bytes, noon(), HOUR).is_err(), "offset {offset}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_found() {
        let good = encode(&held(), noon());
        for length in 0..good.len() {
            assert!(decode(&good[..length], noon(), HOUR).is_err(), "length {length}");
        }
    }

    #[test]
    fn right_bytes_with_invalid_content_are_refused_with_the_resource() {
        let nameless = Snapshot::new("", 3, vec![]);
        let error = decode(&encode(&nameless, noon()), noon(), HOUR).unwrap_err();
        assert!(matches!(error, CacheError::Invalid(_)), "{error}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_and_not_a_crash() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = Cache::new(file.path().join("below-a-file"), HOUR);
        assert!(cache.save(&held(), noon()).is_err());
        assert!(matches!(cache.load(noon()), Err(CacheError::Unreadable(_))));
    }
}

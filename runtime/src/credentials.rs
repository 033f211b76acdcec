//! The token that this process shows to others: read from a file, and again when that changes.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{Failure, files::Stamp};

/// A longer token would not fit into a header that servers take.
const MAX_BYTES: u64 = 16 * 1024;

/// A file that holds a token and nothing else. Clones share what was read.
///
/// A file and not a variable or a flag: those are seen by whoever lists processes.
#[derive(Clone)]
pub struct TokenFile(Arc<Inner>);

struct Inner {
    path: PathBuf,
    read: Mutex<Read>,
}

/// What was read, and of which file.
struct Read {
    header: String,
    stamp: Option<Stamp>,
}

impl TokenFile {
    /// Reads the file once.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the file and what is wrong with it, and never what is in it.
    pub fn open(path: PathBuf) -> Result<Self, Failure> {
        let stamp = Stamp::of(&path);
        let header = read(&path).map_err(Failure::usage)?;
        Ok(Self(Arc::new(Inner { path, read: Mutex::new(Read { header, stamp }) })))
    }

    /// The value of an `Authorization` header. A file that has changed is read again; one that cannot be used now leaves the
    /// token as it was. One look at the file's time: for the beginning of calls, not for each message.
    pub fn bearer(&self) -> String {
        let Inner { path, read: known } = &*self.0;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Stamp::of(path);
        if now != known.stamp {
            match read(path) {
                Ok(header) => {
                    *known = Read { header, stamp: now };
                    tracing::info!(file = %path.display(), "the token was read again");
                }
                Err(why) => {
                    known.stamp = now;
                    tracing::error!(%why, "the token changed and cannot be used: going on with the one before");
                }
            }
        }
        known.header.clone()
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenFile").field(&self.0.path).finish()
    }
}

/// Reads a token: visible ASCII, with white space around it at most.
///
/// # Errors
/// What is wrong with the file, to be shown.
pub fn read_token(path: &Path) -> Result<String, String> {
    let refused = |why: &str| format!("{}: {why}", path.display());
    let found = fs::metadata(path).map_err(|error| refused(&error.to_string()))?;
    if found.len() > MAX_BYTES {
        return Err(refused("it is larger than 16 KiB and so no token"));
    }
    let bytes = fs::read(path).map_err(|error| refused(&error.to_string()))?;
    let token = bytes.trim_ascii();
    if token.is_empty() {
        return Err(refused("it holds no token"));
    }
    match std::str::from_utf8(token) {
        Ok(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(token.to_owned()),
        _ => Err(refused("it holds more than one line of visible ASCII, which a token is")),
    }
}

fn read(path: &Path) -> Result<String, String> {
    read_token(path).map(|token| format!("Bearer {token}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_again_when_its_file_changes_and_kept_when_it_cannot_be_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "first\n").unwrap();
        let file = TokenFile::open(path.clone()).unwrap();
        assert_eq!(file.bearer(), "Bearer first");
        fs::write(&path, "the-second\n").unwrap();
        assert_eq!(file.bearer(), "Bearer the-second");
        // Tokens are of one length, and whoever brings them may keep their time.
        let (new, time) = (folder.path().join("new"), fs::metadata(&path).unwrap().modified().unwrap());
        fs::write(&new, "the-thirds\n").unwrap();
        fs::File::options().write(true).open(&new).unwrap().set_modified(time).unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(file.bearer(), "Bearer the-thirds");
        fs::write(&path, "the-second\n").unwrap();
        assert_eq!(file.bearer(), "Bearer the-second");
        fs::write(&path, "\n").unwrap();
        assert_eq!(file.bearer(), "Bearer the-second");
        fs::remove_file(&path).unwrap();
        assert_eq!(file.bearer(), "Bearer the-second");
    }

    #[test]
    fn what_is_no_token_is_refused_by_the_name_of_its_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for bad in [&b""[..], b" \n", b"two words", b"one\ntwo", b"\xff\xfe", &[b'x'; 20_000]] {
            fs::write(&path, bad).unwrap();
            let failure = TokenFile::open(path.clone()).unwrap_err().to_string();
            assert!(failure.contains("token: it"), "{failure}");
            assert!(!failure.contains("words"), "{failure}");
        }
        assert!(TokenFile::open(folder.path().join("none")).is_err());
    }

    #[test]
    fn a_token_is_in_nothing_that_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "sesame").unwrap();
        let shown = format!("{:?}", TokenFile::open(path).unwrap());
        assert!(!shown.contains("sesame"), "{shown}");
    }
}

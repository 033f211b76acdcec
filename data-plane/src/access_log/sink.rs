//! Where lines end up: a file that may be replaced at any time, or stdout.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// As much is written at once.
const BATCH: usize = 64 * 1024;

/// What is written to now. Shared by the writer's thread and who has the file opened anew, and by nobody who carries
/// requests.
#[derive(Debug)]
pub(super) struct Target {
    path: Option<PathBuf>,
    out: Mutex<Out>,
    failed: AtomicU64,
}

#[derive(Debug)]
enum Out {
    File(File),
    Stdout,
}

impl Target {
    /// Opens the file, or stdout where there is none.
    pub(super) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let out = Mutex::new(open(path.as_ref())?);
        Ok(Self { path, out, failed: AtomicU64::new(0) })
    }

    /// Opens the file again by its name. On an error the one before stays.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let new = open(self.path.as_ref())?;
        *self.out() = new;
        Ok(())
    }

    /// Lines that could not be written.
    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For its owner and their group: lines have addresses of people.
fn open(path: Option<&PathBuf>) -> io::Result<Out> {
    let Some(path) = path else { return Ok(Out::Stdout) };
    OpenOptions::new().append(true).create(true).mode(0o640).open(path).map(Out::File)
}

/// Lines on their way to a target, in batches.
#[derive(Debug)]
pub(super) struct Sink {
    target: Arc<Target>,
    batch: Vec<u8>,
    /// Whether the last line that was written has no end, because the disk was full in its middle.
    is_torn: bool,
    /// Whether the last batch failed, which is told once.
    is_failing: bool,
}

impl Sink {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, batch: Vec::new(), is_torn: false, is_failing: false }
    }

    fn write_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let target = Arc::clone(&self.target);
        let mut out = target.out();
        if self.is_torn {
            self.batch.insert(0, b'\n');
        }
        let (written, error) = write_all(&mut out, &self.batch);
        drop(out);
        if let Some(last) = self.batch[..written].last() {
            self.is_torn = *last != b'\n';
        }
        match error {
            Some(error) => {
                let lost = self.batch[written..].iter().filter(|byte| **byte == b'\n').count();
                target.failed.fetch_add(lost as u64, Relaxed);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(%error, "the access log cannot be written: lines are lost until it can");
                }
            }
            None if std::mem::take(&mut self.is_failing) => tracing::info!("the access log is written again"),
            None => {}
        }
        self.batch.clear();
    }
}

/// How much of it was written, and why not all.
fn write_all(out: &mut Out, batch: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while written < batch.len() {
        let result = match out {
            Out::File(file) => file.write(&batch[written..]),
            Out::Stdout => {
                let mut stdout = io::stdout().lock();
                // Its own buffer would hold the beginning of a line back.
                stdout.write(&batch[written..]).and_then(|count| stdout.flush().map(|()| count))
            }
        };
        match result {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

/// As the writer's thread uses it: `write` for each line, `flush` when no other line waits. Neither fails, because that
/// thread has nobody to tell.
impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.batch.extend_from_slice(line);
        if self.batch.len() >= BATCH {
            self.write_batch();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_batch();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_where_the_name_leads_once_it_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let target = Arc::new(Target::open(Some(path.clone())).unwrap());
        let mut sink = Sink::new(Arc::clone(&target));
        let mut write = |line: &[u8]| {
            sink.write_all(line).unwrap();
            sink.flush().unwrap();
        };
        write(b"one\n");
        let rotated = folder.path().join("access.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        write(b"two\n");
        target.reopen().unwrap();
        write(b"three\n");
        assert_eq!(std::fs::read(&rotated).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(target.reopen().is_err());
        write(b"four\n");
        assert_eq!(target.failed(), 0, "the file before is still written");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn lines_that_cannot_be_written_are_counted_each() {
        let target = Arc::new(Target::open(Some("/dev/full".into())).unwrap());
        let mut sink = Sink::new(Arc::clone(&target));
        sink.write_all(b"one\n").unwrap();
        sink.write_all(b"two\n").unwrap();
        sink.flush().unwrap();
        assert_eq!(target.failed(), 2);
        sink.write_all(b"three\n").unwrap();
        sink.flush().unwrap();
        assert_eq!(target.failed(), 3);
    }
}

//! What programs write, line by line under a prefix, and what the supervisor says between them.
//!
//! A thread for each of stdout and stderr does the writing: a terminal that is stopped, or a reader that is slow, holds up
//! the programs, whose pipes fill as they would without us, and never a heartbeat.

use std::{io::Write, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::mpsc,
    task::JoinHandle,
};

/// A line longer than this is printed in pieces.
const MAX_LINE_BYTES: usize = 8 << 10;
/// Lines that wait for a writer.
const QUEUE: usize = 128;
/// How long the last lines may take to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What stands before each line, `app | `.
#[derive(Debug, Clone)]
pub(crate) struct Prefix(Arc<str>);

impl Prefix {
    /// `name`, as wide as `width` characters, and a bar.
    pub(crate) fn new(name: &str, width: usize) -> Self {
        Self(format!("{name:<width$} | ").into())
    }
}

/// Where lines go. Clones are handles to the same writers.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    stdout: mpsc::Sender<Vec<u8>>,
    stderr: mpsc::Sender<Vec<u8>>,
    quiet: bool,
}

/// The writers, to be waited for at the end.
#[derive(Debug)]
pub(crate) struct Writers(Vec<std::thread::JoinHandle<()>>);

impl Lines {
    /// Begins to write. The supervisor's own lines are left out when `quiet`.
    pub(crate) fn start(quiet: bool) -> (Self, Writers) {
        let (stdout, out) = mpsc::channel(QUEUE);
        let (stderr, err) = mpsc::channel(QUEUE);
        let writers = vec![
            std::thread::spawn(move || write_all(out, std::io::stdout())),
            std::thread::spawn(move || write_all(err, std::io::stderr())),
        ];
        (Self { stdout, stderr, quiet }, Writers(writers))
    }

    /// Says something to people, on stderr. What a writer has no room for is lost: the supervisor never waits for it.
    pub(crate) fn say(&self, prefix: &Prefix, text: &str) {
        if self.quiet {
            return;
        }
        let _ = self.stderr.try_send(line(prefix, crate::terminal::printable(text).as_bytes()));
    }

    /// Copies a program's stdout until it ends.
    pub(crate) fn copy_stdout(
        &self,
        prefix: &Prefix,
        from: impl AsyncRead + Unpin + Send + 'static,
    ) -> JoinHandle<()> {
        tokio::spawn(copy(from, prefix.clone(), self.stdout.clone()))
    }

    /// Copies a program's stderr until it ends.
    pub(crate) fn copy_stderr(
        &self,
        prefix: &Prefix,
        from: impl AsyncRead + Unpin + Send + 'static,
    ) -> JoinHandle<()> {
        tokio::spawn(copy(from, prefix.clone(), self.stderr.clone()))
    }
}

impl Writers {
    /// Waits for the last lines, which come when every [`Lines`] is gone; not for a reader that does not read.
    pub(crate) async fn finish(self) {
        let deadline = tokio::time::Instant::now() + LAST_WORDS;
        while !self.0.iter().all(std::thread::JoinHandle::is_finished) {
            if tokio::time::Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Writes lines until no more can come. When nobody reads them any more it throws them away: a program must not stand still
/// because of a log.
fn write_all(mut lines: mpsc::Receiver<Vec<u8>>, mut to: impl Write) {
    let mut is_read = true;
    while let Some(line) = lines.blocking_recv() {
        if is_read {
            is_read = to.write_all(&line).and_then(|()| to.flush()).is_ok();
        }
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, prefix: Prefix, to: mpsc::Sender<Vec<u8>>) {
    let mut split = Split::default();
    let mut chunk = vec![0; MAX_LINE_BYTES];
    // What cannot be read any more has ended.
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        for text in split.push(&chunk[..count]) {
            if to.send(line(&prefix, &text)).await.is_err() {
                return;
            }
        }
    }
    if let Some(text) = split.rest() {
        let _ = to.send(line(&prefix, &text)).await;
    }
}

fn line(prefix: &Prefix, text: &[u8]) -> Vec<u8> {
    [prefix.0.as_bytes(), text, b"\n"].concat()
}

/// Bytes to lines. Never holds more than a piece.
#[derive(Debug, Default)]
struct Split {
    begun: Vec<u8>,
}

impl Split {
    /// The lines, without their ends, that `bytes` completes; of a line that is too long, the pieces that are full.
    fn push(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES - self.begun.len();
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(bytes.len()).min(room);
            self.begun.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if end == Some(taken) {
                bytes = &bytes[1..];
            } else if self.begun.len() < MAX_LINE_BYTES {
                break;
            }
            if self.begun.last() == Some(&b'\r') {
                self.begun.pop();
            }
            lines.push(std::mem::take(&mut self.begun));
        }
        lines
    }

    /// A last line that nothing ended.
    fn rest(self) -> Option<Vec<u8>> {
        (!self.begun.is_empty()).then_some(self.begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut split = Split::default();
        let mut lines: Vec<_> = chunks.iter().flat_map(|chunk| split.push(chunk)).collect();
        lines.extend(split.rest());
        lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_the_same_however_their_bytes_arrive() {
        let text = b"one\n\ntwo\r\nthree";
        assert_eq!(lines(&[text]), ["one", "", "two", "three"]);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines(&bytes), ["one", "", "two", "three"]);
        assert_eq!(lines(&[b"a\n"]), ["a"]);
        assert_eq!(lines(&[]), Vec::<String>::new());
    }

    #[test]
    fn a_line_without_an_end_is_printed_in_pieces_and_nothing_is_lost() {
        let long = vec![b'x'; 3 * MAX_LINE_BYTES + 5];
        let printed = lines(&[&long, b"\nnext\n"]);
        let lengths: Vec<_> = printed.iter().map(String::len).collect();
        assert_eq!(lengths, [MAX_LINE_BYTES, MAX_LINE_BYTES, MAX_LINE_BYTES, 5, 4]);
        // One that just fits is one line, and no empty one follows.
        let fits = vec![b'x'; MAX_LINE_BYTES - 1];
        assert_eq!(lines(&[&fits, b"\n", b"y"]).len(), 2);
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_does_not_stop_the_program() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = std::thread::spawn(move || write_all(receiver, Gone));
        let text = vec![b'\n'; 10 * QUEUE];
        copy(&text[..], Prefix::new("app", 3), sender).await;
        writer.join().unwrap();
    }

    #[test]
    fn prefixes_are_as_wide_as_each_other() {
        assert_eq!(line(&Prefix::new("gw", 3), b"x"), b"gw  | x\n");
        assert_eq!(line(&Prefix::new("app", 3), b""), b"app | \n");
    }
}

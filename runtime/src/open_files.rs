//! How many files, and so connections, the process may have open.

/// Raises the soft limit of open files to the hard one, which the system keeps low by default for programs of another
/// age. Logs what came of it; a process that may not raise it serves fewer connections at once.
pub fn raise_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

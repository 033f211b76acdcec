//! Why a process ends other than by being told to.

use std::{fmt, io, net::SocketAddr, process::ExitCode};

/// A sentence for whoever started the process, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    message: String,
    code: u8,
    taken: Option<SocketAddr>,
}

impl Failure {
    /// The process cannot start as configured: a bad flag, an unreadable file. Exit code 2.
    ///
    /// `message` names the flag and says what to do.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2, taken: None }
    }

    /// The process cannot listen at the address that `flag` names. Exit code 1 where that may pass by itself: whoever has the
    /// address ends, or the machine is only about to get it. Otherwise 2.
    pub fn unbound(flag: &str, address: SocketAddr, error: &io::Error) -> Self {
        let why = format!("{flag} {address}: cannot listen there: {error}");
        match error.kind() {
            io::ErrorKind::AddrInUse => Self { taken: Some(address), ..Self::fatal(why) },
            io::ErrorKind::AddrNotAvailable => Self::fatal(why),
            _ => Self::usage(why),
        }
    }

    /// The process could not go on, or cannot start for now. Exit code 1.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1, taken: None }
    }

    /// Prints the sentence to stderr and yields the exit code: for `main` only.
    pub fn report(&self, program: &str) -> ExitCode {
        eprintln!("{program}: {}", self.message);
        ExitCode::from(self.code)
    }

    /// The address at which somebody else listens already, when that is why.
    pub fn taken(&self) -> Option<SocketAddr> {
        self.taken
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The innermost cause of an error, without the number that the system has for it: what wraps it only says that
/// something went wrong.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    match text.split_once(" (os error ") {
        Some((system, _)) => system.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_may_be_had_later_is_told_from_one_that_may_not_be_had_and_a_taken_one_from_both() {
        let address = SocketAddr::from(([127, 0, 0, 1], 7400));
        let unbound = |kind| Failure::unbound("--listen", address, &io::Error::from(kind));
        let failure = unbound(io::ErrorKind::AddrInUse);
        assert_eq!((failure.taken(), failure.code()), (Some(address), 1));
        assert_eq!(failure.to_string(), "--listen 127.0.0.1:7400: cannot listen there: address in use");
        let told = |kind| (unbound(kind).taken(), unbound(kind).code());
        assert_eq!(told(io::ErrorKind::AddrNotAvailable), (None, 1), "the machine may be about to get it");
        assert_eq!(told(io::ErrorKind::PermissionDenied), (None, 2));
    }

    #[derive(Debug)]
    struct Wrapped(io::Error);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("transport error")
        }
    }

    impl std::error::Error for Wrapped {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn the_cause_is_what_the_system_said_or_whoever_knows_more() {
        let cause = |error| root_cause(&Wrapped(error));
        assert_eq!(cause(io::Error::from_raw_os_error(111)), "connection refused");
        assert_eq!(cause(io::Error::other("failed to lookup address")), "failed to lookup address");
    }
}

//! Listening sockets that a service manager, such as systemd, has bound and passes on: the protocol `LISTEN_FDS`.
//!
//! They outlive the process, so clients that come while it is started anew wait for it in their queues.

use std::net::TcpListener;

use listenfd::ListenFd;

use crate::Failure;

/// Sockets that nobody has taken yet, each under the name that its unit gives it (`FileDescriptorName=`).
#[derive(Debug, Default)]
pub struct Passed(Vec<(String, TcpListener)>);

impl Passed {
    /// Those that this process was started with. To be called once, before it has a second thread: it takes them out of the
    /// environment.
    ///
    /// # Errors
    /// A usage [`Failure`] when one of them does not listen for TCP.
    pub fn from_environment() -> Result<Self, Failure> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned);
        let mut descriptors = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..descriptors.len() {
            let name = names.next().unwrap_or_default();
            let refused =
                |why: &str| Failure::usage(format!("LISTEN_FDS: socket {index}, named {name:?}: {why}"));
            let taken = descriptors.take_tcp_listener(index).map_err(|error| refused(&error.to_string()))?;
            let socket = taken.ok_or_else(|| refused("is none"))?;
            socket.set_nonblocking(true).map_err(|error| refused(&error.to_string()))?;
            sockets.push((name, socket));
        }
        Ok(Self(sockets))
    }

    /// These.
    pub fn new(sockets: Vec<(String, TcpListener)>) -> Self {
        Self(sockets)
    }

    /// Whether there are none, or none any more.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(of, _)| of == name)
    }

    /// Takes all of this name.
    pub fn take(&mut self, name: &str) -> Vec<TcpListener> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(of, _)| of == name);
        self.0 = left;
        let taken: Vec<(String, TcpListener)> = taken;
        taken.into_iter().map(|(_, socket)| socket).collect()
    }

    /// Takes the only one, whatever its name.
    ///
    /// # Errors
    /// A usage [`Failure`] when there are more.
    pub fn take_only(&mut self) -> Result<Option<TcpListener>, Failure> {
        if self.0.len() > 1 {
            return Err(Failure::usage(format!(
                "LISTEN_FDS: {} sockets are passed, one is taken",
                self.0.len()
            )));
        }
        Ok(self.0.pop().map(|(_, socket)| socket))
    }

    /// Refuses what nobody has taken: clients would connect there, and never be answered.
    ///
    /// # Errors
    /// A usage [`Failure`] that says which names there are.
    pub fn expect_none(&self, names: &str) -> Result<(), Failure> {
        let Some((name, socket)) = self.0.first() else { return Ok(()) };
        let at = socket.local_addr().map_or_else(|_| "?".to_owned(), |at| at.to_string());
        Err(Failure::usage(format!(
            "LISTEN_FDS: nothing is served at the socket {at}, named {name:?}: FileDescriptorName= of its unit is {names}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Passed {
        let socket = |name: &&str| ((*name).to_owned(), TcpListener::bind("127.0.0.1:0").unwrap());
        Passed::new(names.iter().map(socket).collect())
    }

    #[test]
    fn sockets_are_taken_by_their_names_and_what_is_left_is_refused() {
        let mut passed = named(&["http", "https", "http", "grpc"]);
        assert_eq!(passed.take("http").len(), 2);
        assert_eq!(passed.take("https").len(), 1);
        let refused = passed.expect_none("http or https").unwrap_err();
        assert_eq!(refused.code(), 2);
        let said = refused.to_string();
        assert!(said.contains("named \"grpc\": FileDescriptorName= of its unit is http or https"), "{said}");
        assert_eq!(passed.take("grpc").len(), 1);
        assert!(passed.is_empty() && passed.expect_none("none").is_ok());
    }

    #[test]
    fn a_program_with_one_listener_takes_one_socket_whatever_its_name() {
        assert!(named(&[]).take_only().unwrap().is_none());
        assert!(named(&["gw-control-plane.socket"]).take_only().unwrap().is_some());
        let refused = named(&["a", "b"]).take_only().unwrap_err();
        assert_eq!(refused.to_string(), "LISTEN_FDS: 2 sockets are passed, one is taken");
    }
}

//! Where a program is started: at which address of this machine, and behind which other program.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
};

/// Where a program is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    host: IpAddr,
    before: Vec<String>,
}

impl Place {
    /// On loopback, behind nothing.
    pub fn loopback() -> Self {
        Self { host: Ipv4Addr::LOCALHOST.into(), before: Vec::new() }
    }

    /// At this address, behind nothing.
    pub fn at(host: IpAddr) -> Self {
        Self { host, ..Self::loopback() }
    }

    /// The same behind a program that becomes the one which its arguments name in the end, as `nice` and `nsenter` do.
    #[must_use]
    pub fn behind(mut self, words: &[&str]) -> Self {
        self.before.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// The same behind a line of bash, such as one that limits what may be used.
    #[must_use]
    pub fn behind_line(self, line: &str) -> Self {
        self.behind(&["bash", "-c", &format!("{line}; exec \"$0\" \"$@\"")])
    }

    /// Its address.
    pub fn host(&self) -> IpAddr {
        self.host
    }

    /// The command that starts `program` here.
    pub fn command(&self, program: &Command) -> Command {
        let mut words = self.before.iter();
        let mut command = match words.next() {
            Some(first) => Command::new(first),
            None => Command::new(program.get_program()),
        };
        if !self.before.is_empty() {
            command.args(words).arg(program.get_program());
        }
        command.args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

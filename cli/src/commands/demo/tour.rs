//! `gwctl demo --tour`: what the gateway does when things break, step by step, each with a promise that is checked.
//!
//! A step says what will happen, prints the command, carries it out, shows the result, and holds it against what was promised.
//! The first one that does not hold ends the tour, and the process with a failure: so that the story told is a true one.

mod steps;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use tokio::{process::Command, time::timeout};

use super::{SERVICE, TARGET, invocation};
use crate::{
    demo::{client::Client, fleet::Member},
    error::{Error, Exit},
    output::Output,
    planes::{Addresses, Outage},
    terminal::printable,
};

/// The whole of it takes about half a minute, most of which a replica takes to come back.
const LIMIT: Duration = Duration::from_secs(120);
/// One command.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
/// What a step waits for, at most.
const WAIT_LIMIT: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(50);

/// What the steps need.
pub(super) struct Tour<'a> {
    addresses: &'a Addresses,
    outage: &'a Outage,
    members: &'a [Member],
    output: &'a Output,
    client: Client,
    step: usize,
}

/// What many requests came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    requests: usize,
    failed: usize,
    /// Requests that took more than one attempt.
    retried: usize,
    by: BTreeMap<String, usize>,
    last_failure: String,
}

impl Seen {
    fn add(&mut self, answer: Result<crate::demo::client::Answer, String>) {
        self.requests += 1;
        match answer {
            Ok(answer) if answer.status == StatusCode::OK => {
                self.retried += usize::from(answer.attempts > 1);
                *self.by.entry(answer.replica).or_default() += 1;
            }
            Ok(answer) => self.fail(answer.status.to_string()),
            Err(broken) => self.fail(broken),
        }
    }

    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.last_failure = why;
    }

    fn of(&self, replica: &str) -> usize {
        self.by.get(replica).copied().unwrap_or(0)
    }

    fn line(&self) -> String {
        let mut line =
            format!("{} requests, {} failed, {} retried", self.requests, self.failed, self.retried);
        for (replica, count) in &self.by {
            let _ = write!(line, "  ·  {replica} {count}");
        }
        if self.failed > 0 {
            let _ = write!(line, "  ·  the last failure: {}", printable(&self.last_failure));
        }
        line
    }
}

impl<'a> Tour<'a> {
    pub(super) fn new(
        addresses: &'a Addresses,
        outage: &'a Outage,
        members: &'a [Member],
        output: &'a Output,
    ) -> Self {
        Self { addresses, outage, members, output, client: Client::new(addresses.proxy), step: 0 }
    }

    /// All steps.
    ///
    /// # Errors
    /// The promise that did not hold.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let began = Instant::now();
        self.say(&format!(
            "One gateway, and a service of {} replicas behind it: {}, each a process of its own. Requests are made as by the curl \
             lines that are shown; gwctl lines are run.",
            self.members.len(),
            self.members.iter().map(|member| member.id.as_str()).collect::<Vec<_>>().join(", ")
        ))?;
        timeout(LIMIT, self.steps())
            .await
            .map_err(|_| Error::new(Exit::Failed, format!("the tour took longer than {LIMIT:?}")))??;
        let steps = self.step;
        self.say(&format!("\nAll {steps} steps held, in {} s.", began.elapsed().as_secs()))
    }

    fn say(&self, text: &str) -> Result<(), Error> {
        self.output.data(format_args!("{text}\n"))
    }

    /// Begins a step: what it is about, and what will happen.
    fn begin(&mut self, title: &str, promise: &str) -> Result<(), Error> {
        self.step += 1;
        self.say(&format!("\n{}. {title}\n   {promise}", self.step))
    }

    /// Prints a command that the tour carries out itself.
    fn show(&self, command: &str) -> Result<(), Error> {
        self.say(&format!("   $ {command}"))
    }

    fn result(&self, text: &str) -> Result<(), Error> {
        text.lines().try_for_each(|line| self.say(&format!("     {line}")))
    }

    /// Ends a step, whose promise `holds` or not.
    fn check(&self, holds: bool, promise: &str) -> Result<(), Error> {
        if holds {
            return self.say(&format!("   √ {promise}"));
        }
        self.say(&format!("   × {promise}"))?;
        let headline = format!("step {} of the tour did not hold: {promise}", self.step);
        Err(Error::new(Exit::Failed, headline).hint("look at more of the log with  --log info"))
    }

    /// Sends so many requests through the gateway, one after the other.
    async fn requests(&mut self, count: usize) -> Seen {
        let mut seen = Seen::default();
        for _ in 0..count {
            let answer = self.client.get(TARGET).await;
            seen.add(answer);
        }
        seen
    }

    fn curl(&self, count: usize) -> String {
        format!("for i in $(seq {count}); do curl http://{}{TARGET}; done", self.addresses.proxy)
    }

    /// Prints a gwctl line, runs it, and shows what it says. Yields that and whether it succeeded.
    async fn gwctl(&self, args: &[&str]) -> Result<(String, bool), Error> {
        self.show(&format!("{} {}", invocation(self.addresses.control), args.join(" ")))?;
        let (said, succeeded) = self.quietly(args).await?;
        self.result(&said)?;
        Ok((said, succeeded))
    }

    async fn quietly(&self, args: &[&str]) -> Result<(String, bool), Error> {
        let failed = |why: String| Error::new(Exit::Failed, format!("gwctl {}: {why}", args.join(" ")));
        let executable: PathBuf = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(executable);
        command.args(["-e", &format!("http://{}", self.addresses.control), "--color", "never"]).args(args);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let finished = timeout(COMMAND_LIMIT, command.output()).await;
        let finished = finished.map_err(|_| failed(format!("took longer than {COMMAND_LIMIT:?}")))?;
        let finished = finished.map_err(|error| failed(error.to_string()))?;
        let said = [finished.stdout, finished.stderr].concat();
        Ok((String::from_utf8_lossy(&said).into_owned(), finished.status.success()))
    }

    /// Waits until a gwctl line says something, without showing it.
    async fn until_says(&self, args: &[&str], said: impl Fn(&str) -> bool) -> Result<bool, Error> {
        let deadline = Instant::now() + WAIT_LIMIT;
        while Instant::now() < deadline {
            if said(&self.quietly(args).await?.0) {
                return Ok(true);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(false)
    }

    /// Has replicas fail from now on, or no more.
    async fn fault(&self, members: &[&Member], what: &str) -> Result<(), Error> {
        for member in members {
            let target = format!("/fault/{what}");
            self.show(&format!("curl -X POST 'http://{}{target}'", member.address))?;
            let answer = Client::new(member.address).ask(Method::POST, &target).await;
            match answer {
                Ok(answer) if answer.status == StatusCode::OK => {}
                Ok(answer) => {
                    return Err(Error::new(Exit::Failed, format!("{}: {}", member.id, answer.status)));
                }
                Err(broken) => return Err(Error::new(Exit::Failed, format!("{}: {broken}", member.id))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::client::Answer;

    #[test]
    fn what_was_seen_is_told_in_one_line() {
        let mut seen = Seen::default();
        let answer = |status, replica: &str, attempts| Answer {
            status,
            replica: replica.into(),
            attempts,
            ..Answer::default()
        };
        seen.add(Ok(answer(StatusCode::OK, "r-1", 1)));
        seen.add(Ok(answer(StatusCode::OK, "r-1", 2)));
        assert_eq!(seen.line(), "2 requests, 0 failed, 1 retried  ·  r-1 2");
        seen.add(Ok(answer(StatusCode::BAD_GATEWAY, "", 0)));
        seen.add(Err("cannot connect".into()));
        assert_eq!(
            seen.line(),
            "4 requests, 2 failed, 1 retried  ·  r-1 2  ·  the last failure: cannot connect"
        );
        assert_eq!((seen.of("r-1"), seen.of("r-9")), (2, 0));
    }

    fn quiet() -> Output {
        Output { quiet: true, ..Output::plain(crate::output::Format::Table) }
    }

    #[tokio::test]
    async fn a_promise_that_does_not_hold_ends_the_tour_with_a_failure_that_names_the_step() {
        let place = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        let addresses = Addresses { proxy: place, control: place, admin: place };
        let (outage, output) = (Outage::new(), quiet());
        let mut tour = Tour::new(&addresses, &outage, &[], &output);
        tour.begin("Retry", "something holds").unwrap();
        tour.check(true, "it holds").unwrap();
        tour.begin("Failover", "something else does").unwrap();
        let error = tour.check(false, "it does not").unwrap_err();
        assert_eq!(
            (error.exit, error.headline.as_str()),
            (Exit::Failed, "step 2 of the tour did not hold: it does not")
        );
        assert_eq!(tour.run().await.unwrap_err().exit, Exit::Failed, "there are no replicas");
    }

    #[tokio::test]
    async fn a_replica_that_cannot_be_told_to_fail_ends_the_tour_with_a_failure() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        drop(listener);
        let addresses = Addresses { proxy: place, control: place, admin: place };
        let members: Vec<_> =
            (1..=3).map(|number| Member { id: format!("r-{number}"), address: place, pid: 1 }).collect();
        let (outage, output) = (Outage::new(), quiet());
        let error = Tour::new(&addresses, &outage, &members, &output).run().await.unwrap_err();
        assert!(error.headline.starts_with("r-1: cannot connect"), "{error:?}");
    }
}

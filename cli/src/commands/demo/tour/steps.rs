//! The steps, in their order: each one leaves the gateway as it found it, but for the replica that the second one kills, which
//! the third and fourth are about.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use http::StatusCode;

use super::{Error, Exit, PAUSE, SERVICE, TARGET, Tour, WAIT_LIMIT};
use crate::demo::fleet::{Member, RESTART_AFTER};

impl Tour<'_> {
    pub(super) async fn steps(&mut self) -> Result<(), Error> {
        let members = self.members.to_vec();
        let [first, second, third] = &members[..] else {
            return Err(Error::new(Exit::Failed, "the tour needs three replicas"));
        };
        self.retry(first).await?;
        self.failover(second).await?;
        self.breaker_opens(second).await?;
        self.half_open(second).await?;
        self.fallback(&[first, second, third]).await?;
        self.drain(third).await?;
        self.outage().await
    }

    async fn retry(&mut self, replica: &Member) -> Result<(), Error> {
        let id = &replica.id;
        self.begin(
            "Retry",
            &format!("{id} answers 503 from now on. A GET may be sent twice, so another replica is asked: no client notices."),
        )?;
        self.fault(&[replica], "down?for=20s").await?;
        // Fewer than its breaker trips on: that is another step.
        self.show(&self.curl(6))?;
        let seen = self.requests(6).await;
        self.result(&seen.line())?;
        self.fault(&[replica], "off").await?;
        self.check(
            seen.failed == 0 && seen.retried > 0 && seen.of(id) == 0,
            "no request failed, and some took a second attempt",
        )
    }

    async fn failover(&mut self, replica: &Member) -> Result<(), Error> {
        let Member { id, pid, .. } = replica;
        self.begin(
            "Failover",
            &format!("{id} is killed. Nothing was sent to it yet when the connection is refused, so whatever the method, another one is asked."),
        )?;
        let command = format!("kill -9 {pid}");
        self.show(&command)?;
        let killed = tokio::process::Command::new("sh").args(["-c", &command]).status().await;
        if !killed.is_ok_and(|status| status.success()) {
            return Err(Error::new(Exit::Failed, format!("{command} failed")));
        }
        self.show(&self.curl(30))?;
        let seen = self.requests(30).await;
        self.result(&seen.line())?;
        self.check(seen.failed == 0, "no request failed while a replica died")
    }

    async fn breaker_opens(&mut self, replica: &Member) -> Result<(), Error> {
        let key = format!("{SERVICE}/{}", replica.id);
        self.begin(
            "The breaker opens",
            &format!("After five failures in a row {} is left alone, and anybody can see why, where, and until when.", replica.id),
        )?;
        let list = ["get", "breakers"];
        let is_open =
            |said: &str| said.lines().any(|line| line.contains(&replica.id) && !line.contains("closed"));
        self.until_says(&list, is_open).await?;
        let (said, _) = self.gwctl(&list).await?;
        let (why, succeeded) = self.gwctl(&["explain", &key]).await?;
        self.check(
            is_open(&said) && succeeded && why.contains("consecutive_failures"),
            "its breaker is not closed, and the reason is told with its numbers",
        )
    }

    async fn half_open(&mut self, replica: &Member) -> Result<(), Error> {
        let key = format!("{SERVICE}/{}", replica.id);
        let back = humantime::format_duration(RESTART_AFTER);
        self.begin(
            "Half-open",
            &format!(
                "{} comes back {back} after it was killed. One request at a time probes it; two good ones close its breaker. Clients \
                 see nothing of that.",
                replica.id
            ),
        )?;
        self.show(&format!("while sleep 0.05; do curl http://{}{TARGET}; done", self.addresses.proxy))?;
        let mut seen = super::Seen::default();
        let deadline = Instant::now() + WAIT_LIMIT;
        while seen.of(&replica.id) < 3 && Instant::now() < deadline {
            let answer = self.client.get(TARGET).await;
            seen.add(answer);
            tokio::time::sleep(PAUSE).await;
        }
        self.result(&seen.line())?;
        let closed = self.until_says(&["get", "breakers"], |said| said.starts_with("all ")).await?;
        let events = ["events", "--replica", &key];
        self.until_says(&events, |said| said.contains("BREAKER_CLOSED")).await?;
        let (said, _) = self.gwctl(&events).await?;
        self.check(
            closed
                && seen.failed == 0
                && said.contains("BREAKER_HALF_OPENED")
                && said.contains("BREAKER_CLOSED"),
            "it was probed, it is back in the rotation, and no request failed",
        )
    }

    async fn fallback(&mut self, members: &[&Member]) -> Result<(), Error> {
        self.begin(
            "Fallback",
            "The policy has an answer for when the whole service is down: clients get that, and are told that it is one.",
        )?;
        let set = ["fallback.static_status=200", "fallback.body=[]"];
        let (_, changed) = self.gwctl(&["policy", "set", SERVICE, set[0], set[1]]).await?;
        self.fault(members, "down?for=20s").await?;
        self.show(&format!("curl -i http://{}{TARGET}", self.addresses.proxy))?;
        // Until the data plane has the policy; the faults end by themselves.
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut answer = self.client.get(TARGET).await;
        while !answer.as_ref().is_ok_and(|answer| answer.fallback == "static") && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
            answer = self.client.get(TARGET).await;
        }
        match &answer {
            Ok(answer) => self.result(&format!("{}\nx-gw-fallback: {}", answer.status, answer.fallback))?,
            Err(broken) => self.result(broken)?,
        }
        self.fault(members, "off").await?;
        let (_, taken_back) = self.gwctl(&["policy", "unset", SERVICE, "fallback"]).await?;
        // Whose breaker has opened meanwhile closes at once.
        let (_, reset) = self.gwctl(&["breaker", "reset", SERVICE, "--all"]).await?;
        let is_told =
            answer.is_ok_and(|answer| answer.status == StatusCode::OK && answer.fallback == "static");
        self.check(
            changed && taken_back && reset && is_told,
            "with every replica down the client got 200 and `x-gw-fallback: static`",
        )
    }

    async fn drain(&mut self, replica: &Member) -> Result<(), Error> {
        let (id, key) = (&replica.id, format!("{SERVICE}/{}", replica.id));
        self.begin(
            "Drain",
            &format!("{id} is to be taken out for maintenance: it gets no new requests, finishes those that it has, and the command says when."),
        )?;
        let (_, drained) = self.gwctl(&["drain", &key, "--wait", "10s", "--reason", "tour"]).await?;
        self.show(&self.curl(12))?;
        let without = self.requests(12).await;
        self.result(&without.line())?;
        let (_, returned) = self.gwctl(&["undrain", &key]).await?;
        self.show(&self.curl(12))?;
        let deadline = Instant::now() + WAIT_LIMIT;
        let mut with = self.requests(12).await;
        while with.of(id) == 0 && with.failed == 0 && Instant::now() < deadline {
            with = self.requests(12).await;
        }
        self.result(&with.line())?;
        self.check(
            drained
                && returned
                && without.failed + with.failed == 0
                && without.of(id) == 0
                && with.of(id) > 0,
            "it got nothing while it was drained, everything else went on, and it is back",
        )
    }

    async fn outage(&mut self) -> Result<(), Error> {
        self.begin(
            "The control plane goes away",
            "It is not on the way of any request: the data plane goes on by what it knows, and takes up its news when it is back.",
        )?;
        self.show(
            "kill $(pidof gw-control-plane)     # here it is ended by the tour, which is the same process",
        )?;
        self.outage.begin().await;
        let (_, reached) = self.gwctl(&["get", "nodes"]).await?;
        self.show(&self.curl(30))?;
        let seen = self.requests(30).await;
        self.result(&seen.line())?;
        self.show("gw-control-plane     # and started again")?;
        self.outage.end().await;
        self.until_says(&["get", "nodes"], |said| said.contains("synced")).await?;
        let (nodes, back) = self.gwctl(&["get", "nodes"]).await?;
        let replicas: BTreeSet<_> = seen.by.keys().collect();
        self.check(
            !reached
                && back
                && nodes.contains("synced")
                && seen.failed == 0
                && replicas.len() == self.members.len(),
            "every request was answered without it, by all replicas, and the data plane is in sync again",
        )
    }
}

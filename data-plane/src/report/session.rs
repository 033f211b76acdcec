//! One stream of reports: what is told when, from the full state to the farewell.
//!
//! A message speaks for all rows that were told before it. So the position that it names is always one from which on all has been
//! looked at that had changed since the position before, and rows of several messages name it in the last of them only.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use gateway_proto::{
    ReplicaKey,
    time::{duration, parse_duration},
    v1,
};
use gateway_runtime::Shutdown;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Status};

use super::{
    Ended, Reporter, SEND_TIMEOUT, checks,
    journal::{Batch, Journal},
    ledger::{Ledger, Look},
    rows,
    stats::StatsLedger,
    what_if,
};
use crate::{
    discovery::Position,
    table::{Seen, Table},
};

/// Until the control plane asks for another.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Whatever the control plane asks for, reports come neither in a flood nor so rarely that it takes us for dead.
pub(super) const INTERVAL_RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// With nothing to tell, a report says that we are alive this often.
const QUIET: Duration = Duration::from_secs(5);
/// At the end, the control plane has this long to read what was told last.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);
/// Rows, counts and events in one message, of each at most: control planes take no more events, and together they
/// stay well under a message's limit of 4 MiB.
pub(super) const MAX_ROWS: usize = 1000;
/// Held replicas that are named; control planes take no more.
const MAX_HELD: usize = 1000;
/// Between two looks at draining replicas, at least this long.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two positions: of a registry that changes all the time each change is a message otherwise. After a while without any, the
/// next one is told at once.
const POSITION_PAUSE: Duration = Duration::from_millis(50);
/// Of the time, such looks take no more than one part in this many.
const SHARE: u32 = 20;

/// One stream of reports.
pub(super) struct Session<'a> {
    reporter: &'a Reporter,
    ledger: Ledger,
    outgoing: mpsc::Sender<v1::ReportNodeStatusRequest>,
    /// Whether the control plane knows whose reports these are.
    introduced: bool,
    sent: Instant,
    /// The position that the rows told so far are of.
    position: Position,
    /// How far the table's changes were followed when it was looked at by the last position.
    seen: Seen,
    held: v1::HeldReplicas,
    /// How late health checks begin, as it was told.
    checks_late: Duration,
    stats: StatsLedger,
    /// When the interval began of which it tells next.
    stats_since: Instant,
    /// While the control plane asks for counts of replicas, too.
    detail: Option<Detail>,
    /// A question that is being answered: one at a time.
    answering: Option<JoinHandle<v1::WhatIfAnswer>>,
    /// What was told and not confirmed yet.
    unconfirmed: Unconfirmed<'a>,
    /// Discovery follows another control plane when this changes.
    moves: watch::Receiver<usize>,
    /// Before these, no new position and no end of a drain is looked for: both may come at any rate.
    next_position_at: Instant,
    next_drained_at: Instant,
}

impl<'a> Session<'a> {
    /// `moves` says when another control plane is followed than the one that `outgoing` leads to.
    pub(super) fn new(
        reporter: &'a Reporter,
        outgoing: mpsc::Sender<v1::ReportNodeStatusRequest>,
        moves: watch::Receiver<usize>,
    ) -> Self {
        let now = Instant::now();
        Self {
            reporter,
            ledger: Ledger::default(),
            outgoing,
            introduced: false,
            sent: now,
            position: Position::default(),
            seen: Seen::default(),
            held: v1::HeldReplicas::default(),
            checks_late: Duration::ZERO,
            stats: StatsLedger::begin(&reporter.table.services()),
            stats_since: now,
            detail: None,
            answering: None,
            unconfirmed: Unconfirmed {
                journal: &reporter.journal,
                batches: VecDeque::new(),
                is_confirmed: true,
            },
            moves,
            next_position_at: now,
            next_drained_at: now,
        }
    }

    pub(super) async fn report(
        mut self,
        mut responses: impl Stream<Item = Result<v1::ReportNodeStatusResponse, Status>> + Unpin,
        stop: &Shutdown,
    ) -> Ended {
        let mut interval = INTERVAL;
        let mut due = Instant::now() + interval;
        loop {
            let told = tokio::select! {
                response = responses.next() => match response {
                    Some(Ok(response)) => {
                        interval = read_interval(&response);
                        self.unconfirmed.hear(&response);
                        due = due.min(Instant::now() + interval);
                        self.count_in_detail(response.detailed_stats);
                        self.begin_to_answer(response.what_if);
                        Ok(())
                    }
                    Some(Err(status)) => {
                        if status.code() == Code::InvalidArgument {
                            // It would be refused again, for ever.
                            self.unconfirmed.batches.clear();
                        }
                        return status.into();
                    }
                    None => return Ended::Closed,
                },
                () = self.reporter.journal.recorded() => self.tell_transitions().await,
                answer = answered(&mut self.answering) => self.tell_answer(answer).await,
                () = self.reporter.moved_on(&self.position, self.next_position_at) => self.tell_position().await,
                () = self.reporter.drained_some(self.next_drained_at) => self.tell_drained().await,
                () = sleep_until(due) => {
                    due = Instant::now() + interval;
                    self.tell_changes().await
                }
                // The sender is held for as long as this is.
                _ = self.moves.changed() => return Ended::Moved,
                () = stop.begun() => return self.tell_the_rest(responses).await,
            };
            if let Err(ended) = told {
                return ended;
            }
        }
    }

    /// Waiting transitions with the breakers they changed; after a loss, the full state.
    async fn tell_transitions(&mut self) -> Result<(), Ended> {
        let batch = self.reporter.journal.take(MAX_ROWS);
        if batch.dropped > 0 {
            return self.tell_all(batch).await;
        }
        if batch.is_empty() {
            return Ok(());
        }
        let keys = batch.transitions.iter().map(|transition| &transition.key);
        let keys: BTreeSet<_> = keys.chain(batch.checks.iter().map(|change| &change.key)).collect();
        let rows = self.look_at(keys.into_iter());
        let (events, batch_number) = (self.events(&batch), batch.number);
        self.unconfirmed.batches.push_back(batch);
        let first = v1::ReportNodeStatusRequest { events, batch_number, ..Default::default() };
        self.send(first, Content { rows, ..Content::default() }).await
    }

    /// That the table has moved on, with the rows of what has changed in it by then.
    async fn tell_position(&mut self) -> Result<(), Ended> {
        let began = Instant::now();
        let content = self.look_at_changes();
        let first = v1::ReportNodeStatusRequest { held_replicas: self.held(), ..Default::default() };
        self.next_position_at = began + POSITION_PAUSE.max(began.elapsed() * SHARE);
        self.send(first, content).await
    }

    /// Draining replicas at which nothing is in flight any more.
    async fn tell_drained(&mut self) -> Result<(), Ended> {
        let began = Instant::now();
        let (table, drains) = (&self.reporter.table, self.reporter.table.drains());
        let draining = drains.replicas.iter().map(|draining| &draining.key);
        let idle: Vec<_> = draining.filter(|key| self.ledger.has_become_idle(key, table)).collect();
        let rows = self.look_at(idle.into_iter());
        self.next_drained_at = began + PAUSE.max(began.elapsed() * SHARE);
        if rows.is_empty() {
            return Ok(());
        }
        self.send(v1::ReportNodeStatusRequest::default(), Content { rows, ..Content::default() }).await
    }

    /// Whatever changed, or a sign of life.
    async fn tell_changes(&mut self) -> Result<(), Ended> {
        // Beside transitions: a service may fail open because of who joined or left.
        self.tell_transitions().await?;
        let mut content = self.walk();
        let interval = std::mem::replace(&mut self.stats_since, Instant::now()).elapsed();
        content.stats_interval = Some(interval);
        content.stats = self.stats.take(&self.reporter.table.services(), self.detail.is_some());
        let (held_replicas, health_check_lateness) = (self.held(), self.checks_late());
        let is_told = held_replicas.is_some() || health_check_lateness.is_some();
        if !is_told && !content.is_news(&self.position) && self.sent.elapsed() < QUIET {
            return Ok(());
        }
        let first =
            v1::ReportNodeStatusRequest { held_replicas, health_check_lateness, ..Default::default() };
        self.send(first, content).await
    }

    /// The full state, which takes the place of all that was told before.
    pub(super) async fn tell_all(&mut self, batch: Batch) -> Result<(), Ended> {
        self.ledger = Ledger::default();
        // Until the last row is told, nothing is known of any position.
        self.position = Position::default();
        self.held = v1::HeldReplicas::default();
        self.checks_late = Duration::ZERO;
        let content = self.walk();
        let first = v1::ReportNodeStatusRequest {
            full: true,
            events: self.events(&batch),
            dropped_event_count: i64::try_from(batch.dropped).unwrap_or(i64::MAX),
            batch_number: batch.number,
            held_replicas: self.held(),
            health_check_lateness: self.checks_late(),
            ..Default::default()
        };
        if !batch.is_empty() {
            self.unconfirmed.batches.push_back(batch);
        }
        self.send(first, content).await
    }

    /// Tells what is left, says goodbye and ends the stream. Waits for the control plane to end its side too, which it does when it has
    /// read everything: leaving earlier could cut off what is still under way.
    pub(super) async fn tell_the_rest<R>(mut self, mut responses: impl Stream<Item = R> + Unpin) -> Ended {
        if let Err(ended) = self.tell_transitions().await {
            return ended;
        }
        if let Err(ended) = self.tell_changes().await {
            return ended;
        }
        let is_leaving = !self.reporter.control_plane.hold().is_held();
        let goodbye = v1::ReportNodeStatusRequest { is_leaving, ..Default::default() };
        if let Err(ended) = self.send(goodbye, Content::default()).await {
            return ended;
        }
        drop(self.outgoing);
        match timeout(FAREWELL, async { while responses.next().await.is_some() {} }).await {
            Ok(()) => Ended::Closed,
            Err(_) => Ended::NotTaken,
        }
    }

    /// Begins to have latencies of replicas recorded and their counts told, or ceases to.
    fn count_in_detail(&mut self, wanted: bool) {
        match wanted {
            true if self.detail.is_none() => {
                let table = &self.reporter.table;
                self.detail = Some(Detail::begin(table));
                self.stats.begin_replicas(&table.services());
            }
            true => {}
            false => self.detail = None,
        }
    }

    /// Looks for an answer on a thread that nothing else waits for, unless it does so already.
    fn begin_to_answer(&mut self, question: Option<v1::WhatIfQuestion>) {
        let Some(question) = question.filter(|_| self.answering.is_none()) else { return };
        let Reporter { table, clock, .. } = self.reporter;
        let (table, clock) = (Arc::clone(table), *clock);
        let answer = move || what_if::answer(&table, &question, |tick| clock.date(tick));
        self.answering = Some(spawn_blocking(answer));
    }

    async fn tell_answer(&mut self, answer: Option<v1::WhatIfAnswer>) -> Result<(), Ended> {
        self.answering = None;
        // One that was not found has met a defect, which the log tells.
        let Some(what_if_answer) = answer else { return Ok(()) };
        let first =
            v1::ReportNodeStatusRequest { what_if_answer: Some(what_if_answer), ..Default::default() };
        self.send(first, Content::default()).await
    }

    /// All rows that changed, and the position by which they do: read first, so that they are not older.
    fn walk(&mut self) -> Content {
        let (position, table) = (self.reporter.position(), &self.reporter.table);
        let seen = table.seen();
        let rows = self.looking(|ledger, look| ledger.walk(&table.services(), look));
        self.has_looked(rows, position, seen)
    }

    /// The rows that changed of services that the registry, or an operator, has changed since the last position.
    fn look_at_changes(&mut self) -> Content {
        let (position, table) = (self.reporter.position(), &self.reporter.table);
        let (changed, seen) = table.changed_since(self.seen, self.ledger.services());
        let rows = self.looking(|ledger, look| ledger.look_at_services(&changed, table, look));
        self.has_looked(rows, position, seen)
    }

    /// While a worker may pick by what was there before, what has changed has to be looked at once more.
    fn has_looked(&mut self, rows: Vec<v1::Breaker>, position: Option<Position>, seen: Seen) -> Content {
        if position.is_some() {
            self.seen = seen;
        }
        Content { rows, position, ..Content::default() }
    }

    fn look_at<'k>(&mut self, keys: impl Iterator<Item = &'k ReplicaKey>) -> Vec<v1::Breaker> {
        let table = &self.reporter.table;
        self.looking(|ledger, look| ledger.look_at(keys, table, look))
    }

    fn looking<T>(&mut self, look: impl FnOnce(&mut Ledger, Look<'_>) -> T) -> T {
        let Reporter { clock, node_id, .. } = self.reporter;
        look(&mut self.ledger, Look { node_id, now: clock.now(), date: &|tick| clock.date(tick) })
    }

    /// What the guard holds, if that is something else than was told.
    fn held(&mut self) -> Option<v1::HeldReplicas> {
        let held = self.reporter.view.mirror.borrow().held_to_wire(MAX_HELD);
        (held != self.held).then(|| self.held.clone_from(&held)).map(|()| held)
    }

    /// How late health checks begin, if that is something else than was told.
    fn checks_late(&mut self) -> Option<prost_types::Duration> {
        let late = self.reporter.checks.lateness();
        (std::mem::replace(&mut self.checks_late, late) != late).then(|| duration(late))
    }

    fn events(&self, batch: &Batch) -> Vec<v1::Event> {
        let Reporter { clock, node_id, .. } = self.reporter;
        let transitions = batch.transitions.iter();
        let events = transitions.map(|transition| rows::event(node_id, transition, |tick| clock.date(tick)));
        let fail_opens = batch.fail_opens.iter();
        let others = fail_opens.map(|change| rows::fail_open_event(node_id, change, |tick| clock.date(tick)));
        let checks =
            batch.checks.iter().map(|change| checks::event(node_id, change, |tick| clock.date(tick)));
        events.chain(checks).chain(others).collect()
    }

    /// Sends `first` with the content, in as many messages as that needs. Later ones add to what the first began.
    async fn send(&mut self, first: v1::ReportNodeStatusRequest, mut content: Content) -> Result<(), Ended> {
        let mut message = first;
        if !self.introduced {
            let Reporter { node_id, version, process_id, .. } = self.reporter;
            message.node = Some(v1::NodeIdentity {
                node_id: node_id.to_string(),
                version: (*version).into(),
                process_id: process_id.clone(),
                // Of the other stream.
                stream_number: 0,
            });
            self.introduced = true;
        }
        loop {
            message.breakers = first_of(&mut content.rows);
            message.stats = first_of(&mut content.stats);
            message.stats_interval =
                content.stats_interval.filter(|_| !message.stats.is_empty()).map(duration);
            let is_last = content.rows.is_empty() && content.stats.is_empty();
            if let Some(position) = content.position.take_if(|_| is_last) {
                self.position = position;
            }
            message.epoch.clone_from(&self.position.epoch);
            message.revision = self.position.revision;
            let sent = timeout(SEND_TIMEOUT, self.outgoing.send(std::mem::take(&mut message))).await;
            sent.map_err(|_| Ended::NotTaken)?.map_err(|_| Ended::Closed)?;
            self.sent = Instant::now();
            if is_last {
                return Ok(());
            }
        }
    }
}

/// What has to be told, in one message or several.
#[derive(Debug, Default)]
struct Content {
    rows: Vec<v1::Breaker>,
    stats: Vec<v1::ReplicaStats>,
    stats_interval: Option<Duration>,
    /// After a walk over the whole table.
    position: Option<Position>,
}

impl Content {
    fn is_news(&self, told: &Position) -> bool {
        let has_moved = self.position.as_ref().is_some_and(|position| position != told);
        has_moved || !self.rows.is_empty() || !self.stats.is_empty()
    }
}

/// Transitions that the control plane has not said to have taken. When the stream ends they are told again, on the next.
struct Unconfirmed<'a> {
    journal: &'a Journal,
    batches: VecDeque<Batch>,
    /// Whether the control plane says so at all; assumed until it speaks.
    is_confirmed: bool,
}

impl Unconfirmed<'_> {
    fn hear(&mut self, response: &v1::ReportNodeStatusResponse) {
        self.is_confirmed = response.confirms_batches;
        while self.batches.front().is_some_and(|batch| batch.number <= response.taken_batch_number) {
            self.batches.pop_front();
        }
        if !self.is_confirmed {
            self.batches.clear();
        }
    }
}

impl Drop for Unconfirmed<'_> {
    fn drop(&mut self) {
        if self.is_confirmed && !self.batches.is_empty() {
            self.journal.give_back(std::mem::take(&mut self.batches));
        }
    }
}

/// Workers record latencies of replicas as long as this lives.
struct Detail(Arc<Table>);

impl Detail {
    fn begin(table: &Arc<Table>) -> Self {
        table.set_detailed(true);
        Self(Arc::clone(table))
    }
}

impl Drop for Detail {
    fn drop(&mut self) {
        self.0.set_detailed(false);
    }
}

/// Completes when the answer is there; never without a question. Cancel safe.
async fn answered(answering: &mut Option<JoinHandle<v1::WhatIfAnswer>>) -> Option<v1::WhatIfAnswer> {
    match answering {
        Some(answering) => answering.await.ok(),
        None => std::future::pending().await,
    }
}

/// Takes the first [`MAX_ROWS`] out.
fn first_of<T>(rows: &mut Vec<T>) -> Vec<T> {
    let rest = rows.split_off(rows.len().min(MAX_ROWS));
    std::mem::replace(rows, rest)
}

/// How often the control plane wants counts, within what is good for both.
pub(super) fn read_interval(response: &v1::ReportNodeStatusResponse) -> Duration {
    let wanted = response.report_interval.and_then(|wire| parse_duration("report_interval", wire).ok());
    wanted.map_or(INTERVAL, |wanted| wanted.clamp(INTERVAL_RANGE.0, INTERVAL_RANGE.1))
}

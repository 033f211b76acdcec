//! `-w`: after the list, what changes.
//!
//! Where the control plane streams changes, they come from its stream, which is opened again where it broke off; elsewhere the
//! list is asked for again and compared. Programs get one JSON object a line, with the kind of the change; people a table that
//! is drawn again in its place, or, where there is no terminal, a row for each change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use gateway_proto::{
    json::to_json,
    v1::{
        ChangeType, WatchBreakersRequest, WatchBreakersResponse, WatchReplicasRequest, WatchReplicasResponse,
    },
};
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};
use tonic::Streaming;

use crate::{
    control::{Control, Scope},
    error::{Error, Exit},
    interruption::Interruption,
    output::{Document, Format, Listing, Output, Shown},
    screen::{self, Drawn},
    table::{Row, Table},
};

/// Between two looks at what is not streamed.
const INTERVAL: Duration = Duration::from_secs(2);
/// Between two drawings on a terminal: times count up and down.
const TICK: Duration = Duration::from_secs(1);

/// Where changes come from.
#[derive(Debug, Clone)]
pub(crate) enum Feed {
    Replicas {
        service: String,
    },
    Breakers {
        scope: Scope,
        per_node: bool,
    },
    /// From lists; changes of these fields alone are none.
    Lists {
        ignored: &'static [&'static str],
    },
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    kind: ChangeType,
    name: String,
    /// None of BOOKMARK and RESET.
    object: Option<Value>,
    revision: Option<String>,
}

/// Shows a list and then its changes, until stdout closes.
///
/// # Errors
/// What the control plane refuses; one that is away is waited for, once it was there.
pub(crate) async fn run(
    feed: Feed,
    list: impl AsyncFn() -> Result<Listing, Error>,
    shown: &Shown,
    control: &Control,
    output: &Output,
) -> Result<(), Error> {
    let is_table = matches!(output.format, Format::Table | Format::Wide) && !output.csv;
    if is_table && shown.watch != Some(Way::Append) && screen::is_there() {
        return redraw(list, shown, output).await;
    }
    let mut printer = Printer { shown, output, rows: BTreeMap::new(), has_begun: false };
    let mut source = Source::new(feed, control, output);
    let following = async {
        loop {
            let batch = source.next(&list).await?;
            printer.print(&batch, &list).await?;
        }
    };
    output.while_read(following).await
}

/// How changes are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// In place on a terminal, appended elsewhere
    Auto,
    /// A line for each change
    Append,
}

/// Draws the list again and again.
async fn redraw(
    list: impl AsyncFn() -> Result<Listing, Error>,
    shown: &Shown,
    output: &Output,
) -> Result<(), Error> {
    let mut drawn = Drawn::default();
    let mut resized = signal(SignalKind::window_change())?;
    let mut last = None;
    loop {
        let trouble = match list().await {
            Ok(mut listing) => {
                if let Some(by) = &shown.sort_by {
                    listing.sort(by)?;
                }
                let table = listing.table(&shown.columns)?.with_headings(output.headings);
                let notes: String = listing.notes.iter().map(|note| format!("{note}\n")).collect();
                last = Some(format!("{table}{notes}"));
                String::new()
            }
            // Before there was a list, there is nothing to keep.
            Err(error) if error.exit == Exit::Unreachable && last.is_some() => {
                format!("not up to date: {}\n", error.headline)
            }
            Err(error) => return Err(error),
        };
        drawn.draw(&format!("{}{trouble}", last.as_deref().unwrap_or_default()))?;
        tokio::select! {
            () = sleep(TICK) => {}
            _ = resized.recv() => {}
        }
    }
}

/// Prints changes one by one.
struct Printer<'a> {
    shown: &'a Shown,
    output: &'a Output,
    /// The last rows of each item, for when it is gone.
    rows: BTreeMap<String, Vec<Row>>,
    has_begun: bool,
}

impl Printer<'_> {
    async fn print(
        &mut self,
        batch: &[Change],
        list: &impl AsyncFn() -> Result<Listing, Error>,
    ) -> Result<(), Error> {
        match (self.output.format, &self.output.document) {
            (Format::Json, Document::Path(path)) => {
                let objects = batch.iter().filter_map(|change| change.object.as_ref());
                self.output.data(objects.map(|object| path.lines(object)).collect::<String>())
            }
            // What has no end is no indented document.
            (Format::Json, _) => self.output.data(batch.iter().map(line).collect::<String>()),
            (Format::Name, _) => {
                let there = batch
                    .iter()
                    .filter(|change| matches!(change.kind, ChangeType::Added | ChangeType::Modified));
                self.output.data(there.map(|change| format!("{}\n", change.name)).collect::<String>())
            }
            (Format::Table | Format::Wide, _) => self.append(batch, list).await,
        }
    }

    async fn append(
        &mut self,
        batch: &[Change],
        list: &impl AsyncFn() -> Result<Listing, Error>,
    ) -> Result<(), Error> {
        let named = |kind| batch.iter().filter(move |change| change.kind == kind).map(|change| &change.name);
        let (added, changed): (BTreeSet<_>, BTreeSet<_>) =
            (named(ChangeType::Added).collect(), named(ChangeType::Modified).collect());
        let gone: Vec<_> = named(ChangeType::Deleted).collect();
        if added.is_empty() && changed.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let mut listing = match list().await {
            Ok(listing) => listing,
            // The feed says so as well, and goes on.
            Err(error) if error.exit == Exit::Unreachable => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Some(by) = &self.shown.sort_by {
            listing.sort(by)?;
        }
        let (headings, rows) = listing.rows(&self.shown.columns)?;
        let mut table = Table::new([&["CHANGE"], &headings[..]].concat());
        let mut push = |what: &str, row: &Row| {
            let mut cells: Row = vec![what.into()];
            cells.extend(row.iter().cloned());
            table.push(cells);
        };
        for (name, row) in &rows {
            if added.contains(name) {
                push("added", row);
            } else if changed.contains(name) {
                push("changed", row);
            }
        }
        for name in gone {
            self.rows.remove(name).unwrap_or_default().iter().for_each(|row| push("deleted", row));
        }
        self.rows.clear();
        for (name, row) in rows {
            self.rows.entry(name).or_default().push(row);
        }
        if table.is_empty() {
            return Ok(());
        }
        let headings = self.output.headings && !std::mem::replace(&mut self.has_begun, true);
        Output { headings, ..*self.output }.table(table)
    }
}

/// `{"type":"MODIFIED","revision":"1842","object":{…}}`
fn line(change: &Change) -> String {
    let kind = change.kind.as_str_name().trim_start_matches("CHANGE_TYPE_");
    let field = |name: &str, value: String| format!(",\"{name}\":{value}");
    let revision =
        change.revision.as_deref().map(|revision| field("revision", Value::from(revision).to_string()));
    let object = change.object.as_ref().map(|object| field("object", object.to_string()));
    format!("{{\"type\":\"{kind}\"{}{}}}\n", revision.unwrap_or_default(), object.unwrap_or_default())
}

/// Changes, in batches that end with a BOOKMARK.
struct Source<'a> {
    feed: Feed,
    control: &'a Control,
    output: &'a Output,
    stream: Stream,
    /// From where a stream of replicas goes on.
    cursor: (String, i64),
    /// What a list had last, by name.
    known: Option<BTreeMap<String, Value>>,
    interruption: Interruption,
    was_there: bool,
}

enum Stream {
    Closed,
    Replicas(Streaming<WatchReplicasResponse>),
    Breakers(Streaming<WatchBreakersResponse>),
}

impl<'a> Source<'a> {
    fn new(feed: Feed, control: &'a Control, output: &'a Output) -> Self {
        let cursor = (String::new(), 0);
        Self {
            feed,
            control,
            output,
            stream: Stream::Closed,
            cursor,
            known: None,
            interruption: Interruption::none(),
            was_there: false,
        }
    }

    /// The next batch, however long it takes. An interruption is told on stderr and mended.
    async fn next(&mut self, list: &impl AsyncFn() -> Result<Listing, Error>) -> Result<Vec<Change>, Error> {
        loop {
            let began = Instant::now();
            let batch = match self.feed {
                Feed::Lists { ignored } => self.compare(ignored, list).await,
                _ => self.receive().await,
            };
            let broken = match batch {
                Ok(batch) => {
                    self.interruption.over(self.output);
                    self.was_there = true;
                    if !batch.is_empty() {
                        return Ok(batch);
                    }
                    sleep(INTERVAL.saturating_sub(began.elapsed())).await;
                    continue;
                }
                Err(error) if error.exit == Exit::Unreachable && self.was_there => error.headline,
                Err(error) => return Err(error),
            };
            self.interruption.wait(&broken, self.output).await;
        }
    }

    async fn compare(
        &mut self,
        ignored: &[&str],
        list: &impl AsyncFn() -> Result<Listing, Error>,
    ) -> Result<Vec<Change>, Error> {
        if self.known.is_some() {
            sleep(INTERVAL).await;
        }
        let listing = list().await?;
        let revision = listing.revision().map(str::to_owned);
        let now: BTreeMap<String, Value> =
            listing.items.iter().map(|item| (item.name.clone(), item.object.clone())).collect();
        let is_first = self.known.is_none();
        let before = self.known.take().unwrap_or_default();
        let mut batch = differences(&before, &now, ignored);
        if is_first || !batch.is_empty() {
            batch.iter_mut().for_each(|change| change.revision.clone_from(&revision));
            batch.push(Change { kind: ChangeType::Bookmark, name: String::new(), object: None, revision });
        }
        self.known = Some(now);
        Ok(batch)
    }

    async fn receive(&mut self) -> Result<Vec<Change>, Error> {
        let mut batch = Vec::new();
        if matches!(self.stream, Stream::Closed) {
            self.open().await?;
            // Breakers have no revision to go on from: the set comes anew.
            if self.was_there && matches!(self.stream, Stream::Breakers(_)) {
                batch.push(Change {
                    kind: ChangeType::Reset,
                    name: String::new(),
                    object: None,
                    revision: None,
                });
            }
        }
        loop {
            let received = match &mut self.stream {
                Stream::Replicas(stream) => stream.message().await.map(|message| message.map(of_replica)),
                Stream::Breakers(stream) => stream.message().await.map(|message| message.map(of_breaker)),
                Stream::Closed => unreachable!("it was opened"),
            };
            let why = match received {
                Ok(Some((change, cursor))) => {
                    let is_end = change.kind == ChangeType::Bookmark;
                    batch.push(change);
                    if is_end {
                        self.cursor = cursor.unwrap_or(std::mem::take(&mut self.cursor));
                        return Ok(batch);
                    }
                    continue;
                }
                Ok(None) => "the control plane ended it".to_owned(),
                Err(status) => status.message().to_owned(),
            };
            self.stream = Stream::Closed;
            // A batch without its end comes again.
            return Err(Error::new(Exit::Unreachable, why));
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        self.stream = match &self.feed {
            Feed::Replicas { service } => {
                let (resume_epoch, resume_revision) = self.cursor.clone();
                let request =
                    WatchReplicasRequest { service: service.clone(), resume_epoch, resume_revision };
                Stream::Replicas(self.control.watch_replicas(request).await?)
            }
            Feed::Breakers { scope, per_node } => {
                let Scope { service, replica_id } = scope.clone();
                let request = WatchBreakersRequest { service, replica_id, per_node: *per_node };
                Stream::Breakers(self.control.watch_breakers(request).await?)
            }
            Feed::Lists { .. } => Stream::Closed,
        };
        Ok(())
    }
}

fn of_replica(message: WatchReplicasResponse) -> (Change, Option<(String, i64)>) {
    let kind = message.change_type();
    let bookmark = (kind == ChangeType::Bookmark).then(|| (message.epoch.clone(), message.revision));
    let revision = match &message.replica {
        Some(replica) if replica.revision > 0 => Some(replica.revision),
        _ => bookmark.as_ref().map(|(_, revision)| *revision),
    };
    let name =
        message.replica.as_ref().map(|r| format!("{}/{}", r.service, r.replica_id)).unwrap_or_default();
    let object = message.replica.as_ref().map(to_json);
    (Change { kind, name, object, revision: revision.map(|revision| revision.to_string()) }, bookmark)
}

fn of_breaker(message: WatchBreakersResponse) -> (Change, Option<(String, i64)>) {
    let name = message.breaker.as_ref().map(crate::commands::get::breaker_name).unwrap_or_default();
    let object = message.breaker.as_ref().map(to_json);
    (Change { kind: message.change_type(), name, object, revision: None }, None)
}

/// What has come, what is another, and what has gone.
fn differences(
    before: &BTreeMap<String, Value>,
    now: &BTreeMap<String, Value>,
    ignored: &[&str],
) -> Vec<Change> {
    let change = |kind, name: &String, object: &Value| Change {
        kind,
        name: name.clone(),
        object: Some(object.clone()),
        revision: None,
    };
    let there = now.iter().filter_map(|(name, object)| match before.get(name) {
        None => Some(change(ChangeType::Added, name, object)),
        Some(before) if is_same(before, object, ignored) => None,
        Some(_) => Some(change(ChangeType::Modified, name, object)),
    });
    let gone = before.iter().filter(|(name, _)| !now.contains_key(*name));
    there.chain(gone.map(|(name, object)| change(ChangeType::Deleted, name, object))).collect()
}

fn is_same(before: &Value, now: &Value, ignored: &[&str]) -> bool {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            let counts = |name: &String| !ignored.contains(&name.as_str());
            before.iter().filter(|(name, _)| counts(name)).eq(now.iter().filter(|(name, _)| counts(name)))
        }
        _ => before == now,
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::Replica;
    use serde_json::json;

    use super::*;

    #[test]
    fn two_lists_differ_by_what_has_come_changed_and_gone() {
        let list = |items: &[(&str, i32, i32)]| -> BTreeMap<String, Value> {
            let object = |count: i32, seen: i32| json!({"count": count, "lastReportTime": seen});
            items.iter().map(|(name, count, seen)| ((*name).to_owned(), object(*count, *seen))).collect()
        };
        let before = list(&[("a", 1, 1), ("b", 1, 1), ("c", 1, 1)]);
        let now = list(&[("a", 1, 2), ("b", 2, 2), ("d", 1, 2)]);
        let changes = differences(&before, &now, &["lastReportTime"]);
        let kinds: Vec<_> = changes.iter().map(|change| (change.kind, change.name.as_str())).collect();
        assert_eq!(
            kinds,
            [(ChangeType::Modified, "b"), (ChangeType::Added, "d"), (ChangeType::Deleted, "c")]
        );
        assert_eq!(differences(&before, &now, &[]).len(), 4);
        assert_eq!(differences(&now, &now, &[]), []);
    }

    #[test]
    fn a_line_has_the_kind_the_revision_and_the_object() {
        let replica =
            Replica { service: "orders".into(), replica_id: "r-1".into(), revision: 7, ..Default::default() };
        let message = |kind: ChangeType, replica| WatchReplicasResponse {
            change_type: kind.into(),
            replica,
            epoch: "e".into(),
            revision: 9,
        };
        let (change, cursor) = of_replica(message(ChangeType::Modified, Some(replica)));
        assert_eq!(cursor, None);
        let value: Value = serde_json::from_str(&line(&change)).unwrap();
        assert_eq!((&value["type"], &value["revision"]), (&json!("MODIFIED"), &json!("7")));
        assert_eq!(value["object"]["replicaId"], "r-1");
        let (change, cursor) = of_replica(message(ChangeType::Bookmark, None));
        assert_eq!(cursor, Some(("e".to_owned(), 9)));
        assert_eq!(line(&change), "{\"type\":\"BOOKMARK\",\"revision\":\"9\"}\n");
    }
}

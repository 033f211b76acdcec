//! Lists of services and replicas, by name or in any order, page by page.
//!
//! What is listed is read in parts, so that the writer never waits for a filter or for a sort. Each part is as the
//! registry was when it was read: a list that changes meanwhile may show an item as of before or after a change.

use std::{cmp::Ordering, fmt::Display, sync::Arc};

use gateway_proto::{
    ReplicaKey, ServiceName,
    time::{duration, timestamp},
    v1,
};
use tokio::task::yield_now;

use super::{
    count,
    fields::{REPLICAS, SERVICES},
    parse_key,
};
use crate::{
    edge::Edge,
    observe::Lately,
    query::{Filter, First, Order, Schema},
    refusal::Refusal,
    registry::{Record, Revision, ServiceEntry},
    rpc::page::Page,
};

/// Replicas looked at while the writer waits: some microseconds.
const AT_ONCE: usize = 512;

/// One page of services.
pub(super) async fn services(
    edge: &Edge,
    wire: &v1::ListServicesRequest,
) -> Result<v1::ListServicesResponse, Refusal> {
    let arguments = ["services", &wire.filter, &wire.order_by];
    let page = Page::parse(wire.page_size, &wire.page_token, &arguments)?;
    let list = List::parse(&SERVICES, &wire.filter, &wire.order_by, &["service"])?;
    let read = |after: Option<&ServiceName>, most| read_services(edge, after, most);
    let (services, next_page_token, revision) = list.page(&page, read).await?;
    Ok(v1::ListServicesResponse { services, next_page_token, revision })
}

/// One service, if it is registered.
pub(super) fn service(edge: &Edge, name: &ServiceName) -> Option<v1::Service> {
    let found = edge.effects.publisher.read(|view| view.service(name).map(|entry| to_wire(name, entry)));
    let mut service = found?;
    observe(edge, name, &mut service);
    Some(service)
}

/// One page of replicas.
pub(super) async fn replicas(
    edge: &Edge,
    wire: &v1::ListReplicasRequest,
) -> Result<v1::ListReplicasResponse, Refusal> {
    let arguments = ["replicas", &wire.service, &wire.filter, &wire.order_by];
    let page = Page::parse(wire.page_size, &wire.page_token, &arguments)?;
    let only = match wire.service.as_str() {
        "-" => None,
        name => Some(ServiceName::parse(name)?),
    };
    let list = List::parse(&REPLICAS, &wire.filter, &wire.order_by, &["service", "replica_id"])?;
    if let Some(name) = &only
        && edge.effects.publisher.read(|view| view.service(name).is_none())
    {
        return Err(Refusal::ServiceNotFound(name.clone()));
    }
    let read = |after: Option<&ReplicaKey>, most| read_replicas(edge, only.as_ref(), after, most);
    let (records, next_page_token, revision) = list.page(&page, read).await?;
    let observed = edge.effects.observation.observed_health(records.iter().map(|record| &record.key));
    let to_wire = |(record, observed): (&Arc<Record>, _)| v1::Replica { observed, ..edge.replica(record) };
    let replicas = records.iter().zip(observed).map(to_wire).collect();
    Ok(v1::ListReplicasResponse { replicas, next_page_token, revision })
}

/// What can be listed.
trait Item: Sized {
    /// What filters and orders look at.
    type Fields: 'static;
    /// What it is called; no two of a list are called the same.
    type Name: Ord + Display;

    fn fields(&self) -> &Self::Fields;
    fn name(&self) -> Self::Name;
    fn compare_names(&self, other: &Self) -> Ordering;
    /// Reads what a page token says, which is not signed.
    fn parse_name(text: &str) -> Result<Self::Name, Refusal>;
}

/// Items of a list in the order of their names.
struct Part<I: Item> {
    items: Vec<I>,
    /// The last name looked at; `None`: there are no more.
    reached: Option<I::Name>,
    /// The registry's.
    revision: Revision,
}

/// What is to be listed, and how.
struct List<T: 'static> {
    filter: Filter<T>,
    order: Order<T>,
    is_by_name: bool,
}

impl<T> List<T> {
    /// Reads filter and order; `names` are the fields that make up an item's name.
    fn parse(
        schema: &'static Schema<T>,
        filter: &str,
        order_by: &str,
        names: &[&str],
    ) -> Result<Self, Refusal> {
        let (filter, order) = (Filter::parse(schema, filter)?, Order::parse(schema, order_by)?);
        let is_by_name = order.is_by_name(names);
        Ok(Self { filter, order, is_by_name })
    }

    /// One page of what `read` yields after a name, at most so many at once; the token of the next one; and the
    /// registry's revision when the first of it was read.
    async fn page<I: Item<Fields = T>>(
        &self,
        page: &Page,
        read: impl Fn(Option<&I::Name>, usize) -> Part<I>,
    ) -> Result<(Vec<I>, String, Revision), Refusal> {
        match self.is_by_name {
            true => self.by_name(page, read).await,
            false => self.by_order(page, read).await,
        }
    }

    async fn by_name<I: Item<Fields = T>>(
        &self,
        page: &Page,
        read: impl Fn(Option<&I::Name>, usize) -> Part<I>,
    ) -> Result<(Vec<I>, String, Revision), Refusal> {
        let after = page.after().map(I::parse_name).transpose()?;
        let most = if self.filter.is_empty() { AT_ONCE.min(page.size() + 1) } else { AT_ONCE };
        let mut begun_at = None;
        let look = |after: Option<&I::Name>| {
            let Part { items, reached, revision } = read(after, most);
            begun_at.get_or_insert(revision);
            (items, reached)
        };
        let found = page.admitted(after, look, |item: &I| self.filter.admits(item.fields())).await;
        let (found, token) = page.cut(found.into_iter(), |item| item.name().to_string());
        Ok((found, token, begun_at.unwrap_or_default()))
    }

    async fn by_order<I: Item<Fields = T>>(
        &self,
        page: &Page,
        read: impl Fn(Option<&I::Name>, usize) -> Part<I>,
    ) -> Result<(Vec<I>, String, Revision), Refusal> {
        let place = match page.after() {
            Some(place) => {
                let (keys, name) = self.order.read_place(place).ok_or(Refusal::PageToken)?;
                Some((keys, I::parse_name(&name)?))
            }
            None => None,
        };
        let is_after = |item: &I| {
            place.as_ref().is_none_or(|(keys, name)| {
                let order = self.order.compare_with(item.fields(), keys);
                order.then_with(|| item.name().cmp(name)).is_gt()
            })
        };
        let mut first = First::new(page.size() + 1, |one: &I, other: &I| {
            self.order.compare(one.fields(), other.fields()).then_with(|| one.compare_names(other))
        });
        let (mut after, mut begun_at) = (None, None);
        loop {
            let part = read(after.as_ref(), AT_ONCE);
            begun_at.get_or_insert(part.revision);
            let asked =
                part.items.into_iter().filter(|item| self.filter.admits(item.fields()) && is_after(item));
            asked.for_each(|item| first.push(item));
            after = part.reached;
            if after.is_none() {
                break;
            }
            yield_now().await;
        }
        let place = |item: &I| self.order.write_place(item.fields(), &item.name().to_string());
        let (found, token) = page.cut(first.sorted().into_iter(), place);
        Ok((found, token, begun_at.unwrap_or_default()))
    }
}

impl Item for v1::Service {
    type Fields = Self;
    type Name = ServiceName;

    fn fields(&self) -> &Self {
        self
    }

    fn name(&self) -> ServiceName {
        ServiceName::parse(&self.service).expect("it was written from a name")
    }

    fn compare_names(&self, other: &Self) -> Ordering {
        self.service.cmp(&other.service)
    }

    fn parse_name(text: &str) -> Result<ServiceName, Refusal> {
        ServiceName::parse(text).map_err(|_| Refusal::PageToken)
    }
}

impl Item for Arc<Record> {
    type Fields = Record;
    type Name = ReplicaKey;

    fn fields(&self) -> &Record {
        self
    }

    fn name(&self) -> ReplicaKey {
        self.key.clone()
    }

    fn compare_names(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }

    fn parse_name(text: &str) -> Result<ReplicaKey, Refusal> {
        parse_key(text)
    }
}

fn read_services(edge: &Edge, after: Option<&ServiceName>, most: usize) -> Part<v1::Service> {
    let (mut services, reached, revision) = edge.effects.publisher.read(|view| {
        let (mut services, mut looked, mut reached) = (Vec::new(), 0, None);
        for (name, entry) in view.services_after(after.map(ServiceName::as_str).unwrap_or_default()) {
            services.push((name.clone(), to_wire(name, entry)));
            // Each of its replicas is looked at.
            looked += entry.replicas().len();
            if services.len() >= most || looked >= AT_ONCE {
                reached = Some(name.clone());
                break;
            }
        }
        (services, reached, view.revision())
    });
    // One after the other: each has up to as many rows as it has replicas and there are data planes, and reports wait
    // meanwhile.
    services.iter_mut().for_each(|(name, service)| observe(edge, name, service));
    let items = services.into_iter().map(|(_, service)| service).collect();
    Part { items, reached, revision }
}

fn read_replicas(
    edge: &Edge,
    only: Option<&ServiceName>,
    after: Option<&ReplicaKey>,
    most: usize,
) -> Part<Arc<Record>> {
    edge.effects.publisher.read(|view| {
        let records: Box<dyn Iterator<Item = &Arc<Record>>> = match (after, only) {
            (Some(after), _) => Box::new(view.replicas_after(after)),
            (None, Some(name)) => Box::new(view.service(name).into_iter().flat_map(ServiceEntry::replicas)),
            (None, None) => Box::new(view.replicas()),
        };
        let records = records.take_while(|record| only.is_none_or(|name| record.key.service == *name));
        let items: Vec<_> = records.take(most).cloned().collect();
        let reached = items.last().filter(|_| items.len() == most).map(|record| record.key.clone());
        Part { items, reached, revision: view.revision() }
    })
}

/// Adds what data planes see of it.
fn observe(edge: &Edge, name: &ServiceName, service: &mut v1::Service) {
    let observation = &edge.effects.observation;
    observation.read(|_, matrix| {
        service.open_breaker_count = count(matrix.open_replica_count(name));
        let load = matrix.load(name);
        (service.inflight_count, service.pending_count) = (load.inflight, load.pending);
        service.fail_open_node_count = count(load.fail_open_nodes);
    });
    if let Some(Lately { rate, success, p50, p99 }) = observation.lately(name) {
        (service.request_rate, service.success_ratio) = (Some(rate), success);
        (service.latency_p50, service.latency_p99) = (p50.map(duration), p99.map(duration));
    }
}

fn to_wire(name: &ServiceName, entry: &ServiceEntry) -> v1::Service {
    let counted = |which: fn(&Record) -> bool| count(entry.replicas().filter(|record| which(record)).count());
    v1::Service {
        service: name.to_string(),
        replica_count: count(entry.replicas().len()),
        ready_replica_count: counted(Record::is_ready),
        draining_replica_count: counted(|record| record.drain.is_some()),
        lost_replica_count: counted(|record| record.lost.is_some()),
        create_time: entry.created_at().map(timestamp),
        revision: entry.revision(),
        // What is observed of it is another matter.
        ..Default::default()
    }
}

//! Full snapshots, cut into parts that fit one message.

use std::{collections::BTreeMap, sync::Arc};

use gateway_proto::{ServiceName, v1};
use prost::Message;

use super::Filter;
use crate::registry::{Override, Record, StoredRoute, View};

/// All that a full snapshot is made of, copied out of a view in no time: records are shared.
#[derive(Debug)]
pub struct Content {
    records: Vec<Arc<Record>>,
    default_policy: v1::Policy,
    own_policies: BTreeMap<ServiceName, v1::Policy>,
    overrides: Vec<Arc<Override>>,
    routes: Vec<Arc<StoredRoute>>,
}

impl Content {
    /// What a view holds of all that a data plane with this filter follows.
    pub fn of(view: &View, filter: &Filter) -> Self {
        let records = match filter {
            Filter::All => view.replicas().cloned().collect(),
            Filter::Some(names) => {
                let services = names.iter().filter_map(|name| view.service(name));
                services.flat_map(|entry| entry.replicas()).cloned().collect()
            }
        };
        let policies = view.policies();
        let own = policies.services().filter(|name| filter.admits(name.as_str()));
        let own = own.filter_map(|name| Some((name.clone(), policies.own_to_wire(name)?)));
        Self {
            records,
            default_policy: policies.default_to_wire(),
            own_policies: own.collect(),
            overrides: filter.overrides(view).cloned().collect(),
            routes: view.routes().cloned().collect(),
        }
    }
}

/// Cuts content into parts of at most about `max_bytes`, one after the other as they are asked for.
///
/// There is always a last part, an empty one if need be; a service may be split over consecutive parts. Overrides and the
/// default policy are in the first part, routes go before services.
pub fn parts(content: &Content, max_bytes: usize) -> impl Iterator<Item = v1::FullSnapshot> {
    let mut routes = content.routes.iter().peekable();
    let mut records = content.records.iter().peekable();
    let mut is_over = false;
    (0..).map_while(move |part_index| {
        if is_over {
            return None;
        }
        let mut part = v1::FullSnapshot { part_index, ..Default::default() };
        if part_index == 0 {
            part.overrides = content.overrides.iter().map(|entry| entry.to_wire()).collect();
            part.default_policy = Some(content.default_policy.clone());
        }
        let mut bytes: usize = part.overrides.iter().map(Message::encoded_len).sum();
        while let Some(stored) = routes.peek() {
            let route = stored.to_snapshot();
            bytes += route.encoded_len();
            if bytes > max_bytes && !part.routes.is_empty() {
                return Some(part);
            }
            routes.next();
            part.routes.push(route);
        }
        while let Some(record) = records.peek().copied() {
            let replica = record.to_snapshot();
            bytes += replica.encoded_len();
            if bytes > max_bytes && !(part.services.is_empty() && part.routes.is_empty()) {
                break;
            }
            records.next();
            match part.services.last_mut().filter(|entry| entry.service == replica.service) {
                Some(entry) => entry.replicas.push(replica),
                None => {
                    let policy = content.own_policies.get(&record.key.service).cloned();
                    let service = replica.service.clone();
                    let mut entry = v1::ServiceSnapshot { service, policy, replicas: Vec::new() };
                    bytes += entry.encoded_len();
                    entry.replicas.push(replica);
                    part.services.push(entry);
                }
            }
        }
        is_over = records.peek().is_none();
        part.last_part = is_over;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use gateway_proto::{Address, Policy, ReplicaKey};

    use super::*;

    /// The content of a registry with so many replicas in each service, for whom it concerns.
    fn content(services: &[(&str, usize)], filter: &Filter) -> Content {
        let record = |service: &str, number: usize| {
            let key = ReplicaKey::parse(service, &format!("r-{number}")).unwrap();
            let address = Address::parse(&format!("10.0.0.1:{}", number + 1)).unwrap();
            Record::plain(key, address, UNIX_EPOCH)
        };
        let of = |(service, count): &(&str, usize)| {
            (0..*count).map(|number| record(service, number)).collect::<Vec<_>>()
        };
        Content::of(&View::new(1, services.iter().flat_map(of)), filter)
    }

    #[test]
    fn an_empty_registry_is_one_empty_last_part() {
        let parts: Vec<_> = parts(&content(&[], &Filter::All), 1000).collect();
        assert_eq!((parts.len(), parts[0].services.len(), parts[0].last_part), (1, 0, true));
        assert_eq!(parts[0].default_policy, Some(Policy::default().to_wire()));
    }

    #[test]
    fn parts_hold_everything_once_in_order_and_only_the_last_is_last() {
        let content = content(&[("a", 30), ("b", 3)], &Filter::All);
        let parts: Vec<_> = parts(&content, 300).collect();
        assert!(parts.len() > 3);
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(usize::try_from(part.part_index), Ok(index));
            assert_eq!(part.last_part, index + 1 == parts.len());
            assert!(part.encoded_len() < 1000, "{}", part.encoded_len());
            assert_eq!(part.default_policy.is_some(), index == 0);
        }
        let replicas = parts.iter().flat_map(|part| &part.services).flat_map(|entry| &entry.replicas);
        assert!(replicas.cloned().eq(content.records.iter().map(|record| record.to_snapshot())));
    }

    #[test]
    fn a_filter_leaves_the_other_services_out() {
        let some = Filter::parse(&["b".to_owned(), "c".to_owned()]).unwrap();
        let parts: Vec<_> = parts(&content(&[("a", 2), ("b", 1)], &some), 1000).collect();
        let names: Vec<_> = parts[0].services.iter().map(|entry| entry.service.as_str()).collect();
        assert_eq!((parts.len(), names), (1, vec!["b"]));
    }
}

//! Full snapshots, cut into parts that fit one message.

use std::{collections::BTreeMap, sync::Arc};

use gateway_proto::{ServiceName, v1};
use prost::Message;

use super::Filter;
use crate::registry::{Override, Record, View};

/// All that a full snapshot is made of, copied out of a view in no time: records are shared.
#[derive(Debug)]
pub struct Content {
    records: Vec<Arc<Record>>,
    default_policy: v1::Policy,
    own_policies: BTreeMap<ServiceName, v1::Policy>,
    overrides: Vec<Arc<Override>>,
}

impl Content {
    /// What a view holds of all that a data plane with this filter follows.
    pub fn of(view: &View, filter: &Filter) -> Self {
        let records = view.replicas().filter(|record| filter.admits(record.key.service.as_str()));
        let policies = view.policies();
        let own = policies.services().filter(|name| filter.admits(name.as_str()));
        let own = own.filter_map(|name| Some((name.clone(), policies.own_to_wire(name)?)));
        let overrides = view
            .overrides()
            .filter(|entry| entry.is_published() && filter.admits(entry.target.service.as_str()));
        Self {
            records: records.cloned().collect(),
            default_policy: policies.default_to_wire(),
            own_policies: own.collect(),
            overrides: overrides.cloned().collect(),
        }
    }
}

/// Cuts what is to be sent into parts of at most about `max_bytes`.
///
/// There is always a last part, an empty one if need be; a service may be split over consecutive parts. The default
/// policy and all overrides are in the first.
pub fn parts(content: &Content, max_bytes: usize) -> Vec<v1::FullSnapshot> {
    let overrides: Vec<_> = content.overrides.iter().map(|entry| entry.to_wire()).collect();
    let mut bytes = overrides.iter().map(Message::encoded_len).sum();
    let mut parts = Vec::new();
    let mut services: Vec<v1::ServiceSnapshot> = Vec::new();
    for record in &content.records {
        let replica = record.to_wire();
        bytes += replica.encoded_len();
        if bytes > max_bytes && !services.is_empty() {
            parts.push(std::mem::take(&mut services));
            bytes = replica.encoded_len();
        }
        match services.last_mut().filter(|entry| entry.service == replica.service) {
            Some(entry) => entry.replicas.push(replica),
            None => {
                let policy = content.own_policies.get(&record.key.service).cloned();
                let service = replica.service.clone();
                let mut entry = v1::ServiceSnapshot { service, policy, replicas: Vec::new() };
                bytes += entry.encoded_len();
                entry.replicas.push(replica);
                services.push(entry);
            }
        }
    }
    parts.push(services);
    let last = parts.len() - 1;
    let part = |(index, services)| v1::FullSnapshot {
        services,
        part_index: i32::try_from(index).unwrap_or(i32::MAX),
        last_part: index == last,
        ..Default::default()
    };
    let mut parts: Vec<_> = parts.into_iter().enumerate().map(part).collect();
    parts[0].overrides = overrides;
    parts[0].default_policy = Some(content.default_policy.clone());
    parts
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
        let parts = parts(&content(&[], &Filter::All), 1000);
        assert_eq!((parts.len(), parts[0].services.len(), parts[0].last_part), (1, 0, true));
        assert_eq!(parts[0].default_policy, Some(Policy::default().to_wire()));
    }

    #[test]
    fn parts_hold_everything_once_in_order_and_only_the_last_is_last() {
        let content = content(&[("a", 30), ("b", 3)], &Filter::All);
        let parts = parts(&content, 500);
        assert!(parts.len() > 3);
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(usize::try_from(part.part_index), Ok(index));
            assert_eq!(part.last_part, index + 1 == parts.len());
            assert!(part.encoded_len() < 1000, "{}", part.encoded_len());
            assert_eq!(part.default_policy.is_some(), index == 0);
        }
        let replicas = parts.iter().flat_map(|part| &part.services).flat_map(|entry| &entry.replicas);
        assert!(replicas.cloned().eq(content.records.iter().map(|record| record.to_wire())));
    }

    #[test]
    fn a_filter_leaves_the_other_services_out() {
        let some = Filter::parse(&["b".to_owned(), "c".to_owned()]).unwrap();
        let parts = parts(&content(&[("a", 2), ("b", 1)], &some), 1000);
        let names: Vec<_> = parts[0].services.iter().map(|entry| entry.service.as_str()).collect();
        assert_eq!((parts.len(), names), (1, vec!["b"]));
    }
}

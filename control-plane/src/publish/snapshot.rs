//! Full snapshots, cut into parts that fit one message.

use std::sync::Arc;

use gateway_proto::v1;
use prost::Message;

use super::{Filter, log::service_entry};
use crate::registry::Record;

/// Cuts records, which come by service, into parts of at most about `max_bytes`.
///
/// There is always a last part, an empty one if need be; a service may be split over consecutive parts.
pub fn parts(records: &[Arc<Record>], filter: &Filter, max_bytes: usize) -> Vec<v1::FullSnapshot> {
    let mut parts = Vec::new();
    let mut services: Vec<v1::ServiceSnapshot> = Vec::new();
    let mut bytes = 0;
    for record in records.iter().filter(|record| filter.admits(record.key.service.as_str())) {
        let replica = record.to_wire();
        bytes += replica.encoded_len();
        if bytes > max_bytes && !services.is_empty() {
            parts.push(std::mem::take(&mut services));
            bytes = replica.encoded_len();
        }
        match services.last_mut().filter(|entry| entry.service == replica.service) {
            Some(entry) => entry.replicas.push(replica),
            None => {
                let mut entry = service_entry(&record.key.service);
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
    parts.into_iter().enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use gateway_proto::{Address, Health, Labels, ReplicaKey, Weight};

    use super::*;

    fn records(services: &[(&str, usize)]) -> Vec<Arc<Record>> {
        let record = |service: &str, number: usize| Record {
            key: ReplicaKey::parse(service, &format!("r-{number}")).unwrap(),
            address: Address::parse("10.0.0.1:80").unwrap(),
            weight: Weight::DEFAULT,
            version: String::new(),
            labels: Labels::default(),
            health: Health::Healthy,
            health_reason: String::new(),
            health_since: UNIX_EPOCH,
            lease: None,
            incarnation: 1,
            created_at: UNIX_EPOCH,
            updated_at: UNIX_EPOCH,
            revision: 1,
        };
        let of = |(service, count): &(&str, usize)| {
            (0..*count).map(|number| Arc::new(record(service, number))).collect::<Vec<_>>()
        };
        services.iter().flat_map(of).collect()
    }

    #[test]
    fn an_empty_registry_is_one_empty_last_part() {
        let expected =
            v1::FullSnapshot { services: vec![], part_index: 0, last_part: true, ..Default::default() };
        assert_eq!(parts(&[], &Filter::All, 1000), [expected]);
    }

    #[test]
    fn parts_hold_everything_once_in_order_and_only_the_last_is_last() {
        let records = records(&[("a", 30), ("b", 3)]);
        let parts = parts(&records, &Filter::All, 500);
        assert!(parts.len() > 3);
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(usize::try_from(part.part_index), Ok(index));
            assert_eq!(part.last_part, index + 1 == parts.len());
            assert!(part.encoded_len() < 800, "{}", part.encoded_len());
            assert!(part.services.iter().all(|entry| entry.policy.is_some()));
        }
        let replicas = parts.iter().flat_map(|part| &part.services).flat_map(|entry| &entry.replicas);
        assert!(replicas.cloned().eq(records.iter().map(|record| record.to_wire())));
    }

    #[test]
    fn a_filter_leaves_the_other_services_out() {
        let some = Filter::parse(&["b".to_owned(), "c".to_owned()]).unwrap();
        let parts = parts(&records(&[("a", 2), ("b", 1)]), &some, 1000);
        let names: Vec<_> = parts[0].services.iter().map(|entry| entry.service.as_str()).collect();
        assert_eq!((parts.len(), names), (1, vec!["b"]));
    }
}

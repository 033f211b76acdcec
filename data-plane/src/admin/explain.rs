//! Why this data plane sends a replica requests or does not: what it alone knows, for when its control plane is away.

use gateway_proto::{
    ReplicaKey,
    explain::{Explanation, Facts, MAX_SHOWN, Word},
    nearest::nearest,
    time::timestamp,
    v1,
};

use super::Admin;
use crate::report::rows::{self, Measured};

/// What a query asks for.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(query: Option<&str>) -> Result<ReplicaKey, String> {
    let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("replica="));
    let asked = asked.unwrap_or_default().replace("%2F", "/").replace("%2f", "/");
    let names = asked.split_once('/').ok_or("ask for /explain?replica=SERVICE/REPLICA\n")?;
    ReplicaKey::parse(names.0, names.1).map_err(|invalid| format!("{invalid}\n"))
}

/// The answer, in the contract's own words.
///
/// # Errors
/// That there is no such replica here.
pub(super) fn explain(admin: &Admin, key: &ReplicaKey) -> Result<v1::ExplainReplicaResponse, String> {
    // A copy that shares the services, as for the snapshot.
    let mirror = admin.view.mirror.borrow().clone();
    let moment = admin.clock.moment();
    let replica = mirror.replica_to_wire(key).ok_or_else(|| unknown(admin, key))?;
    let service = admin.table.service(key.service.as_str());
    let known = service.as_ref().and_then(|service| Some((service, service.replica(&key.replica)?)));
    let breaker = known.map(|(service, replica)| {
        let date = |tick| admin.clock.date(tick);
        let now = admin.clock.now();
        let measured = Measured::of(service, &replica, &service.side_by_side(now), now);
        let row = rows::breaker(&admin.node_id, &replica, &measured, date);
        v1::Breaker { report_time: Some(timestamp(moment.wall)), ..row }
    });
    let snapshot = mirror.snapshot();
    let overrides = snapshot.overrides().filter(|entry| entry.service == key.service.as_str());
    let policy = service.map(|service| *service.policy()).unwrap_or_default();
    let facts = Facts {
        now: moment.wall,
        service: key.service.to_string(),
        replica_id: key.replica.to_string(),
        replica: Some(replica),
        removed: None,
        policy: policy.breaker,
        balancing: policy.balancing,
        overrides: overrides.map(|entry| (**entry).clone()).collect(),
        revision: snapshot.revision(),
    };
    let mut all = Explanation::new(facts, MAX_SHOWN, None);
    all.add(Word {
        node_id: admin.node_id.to_string(),
        state: v1::NodeState::Synced,
        is_silent: false,
        acked_revision: snapshot.revision(),
        report_time: Some(timestamp(moment.wall)),
        breaker,
        held: mirror.held_since(key).map(|since| Some(timestamp(since))),
        ..Word::default()
    });
    Ok(all.finish())
}

fn unknown(admin: &Admin, key: &ReplicaKey) -> String {
    let services = admin.table.services();
    let replicas = services.get(&key.service).map(|service| service.replicas());
    let replicas = replicas.iter().flat_map(|replicas| replicas.iter().map(|replica| &replica.key().replica));
    let ids: Vec<_> = replicas.map(ToString::to_string).collect();
    let meant = match ids.is_empty() {
        true => nearest(key.service.as_str(), services.keys().map(gateway_proto::ServiceName::as_str))
            .map(|name| format!("{name}/{}", key.replica)),
        false => nearest(key.replica.as_str(), ids.iter().map(String::as_str))
            .map(|id| format!("{}/{id}", key.service)),
    };
    let hint = meant.map(|meant| format!(": did you mean {meant}?")).unwrap_or_default();
    format!("this data plane has no replica {}/{}{hint}\n", key.service, key.replica)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_asked_for_by_both_its_names() {
        let parsed = |query: &str| parse(Some(query)).map(|key| format!("{}+{}", key.service, key.replica));
        assert_eq!(parsed("replica=orders/a"), Ok("orders+a".into()));
        assert_eq!(parsed("x=1&replica=orders%2Fa"), Ok("orders+a".into()));
        for bad in ["", "replica=", "replica=orders", "replica=orders/", "replica=Orders/a", "service=orders"]
        {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert!(parse(None).unwrap_err().contains("replica=SERVICE/REPLICA"));
    }
}

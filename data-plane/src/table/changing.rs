//! Tables that change by chance, to hold those to who follow them: who looks only at what has changed must come to the same as who
//! looks at everything.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gateway_proto::{
    Address, Health, Policy, ReplicaId, ServiceName,
    policy::{CheckType, HealthCheck},
    v1,
};
use proptest::prelude::*;

use super::{Forced, ForcedState, ReplicaSpec, Seen, Service, ServiceSpec, Table, changes::CAPACITY};
use crate::routing::{Draw, Fault, Outcome, Tick};

/// What happens to a table.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A service has these replicas, each a registration, and how it is; none: it is gone.
    Replicas(u8, BTreeMap<u8, (i64, bool)>),
    /// All services have another policy: whether replicas are checked that have a lease.
    Policy(bool),
    /// An operator forces the breakers of a service open, or no longer.
    Force(u8, bool),
    /// All of it is told anew, with some services and without the others.
    Reset(u8),
    /// More changes than are remembered.
    Storm,
    /// A request, and how it ends.
    Request(u8, bool),
    Time(u16),
    /// Whoever follows looks.
    Look,
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let replicas = prop::collection::btree_map(0..4_u8, (1..3_i64, any::<bool>()), 0..4);
    let step = prop_oneof![
        6 => (0..5_u8, replicas).prop_map(|(service, replicas)| Step::Replicas(service, replicas)),
        1 => any::<bool>().prop_map(Step::Policy),
        2 => (0..5_u8, any::<bool>()).prop_map(|(service, is_forced)| Step::Force(service, is_forced)),
        1 => any::<u8>().prop_map(Step::Reset),
        1 => Just(Step::Storm),
        4 => (0..5_u8, any::<bool>()).prop_map(|(service, succeeds)| Step::Request(service, succeeds)),
        2 => (0..3000_u16).prop_map(Step::Time),
        6 => Just(Step::Look),
    ];
    prop::collection::vec(step, 1..60)
}

/// A table, and what it is told.
pub(crate) struct Changing {
    pub(crate) table: Arc<Table>,
    pub(crate) now: Tick,
    specs: BTreeMap<ServiceName, ServiceSpec>,
    policy: Policy,
}

impl Changing {
    pub(crate) fn new() -> Self {
        let (table, _) = Table::new(1);
        Self { table, now: Tick::ORIGIN, specs: BTreeMap::new(), policy: Policy::default() }
    }

    /// Yields whether whoever follows is to look.
    pub(crate) fn step(&mut self, step: Step) -> bool {
        match step {
            Step::Look => return true,
            Step::Time(millis) => self.now = self.now.plus(Duration::from_millis(millis.into())),
            Step::Replicas(service, replicas) => {
                let replicas: Vec<_> = replicas.into_iter().map(replica).collect();
                let spec = ServiceSpec { name: name(service), policy: self.policy, replicas };
                self.put(name(service), Some(spec).filter(|spec| !spec.replicas.is_empty()));
            }
            Step::Force(service, is_forced) => {
                let Some(mut spec) = self.specs.get(&name(service)).cloned() else { return false };
                let entry = Arc::new(v1::OverrideEntry { revision: 7, ..Default::default() });
                let forced = is_forced.then_some(Forced { state: ForcedState::Open, entry });
                spec.replicas.iter_mut().for_each(|replica| replica.forced.clone_from(&forced));
                self.put(name(service), Some(spec));
            }
            Step::Policy(all_checked) => {
                let kind = if all_checked { CheckType::Tcp } else { CheckType::Auto };
                self.policy.health_check = HealthCheck { r#type: kind, ..self.policy.health_check };
                self.specs.values_mut().for_each(|spec| spec.policy = self.policy);
                self.tell_all(&[]);
            }
            Step::Reset(kept) => {
                let gone: Vec<_> = (0..5_u8).filter(|number| kept & (1 << number) == 0).map(name).collect();
                self.specs.retain(|name, _| !gone.contains(name));
                self.tell_all(&gone);
            }
            Step::Storm => self.table.apply(&[], &vec![name(9); CAPACITY + 1], self.now),
            Step::Request(service, succeeds) => {
                let Some(service) = self.table.service(name(service).as_str()) else { return false };
                let outcome =
                    if succeeds { Outcome::Success } else { Outcome::Failure(Fault::ConnectRefused) };
                if let Ok(picked) = service.pick(0, self.now, &[], Draw::default()) {
                    service.settle(0, &picked.replica, picked.permit, outcome, self.now, 0.5);
                }
            }
        }
        false
    }

    fn put(&mut self, name: ServiceName, spec: Option<ServiceSpec>) {
        match spec {
            Some(spec) => {
                self.table.apply(std::slice::from_ref(&spec), &[], self.now);
                self.specs.insert(name, spec);
            }
            None => {
                self.table.apply(&[], std::slice::from_ref(&name), self.now);
                self.specs.remove(&name);
            }
        }
    }

    fn tell_all(&self, gone: &[ServiceName]) {
        let all: Vec<_> = self.specs.values().cloned().collect();
        self.table.apply(&all, gone, self.now);
    }
}

fn name(service: u8) -> ServiceName {
    ServiceName::parse(&format!("s-{service}")).unwrap()
}

fn replica((number, (incarnation, is_well)): (u8, (i64, bool))) -> ReplicaSpec {
    let id = ReplicaId::parse(&format!("r-{number}")).unwrap();
    let address = Address::parse(&format!("127.0.0.1:{}", 1 + u16::from(number))).unwrap();
    let health = if is_well { Health::Healthy } else { Health::Unhealthy };
    let is_permanent = number % 2 == 0;
    ReplicaSpec { incarnation, health, is_permanent, ..ReplicaSpec::listed(id, address) }
}

/// What there is of a service to see, but for what requests do to it.
fn content(service: &Service) -> ServiceSpec {
    let replicas = service.replicas().iter().map(|replica| replica.spec().clone()).collect();
    ServiceSpec { name: service.name().clone(), policy: *service.policy(), replicas }
}

proptest! {
    #[test]
    fn who_looks_only_at_what_changed_sees_all_that_there_is(steps in steps()) {
        let mut changing = Changing::new();
        let (mut seen, mut copy) = (Seen::default(), BTreeMap::new());
        for step in steps.into_iter().chain([Step::Look]) {
            if !changing.step(step) {
                continue;
            }
            let table = &changing.table;
            let (changed, now) = table.changed_since(seen, copy.keys());
            seen = now;
            for name in changed {
                match table.service(name.as_str()) {
                    Some(service) => _ = copy.insert(name, content(&service)),
                    None => _ = copy.remove(&name),
                }
            }
            prop_assert_eq!(&copy, &changing.specs);
            // However it is found.
            let ordered = table.services();
            prop_assert!(ordered.keys().eq(copy.keys()));
            prop_assert!(ordered.values().all(|service| Arc::ptr_eq(service, &table.service(service.name().as_str()).unwrap())));
        }
    }
}

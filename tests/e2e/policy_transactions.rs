//! Policies that change together: all of them or none, whoever is killed in the middle.

use std::sync::{
    Arc,
    atomic::{AtomicI32, Ordering::Relaxed},
};

use gateway_proto::v1::{
    ApplyPoliciesRequest, BreakerPolicy, ListPoliciesRequest, Policy, PolicyChange,
    policy_service_client::PolicyServiceClient,
};
use gateway_tests::{ControlPlane, Etcd, eventually};
use tonic::{Code, transport::Channel};

use crate::etcd::pair;

/// Changed together.
const POLICIES: usize = 60;
/// How often the control plane is killed.
const ROUNDS: i32 = 4;
/// Changes before that, at least.
const ENOUGH: i32 = 5;

fn all_as(number: i32) -> ApplyPoliciesRequest {
    let policy = |index| Policy {
        service: if index == 0 { "*".to_owned() } else { format!("s-{index}") },
        breaker: Some(BreakerPolicy { min_request_count: Some(number), ..Default::default() }),
        ..Default::default()
    };
    let change = |index| PolicyChange { policy: Some(policy(index)), ..Default::default() };
    ApplyPoliciesRequest { changes: (0..POLICIES).map(change).collect(), ..Default::default() }
}

/// Has all policies say one number after the other, from `first` on, until the control plane dies. `said` is the last one that was
/// acknowledged.
async fn change_on(mut policies: PolicyServiceClient<Channel>, first: i32, said: Arc<AtomicI32>) {
    for number in first.. {
        if policies.apply_policies(all_as(number)).await.is_err() {
            return;
        }
        said.store(number, Relaxed);
    }
}

/// The one number that all policies say, and 0 where there are none.
///
/// # Panics
/// When they differ.
async fn number(control: &ControlPlane) -> i32 {
    let request = ListPoliciesRequest { page_size: 1000, ..Default::default() };
    let policies = control.policies().list_policies(request).await.unwrap().into_inner().policies;
    let of = |policy: &Policy| policy.breaker.as_ref().and_then(|breaker| breaker.min_request_count);
    let Some(first) = policies.first() else { return 0 };
    assert_eq!(policies.len(), POLICIES);
    for policy in &policies {
        assert_eq!((of(policy), policy.revision), (of(first), first.revision), "{}", policy.service);
    }
    of(first).unwrap()
}

async fn changed_enough(said: &AtomicI32, first: i32) {
    eventually("some changes are made", async || match said.load(Relaxed) {
        number if number >= first + ENOUGH => Ok(()),
        number => Err(number.to_string()),
    })
    .await;
}

#[tokio::test]
async fn policies_that_change_together_are_all_or_none_when_the_control_plane_is_killed_in_the_middle() {
    let directory = tempfile::tempdir().unwrap();
    let mut control = ControlPlane::start(&directory.path().join("registry.redb")).await;
    let said = Arc::new(AtomicI32::new(0));
    for _ in 0..ROUNDS {
        let first = number(&control).await + 1;
        let changing = tokio::spawn(change_on(control.policies(), first, Arc::clone(&said)));
        changed_enough(&said, first).await;
        control.kill();
        changing.await.unwrap();
        control.restart().await;
        let (kept, acknowledged) = (number(&control).await, said.load(Relaxed));
        assert!(kept == acknowledged || kept == acknowledged + 1, "{kept} after {acknowledged}");
    }
}

#[tokio::test]
async fn policies_that_change_together_do_so_at_once_for_all_control_planes_by_etcd() {
    let etcd = Etcd::start().await;
    let [mut one, other] = pair(&etcd).await;
    let said = Arc::new(AtomicI32::new(0));
    for _ in 0..ROUNDS {
        let first = number(&one).await + 1;
        let changing = tokio::spawn(change_on(one.policies(), first, Arc::clone(&said)));
        let mut seen = 0;
        while said.load(Relaxed) < first + ENOUGH {
            let now = number(&other).await;
            assert!(now >= seen, "it does not go back: {now} after {seen}");
            seen = now;
        }
        one.kill();
        changing.await.unwrap();
        one.restart().await;
        eventually("both say the same", async || {
            let (here, there) = (number(&one).await, number(&other).await);
            let acknowledged = said.load(Relaxed);
            let is_kept = here == acknowledged || here == acknowledged + 1;
            if here == there && is_kept { Ok(()) } else { Err(format!("{here}, {there}, {acknowledged}")) }
        })
        .await;
    }
    // Of two who knew of none, one is told that there are some by now.
    let mut both = all_as(1);
    both.changes.iter_mut().for_each(|change| change.must_be_missing = true);
    let gone = |change: PolicyChange| PolicyChange { remove: true, must_be_missing: false, ..change };
    let removal =
        ApplyPoliciesRequest { changes: both.changes.iter().cloned().map(gone).collect(), ..all_as(1) };
    other.policies().apply_policies(removal).await.unwrap();
    let (mut here, mut there) = (one.policies(), other.policies());
    let outcomes = tokio::join!(here.apply_policies(both.clone()), there.apply_policies(both));
    let refused = match outcomes {
        (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
}

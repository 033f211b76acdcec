//! Nothing reaches one part of a gateway from another any more: each pair of them, both ways and one way. Runs in networks of
//! its own.

use std::time::{Duration, Instant};

use super::{
    caller::{Caller, registration},
    cluster::{Cluster, Places, hold_load},
    histories::Recorder,
    parts::{Part, Parts},
};
use crate::{Size, figures::Figures, stage::SECOND};

const MEMBERS: [Part; 3] = [0, 1, 2];
const CONTROLS: [Part; 2] = [3, 4];
const DATA: Part = 5;
/// Longer than leases last, and than a control plane believes in an etcd that says nothing.
const LASTS: Duration = Duration::from_secs(7);

/// What is cut.
#[derive(Debug, Clone)]
enum Cut {
    /// From any of these, to any of those.
    Between(Vec<Part>, Vec<Part>),
    /// From owners and other clients, to this part.
    ToPart(Part),
    /// From this part, to owners and other clients.
    FromPart(Part),
}

/// A partition, and which control plane has lost etcd by it.
struct Partition {
    name: &'static str,
    cuts: Vec<Cut>,
    without_etcd: Option<usize>,
}

fn both(one: &[Part], other: &[Part]) -> Vec<Cut> {
    [one_way(one, other), one_way(other, one)].concat()
}

fn one_way(from: &[Part], to: &[Part]) -> Vec<Cut> {
    vec![Cut::Between(from.to_vec(), to.to_vec())]
}

/// Each pair of parts, as it is with this member as the leader.
fn partitions(leader: Part) -> Vec<Partition> {
    let followers: Vec<_> = MEMBERS.into_iter().filter(|member| *member != leader).collect();
    let [one, other] = CONTROLS;
    // The leader with one control plane, and everybody else.
    let (few, many) = (vec![leader, one], vec![followers[0], followers[1], other]);
    let partition = |name, cuts, without_etcd| Partition { name, cuts, without_etcd };
    vec![
        partition("a control plane | etcd", both(&[one], &MEMBERS), Some(0)),
        partition("a control plane -> etcd", one_way(&[one], &MEMBERS), Some(0)),
        partition("etcd -> a control plane", one_way(&MEMBERS, &[one]), Some(0)),
        partition("a control plane | the leader", both(&[one], &[leader]), None),
        partition("the leader | its followers", both(&[leader], &followers), None),
        partition("the leader -> its followers", one_way(&[leader], &followers), None),
        partition("the followers -> their leader", one_way(&followers, &[leader]), None),
        partition("the leader and a control plane | all others", both(&few, &many), Some(0)),
        partition("a control plane | the other", both(&[one], &[other]), None),
        partition("a control plane -> the other", one_way(&[one], &[other]), None),
        partition("the data plane | a control plane", both(&[DATA], &[one]), None),
        partition("the data plane -> a control plane", one_way(&[DATA], &[one]), None),
        partition("a control plane -> the data plane", one_way(&[one], &[DATA]), None),
        partition("the data plane | both control planes", both(&[DATA], &CONTROLS), None),
        partition("owners | a control plane", vec![Cut::ToPart(one), Cut::FromPart(one)], None),
        partition("owners -> a control plane", vec![Cut::ToPart(one)], None),
        partition("a control plane -> owners", vec![Cut::FromPart(one)], None),
    ]
}

pub(crate) async fn partitioned(size: Size, figures: &mut Figures) {
    let parts = Parts::new(6).await;
    let places = Places {
        members: MEMBERS.map(|part| parts.place(part)).into(),
        controls: CONTROLS.map(|part| parts.place(part)).into(),
        data: parts.place(DATA),
        replicas: parts.outside(DATA),
    };
    let cluster = Cluster::start_in(size, places).await;
    let urls = cluster.urls();
    let load = cluster.load();
    let recorder = Recorder::start(&urls, 9);
    let mut slowest = Duration::ZERO;
    let count = partitions(0).len();
    // In short, of each kind one.
    for number in size.of((0..count).collect(), vec![0, 1, 2, count - 3]) {
        let leader = cluster.leader().await;
        let began = Instant::now();
        let Partition { name, cuts, without_etcd } = partitions(leader).swap_remove(number);
        for cut in &cuts {
            match cut {
                Cut::Between(from, to) => parts.cut(from, to),
                Cut::ToPart(part) => parts.deafen(*part),
                Cut::FromPart(part) => parts.silence(*part),
            }
        }
        match without_etcd {
            Some(number) => {
                let acks = acknowledged(&urls[number], LASTS).await;
                figures.at_most(&format!("{name}: changes acknowledged there"), 0, acks);
            }
            None => tokio::time::sleep(LASTS).await,
        }
        parts.heal();
        cluster.etcd.answers().await;
        let agreed = cluster.agree(20 * SECOND).await;
        figures.within(&format!("{name}: all at one revision after it"), 5 * SECOND, agreed);
        slowest = slowest.max(agreed);
        recorder.saw_fault(began);
        // In which leases are renewed that no fault keeps from etcd.
        tokio::time::sleep(4 * SECOND).await;
    }
    figures.show("all at one revision, the slowest", format!("{slowest:.1?}"));
    recorder.stop().await.hold(figures, LASTS + 5 * SECOND);
    cluster.hold_leases(figures);
    hold_load(figures, &load.stop().await);
}

/// Changes that a control plane acknowledges within this time, but for those that may have been on their way.
async fn acknowledged(url: &str, lasts: Duration) -> u64 {
    let caller = Caller::new(url);
    let until = tokio::time::Instant::now() + lasts;
    tokio::time::sleep(SECOND / 2).await;
    let (mut acks, mut number) = (0, 0);
    while tokio::time::Instant::now() < until {
        number += 1;
        let wish =
            registration("cut-off", &format!("r-{number}"), &format!("10.3.0.{number}:80"), 600 * SECOND);
        // What is answered after it has healed does not count.
        let asked = tokio::time::timeout_at(until, caller.register(wish)).await;
        acks += u64::from(matches!(asked, Ok(Ok(_))));
        tokio::time::sleep(SECOND / 20).await;
    }
    acks
}

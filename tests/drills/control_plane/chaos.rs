//! One fault after the other, while clients on three control planes note what they are told: whether it can have been so is
//! judged afterwards.

use std::time::Instant;

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{
    cluster::{Cluster, hold_load},
    histories::Recorder,
};
use crate::{Size, figures::Figures, stage::SECOND};

const CONTROLS: usize = 3;
/// The same faults in the same order each time.
const SEED: u64 = 8;

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The member that leads is killed.
    Leader,
    /// A control plane is killed.
    Control,
    /// A control plane stands still for as long as leases last.
    StillControl,
    /// The member that leads stands still.
    StillLeader,
    /// Another member does.
    StillFollower,
    /// Two of three members are killed.
    Quorum,
}

const FAULTS: [Fault; 6] = [
    Fault::Leader,
    Fault::Control,
    Fault::StillControl,
    Fault::StillLeader,
    Fault::StillFollower,
    Fault::Quorum,
];

pub(crate) async fn chaos(size: Size, figures: &mut Figures) {
    let mut cluster = Cluster::start(size, CONTROLS).await;
    let load = cluster.load();
    let recorder = Recorder::start(&cluster.urls(), SEED);
    let mut random = StdRng::seed_from_u64(SEED);
    let mut faults = FAULTS;
    let rounds = size.of(4, 1);
    for round in 0..rounds {
        faults.shuffle(&mut random);
        for (number, fault) in faults.iter().take(size.of(FAULTS.len(), 2)).enumerate() {
            let began = Instant::now();
            strike(&mut cluster, *fault, round + number).await;
            cluster.etcd.answers().await;
            recorder.saw_fault(began);
            // In which leases are renewed that no fault keeps from etcd.
            tokio::time::sleep(4 * SECOND).await;
        }
    }
    let history = recorder.stop().await;
    figures.show("faults", rounds * size.of(FAULTS.len(), 2));
    figures.within("until all are at one revision again", 5 * SECOND, cluster.agree(20 * SECOND).await);
    history.hold(figures, 10 * SECOND);
    cluster.hold_leases(figures);
    hold_load(figures, &load.stop().await);
}

async fn strike(cluster: &mut Cluster, fault: Fault, turn: usize) {
    let control = turn % CONTROLS;
    let leader = cluster.leader().await;
    match fault {
        Fault::Leader => {
            cluster.etcd.kill(leader);
            tokio::time::sleep(SECOND).await;
            cluster.etcd.restart(leader);
        }
        Fault::Control => {
            cluster.controls[control].kill();
            tokio::time::sleep(SECOND / 2).await;
            cluster.controls[control].restart().await;
        }
        Fault::StillControl => {
            cluster.controls[control].process().pause();
            tokio::time::sleep(3 * SECOND).await;
            cluster.controls[control].process().resume();
        }
        Fault::StillLeader | Fault::StillFollower => {
            let still = if matches!(fault, Fault::StillLeader) { leader } else { (leader + 1) % 3 };
            cluster.etcd.process(still).pause();
            tokio::time::sleep(3 * SECOND).await;
            cluster.etcd.process(still).resume();
        }
        Fault::Quorum => {
            let members = [leader, (leader + 1) % 3];
            members.iter().for_each(|member| cluster.etcd.kill(*member));
            tokio::time::sleep(5 * SECOND).await;
            members.iter().for_each(|member| cluster.etcd.restart(*member));
        }
    }
}

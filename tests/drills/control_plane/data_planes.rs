//! A thousand data planes on two control planes, one of which dies and comes back.

use std::{
    ops::Range,
    time::{Duration, Instant, SystemTime},
};

use gateway_proto::{
    time::system_time,
    v1::{
        ListBreakersRequest, ListEventsRequest, ListNodesRequest, Node, NodeState, Replica,
        observability_service_client::ObservabilityServiceClient,
    },
};
use gateway_tests::ControlPlane;
use tonic::transport::Channel;

use super::{
    caller::{Caller, registration},
    cluster::{Cluster, Places, hold_load},
    follower::{Follower, Followers},
    reporter::{Lost, Reports},
};
use crate::{Size, figures::Figures, process, stage::SECOND};

/// What data planes report, of the crowd that there is in any case: a service, and two of its replicas.
const REPORTED: (&str, [&str; 2]) = ("crowd-00000", ["r-00000000", "r-00000001"]);
/// Until what is reported to one control plane is known at both, and in short.
const KNOWN: [Duration; 2] = [SECOND, Duration::from_secs(5)];
/// Until data planes are known again after a control plane has died, or has come back, and in short.
const BACK: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(10)];
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn many(size: Size, figures: &mut Figures) {
    let count = size.of(1000, 50);
    let flags = ["--max-nodes", "3000"];
    let mut cluster = Cluster::start_with(size, Places::loopback(2), &flags).await;
    // Something to hold.
    let urls = cluster.urls();
    if size.crowd() == 0 {
        super::caller::crowd(&urls, size.of(1000, 100)).await;
    }
    let load = cluster.load();
    let caller = Caller::new(&urls[1]);
    let change = async |number: usize| {
        let request =
            registration("news", &format!("r-{number}"), &format!("10.8.0.{number}:80"), 600 * SECOND);
        let began = Instant::now();
        loop {
            // While so many begin, a build for tests beside compilers may take longer than callers wait.
            match caller.register(request.clone()).await {
                Ok(answer) => return answer.replica.map(|replica| replica.revision).unwrap_or_default(),
                Err(status) => assert!(began.elapsed() < LIMIT, "it cannot be registered: {status}"),
            }
        }
    };
    let reports = Reports::of(reported(&caller).await);
    let follower =
        |number| Follower::new(format!("drill-{number}"), &urls, number).reporting(number, &reports);
    let followers = match size.crowd() {
        0 => Followers::of((0..count).map(follower)),
        // So many times that many do not fit: they come back with what one of them has read.
        _ => {
            let one = Followers::start(&urls, 1);
            one.reach(caller.revision().await.expect("it answers"), LIMIT).await;
            let held = &one.seen()[0];
            Followers::of((0..count).map(|number| follower(number).resuming(&held.epoch, held.revision)))
        }
    };
    let revision = change(1).await;
    let all = followers.reach(revision, LIMIT).await;
    figures.swift(&format!("{count} that begin hold all"), 30 * SECOND, all);
    let revision = change(2).await;
    figures.swift("a change reaches all", SECOND, followers.reach(revision, LIMIT).await);

    let [one, other] = [0, 1].map(|number| Observer::of(&cluster.controls[number], reports.broken()));
    let start = SystemTime::UNIX_EPOCH;
    let listed = until(async || one.list(start).await == count && other.list(start).await == count).await;
    figures.prompt(&format!("either lists {count} that are connected and report"), BACK, listed);
    let busy = cpu(&mut cluster.controls, size).await;
    figures.show("processor of either control plane while half of them report to each", busy);
    // Numbers take turns between the two, so that either hears some of it.
    let (open, more) = (count / 10, count / 5);
    reports.open_at(open);
    let known = until(async || one.open().await == open && other.open().await == open).await;
    figures.prompt(&format!("a breaker that {open} of them open is open at {open} by either"), KNOWN, known);
    let told = until(async || one.openings().await >= open && other.openings().await >= open).await;
    figures.prompt("either tells of each of them", KNOWN, told);
    let memory: Vec<_> = cluster.controls.iter_mut().map(resident_mib).collect();
    figures.show("MiB of either control plane", format!("{memory:?}"));
    let before = followers.seen();

    let (killed, at) = (Instant::now(), SystemTime::now());
    cluster.controls[0].kill();
    let revision = change(3).await;
    let all = followers.reach(revision, LIMIT).await;
    figures.swift("one of two dies: all hold the next change", 5 * SECOND, all);
    until(async || other.list(at).await == count && other.open().await == open).await;
    let what = format!("{count} have reported to the other one since, of {open} breakers that are open");
    figures.prompt(&what, BACK, killed.elapsed());
    let memory = resident_mib(&mut cluster.controls[1]);
    figures.hold("MiB of the other one <= 500", memory, memory <= 500);
    cluster.controls[0].restart().await;
    let (back, at) = (Instant::now(), SystemTime::now());
    let revision = change(4).await;
    figures.swift("it is back: a change reaches all", SECOND, followers.reach(revision, LIMIT).await);
    until(async || one.list(at).await == count && other.list(at).await == count).await;
    figures.prompt(&format!("either lists {count}, who have reported since"), BACK, back.elapsed());
    // To the one that was not killed: nobody has a reason to leave it.
    reports.open_at(more);
    let known = until(async || one.open().await == more && other.open().await == more).await;
    figures.prompt(&format!("what {more} report to one of them is known at either"), KNOWN, known);
    until(async || other.openings().await >= more).await;
    let told = other.openings().await;
    figures.hold(&format!("openings that it tells of, of {more}"), told, told == more);
    let busy = cpu(&mut cluster.controls, size).await;
    figures.show("processor of either control plane while all report to one", busy);
    let memory: Vec<_> = cluster.controls.iter_mut().map(resident_mib).collect();
    figures.hold("MiB of either <= 500", format!("{memory:?}"), memory.iter().all(|mib| *mib <= 500));

    let after = followers.seen();
    let reached = followers.at_least(revision);
    figures.hold(&format!("they hold all of it, of {count}"), reached, reached == count);
    let again = before.iter().zip(&after).map(|(before, after)| after.full - before.full).sum();
    figures.at_most("complete snapshots sent anew", 0, again);
    figures.at_most("updates that were refused", 0, after.iter().map(|seen| seen.refused).sum());
    figures.at_most("updates that went back", 0, after.iter().map(|seen| seen.back).sum());
    hold_streams(figures, &reports, killed..back, count);
    cluster.hold_leases(figures);
    hold_load(figures, &load.stop().await);
}

/// Holds that no stream of reports was lost but those to the first control plane while that was `dead`, and at most one for each
/// data plane that went to the other one then: what it reports there before it follows it is not taken in.
fn hold_streams(figures: &mut Figures, reports: &Reports, dead: Range<Instant>, count: usize) {
    let streams = reports.streams();
    figures.show("streams of reports that began", streams.begun);
    let by_kill = |lost: &Lost| lost.control == 0 && dead.contains(&lost.at.into_std());
    let by_move = |lost: &Lost| lost.control == 1 && lost.at.into_std() > dead.start && lost.is_superseded();
    let lost = streams.lost.iter().filter(|lost| !by_kill(lost));
    let (anew, others): (Vec<_>, Vec<_>) = lost.partition(|lost| by_move(lost));
    let moved = count.div_ceil(2) as u64;
    figures.at_most("... that began before their data plane followed, and again", moved, anew.len() as u64);
    for Lost { control, why, .. } in others.iter().take(5) {
        figures.show("lost", format!("to control plane {control}: {why}"));
    }
    figures.at_most("... that were lost otherwise than by the kill", 0, others.len() as u64);
}

/// The replicas that data planes report.
async fn reported(caller: &Caller) -> Vec<Replica> {
    let (service, ids) = REPORTED;
    let mut replicas = Vec::new();
    for id in ids {
        replicas.push(caller.get(service, id).await.expect("it is one of the crowd"));
    }
    replicas
}

/// How long it takes until this is so, at most [`LIMIT`].
async fn until(is_so: impl AsyncFn() -> bool) -> Duration {
    let began = Instant::now();
    while began.elapsed() < LIMIT && !is_so().await {
        tokio::time::sleep(SECOND / 20).await;
    }
    began.elapsed()
}

/// What each control plane uses of a processor, over some seconds in which nothing else is asked of it.
async fn cpu(controls: &mut [ControlPlane], size: Size) -> String {
    let mut used =
        || controls.iter_mut().map(|control| process::cpu(control.process().pid())).collect::<Vec<_>>();
    let (began, before) = (Instant::now(), used());
    tokio::time::sleep(SECOND * size.of(10, 2)).await;
    let (took, after) = (began.elapsed(), used());
    let shares =
        after.iter().zip(before).map(|(after, before)| (*after - before).as_secs_f64() / took.as_secs_f64());
    shares.map(|share| format!("{:.1} %", 100.0 * share)).collect::<Vec<_>>().join(" and ")
}

/// One control plane, asked of what it knows of followers.
struct Observer {
    client: ObservabilityServiceClient<Channel>,
    service: String,
    replica_id: String,
}

impl Observer {
    fn of(control: &ControlPlane, replica: &Replica) -> Self {
        let (service, replica_id) = (replica.service.clone(), replica.replica_id.clone());
        Self { client: control.observability(), service, replica_id }
    }

    /// How many it lists as connected, that have reported since.
    async fn list(&self, since: SystemTime) -> usize {
        let mut found = 0;
        let mut request = ListNodesRequest { page_size: 1000, ..Default::default() };
        loop {
            let Ok(page) = self.client.clone().list_nodes(request.clone()).await else { return 0 };
            let page = page.into_inner();
            found += page.nodes.iter().filter(|node| is_there(node, since)).count();
            if page.next_page_token.is_empty() {
                return found;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// On how many data planes the breaker is open.
    async fn open(&self) -> usize {
        let (service, replica_id) = (self.service.clone(), self.replica_id.clone());
        let request = ListBreakersRequest { service, replica_id, ..Default::default() };
        let answer = self.client.clone().list_breakers(request).await;
        let rows = answer.map(|answer| answer.into_inner().breakers).unwrap_or_default();
        rows.first().map_or(0, |row| row.open_node_count as usize)
    }

    /// How often it has opened, as the timeline has it.
    async fn openings(&self) -> usize {
        let mut found = 0;
        let mut request = ListEventsRequest {
            service: self.service.clone(),
            page_size: 1000,
            filter: "event_type = BREAKER_OPENED".into(),
            ..Default::default()
        };
        loop {
            let Ok(page) = self.client.clone().list_events(request.clone()).await else { return 0 };
            let page = page.into_inner();
            found += page.events.iter().map(|event| 1 + event.repeat_count as usize).sum::<usize>();
            if page.next_page_token.is_empty() {
                return found;
            }
            request.page_token = page.next_page_token;
        }
    }
}

fn is_there(node: &Node, since: SystemTime) -> bool {
    let is_connected = matches!(node.state(), NodeState::Synced | NodeState::Lagging);
    let reported = node.last_report_time.map(system_time);
    node.node_id.starts_with("drill-") && is_connected && reported.is_some_and(|at| at >= since)
}

fn resident_mib(control: &mut ControlPlane) -> u64 {
    process::resident_kib(control.process().pid()) / 1024
}

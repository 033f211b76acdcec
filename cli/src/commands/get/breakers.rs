//! `gwctl get breakers`: which replica is out, since when, until when, and why.

use std::time::SystemTime;

use anstyle::Style;
use gateway_proto::{
    ServiceName,
    v1::{Breaker, BreakerState, ListBreakersResponse},
};

use super::overrides::override_terms;
use crate::{
    age::{self, NONE},
    control::{Control, Filter, Scope},
    error::Error,
    output::Listing,
    partial,
    table::{ALARM, CAUTION, Cell, GOOD, Table},
    watch::Feed,
};

/// Flags of `gwctl get breakers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Service; all of them when left out
    service: Option<ServiceName>,
    /// Also list closed breakers; JSON always has them
    #[arg(short, long)]
    all: bool,
    /// One row for each data plane, not merged
    #[arg(long)]
    per_node: bool,
    #[command(flatten)]
    filter: Filter,
}

impl Args {
    /// Where changes come from.
    pub(super) fn feed(&self) -> Feed {
        match self.filter == Filter::default() {
            true => Feed::Breakers { scope: Scope::from(self.service.as_ref()), per_node: self.per_node },
            // What every report moves on is no news.
            false => Feed::Lists { ignored: &["reportTime"] },
        }
    }

    /// Whether closed ones are listed: a filter says itself what it wants.
    fn wants_closed(&self) -> bool {
        self.all || self.filter != Filter::default()
    }
}

pub(super) async fn list(args: &Args, control: &Control, view: super::View) -> Result<Listing, Error> {
    let service = args.service.as_ref();
    if let Some(name) = service {
        // A service without reports and a service that does not exist look alike in the list of breakers.
        control.replicas(Some(name)).await?;
    }
    let filter = &args.filter.expression;
    let response = control.breakers_of(&Scope::from(service), args.per_node, filter).await?;
    let columns = View { per_node: args.per_node, wide: view.wide };
    let table = view.with_rows.then(|| table(response.breakers.iter(), SystemTime::now(), columns));
    let names = response.breakers.iter().map(name);
    let all = args.wants_closed();
    let is_shown: Vec<_> =
        response.breakers.iter().map(|b| all || b.state() != BreakerState::Closed).collect();
    let notes = match response.breakers.is_empty() && !filter.is_empty() {
        true => vec!["no breaker passes the filter".to_owned()],
        false => notes(&response, all),
    };
    Ok(Listing::new(&response, "breakers", names, table).showing(is_shown).with_notes(notes))
}

/// `orders/r-1`, and `orders/r-1@dp-1` as one data plane sees it.
pub(crate) fn name(breaker: &Breaker) -> String {
    let replica = format!("{}/{}", breaker.service, breaker.replica_id);
    if breaker.node_id.is_empty() { replica } else { format!("{replica}@{}", breaker.node_id) }
}

/// Which columns there are.
#[derive(Debug, Clone, Copy)]
struct View {
    per_node: bool,
    wide: bool,
}

fn table<'a>(breakers: impl Iterator<Item = &'a Breaker>, now: SystemTime, view: View) -> Table {
    let nodes = if view.per_node { "NODE" } else { "NODES" };
    let mut headings =
        vec!["SERVICE", "REPLICA", "STATE", nodes, "SINCE", "RETRY", "WHY", "TRIPS", "OVERRIDE"];
    if view.wide {
        headings.extend(["ADDRESS", "WINDOW", "ATTEMPTS", "LAST ERROR"]);
    }
    let mut table = Table::new(headings);
    for breaker in breakers {
        let nodes = if view.per_node {
            breaker.node_id.clone()
        } else {
            format!("{}/{}", breaker.open_node_count, breaker.node_count)
        };
        let mut row: Vec<Cell> = vec![
            (&breaker.service).into(),
            (&breaker.replica_id).into(),
            state_cell(breaker.state()),
            nodes.into(),
            age::since(now, breaker.state_change_time).into(),
            retry(breaker, now).into(),
            why(breaker).into(),
            breaker.trip_count.to_string().into(),
            breaker
                .active_override
                .as_ref()
                .map_or_else(|| NONE.to_owned(), |o| override_terms(o, now))
                .into(),
        ];
        if view.wide {
            row.extend([
                (&breaker.address).into(),
                window(breaker).into(),
                attempts(breaker).into(),
                breaker.last_errors.first().map_or(NONE, String::as_str).into(),
            ]);
        }
        table.push(row);
    }
    table
}

/// The state in its colour. What is closed is as it should be, so it is written small.
pub(crate) fn state_cell(state: BreakerState) -> Cell {
    let text = match state {
        BreakerState::Closed => "closed",
        BreakerState::HalfOpen => "half-open",
        BreakerState::Open => "OPEN",
        BreakerState::ForcedOpen => "FORCED-OPEN",
        BreakerState::ForcedClosed => "forced-closed",
        BreakerState::Unspecified => NONE,
    };
    Cell::styled(text, alarm(state))
}

/// The colour of a state.
pub(crate) fn alarm(state: BreakerState) -> Style {
    match state {
        BreakerState::Closed => GOOD,
        BreakerState::HalfOpen | BreakerState::ForcedClosed => CAUTION,
        BreakerState::Open | BreakerState::ForcedOpen => ALARM,
        BreakerState::Unspecified => Style::new(),
    }
}

/// When the next probe may go; only an open breaker waits for it.
pub(crate) fn retry(breaker: &Breaker, now: SystemTime) -> String {
    match breaker.state() {
        BreakerState::Open => age::until(now, breaker.retry_time),
        _ => NONE.into(),
    }
}

/// `50 req, 31 failed`, and `, 12 slow` where there are any.
pub(crate) fn window(breaker: &Breaker) -> String {
    let text = format!("{} req, {} failed", breaker.window_request_count, breaker.window_failure_count);
    match breaker.window_slow_count {
        0 => text,
        slow => format!("{text}, {slow} slow"),
    }
}

/// `1204, 31 failed`: since the data plane first saw the replica.
pub(crate) fn attempts(breaker: &Breaker) -> String {
    format!("{}, {} failed", breaker.attempt_count, breaker.failure_count)
}

/// Why it is as it is. How one that is closed has opened last is the past, and none of it.
pub(crate) fn why(breaker: &Breaker) -> String {
    match breaker.state() {
        BreakerState::HalfOpen if breaker.probe_success_target > 0 => {
            format!("probing, {} of {} passed", breaker.probe_success_count, breaker.probe_success_target)
        }
        BreakerState::ForcedOpen | BreakerState::ForcedClosed => "an operator's word".into(),
        BreakerState::Open if breaker.asked_regardless => format!("{}{REGARDLESS}", breaker.reason),
        BreakerState::Open | BreakerState::HalfOpen if !breaker.reason.is_empty() => breaker.reason.clone(),
        BreakerState::Closed if breaker.asked_regardless => format!("its checks fail{REGARDLESS}"),
        _ => NONE.into(),
    }
}

/// Said of a replica that is out and gets requests.
const REGARDLESS: &str = "; asked all the same, for its service fails open";

/// What the table does not show: why it is empty, what was left out, and whose rows may be old.
fn notes(response: &ListBreakersResponse, all: bool) -> Vec<String> {
    let count = response.breakers.len();
    let closed = response.breakers.iter().filter(|b| b.state() == BreakerState::Closed).count();
    let mut notes = Vec::new();
    if count == 0 {
        notes.push(
            "no data plane has reported a breaker: none is connected, or no replica is registered \
             (gwctl get nodes, gwctl get replicas)"
                .to_owned(),
        );
    } else if !all && closed == count {
        notes.push(match count {
            1 => "the only breaker is closed (use -a to list it)".to_owned(),
            _ => format!("all {count} breakers closed (use -a to list them)"),
        });
    } else if !all && closed > 0 {
        notes.push(format!("... {closed} closed (use -a)"));
    }
    notes.extend(partial::notes(&response.silent_control_planes));
    for node in &response.unreachable_node_ids {
        notes.push(format!("{node} has not reported lately: what it last said is shown"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{time::timestamp, v1::OverrideEntry};

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn breaker(replica: &str, state: BreakerState) -> Breaker {
        Breaker {
            service: "orders".into(),
            replica_id: replica.into(),
            address: "10.0.0.13:8080".into(),
            node_id: "dp-1".into(),
            state: state.into(),
            state_change_time: Some(timestamp(now() - Duration::from_secs(16))),
            retry_time: Some(timestamp(now() + Duration::from_secs(4))),
            reason: "consecutive_failures 5 >= 5: connect refused".into(),
            trip_count: 3,
            probe_success_count: 1,
            probe_success_target: 2,
            open_node_count: 1,
            node_count: 2,
            window_request_count: 50,
            window_failure_count: 31,
            last_errors: vec!["connect refused".into(), "503 from replica".into()],
            ..Default::default()
        }
    }

    fn plain(breakers: &[Breaker], view: View) -> String {
        anstream::adapter::strip_str(&table(breakers.iter(), now(), view).to_string()).to_string()
    }

    #[test]
    fn slow_responses_and_a_replica_that_is_asked_although_it_is_out_are_shown() {
        let breaker = Breaker {
            state: BreakerState::Open.into(),
            reason: "slow_ratio 0.80 >= 0.50 (16 of 20 took 800ms or more)".into(),
            window_request_count: 20,
            window_slow_count: 16,
            asked_regardless: true,
            ..Default::default()
        };
        assert_eq!(window(&breaker), "20 req, 0 failed, 16 slow");
        let closed = Breaker { state: BreakerState::Closed.into(), ..breaker.clone() };
        assert_eq!(why(&closed), "its checks fail; asked all the same, for its service fails open");
        assert_eq!(
            why(&breaker),
            "slow_ratio 0.80 >= 0.50 (16 of 20 took 800ms or more); asked all the same, for its service fails open"
        );
    }

    #[test]
    fn a_row_says_since_when_until_when_and_why() {
        let forced = OverrideEntry {
            author: "ana".into(),
            reason: "bad deploy".into(),
            expire_time: Some(timestamp(now() + Duration::from_secs(660))),
            ..Default::default()
        };
        let breakers = [
            breaker("r-c0fe", BreakerState::Open),
            breaker("r-91xq", BreakerState::HalfOpen),
            breaker("r-7f3k", BreakerState::Closed),
            Breaker { active_override: Some(forced), ..breaker("r-d4e5", BreakerState::ForcedOpen) },
        ];
        assert_eq!(
            plain(&breakers, View { per_node: false, wide: false }),
            "\
SERVICE   REPLICA   STATE         NODES   SINCE   RETRY   WHY                                            TRIPS   OVERRIDE
orders    r-c0fe    OPEN          1/2     16s     4s      consecutive_failures 5 >= 5: connect refused   3       -
orders    r-91xq    half-open     1/2     16s     -       probing, 1 of 2 passed                         3       -
orders    r-7f3k    closed        1/2     16s     -       -                                              3       -
orders    r-d4e5    FORCED-OPEN   1/2     16s     -       an operator's word                             3       ana, 11m left: \"bad deploy\"
"
        );
    }

    #[test]
    fn per_node_and_wide_name_the_data_plane_and_what_it_counted() {
        let mut open = breaker("r-1", BreakerState::Open);
        open.reason = "failure_ratio 0.62 >= 0.50 (31 of 50)".into();
        (open.attempt_count, open.failure_count) = (1204, 44);
        assert_eq!(
            plain(&[open], View { per_node: true, wide: true }),
            "\
SERVICE   REPLICA   STATE   NODE   SINCE   RETRY   WHY                                     TRIPS   OVERRIDE   ADDRESS          WINDOW              ATTEMPTS          LAST ERROR
orders    r-1       OPEN    dp-1   16s     4s      failure_ratio 0.62 >= 0.50 (31 of 50)   3       -          10.0.0.13:8080   50 req, 31 failed   1204, 44 failed   connect refused
"
        );
    }

    #[test]
    fn an_empty_table_never_stands_without_a_sentence() {
        let response = |breakers: Vec<Breaker>| ListBreakersResponse { breakers, ..Default::default() };
        let closed = breaker("r-1", BreakerState::Closed);
        assert!(notes(&response(vec![]), false)[0].starts_with("no data plane has reported a breaker"));
        assert_eq!(
            notes(&response(vec![closed.clone()]), false),
            ["the only breaker is closed (use -a to list it)"]
        );
        assert_eq!(
            notes(&response(vec![closed.clone(), closed.clone()]), false),
            ["all 2 breakers closed (use -a to list them)"]
        );
        let open = breaker("r-2", BreakerState::Open);
        assert_eq!(notes(&response(vec![closed.clone(), open]), false), ["... 1 closed (use -a)"]);
        assert!(notes(&response(vec![closed]), true).is_empty());
    }

    #[test]
    fn a_data_plane_that_went_silent_is_named() {
        let response = ListBreakersResponse {
            breakers: vec![breaker("r-1", BreakerState::Open)],
            unreachable_node_ids: vec!["dp-3".into()],
            ..Default::default()
        };
        assert_eq!(notes(&response, false), ["dp-3 has not reported lately: what it last said is shown"]);
    }
}

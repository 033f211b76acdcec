//! How far a change has come: on how many data planes, and which are missing.

use std::time::Duration;

use gateway_proto::{time::exact, v1::Rollout};

use crate::error::{Error, Exit};

/// Data planes that an error names.
const MAX_NAMED: usize = 10;

/// The flag of changes that data planes take on.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Wait {
    /// Longest wait for every data plane to take it on, 0s to 60s
    #[arg(long = "wait", default_value = "5s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) longest: Duration,
}

/// `2/2 data planes`; `None` when none is connected.
pub(crate) fn count(rollout: Option<&Rollout>) -> Option<String> {
    let Rollout { node_count, acked_node_count, .. } = rollout.filter(|rollout| rollout.node_count > 0)?;
    let planes = if *node_count == 1 { "data plane" } else { "data planes" };
    Some(format!("{acked_node_count}/{node_count} {planes}"))
}

/// `on 2/2 data planes`, or what there is to say when none is connected.
pub(crate) fn reach(rollout: Option<&Rollout>) -> String {
    let reached = match count(rollout) {
        Some(count) => format!("on {count}"),
        None => "on no data plane: none is connected".to_owned(),
    };
    let silent = rollout.map_or(&[][..], |rollout| &rollout.silent_control_planes);
    match silent {
        [] => reached,
        [one] => format!("{reached}, and nobody knows of those that follow {}", one.address),
        [_, ..] => {
            format!("{reached}, and nobody knows of those that follow {} other control planes", silent.len())
        }
    }
}

impl Wait {
    /// Whether the change has come everywhere; without a wait, nobody asked.
    ///
    /// # Errors
    /// [`Exit::Partial`] with the data planes that have not taken it on.
    pub(crate) fn check(self, rollout: Option<&Rollout>) -> Result<(), Error> {
        let Some(rollout) = rollout.filter(|rollout| rollout.acked_node_count < rollout.node_count) else {
            return Ok(());
        };
        if self.longest.is_zero() {
            return Ok(());
        }
        let missing = rollout.node_count - rollout.acked_node_count;
        let verb = if missing == 1 { "has" } else { "have" };
        let waited = exact(self.longest);
        let headline = format!(
            "done, but {missing} of {} data planes {verb} not taken it on within {waited}",
            rollout.node_count
        );
        Err(Error::new(Exit::Partial, headline)
            .because(names(rollout, missing))
            .hint("they will when they can: gwctl get nodes"))
    }
}

fn names(rollout: &Rollout, missing: i32) -> String {
    let named: Vec<_> = rollout.pending_node_ids.iter().take(MAX_NAMED).map(String::as_str).collect();
    let rest = usize::try_from(missing).unwrap_or(0).saturating_sub(named.len());
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::SilentControlPlane;

    use super::*;

    fn rollout(acked: i32, all: i32, pending: &[&str]) -> Rollout {
        let pending_node_ids = pending.iter().map(|id| (*id).to_owned()).collect();
        Rollout { node_count: all, acked_node_count: acked, pending_node_ids, ..Default::default() }
    }

    #[test]
    fn the_reach_counts_data_planes() {
        assert_eq!(reach(Some(&rollout(2, 2, &[]))), "on 2/2 data planes");
        assert_eq!(reach(Some(&rollout(0, 1, &["dp-1"]))), "on 0/1 data plane");
        assert_eq!(reach(Some(&rollout(0, 0, &[]))), "on no data plane: none is connected");
        assert_eq!(reach(None), "on no data plane: none is connected");
        let silent = SilentControlPlane { address: "b:7400".into(), ..Default::default() };
        let partial = Rollout { silent_control_planes: vec![silent], ..rollout(2, 2, &[]) };
        assert_eq!(reach(Some(&partial)), "on 2/2 data planes, and nobody knows of those that follow b:7400");
    }

    #[test]
    fn those_that_are_missing_after_the_wait_are_named() {
        let wait = Wait { longest: Duration::from_secs(5) };
        let error = wait.check(Some(&rollout(1, 2, &["dp-2"]))).unwrap_err();
        assert_eq!(error.exit, Exit::Partial);
        assert_eq!(error.headline, "done, but 1 of 2 data planes has not taken it on within 5s");
        assert_eq!(error.details, ["dp-2"]);
        let many: Vec<String> = (0..100).map(|index| format!("dp-{index}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = wait.check(Some(&rollout(0, 300, &many))).unwrap_err();
        assert!(error.details[0].ends_with("dp-9 and 290 more"), "{:?}", error.details);
    }

    #[test]
    fn what_has_come_everywhere_or_was_not_waited_for_is_no_error() {
        let wait = Wait { longest: Duration::from_secs(5) };
        assert_eq!(wait.check(Some(&rollout(2, 2, &[]))), Ok(()));
        assert_eq!(wait.check(None), Ok(()));
        let unasked = Wait { longest: Duration::ZERO };
        assert_eq!(unasked.check(Some(&rollout(0, 2, &["dp-1", "dp-2"]))), Ok(()));
    }
}

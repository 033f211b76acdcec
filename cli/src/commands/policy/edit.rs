//! `gwctl policy set`, `unset` and `delete`: they show what changes, and with `--dry-run` change nothing.

use std::{collections::BTreeSet, fmt::Write as _};

use gateway_proto::{
    time::duration,
    v1::{DeletePolicyRequest, Node, NodeState, Policy, Rollout, UpdatePolicyRequest, UpdatePolicyResponse},
};
use prost_types::FieldMask;

use super::{
    Scope,
    assignment::{Assignment, SettingPath},
    diff::{Change, Levels, changes, doubts, receipt, unified},
};
use crate::{
    authorship::Authorship,
    control::Control,
    error::{Error, Exit},
    output::{Format, Output},
    rollout::{Wait, reach},
};

/// Flags of `gwctl policy set`.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// Service, or '*' for all of them
    #[arg(value_name = "SERVICE")]
    scope: Scope,
    /// Setting and value, such as breaker.window=20s; docs/policy.md lists them all
    #[arg(required = true, value_name = "SETTING=VALUE")]
    assignments: Vec<Assignment>,
    #[command(flatten)]
    edit: Edit,
}

/// Flags of `gwctl policy unset`.
#[derive(Debug, clap::Args)]
pub(crate) struct Unset {
    /// Service, or '*' for all of them
    #[arg(value_name = "SERVICE")]
    scope: Scope,
    /// Setting, such as breaker.window, or a group of them, such as breaker
    #[arg(required = true, value_name = "SETTING")]
    paths: Vec<SettingPath>,
    #[command(flatten)]
    edit: Edit,
}

/// Flags of `gwctl policy delete`.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Service, or '*' for all of them
    #[arg(value_name = "SERVICE")]
    scope: Scope,
    /// Check everything, show what would change, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    authorship: Authorship,
}

/// Flags of changes.
#[derive(Debug, clap::Args)]
pub(crate) struct Edit {
    /// Check everything, show what would change, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    authorship: Authorship,
}

pub(super) async fn set(args: Set, control: &Control, output: &Output) -> Result<(), Error> {
    let mut policy = Policy { service: args.scope.to_string(), ..Default::default() };
    let mut paths = BTreeSet::new();
    for assignment in &args.assignments {
        let path = assignment.field.path();
        if !paths.insert(path.to_owned()) {
            return Err(Error::new(Exit::Usage, format!("{path} is given twice")));
        }
        assignment.write(&mut policy);
    }
    let paths = paths.into_iter().collect();
    update(&args.scope, policy, paths, true, args.edit, control, output).await
}

pub(super) async fn unset(args: Unset, control: &Control, output: &Output) -> Result<(), Error> {
    let policy = Policy { service: args.scope.to_string(), ..Default::default() };
    let paths = args.paths.into_iter().map(|SettingPath(path)| path).collect();
    update(&args.scope, policy, paths, false, args.edit, control, output).await
}

/// Sends a change, and shows what it means.
async fn update(
    scope: &Scope,
    policy: Policy,
    paths: Vec<String>,
    allow_missing: bool,
    edit: Edit,
    control: &Control,
    output: &Output,
) -> Result<(), Error> {
    let before = Before::look(scope, control).await?;
    let request = UpdatePolicyRequest {
        policy: Some(policy),
        update_mask: Some(FieldMask { paths }),
        validate_only: edit.dry_run,
        allow_missing,
        reason: edit.authorship.reason,
        author: edit.authorship.who.author,
        wait_timeout: Some(duration(edit.wait.longest)),
        ..Default::default()
    };
    let response = control.update_policy(request).await?;
    let after = before.levels_with(scope, response.policy.as_ref());
    let changes = changes(scope, &before.levels(scope), &after);
    show(scope, &before, &changes, &response, edit.dry_run, output)?;
    // Whom it would reach is a courtesy: what cannot be told is left out.
    if edit.dry_run
        && !changes.is_empty()
        && let Ok(listed) = control.nodes().await
    {
        output.note(would_reach(&listed.nodes));
    }
    doubts(&after).into_iter().for_each(|doubt| output.note(format_args!("warning: {doubt}")));
    if let Scope::Service(name) = scope
        && let Some(doubt) = control.doubt_about(name.as_str()).await
    {
        output.note(doubt);
    }
    edit.wait.check(response.rollout.as_ref())
}

pub(super) async fn delete(args: Delete, control: &Control, output: &Output) -> Result<(), Error> {
    let Delete { scope, dry_run, authorship: Authorship { reason, who } } = args;
    let before = Before::look(&scope, control).await?;
    let changes = changes(&scope, &before.levels(&scope), &before.levels_with(&scope, None));
    if dry_run {
        // To clear every setting is refused by the same rules, and can be tried.
        let request = UpdatePolicyRequest {
            policy: Some(Policy { service: scope.to_string(), ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["*".to_owned()] }),
            validate_only: true,
            reason,
            author: who.author,
            ..Default::default()
        };
        let response = control.update_policy(request).await?;
        return show(&scope, &before, &changes, &response, true, output);
    }
    let request =
        DeletePolicyRequest { service: scope.to_string(), reason, author: who.author, ..Default::default() };
    let response = control.delete_policy(request).await?;
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => output.data(format_args!("{scope}\n")),
        Format::Table | Format::Wide => output.data(format_args!(
            "{scope}: policy deleted   rev {}\n{}",
            response.revision,
            receipt(&changes)
        )),
    }
}

/// What was stored before a change.
#[derive(Debug)]
struct Before {
    star: Option<Policy>,
    own: Option<Policy>,
}

impl Before {
    async fn look(scope: &Scope, control: &Control) -> Result<Self, Error> {
        let own = control.policy(scope.as_str()).await?;
        let star = match scope {
            Scope::All => None,
            Scope::Service(_) => control.policy(Scope::All.as_str()).await?,
        };
        Ok(Self { star, own })
    }

    fn levels(&self, scope: &Scope) -> Levels {
        self.levels_with(scope, self.own.as_ref())
    }

    fn levels_with(&self, scope: &Scope, own: Option<&Policy>) -> Levels {
        Levels::new(scope, self.star.as_ref(), own)
    }

    /// `rev 1801`, or that there was none.
    fn version(&self) -> String {
        self.own.as_ref().map_or_else(|| "not stored".to_owned(), |policy| format!("rev {}", policy.revision))
    }
}

fn show(
    scope: &Scope,
    before: &Before,
    changes: &[Change],
    response: &UpdatePolicyResponse,
    dry_run: bool,
    output: &Output,
) -> Result<(), Error> {
    match output.format {
        Format::Json => output.message(response),
        Format::Name => output.data(format_args!("{scope}\n")),
        Format::Table | Format::Wide if dry_run => output.data(proposal(scope, &before.version(), changes)),
        Format::Table | Format::Wide => {
            let revision = response.policy.as_ref().map_or(0, |policy| policy.revision);
            output.data(done(scope, revision, changes, response.rollout.as_ref()))
        }
    }
}

fn proposal(scope: &Scope, version: &str, changes: &[Change]) -> String {
    if changes.is_empty() {
        return format!("{scope}: nothing would change ({version})\n");
    }
    format!("--- {scope} ({version})\n+++ {scope} (proposed)\n{}", unified(changes))
}

fn would_reach(nodes: &[Node]) -> String {
    match nodes.iter().filter(|node| node.state() != NodeState::Disconnected).count() {
        0 => "no data plane would get this: none is connected".to_owned(),
        1 => "1 data plane would get this".to_owned(),
        count => format!("{count} data planes would get this"),
    }
}

fn done(scope: &Scope, revision: i64, changes: &[Change], rollout: Option<&Rollout>) -> String {
    if changes.is_empty() {
        return format!("{scope}: nothing to change   rev {revision}\n");
    }
    let mut text = format!("{scope}: policy changed {}   rev {revision}\n", reach(rollout));
    text.push_str(&receipt(changes));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  see what holds: gwctl policy get {} --resolved", scope.quoted());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Scope, Vec<Change>) {
        let scope: Scope = "orders".parse().unwrap();
        let mut policy = Policy::default();
        for text in ["timeout.per_try=800ms", "breaker.window=20s"] {
            text.parse::<Assignment>().unwrap().write(&mut policy);
        }
        let before = Before { star: None, own: None };
        let after = before.levels_with(&scope, Some(&policy));
        let changes = changes(&scope, &before.levels(&scope), &after);
        (scope, changes)
    }

    #[test]
    fn a_dry_run_is_a_diff_against_what_is_stored() {
        let (scope, changes) = example();
        assert_eq!(
            proposal(&scope, "rev 1801", &changes),
            "\
--- orders (rev 1801)
+++ orders (proposed)
- timeout.per_try: 10s   (default)
+ timeout.per_try: 800ms
- breaker.window: 10s   (default)
+ breaker.window: 20s
"
        );
        assert_eq!(proposal(&scope, "rev 1801", &[]), "orders: nothing would change (rev 1801)\n");
    }

    #[test]
    fn a_dry_run_says_how_many_data_planes_would_get_it() {
        let node = |state: NodeState| Node { state: state.into(), ..Default::default() };
        let [synced, nacked, gone] =
            [NodeState::Synced, NodeState::Nacked, NodeState::Disconnected].map(node);
        assert_eq!(would_reach(&[synced.clone(), nacked, gone.clone()]), "2 data planes would get this");
        assert_eq!(would_reach(&[synced, gone.clone()]), "1 data plane would get this");
        assert_eq!(would_reach(&[gone]), "no data plane would get this: none is connected");
    }

    #[test]
    fn a_change_is_told_with_where_it_has_come() {
        let (scope, changes) = example();
        let rollout = Rollout { node_count: 2, acked_node_count: 2, ..Default::default() };
        assert_eq!(
            done(&scope, 1802, &changes, Some(&rollout)),
            "\
orders: policy changed on 2/2 data planes   rev 1802
  timeout.per_try   10s (default) -> 800ms
  breaker.window    10s (default) -> 20s
  see what holds: gwctl policy get orders --resolved
"
        );
        assert_eq!(done(&Scope::All, 1801, &[], Some(&rollout)), "*: nothing to change   rev 1801\n");
        assert!(done(&Scope::All, 3, &changes, None).ends_with("gwctl policy get '*' --resolved\n"));
    }
}

//! `gwctl policy validate`, `diff` and `apply`: the stored policies become those of files, all of them or none.

use std::collections::BTreeSet;

use gateway_proto::{
    time::duration,
    v1::{ApplyPoliciesRequest, ApplyPoliciesResponse, Policy, PolicyChange},
};
use serde_json::json;

use super::{
    Scope,
    diff::{Change, Levels, changes, doubts, receipt, unified},
    files::{Files, Written},
};
use crate::{
    authorship::Authorship,
    control::Control,
    error::{Error, Exit},
    output::{Format, Output},
    rollout::{Wait, reach},
};

/// Policies that one transaction changes at most.
const MAX_TOGETHER: usize = 100;

/// Flags of `gwctl policy validate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    files: Files,
}

/// Flags of `gwctl policy diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    files: Files,
    /// Stored policies that are in no file would be removed
    #[arg(long)]
    prune: bool,
}

/// Flags of `gwctl policy apply`.
#[derive(Debug, clap::Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    files: Files,
    /// Remove stored policies that are in no file
    #[arg(long)]
    prune: bool,
    /// Check everything, show what would change, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    authorship: Authorship,
}

/// What is to become of one stored policy.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    scope: Scope,
    /// As stored now.
    before: Option<Policy>,
    /// As it is to be; `None`: removed.
    after: Option<Policy>,
    changes: Vec<Change>,
}

/// Checks files without a control plane.
///
/// # Errors
/// A usage error with every fault.
pub(in crate::commands) fn validate(args: &Validate, output: &Output) -> Result<(), Error> {
    let written = args.files.read()?;
    for Written { scope, policy, place } in &written {
        let star = written.iter().find(|written| written.scope == Scope::All).map(|written| &written.policy);
        for doubt in doubts(&Levels::new(scope, star, Some(policy))) {
            output.note(format_args!("warning: {place}: {scope}: {doubt}"));
        }
    }
    tell_valid(&written, output)
}

fn tell_valid(written: &[Written], output: &Output) -> Result<(), Error> {
    let names = || written.iter().map(|written| written.scope.to_string());
    match output.format {
        Format::Json => output.value(&json!({"valid": true, "services": names().collect::<Vec<_>>()})),
        Format::Name => output.data(names().map(|name| format!("{name}\n")).collect::<String>()),
        Format::Table | Format::Wide => match written.len() {
            1 => output.data("1 policy is valid\n"),
            count => output.data(format_args!("{count} policies are valid\n")),
        },
    }
}

/// Shows what an apply would change.
///
/// # Errors
/// [`Exit::Failed`], told on stdout already, when something differs; what is wrong with the files is a usage error.
pub(super) async fn diff(args: Diff, control: &Control, output: &Output) -> Result<(), Error> {
    let steps = steps(args.files.read()?, args.prune, control).await?;
    match output.format {
        Format::Json => output.value(&to_json(&steps))?,
        Format::Name => {
            output.data(steps.iter().map(|step| format!("{}\n", step.scope)).collect::<String>())?
        }
        Format::Table | Format::Wide => output.data(steps.iter().map(Step::as_diff).collect::<String>())?,
    }
    if steps.is_empty() { Ok(()) } else { Err(Error::told(Exit::Failed)) }
}

/// Makes the stored policies those of the files, all of them in one transaction, or as few as that takes.
///
/// # Errors
/// What is wrong with the files or refused by the control plane, before anything is changed; [`Exit::Partial`] when it came to
/// an end between two transactions, or has not come to every data plane.
pub(super) async fn apply(args: Apply, control: &Control, output: &Output) -> Result<(), Error> {
    let steps = steps(args.files.read()?, args.prune, control).await?;
    let parts: Vec<_> = steps.chunks(MAX_TOGETHER).collect();
    // First all of it as a question, unless one answer is about all: a refusal must not leave a part of it behind.
    if args.dry_run || parts.len() > 1 {
        for part in &parts {
            ask(part, control, &args, true).await?;
        }
    }
    if args.dry_run {
        return match output.format {
            Format::Json => output.value(&to_json(&steps)),
            Format::Name => {
                output.data(steps.iter().map(|step| format!("{}\n", step.scope)).collect::<String>())
            }
            Format::Table | Format::Wide if steps.is_empty() => output.data("nothing would change\n"),
            Format::Table | Format::Wide => output.data(steps.iter().map(Step::as_diff).collect::<String>()),
        };
    }
    let (mut unfinished, mut done) = (None, 0);
    for part in &parts {
        let told = ask(part, control, &args, false).await.map_err(|mut error| {
            if done > 0 {
                error.exit = Exit::Partial;
                error.details.push(format!("{done} of {} policies were changed before that", steps.len()));
            }
            error.hint("gwctl policy diff shows what is left to do")
        })?;
        done += part.len();
        if output.format != Format::Json {
            output.data(part.iter().map(|step| step.told(&told, output.format)).collect::<String>())?;
        }
        unfinished = args.wait.check(told.rollout.as_ref()).err().or(unfinished);
    }
    match output.format {
        Format::Json => output.value(&to_json(&steps))?,
        Format::Table | Format::Wide if steps.is_empty() => output.data("nothing to change\n")?,
        _ => {}
    }
    unfinished.map_or(Ok(()), Err)
}

/// What has to change, that of `*` first.
async fn steps(written: Vec<Written>, prune: bool, control: &Control) -> Result<Vec<Step>, Error> {
    let stored = control.policies().await?.policies;
    let of = |name: &str| stored.iter().find(|policy| policy.service == name).cloned();
    let star_before = of("*");
    let in_files: BTreeSet<_> = written.iter().map(|written| written.scope.to_string()).collect();
    let star_after = match written.iter().find(|written| written.scope == Scope::All) {
        Some(written) => Some(written.policy.clone()),
        None if prune => None,
        None => star_before.clone(),
    };
    let mut wanted: Vec<(Scope, Option<Policy>)> =
        written.into_iter().map(|written| (written.scope, Some(written.policy))).collect();
    if prune {
        let gone = stored.iter().filter(|policy| !in_files.contains(&policy.service));
        wanted.extend(gone.filter_map(|policy| Some((policy.service.parse().ok()?, None))));
    }
    let step = |(scope, after): (Scope, Option<Policy>)| {
        let before = of(scope.as_str());
        // Of a service, only what it says itself: what comes from "*" is told there.
        let level =
            |star: &Option<Policy>, own: &Option<Policy>| Levels::new(&scope, star.as_ref(), own.as_ref());
        let changes = changes(&scope, &level(&star_after, &before), &level(&star_after, &after));
        let is_new = before.is_some() != after.is_some();
        (is_new || !changes.is_empty()).then_some(Step { scope, before, after, changes })
    };
    Ok(wanted.into_iter().filter_map(step).collect())
}

/// Asks for some steps at once, or, with `validate_only`, whether they would be taken.
async fn ask(
    steps: &[Step],
    control: &Control,
    args: &Apply,
    validate_only: bool,
) -> Result<ApplyPoliciesResponse, Error> {
    let Authorship { reason, who } = args.authorship.clone();
    let request = ApplyPoliciesRequest {
        changes: steps.iter().map(Step::to_wire).collect(),
        validate_only,
        reason,
        author: who.author,
        wait_timeout: (!validate_only).then(|| duration(args.wait.longest)),
    };
    control.apply_policies(request).await.map_err(|mut error| {
        error.details.iter_mut().for_each(|detail| *detail = named(detail, steps));
        error
    })
}

/// Names the policy of a setting at fault as the files do, in the place of the request.
fn named(detail: &str, steps: &[Step]) -> String {
    let parts = detail.strip_prefix("changes[").and_then(|rest| rest.split_once("].policy."));
    let step = parts.and_then(|(index, rest)| Some((steps.get(index.parse::<usize>().ok()?)?, rest)));
    step.map_or_else(|| detail.to_owned(), |(step, rest)| format!("{}: {rest}", step.scope))
}

impl Step {
    fn to_wire(&self) -> PolicyChange {
        let nothing = || Policy { service: self.scope.to_string(), ..Default::default() };
        PolicyChange {
            policy: Some(self.after.clone().unwrap_or_else(nothing)),
            remove: self.after.is_none(),
            etag: self.before.as_ref().map(|policy| policy.etag.clone()).unwrap_or_default(),
            // One that somebody makes meanwhile is not overwritten unseen, as one that he changes is not.
            must_be_missing: self.before.is_none(),
        }
    }

    /// What was done, for people.
    fn told(&self, response: &ApplyPoliciesResponse, format: Format) -> String {
        let (scope, revision) = (&self.scope, response.revision);
        if format == Format::Name {
            return format!("{scope}\n");
        }
        let done = match self.after {
            Some(_) => format!("changed {}", reach(response.rollout.as_ref())),
            None => "deleted".to_owned(),
        };
        format!("{scope}: policy {done}   rev {revision}\n{}", receipt(&self.changes))
    }

    fn as_diff(&self) -> String {
        let scope = &self.scope;
        let before = match &self.before {
            Some(policy) => format!("--- {scope} (rev {})", policy.revision),
            None => format!("--- {scope} (not stored)"),
        };
        let after = if self.after.is_some() { "in the files" } else { "removed" };
        format!("{before}\n+++ {scope} ({after})\n{}", unified(&self.changes))
    }
}

fn to_json(steps: &[Step]) -> serde_json::Value {
    let step = |step: &Step| {
        let before = step.before.as_ref().map(gateway_proto::json::to_json);
        let after = step.after.as_ref().map(gateway_proto::json::to_json);
        json!({"service": step.scope.to_string(), "before": before, "after": after})
    };
    json!({"changes": steps.iter().map(step).collect::<Vec<_>>()})
}

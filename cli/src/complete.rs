//! Words that a shell completes: commands and flags by the definition of the command line, and names by what is registered now.
//!
//! The script that `gwctl completion` prints has the shell ask this program at each TAB. What a value is called in the usage says
//! which names it may have. Nobody waits long for them, and nothing is ever said but names: a shell is in the middle of a line. No
//! token is shown where others could read it, as there is nobody to warn.

use std::{collections::BTreeSet, ffi::OsStr, time::Duration};

use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _};
use clap_complete::{
    CompletionCandidate, Shell,
    engine::ArgValueCompleter,
    env::{CompleteEnv, Shells},
};

use crate::{
    cli::{Cli, Global},
    config::{self, Contexts},
    control::{Control, Query, quoted},
    endpoint::{Endpoint, Origin},
    error::Error,
};

/// What tells this program that a shell asks. `COMPLETE` would be everybody's.
const VARIABLE: &str = "GWCTL_COMPLETE";
/// Nobody waits longer for a word.
const DEADLINE: Duration = Duration::from_millis(500);
/// More names than this help nobody to choose.
const MAX_NAMES: usize = 500;

/// Answers a shell and ends the process, if one asks.
pub(crate) fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// The script that makes a shell ask.
///
/// # Panics
/// When the library writes none for a shell of its own.
pub(crate) fn script(shell: Shell) -> String {
    let shells = Shells::builtins();
    let completer = shells.completer(&shell.to_string()).expect("the library knows its own shells");
    let mut script = Vec::new();
    let written = completer.write_registration(VARIABLE, "gwctl", "gwctl", "gwctl", &mut script);
    written.expect("memory takes everything");
    String::from_utf8_lossy(&script).into_owned()
}

/// The command line, whose values know their names.
fn command() -> Command {
    // These come last of all, where they cannot be hidden like the others.
    let root =
        Cli::command().disable_help_subcommand(true).disable_help_flag(true).disable_version_flag(true);
    naming(root)
}

fn naming(command: Command) -> Command {
    command.mut_args(completing).mut_subcommands(naming)
}

fn completing(arg: Arg) -> Arg {
    // What is hidden is offered where nothing else is: whoever wants a flag begins with a dash.
    let arg = if arg.get_long().is_some() { arg.hide(true) } else { arg };
    match Names::of(&arg) {
        Some(names) => arg.add(ArgValueCompleter::new(move |typed: &OsStr| names.completing(typed))),
        None => arg,
    }
}

/// Names of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Services,
    /// `SERVICE/REPLICA`.
    Replicas,
    /// Either.
    ServicesAndReplicas,
    Nodes,
    Policies,
    Routes,
    Overrides,
    Contexts,
}

impl Names {
    /// Which an argument may have, by what its value is called.
    fn of(arg: &Arg) -> Option<Self> {
        if arg.get_id() == "context" {
            return Some(Self::Contexts);
        }
        match arg.get_value_names()? {
            [name] => Some(match name.as_str() {
                "SERVICE" => Self::Services,
                "SERVICE/REPLICA" => Self::Replicas,
                "SERVICE[/REPLICA]" | "SERVICE/REPLICA | SERVICE" => Self::ServicesAndReplicas,
                "NODE" => Self::Nodes,
                "POLICY" => Self::Policies,
                "ROUTE" => Self::Routes,
                "OVERRIDE" => Self::Overrides,
                "CONTEXT" => Self::Contexts,
                _ => return None,
            }),
            _ => None,
        }
    }

    /// Those that begin with what was typed; none when they cannot be had at once.
    fn completing(self, typed: &OsStr) -> Vec<CompletionCandidate> {
        let Some(typed) = typed.to_str() else { return Vec::new() };
        let names = match self {
            Self::Contexts => contexts(),
            _ => self.asked(typed).unwrap_or_default(),
        };
        fitting(names, typed).into_iter().map(CompletionCandidate::new).collect()
    }

    fn asked(self, typed: &str) -> Option<Vec<String>> {
        let (global, origin) = settings()?;
        let asking = async {
            let control = Control::connect(&global, origin).await?;
            self.list(typed, &control).await
        };
        in_time(asking)?.ok()
    }

    async fn list(self, typed: &str, control: &Control) -> Result<Vec<String>, Error> {
        let beginning = |field: &str, text: &str| format!("{field} = {}", quoted(&format!("{text}*")));
        Ok(match self {
            Self::Services => {
                let query = Query { filter: beginning("service", typed), ..Query::default() };
                control.services_of(&query).await?.services.into_iter().map(|one| one.service).collect()
            }
            Self::Replicas => {
                let filter = match typed.split_once('/') {
                    Some((service, id)) => {
                        format!("service = {} AND {}", quoted(service), beginning("replica_id", id))
                    }
                    None => beginning("service", typed),
                };
                let query = Query { filter, ..Query::default() };
                let replicas = control.replicas_of(None, &query).await?.replicas;
                replicas.into_iter().map(|one| format!("{}/{}", one.service, one.replica_id)).collect()
            }
            Self::ServicesAndReplicas => {
                let mut names = Box::pin(Self::Replicas.list(typed, control)).await?;
                if !typed.contains('/') {
                    names.extend(Box::pin(Self::Services.list(typed, control)).await?);
                }
                names
            }
            Self::Nodes => control.nodes().await?.nodes.into_iter().map(|one| one.node_id).collect(),
            Self::Policies => control.policies().await?.policies.into_iter().map(|one| one.service).collect(),
            Self::Routes => control.routes().await?.routes.into_iter().map(|one| one.name).collect(),
            Self::Overrides => {
                let entries = control.overrides("").await?.overrides;
                entries.into_iter().map(|one| one.override_id).collect()
            }
            Self::Contexts => contexts(),
        })
    }
}

/// What comes of it by the deadline.
fn in_time<T>(asking: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(DEADLINE, asking).await });
    // Dropped, it would wait for the system's resolver, which takes as long as it likes.
    runtime.shutdown_background();
    answer.ok()
}

/// Those that begin so, in their order, each once; and none that a shell would not take for one word.
fn fitting(names: Vec<String>, typed: &str) -> BTreeSet<String> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_./@:".contains(char);
    let fits = |name: &String| name.starts_with(typed) && name.chars().all(is_plain);
    names.into_iter().filter(fits).take(MAX_NAMES).collect()
}

fn contexts() -> Vec<String> {
    let contexts = Contexts::load(config::path().as_deref()).unwrap_or_default();
    contexts.contexts.into_keys().collect()
}

/// How the control plane is reached that the line so far, the environment or the context names.
fn settings() -> Option<(Global, Origin)> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    settings_of(words.collect())
}

fn settings_of(words: Vec<std::ffi::OsString>) -> Option<(Global, Origin)> {
    // The line is not at its end: what is missing in it, or wrong, is nobody's business yet.
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(words).ok()?;
    let mut global = Global::from_arg_matches(&matches).ok()?;
    let origin = global.settle(&matches).ok()?;
    if !global.access.insecure && Endpoint::parse(&global.endpoint, origin).ok()?.is_overheard() {
        global.access.token_file = None;
    }
    (global.timeout, global.quiet, global.verbose, global.wait_for_ready) = (DEADLINE, true, 0, false);
    Some((global, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<std::ffi::OsString> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn what_a_value_is_called_says_which_names_it_may_have() {
        let named = |line: &str, id: &str| {
            let mut command = Cli::command();
            for word in line.split_whitespace() {
                command = command.find_subcommand(word).unwrap_or_else(|| panic!("{word}")).clone();
            }
            let arg =
                command.get_arguments().find(|arg| arg.get_id() == id).unwrap_or_else(|| panic!("{id}"));
            Names::of(arg)
        };
        for (line, id, names) in [
            ("describe service", "service", Some(Names::Services)),
            ("describe replica", "target", Some(Names::Replicas)),
            ("describe node", "node", Some(Names::Nodes)),
            ("describe policy", "scope", Some(Names::Policies)),
            ("describe route", "name", Some(Names::Routes)),
            ("describe override", "id", Some(Names::Overrides)),
            ("describe event", "id", None),
            ("get replicas", "service", Some(Names::Services)),
            ("explain", "topic", Some(Names::ServicesAndReplicas)),
            ("explain", "node", Some(Names::Nodes)),
            ("drain", "target", Some(Names::Replicas)),
            ("breaker open", "named", Some(Names::ServicesAndReplicas)),
            ("policy set", "scope", Some(Names::Services)),
            ("route delete", "name", Some(Names::Routes)),
            ("end-override", "id", Some(Names::Overrides)),
            ("config use", "name", Some(Names::Contexts)),
            ("register", "address", None),
        ] {
            assert_eq!(named(line, id), names, "{line} {id}");
        }
    }

    #[test]
    fn names_that_a_shell_would_take_apart_are_left_out() {
        let names = ["orders", "or ders", "$(reboot)", "orders/r-1", "users", "*"].map(str::to_owned);
        assert_eq!(Vec::from_iter(fitting(names.into(), "or")), ["orders", "orders/r-1"]);
    }

    #[test]
    fn a_line_that_is_not_at_its_end_says_where_the_control_plane_is() {
        let (global, origin) =
            settings_of(words("gwctl describe replica -e http://10.0.0.1:1 or")).expect("it is read");
        assert_eq!(global.endpoint, "http://10.0.0.1:1");
        assert_eq!(origin, Origin::Flag);
        let (global, _) = settings_of(words("gwctl -e http://10.0.0.2:1 drain --wait")).expect("it is read");
        assert_eq!(global.endpoint, "http://10.0.0.2:1");
        assert!(global.quiet, "a shell is in the middle of a line");
    }

    #[test]
    fn a_token_is_shown_only_where_nobody_else_can_read_it() {
        let token_file = |endpoint: &str| {
            let line = format!("gwctl describe replica -e {endpoint} --token-file /run/token or");
            settings_of(words(&line)).expect("it is read").0.access.token_file
        };
        for endpoint in ["http://127.0.0.1:1", "https://control.example:1", "unix:///run/gw.sock"] {
            assert_eq!(token_file(endpoint), Some("/run/token".into()), "{endpoint}");
        }
        for endpoint in ["http://control.example:1", "https://control.example:1,http://10.0.0.1:1"] {
            assert_eq!(token_file(endpoint), None, "{endpoint}");
        }
        let told = "http://control.example:1 --insecure";
        assert_eq!(token_file(told), Some("/run/token".into()), "{told}");
    }

    #[test]
    fn nobody_waits_for_what_cannot_be_called_off_such_as_the_resolver() {
        let (_held, never) = std::sync::mpsc::channel::<()>();
        let long = Duration::from_secs(20);
        let began = std::time::Instant::now();
        let resolved = in_time(async { tokio::task::spawn_blocking(move || never.recv_timeout(long)).await });
        assert!(resolved.is_none() && began.elapsed() < long, "{:?}", began.elapsed());
        assert_eq!(in_time(async { 7 }), Some(7));
    }

    #[test]
    fn every_shell_is_told_to_ask_this_program() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = script(shell);
            assert!(script.contains(VARIABLE) && script.contains("gwctl"), "{shell}: {script}");
        }
    }
}

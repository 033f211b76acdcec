//! `gwctl config`: named control planes, which of them is in use, and where each setting of this run is from.

use clap::{ArgMatches, Subcommand, parser::ValueSource};
use serde_json::json;

use crate::{
    config::{self, Context, Contexts},
    endpoint::{Endpoint, Origin},
    error::{Error, Exit},
    output::{Format, Output},
    table::{Cell, GOOD, Table},
};

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the settings that hold for this run
    View {
        /// And where each is from: flag, environment, context or default
        #[arg(long)]
        show_origin: bool,
    },
    /// List the contexts
    Contexts,
    /// Make a context the current one
    Use {
        /// Its name
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
    /// Set endpoint, output, timeout, ca-file, cert-file, key-file, token-file or insecure in the context in use, or in that of
    /// -c, which is made if need be
    Set {
        /// endpoint, output, timeout, insecure, or one of the files
        key: String,
        /// Its value; left out, the setting is cleared
        value: Option<String>,
    },
    /// Remove a context
    Delete {
        /// Its name
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
}

/// A setting of this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) origin: String,
}

/// Where a value of the command line came from: a flag, a variable, or neither.
pub(crate) fn origin(matches: &ArgMatches, id: &str, variable: &str) -> Option<String> {
    match matches.value_source(id) {
        Some(ValueSource::CommandLine) => Some(format!("--{id}")),
        Some(ValueSource::EnvVariable) => Some(variable.to_owned()),
        _ => None,
    }
}

/// Looks at the configuration, or changes its file.
///
/// # Errors
/// An unknown context or setting, a value that could not be used, and a file that cannot be read or written.
pub(crate) fn run(
    verb: Verb,
    asked: Option<&str>,
    settings: &[Setting],
    output: &Output,
) -> Result<(), Error> {
    let path = config::path();
    let mut contexts = Contexts::load(path.as_deref())?;
    match verb {
        Verb::View { show_origin } => view(settings, show_origin, output),
        Verb::Contexts => list(&contexts, asked, output),
        Verb::Use { name } => {
            if !contexts.contexts.contains_key(&name) {
                return Err(contexts.unknown(&name));
            }
            contexts.current_context = Some(name.clone());
            contexts.save(path.as_deref())?;
            output.data(format_args!("{name} is in use\n"))
        }
        Verb::Set { key, value } => {
            let name = set(&mut contexts, asked, &key, value)?;
            contexts.save(path.as_deref())?;
            output.data(format_args!("{key} of {name} set\n"))
        }
        Verb::Delete { name } => {
            if contexts.contexts.remove(&name).is_none() {
                return Err(contexts.unknown(&name));
            }
            contexts.current_context = contexts.current_context.filter(|current| *current != name);
            contexts.save(path.as_deref())?;
            output.data(format_args!("{name} deleted\n"))
        }
    }
}

fn view(settings: &[Setting], show_origin: bool, output: &Output) -> Result<(), Error> {
    match output.format {
        Format::Json => {
            let settings: serde_json::Map<_, _> = settings
                .iter()
                .map(|setting| {
                    (setting.key.to_owned(), json!({"value": setting.value, "origin": setting.origin}))
                })
                .collect();
            output.value(&settings.into())
        }
        Format::Name => {
            output.data(settings.iter().map(|setting| format!("{}\n", setting.key)).collect::<String>())
        }
        Format::Table | Format::Wide => {
            let mut headings = vec!["SETTING", "VALUE"];
            headings.extend(show_origin.then_some("FROM"));
            let mut table = Table::new(headings);
            for setting in settings {
                let mut row: Vec<Cell> = vec![setting.key.into(), (&setting.value).into()];
                row.extend(show_origin.then(|| Cell::from(&setting.origin)));
                table.push(row);
            }
            output.table(table)
        }
    }
}

fn list(contexts: &Contexts, asked: Option<&str>, output: &Output) -> Result<(), Error> {
    let in_use = asked.or(contexts.current_context.as_deref());
    match output.format {
        Format::Json => output.value(&json!({
            "currentContext": contexts.current_context,
            "contexts": contexts.contexts.iter().map(|(name, context)| json!({
                "name": name, "endpoint": context.endpoint, "output": context.output, "timeout": context.timeout,
            })).collect::<Vec<_>>(),
        })),
        Format::Name => output.data(contexts.contexts.keys().map(|name| format!("{name}\n")).collect::<String>()),
        Format::Table | Format::Wide => {
            let mut table = Table::new(["IN USE", "NAME", "ENDPOINT", "OUTPUT", "TIMEOUT"]);
            for (name, context) in &contexts.contexts {
                let value = |value: &Option<String>| Cell::from(value.as_deref().unwrap_or(crate::age::NONE));
                let mark = if Some(name.as_str()) == in_use { Cell::styled("*", GOOD) } else { "".into() };
                table.push(vec![
                    mark,
                    name.into(),
                    value(&context.endpoint),
                    value(&context.output),
                    value(&context.timeout),
                ]);
            }
            if table.is_empty() {
                output.note("no context: make one with  gwctl config set -c NAME endpoint URL");
            }
            output.table(table)
        }
    }
}

/// Sets or clears a setting; yields the context's name.
fn set(
    contexts: &mut Contexts,
    asked: Option<&str>,
    key: &str,
    value: Option<String>,
) -> Result<String, Error> {
    if let Some(value) = &value {
        check(key, value)?;
    }
    let name = asked.or(contexts.current_context.as_deref()).map(str::to_owned).ok_or_else(|| {
        Error::new(Exit::Usage, "no context is in use")
            .hint(format!("name one: gwctl config set -c NAME {key} …"))
    })?;
    let context = contexts.contexts.entry(name.clone()).or_default();
    *context.setting(key).ok_or_else(|| unknown_key(key))? = value;
    // The first one is meant to be used.
    contexts.current_context.get_or_insert_with(|| name.clone());
    Ok(name)
}

/// A value that no run could use is refused when it is set.
fn check(key: &str, value: &str) -> Result<(), Error> {
    let refused = |why: String| Error::new(Exit::Usage, format!("{key} \"{value}\" {why}"));
    match key {
        // Nobody has to be told where it is from.
        "endpoint" => Endpoint::parse(value, Origin::Context)
            .map(drop)
            .map_err(|error| Error { details: Vec::new(), ..error }),
        "output" => value.parse::<crate::output::Chosen>().map(drop).map_err(refused),
        "timeout" => {
            crate::cli::parse_timeout(value).map(drop).map_err(|why| refused(format!("is no timeout: {why}")))
        }
        "insecure" => {
            value.parse::<bool>().map(drop).map_err(|_| refused("is neither true nor false".into()))
        }
        "ca-file" | "cert-file" | "key-file" | "token-file" if value.starts_with('/') => Ok(()),
        "ca-file" | "cert-file" | "key-file" | "token-file" => {
            Err(refused("is no absolute path: a context is used from anywhere".into()))
        }
        _ => Err(unknown_key(key)),
    }
}

fn unknown_key(key: &str) -> Error {
    let mut error = Error::new(Exit::Usage, format!("there is no setting \"{key}\""))
        .because(format!("settings: {}", Context::KEYS.join(", ")));
    if let Some(nearest) = gateway_proto::nearest::nearest(key, Context::KEYS) {
        error.hints.push(format!("did you mean \"{nearest}\"?"));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_makes_its_context_and_the_first_one_is_used() {
        let mut contexts = Contexts::default();
        let error = set(&mut contexts, None, "endpoint", Some("http://a:1".into())).unwrap_err();
        assert_eq!(error.headline, "no context is in use");
        assert_eq!(set(&mut contexts, Some("a"), "endpoint", Some("http://a:1".into())), Ok("a".into()));
        assert_eq!(set(&mut contexts, Some("b"), "output", Some("yaml".into())), Ok("b".into()));
        assert_eq!(contexts.current_context.as_deref(), Some("a"));
        assert_eq!(set(&mut contexts, None, "timeout", Some("5s".into())), Ok("a".into()));
        assert_eq!(contexts.contexts["a"].timeout.as_deref(), Some("5s"));
        assert_eq!(set(&mut contexts, None, "token-file", Some("/etc/ci.token".into())), Ok("a".into()));
        assert_eq!(contexts.contexts["a"].file("token-file").map(String::as_str), Some("/etc/ci.token"));
        assert_eq!(set(&mut contexts, None, "timeout", None), Ok("a".into()));
        assert_eq!(contexts.contexts["a"].timeout, None);
    }

    #[test]
    fn what_no_run_could_use_is_refused_when_it_is_set() {
        let mut contexts = Contexts::default();
        for (key, value, why) in [
            ("endpoint", "a:1", "has no scheme"),
            ("output", "xml", "is one of table"),
            ("timeout", "soon", "is no timeout"),
            ("token-file", "ci.token", "is no absolute path"),
            ("insecure", "yes", "is neither true nor false"),
            ("endpont", "x", "there is no setting"),
        ] {
            let error = set(&mut contexts, Some("a"), key, Some(value.into())).unwrap_err();
            assert!(error.headline.contains(why), "{error:?}");
        }
        assert!(contexts.contexts.is_empty(), "nothing is half done");
    }
}

//! `gwctl completion` and `gwctl docs`: what is written about the command line is written by it.

mod flags;

use std::{fmt::Write as _, path::PathBuf};

use clap::{Arg, Command, CommandFactory as _, Subcommand};
use clap_complete::Shell;

use crate::{
    cli::Cli,
    complete,
    error::{Error, Exit},
    output::Output,
};

/// What to write.
#[derive(Debug, Subcommand)]
pub(crate) enum Kind {
    /// A man page for each command
    Man {
        /// Folder for them, which is made if need be
        directory: PathBuf,
    },
    /// The reference in Markdown, to stdout
    Markdown,
    /// That of both planes' flags, likewise
    Flags,
}

/// Prints the script that completes commands, flags and names in a shell.
///
/// # Errors
/// When stdout cannot be written.
pub(crate) fn completion(shell: Shell, output: &Output) -> Result<(), Error> {
    output.data(complete::script(shell))
}

/// Writes documents.
///
/// # Errors
/// When one cannot be written.
pub(crate) fn run(kind: &Kind, output: &Output) -> Result<(), Error> {
    match kind {
        Kind::Markdown => output.data(reference()),
        Kind::Flags => output.data(flags::reference()),
        Kind::Man { directory } => {
            let failed =
                |error| Error::new(Exit::Failed, format!("cannot write to {}: {error}", directory.display()));
            std::fs::create_dir_all(directory).map_err(failed)?;
            clap_mangen::generate_to(visible(Cli::command()), directory).map_err(failed)?;
            output.note(format_args!("written to {}", directory.display()));
            Ok(())
        }
    }
}

/// Without what is for gwctl itself.
fn visible(mut command: Command) -> Command {
    command = command.disable_help_subcommand(true);
    let hidden: Vec<_> = command
        .get_subcommands()
        .filter(|sub| sub.is_hide_set())
        .map(|sub| sub.get_name().to_owned())
        .collect();
    // There is no way to take a command away: they are hidden, and that is looked at again below.
    for name in hidden {
        command = command.mut_subcommand(name, |sub| sub.hide(true));
    }
    command
}

/// All commands with their flags, as Markdown.
fn reference() -> String {
    let mut command = visible(Cli::command());
    command.build();
    let mut text = String::from(
        "# gwctl\n\n\
        <!-- Written by `gwctl docs markdown` from the definition of the command line; UPDATE_DOCS=1 cargo test -p gwctl writes it \
        anew. -->\n\n",
    );
    text.push_str(INTRODUCTION);
    text.push_str("\n## Options of every command\n\n");
    flags(&command, true, &mut text);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        section(sub, "gwctl", &mut text);
    }
    text
}

const INTRODUCTION: &str = "\
How people and scripts look into the gateway and act on it. Data goes to stdout, everything else to stderr.

A replica is named `SERVICE/REPLICA`; a unique beginning of its id is enough. Nouns are singular, plural or short: `gwctl get svc`.

Settings are taken from the flag, else from the environment, else from the context in use (`gwctl config`), else from the default;
`gwctl config view --show-origin` tells. The file of contexts is `gateway/gwctl.toml` below `XDG_CONFIG_HOME` (or `~/.config`);
`GWCTL_CONFIG` names another.

Tables may change between versions; JSON (the API's own messages), `-o name`, the names of columns and the exit codes may not.

| exit code | meaning |
|---|---|
| 0 | done; `check`: nothing failed; `wait`: it is so; `policy diff`: no difference |
| 1 | it failed; `check`: something failed; `policy diff`: there is a difference |
| 2 | usage, or an argument that the control plane refuses |
| 3 | not found |
| 4 | conflict: the state of things does not allow it |
| 5 | the control plane was not reached, or did not answer in time |
| 6 | not allowed |
| 7 | waited in vain |
| 8 | done in part: some of several, or not on every data plane in time |
| 125 to 127, 128+N | `run`: gwctl's own failure, no such program or none that can be run, killed by signal N; else the program's own |
";

fn section(command: &Command, parent: &str, text: &mut String) {
    let name = format!("{parent} {}", command.get_name());
    let _ = writeln!(text, "\n## {name}\n");
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(text, "{}.\n", about.trim_end_matches('.'));
    let aliases: Vec<_> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        let _ = writeln!(text, "Also {}.\n", aliases.join(", "));
    }
    let subs: Vec<_> = command.get_subcommands().filter(|sub| !sub.is_hide_set()).collect();
    if subs.is_empty() {
        let usage = command.clone().bin_name(&name).render_usage().to_string();
        let _ = writeln!(text, "    {}\n", usage.trim_start_matches("Usage: ").replace('\n', " "));
    }
    flags(command, false, text);
    if let Some(help) = command.get_after_help() {
        let _ = writeln!(text, "\n{help}");
    }
    for sub in subs {
        section(sub, &name, text);
    }
}

/// The arguments of a command, those of every command apart.
fn flags(command: &Command, global: bool, text: &mut String) {
    let is_listed = |arg: &&Arg| {
        !arg.is_hide_set()
            && !["help", "version"].contains(&arg.get_id().as_str())
            && arg.is_global_set() == (global || is_of_lists(arg))
            && (global || !is_global_of_root(arg))
    };
    for arg in command.get_arguments().filter(is_listed) {
        let _ = writeln!(text, "* {}: {}", shown(arg), help(arg));
    }
}

/// Flags that hold for every command stand once, at the top.
fn is_global_of_root(arg: &Arg) -> bool {
    arg.is_global_set() && !is_of_lists(arg)
}

fn is_of_lists(arg: &Arg) -> bool {
    ["columns", "sort_by", "watch"].contains(&arg.get_id().as_str()) && arg.is_global_set()
}

fn shown(arg: &Arg) -> String {
    let names = arg
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    let short = arg.get_short().map(|short| format!("`-{short}`, "));
    match arg.get_long() {
        Some(long) => {
            let takes_value = arg.get_action().takes_values();
            let value = if takes_value { format!(" {names}") } else { String::new() };
            format!("{}`--{long}{value}`", short.unwrap_or_default())
        }
        None => format!("`{names}`"),
    }
}

fn help(arg: &Arg) -> String {
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let takes_value = arg.get_action().takes_values();
    if takes_value && !arg.is_hide_default_value_set() && !defaults.is_empty() {
        let _ = write!(help, " (default `{}`)", defaults.join(","));
    }
    let values: Vec<_> = arg
        .get_possible_values()
        .iter()
        .filter(|value| takes_value && !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() && values.len() < 10 {
        let _ = write!(help, " [{}]", values.join(", "));
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(help, " [`{}`]", variable.to_string_lossy());
    }
    help.replace('\n', " ").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_reference_is_what_the_command_line_says() {
        assert_written("gwctl.md", &reference());
    }

    #[test]
    fn the_reference_of_flags_is_what_both_planes_say() {
        assert_written("flags.md", &flags::reference());
    }

    /// That a document of the repository is what the code says now; with `UPDATE_DOCS` it is written first.
    fn assert_written(name: &str, reference: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, reference).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == reference,
            "docs/{name} is stale: UPDATE_DOCS=1 cargo test -p gwctl the_reference"
        );
    }

    #[test]
    fn every_command_has_a_man_page() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output { quiet: true, ..Output::plain(crate::output::Format::Table) };
        run(&Kind::Man { directory: folder.path().into() }, &output).unwrap();
        for page in ["gwctl.1", "gwctl-get-replicas.1", "gwctl-run.1", "gwctl-policy-apply.1"] {
            let text = std::fs::read_to_string(folder.path().join(page)).unwrap_or_else(|_| panic!("{page}"));
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
    }
}

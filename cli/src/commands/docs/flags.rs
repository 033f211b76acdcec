//! The reference of the flags of both planes, written by their own definitions.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use super::{help, shown};

const INTRODUCTION: &str = "\
# Flags and variables

<!-- Written by `gwctl docs flags` from the definitions of the command lines; UPDATE_DOCS=1 cargo test -p gwctl writes it anew. -->

Every flag of a plane has a variable of the environment, given in brackets; the flag wins. There is no file of settings: units, manifests
and compose files hold variables ([deploy](../deploy)). Lists are separated by commas, or the flag is repeated.

`--check` reads all of it, certificates and static files among it, prints what would run as one line of JSON, and exits: 0, or 2
with a message that names the flag. It disturbs nothing that runs. A plane that has started prints one line of JSON with its addresses.

Under a service manager that sets `NOTIFY_SOCKET` and `WATCHDOG_USEC`, such as systemd, both planes say when they are ready, reload, end,
and that they are well. Sockets that come by `LISTEN_FDS` are taken in place of addresses: of the control plane one, whatever its name; of a
data plane those that are named `http` (`--listen`), `https` (`--tls-listen`, which must be given all the same) and `admin` (`--admin-listen`).

The flags of `gwctl` are in [gwctl.md](gwctl.md).
";

/// Both planes' flags, as Markdown.
pub(super) fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    section(control_plane::Program::command(), &mut text);
    section(data_plane::Program::command(), &mut text);
    text
}

fn section(mut command: Command, text: &mut String) {
    command.build();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n## {}\n", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(text, "{}.\n", about.trim_end_matches('.'));
    let is_told = |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    let mut args: Vec<_> = command.get_arguments().filter(is_told).collect();
    // Those of a heading stand together, the others come first.
    let mut headings: Vec<Option<&str>> = vec![None];
    for arg in &args {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    args.sort_by_key(|arg| headings.iter().position(|of| *of == arg.get_help_heading()));
    let mut last = None;
    for arg in args {
        let heading = arg.get_help_heading();
        if heading != last {
            let _ = writeln!(text, "\n### {} of {}\n", heading.unwrap_or_default(), command.get_name());
            last = heading;
        }
        let _ = writeln!(text, "* {}: {}", shown(arg), help(arg));
    }
}

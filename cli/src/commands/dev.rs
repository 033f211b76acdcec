//! `gwctl dev`: the whole gateway in one process, for development.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use gateway_runtime::{Shutdown, logs::LogArgs, ready};

use crate::{
    endpoint,
    error::Error,
    output::Output,
    planes::{Addresses, Planes, Ports},
};

/// Flags of `gwctl dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    ports: Ports,
    /// Keep the registry in this folder; left out, it lives in a temporary one that is removed on exit
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    logs: LogArgs,
}

/// Runs both planes until SIGTERM or SIGINT.
///
/// # Errors
/// When a port is taken or the folder cannot be used, and when a plane fails later.
pub(crate) async fn run(args: Args, output: &Output) -> Result<(), Error> {
    let _logs = args.logs.init()?;
    let shutdown = Shutdown::on_signals()?;
    let planes = Planes::start(&args.ports, args.data_dir.as_deref(), None).await.map_err(Ports::explain)?;
    let addresses = planes.addresses();
    ready::announce(&[
        ("proxy", addresses.proxy.to_string()),
        ("control", addresses.control.to_string()),
        ("admin", addresses.admin.to_string()),
    ]);
    banner(&addresses, args.data_dir.as_deref()).lines().for_each(|line| output.note(line));
    Ok(planes.run(shutdown).await?)
}

fn banner(addresses: &Addresses, data_dir: Option<&Path>) -> String {
    let gwctl = invocation(addresses.control);
    format!(
        "\
{places}
  Try it in another terminal:
    python3 -m http.server 9000 --bind 127.0.0.1 &
    {gwctl} register hello 127.0.0.1:9000
    curl http://{proxy}/hello/
    {gwctl} get replicas

Logs follow. Ctrl-C stops.",
        places = places(addresses, data_dir),
        proxy = addresses.proxy,
    )
}

/// The first lines of every banner: what runs where, and for how long.
pub(super) fn places(addresses: &Addresses, data_dir: Option<&Path>) -> String {
    let Addresses { proxy, control, admin } = addresses;
    let data = match data_dir {
        Some(path) => format!("data in {}", path.display()),
        None => "data in a temporary folder (removed on exit)".to_owned(),
    };
    let column = |text: String| format!("{text:<33}");
    format!(
        "\
gateway {version}  development mode: loopback only, no TLS, {data}

  HTTP proxy      {}/SERVICE/...  or  SERVICE.localhost:{}
  Dashboard       http://{control}/
  Control (gRPC)  {}grpcurl -plaintext {control} list
  Admin, metrics  http://{admin}/metrics
",
        column(format!("http://{proxy}")),
        proxy.port(),
        column(control.to_string()),
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// This program, with the endpoint when it is not the default: a line can be pasted as it stands, in any folder.
pub(super) fn invocation(control: SocketAddr) -> String {
    let called = std::env::args().next().unwrap_or_else(|| "gwctl".to_owned());
    // A name without a folder was found on the path, where the next shell finds it too.
    let program = match std::env::current_exe() {
        Ok(path) if called.contains('/') => quoted(&path.display().to_string()),
        _ => called,
    };
    let url = format!("http://{control}");
    if url == endpoint::DEFAULT { program } else { format!("{program} -e {url}") }
}

/// A word of a shell's command line.
fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "/._-+@".contains(char);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_says_what_runs_where_and_what_to_paste() {
        let place = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses { proxy: place(8180), control: place(7500), admin: place(7501) };
        let text = banner(&addresses, Some(Path::new("/var/lib/gateway")));
        assert!(text.contains("no TLS, data in /var/lib/gateway\n"), "{text}");
        assert!(text.contains("  HTTP proxy      http://127.0.0.1:8180            /SERVICE/..."), "{text}");
        assert!(text.contains("SERVICE.localhost:8180\n"), "{text}");
        assert!(
            text.contains("127.0.0.1:7500                   grpcurl -plaintext 127.0.0.1:7500 list\n"),
            "{text}"
        );
        assert!(text.contains(" -e http://127.0.0.1:7500 register hello 127.0.0.1:9000\n"), "{text}");
    }

    #[test]
    fn the_default_endpoint_needs_no_flag_and_the_program_no_folder_to_be_found_from() {
        let line = invocation(SocketAddr::from(([127, 0, 0, 1], 7400)));
        assert!(!line.contains(" -e "), "{line}");
        assert!(Path::new(&line).is_absolute(), "{line}");
    }

    #[test]
    fn a_folder_with_spaces_and_quotes_can_be_pasted() {
        assert_eq!(quoted("/usr/local/bin/gwctl"), "/usr/local/bin/gwctl");
        assert_eq!(quoted("/it's mine/gwctl"), r"'/it'\''s mine/gwctl'");
    }
}

//! The command line: verbs, nouns and flags, and nothing that they do.

use std::{io::Write as _, time::Duration};

use clap::{
    ArgAction, ArgMatches, Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind,
    parser::ValueSource,
};

use crate::{
    commands::{
        auth, breaker, call, check, config, demo, demo_replica, deregister, describe, dev, docs, drain,
        end_override, events, explain, fault, get, policy, register, release_guard, route, run, store, top,
        undrain, validate, version, wait,
    },
    config::Contexts,
    endpoint::{self, Origin},
    error::{Error, Exit},
    link::Access,
    output::{Chosen, Color, Output, Shown},
};

/// Looks into the gateway, acts on it, and tries it out.
///
/// Exit codes: 0 done, 1 failed, 2 usage or invalid argument, 3 not found, 4 conflict, 5 control plane unreachable,
/// 6 not allowed, 7 waited in vain, 8 done in part.
#[derive(Debug, Parser)]
#[command(name = "gwctl", version, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Control plane to talk to, as http://HOST:PORT, https://HOST:PORT or unix:///PATH; of several of one registry, between commas,
    /// the first that answers
    #[arg(short, long, global = true, env = "GWCTL_ENDPOINT", default_value = endpoint::DEFAULT, value_name = "URL,…")]
    pub(crate) endpoint: String,
    /// Context of the configuration file, see gwctl config
    #[arg(short, long, global = true, env = "GWCTL_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// What data on stdout looks like: table, wide (more columns), json (the API's own message), yaml, ndjson (a line for each
    /// item), name, csv (lists only), short (check only) or jsonpath=PATH, e.g. jsonpath={.revision}
    #[arg(short, long, global = true, env = "GWCTL_OUTPUT", default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Chosen,
    /// Longest wait for each call, such as 500ms, 10s or 1m
    #[arg(long, global = true, env = "GWCTL_TIMEOUT", default_value = "10s", value_name = "DURATION",
          value_parser = parse_timeout)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) access: Access,
    /// Whether somebody set it for this run.
    #[arg(skip)]
    pub(crate) timeout_is_given: bool,
    /// Wait for a control plane that is not there yet, at most as long as for a call
    #[arg(long, global = true)]
    pub(crate) wait_for_ready: bool,
    /// What holds for this run, and where it is from.
    #[arg(skip)]
    pub(crate) settings: Vec<config::Setting>,
    /// Leave the headings of tables out
    #[arg(long, global = true)]
    pub(crate) no_headers: bool,
    /// When to use colour; NO_COLOR or GWCTL_NO_COLOR turn auto off
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN")]
    pub(crate) color: Color,
    /// Print no notes and warnings; errors remain
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print each call and how long it took to stderr; twice, -vv, each connection, too
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Never ask: fail where a question would come
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
    /// Write long text as it is; without it, a terminal gets it by GWCTL_PAGER, else PAGER, else less
    #[arg(long, global = true)]
    pub(crate) no_pager: bool,
}

pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(timeout) if timeout.is_zero() => Err("no call takes no time".into()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

impl Global {
    /// How this run prints.
    pub(crate) fn output(&self) -> Output {
        let Chosen { format, document, csv, short } = self.output.clone();
        let may_page = !self.no_pager;
        Output {
            format,
            document,
            csv,
            short,
            headings: !self.no_headers,
            quiet: self.quiet,
            may_page,
            pages: false,
        }
    }
}

impl Cli {
    /// As [`Global::settle`], for a command that goes by it.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn settle(&mut self, matches: &ArgMatches) -> Result<Origin, Error> {
        self.global.timeout_is_given = matches.value_source("timeout") == Some(ValueSource::CommandLine);
        // What mends or shows the file must work without it, and so must what needs no control plane.
        let needs_none =
            matches!(self.command, Command::Completion { .. } | Command::Docs(_) | Command::RunOrphans(_))
                || matches!(&self.command, Command::Version(args) if args.client);
        let mends =
            matches!(&self.command, Command::Config(verb) if !matches!(verb, config::Verb::View { .. }));
        let is_server = self.command.is_server() || matches!(self.command, Command::DemoReplica(_));
        if needs_none || mends || is_server {
            return Ok(Origin::of(matches));
        }
        self.global.settle(matches)
    }
}

impl Global {
    /// Takes the values of the context in use for what neither a flag nor the environment says; yields where the endpoint is
    /// from. To be called once.
    ///
    /// # Errors
    /// A file of contexts that cannot be read, a context that does not exist, and a value in it that cannot be used.
    pub(crate) fn settle(&mut self, matches: &ArgMatches) -> Result<Origin, Error> {
        let said = |id: &str, variable: &str| config::origin(matches, id, variable);
        let mut origin = Origin::of(matches);
        let contexts = Contexts::load(crate::config::path().as_deref())?;
        let in_use = contexts.in_use(self.context.as_deref())?;
        let mut settings = Vec::new();
        let mut settle = |key: &'static str, variable: &str, value: Option<&String>| {
            let (origin, value) = match (said(key, variable), value.zip(in_use)) {
                (Some(said), _) => (said, None),
                (None, Some((value, (name, _)))) => (format!("context {name}"), Some(value.clone())),
                (None, None) => ("default".to_owned(), None),
            };
            settings.push(config::Setting { key, value: String::new(), origin });
            value
        };
        let context = in_use.map(|(_, context)| context);
        if let Some(url) = settle("endpoint", "GWCTL_ENDPOINT", context.and_then(|c| c.endpoint.as_ref())) {
            self.endpoint = url;
            origin = Origin::Context;
        }
        let refused = |key: &str, why: String| {
            Error::new(Exit::Usage, format!("{key} of the context in use {why}"))
                .hint("see  gwctl config contexts")
        };
        let mut output = "table".to_owned();
        if let Some(text) = settle("output", "GWCTL_OUTPUT", context.and_then(|c| c.output.as_ref())) {
            self.output = text.parse().map_err(|why| refused("output", why))?;
            output = text;
        } else if let Some(text) = matches.get_raw("output").and_then(|mut raw| raw.next_back()) {
            output = text.to_string_lossy().into_owned();
        }
        if let Some(text) = settle("timeout", "GWCTL_TIMEOUT", context.and_then(|c| c.timeout.as_ref())) {
            self.timeout = parse_timeout(&text).map_err(|why| refused("timeout", why))?;
        }
        let timeout = humantime::format_duration(self.timeout).to_string();
        let mut values = vec![self.endpoint.clone(), output, timeout];
        let access = &mut self.access;
        for (key, variable, file) in [
            ("ca-file", "GWCTL_CA_FILE", &mut access.ca_file),
            ("cert-file", "GWCTL_CERT_FILE", &mut access.cert_file),
            ("key-file", "GWCTL_KEY_FILE", &mut access.key_file),
            ("token-file", "GWCTL_TOKEN_FILE", &mut access.token_file),
        ] {
            if let Some(path) = settle(key, variable, context.and_then(|c| c.file(key))) {
                *file = Some(path.into());
            }
            values.push(file.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string()));
        }
        if let Some(text) = settle("insecure", "GWCTL_INSECURE", context.and_then(|c| c.insecure.as_ref())) {
            access.insecure =
                text.parse().map_err(|_| refused("insecure", "is neither true nor false".into()))?;
        }
        values.push(access.insecure.to_string());
        for (setting, value) in settings.iter_mut().zip(values) {
            setting.value = value;
        }
        let name = in_use.map_or("-", |(name, _)| name).to_owned();
        let chosen = said("context", "GWCTL_CONTEXT").unwrap_or_else(|| match in_use {
            Some(_) => "current-context of the file".to_owned(),
            None => "default".to_owned(),
        });
        settings.insert(0, config::Setting { key: "context", value: name, origin: chosen });
        self.settings = settings;
        Ok(origin)
    }
}

/// Says what is wrong with a command line, and ends the process. Who left a command out is shown which there are, and who left a
/// value out what is told of the command behind its flags: where values are from, and an example.
pub(crate) fn refuse(error: &clap::Error) -> ! {
    let mut command = meant(std::env::args().skip(1));
    let text = match error.kind() {
        ErrorKind::MissingSubcommand => command.render_help().ansi().to_string(),
        ErrorKind::MissingRequiredArgument => {
            let advice = command.get_after_help().map(|advice| format!("\n{}\n", advice.ansi()));
            format!("{}{}", error.render().ansi(), advice.unwrap_or_default())
        }
        _ => error.exit(),
    };
    // Nobody can be told that stderr is closed; the exit code remains.
    let _ = write!(anstream::stderr(), "{text}");
    std::process::exit(2)
}

/// The command that these arguments come to.
fn meant(args: impl Iterator<Item = String>) -> clap::Command {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut command = &root;
    for arg in args {
        command = command.find_subcommand(&arg).unwrap_or(command);
    }
    command.clone()
}

const COMPLETION: &str = "\
For bash, put  source <(gwctl completion bash)  into ~/.bashrc; for zsh  source <(gwctl completion zsh)  into ~/.zshrc, below
compinit; for fish  gwctl completion fish | source  into ~/.config/fish/config.fish. Names of services, replicas, data planes,
policies, routes and overrides are asked for at each TAB, of the control plane that the line, the environment or the context names;
where none answers within half a second, there are none.";

const DESCRIBED: &str = "\
Which there are:  gwctl get services, replicas, breakers -a, nodes, policies, routes, overrides, faults;  gwctl events -o name
For example:      gwctl describe service orders
                  gwctl describe replica orders/r-1
                  gwctl describe node dp-1";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List services, replicas, breakers, data planes, policies, overrides or events
    Get(get::Args),
    /// Show everything about one thing: what it is, why, what happened to it, and what to do next
    #[command(subcommand, after_help = DESCRIBED)]
    Describe(describe::Noun),
    /// Say why a replica gets requests or does not: where, since when, until when, and what to do
    Explain(explain::Args),
    /// List past events, or watch them happen
    Events {
        #[command(flatten)]
        args: events::Args,
        #[command(flatten)]
        shown: Shown,
    },
    /// Who gets how many requests and how they fare, worst first, as it happens
    Top(top::Args),
    /// Register a replica
    Register(register::Args),
    /// Remove a replica
    Deregister(deregister::Args),
    /// Stop new requests to a replica, and tell when nothing is in flight
    Drain(drain::Args),
    /// Return a drained replica to service
    Undrain(undrain::Args),
    /// Force breakers open or closed for a time, reset them, or hand them back to their rules
    #[command(subcommand)]
    Breaker(breaker::Verb),
    /// Show and change how requests are treated, for one service or for all
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Inject faults into requests on purpose, for a time, and end that
    #[command(subcommand)]
    Fault(fault::Verb),
    /// Show and change explicit routes: which service requests are for, by host, path, methods and headers
    #[command(subcommand)]
    Route(route::Verb),
    /// Let go the replicas that the guard against mass removal holds as LOST
    ReleaseGuard(release_guard::Args),
    /// End an override before its time
    EndOverride(end_override::Args),
    /// Make tokens, check the auth file, and see who you are to the control plane
    #[command(subcommand)]
    Auth(auth::Verb),
    /// Check the control plane, the data planes and the services
    Check(check::Args),
    /// Wait until a service is ready, a replica drained or gone, a breaker closed, or every data plane in sync
    Wait(wait::Args),
    /// Check a data plane's static file by the code that reads it in earnest
    Validate(validate::Args),
    /// Copy all that is registered to where nothing is, or move it from one store to another
    #[command(subcommand)]
    Store(store::Verb),
    /// Call a service through a data plane, as a client does, and again when that fails
    Call(call::Args),
    /// Keep a program running, and registered while it is ready
    Run(Box<run::Args>),
    /// Ends the programs of a supervisor that was killed
    #[command(hide = true)]
    RunOrphans(crate::run::orphans::Args),
    /// Run both planes in one process, for development
    Dev(dev::Args),
    /// Run both planes, three replicas that can fail, and a gentle load
    Demo(demo::Args),
    /// One replica of the demo service
    #[command(hide = true)]
    DemoReplica(demo_replica::Args),
    /// Named control planes, which of them is in use, and where each setting is from
    #[command(subcommand)]
    Config(config::Verb),
    /// Print a script that completes commands, flags and names of what is registered in a shell
    #[command(after_help = COMPLETION)]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages, or the reference
    #[command(subcommand)]
    Docs(docs::Kind),
    /// Print the versions of gwctl, the control planes and the data planes
    Version(version::Args),
}

impl Command {
    /// Whether it runs both planes, which want more than one thread.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Dev(_) | Self::Demo(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn who_leaves_the_command_out_is_shown_which_there_are_and_none_that_is_hidden() {
        let shown = |line: &str| meant(line.split_whitespace().map(str::to_owned)).render_help().to_string();
        let all = shown("-o json");
        assert!(all.contains("Usage: gwctl") && all.contains("explain") && all.contains("demo"), "{all}");
        assert!(!all.contains("run-orphans") && !all.contains("demo-replica"), "{all}");
        let nouns = shown("-q get");
        assert!(nouns.contains("Usage: gwctl get") && nouns.contains("breakers"), "{nouns}");
        assert!(shown("get svc").contains("Usage: gwctl get services"));
    }

    #[test]
    fn whatever_can_be_described_says_where_its_names_are_from_and_shows_a_line_that_is_right() {
        let describe = meant(["describe".to_owned()].into_iter());
        for noun in std::iter::once(&describe).chain(describe.get_subcommands()) {
            let advice = noun.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(advice.starts_with("Which there are:  gwctl "), "{}: {advice}", noun.get_name());
            let (_, examples) = advice.split_once("For example: ").expect("an example");
            for example in examples.lines().map(str::trim) {
                assert!(example.starts_with("gwctl describe ") && parse(example).is_ok(), "{example}");
            }
        }
    }

    #[test]
    fn nouns_are_singular_plural_or_short() {
        for line in [
            "gwctl get service",
            "gwctl get svc",
            "gwctl get replicas orders",
            "gwctl get r",
            "gwctl get services --filter open_breaker_count>0 --order-by service",
            "gwctl get replicas orders --filter health=LOST",
            "gwctl events --filter severity>=WARNING",
            "gwctl get rep",
            "gwctl get br orders -a",
            "gwctl get dp -w --columns node,state --sort-by node:desc",
            "gwctl get replicas -l team=web --watch=append -o csv",
            "gwctl get -w services -o jsonpath={.services[*].service}",
            "gwctl get node",
            "gwctl get ev",
            "gwctl describe replica orders/r-1",
            "gwctl describe r orders/r-1",
            "gwctl describe svc orders",
            "gwctl describe br orders/r-1 --node dp-1",
            "gwctl describe dp dp-1",
            "gwctl describe pol *",
            "gwctl describe rt api",
            "gwctl describe ovr breaker/orders/r-1",
            "gwctl describe faults orders",
            "gwctl describe ev 7 --no-pager",
            "gwctl get br --filter state=OPEN",
            "gwctl get dp --filter state!=SYNCED -w",
            "gwctl get pol --filter updated_by=ana",
            "gwctl explain orders",
            "gwctl explain orders/r-1 --node dp-1 -o json",
            "gwctl explain orders/r-1 --data-plane http://127.0.0.1:7401",
            "gwctl events -w --service orders",
            "gwctl register orders 127.0.0.1:80 --label team=web --weight 10 --ttl 30s --dry-run",
            "gwctl deregister orders/r-1 -y --reason gone",
            "gwctl dev --port-offset 100 --data-dir /tmp/x",
            "gwctl demo --random-ports --rate 100 --duration 30s",
            "gwctl drain orders/r-1 --reason update --drain-timeout 10s --allow-last --wait 60s --author ana",
            "gwctl undrain orders/r-1",
            "gwctl breaker open orders/r-1 --reason broken --ttl 5m --node dp-1",
            "gwctl breaker open orders/r-1 --reason broken --for 5m",
            "gwctl breaker close orders --all --reason broken --dry-run",
            "gwctl breaker reset orders --all --wait 0s",
            "gwctl breaker auto orders/r-1",
            "gwctl policy get",
            "gwctl policy get * --resolved",
            "gwctl policy set orders breaker.window=20s guard.enabled=false --dry-run",
            "gwctl policy unset * breaker drain_timeout --reason calm",
            "gwctl policy delete orders --dry-run",
            "gwctl policy what-if orders breaker.consecutive_failure_count=3 breaker.window=20s",
            "gwctl get policies",
            "gwctl fault set orders --delay 200ms --ratio 0.1 --for 10m --reason chaos",
            "gwctl fault set * --abort 503 --header x-chaos=1 --for 1h --reason chaos --dry-run",
            "gwctl fault set orders --delay 1s --reset --for 10m --reason chaos --author ana --wait 0s",
            "gwctl fault clear orders",
            "gwctl get faults",
            "gwctl get fault",
            "gwctl get routes",
            "gwctl route get",
            "gwctl route get shop",
            "gwctl route set shop service=orders host=*.example path_prefix=/api methods=GET,HEAD headers=x:1 --dry-run",
            "gwctl route delete shop --reason gone",
            "gwctl get overrides orders",
            "gwctl release-guard orders --ttl 1h",
            "gwctl end-override guard/orders",
            "gwctl check --fail-on warn --wait 30s -o short --data-plane http://127.0.0.1:7401",
            "gwctl check --pre --listen 0.0.0.0:80,127.0.0.1:7400 --data-dir /var/lib/gateway",
            "gwctl deregister orders/r-1 -y --block 10m",
            "gwctl run --service orders -- python3 app.py -e x --port $PORT",
            "gwctl run --service orders --port 8080 --health http:/health --no-restart -- app",
            "gwctl run --service orders --replicas 3 --max-restarts 5 --stop-signal QUIT -- app",
            "gwctl wait orders --for ready --count 2 --timeout 1m",
            "gwctl wait orders/r-1 --for breaker=half-open",
            "gwctl wait --synced",
            "gwctl call orders/hello?x=1 --proxy http://127.0.0.1:8081 -X POST -H x-user:ana -d {} --count 3",
            "gwctl call orders --auto-retry --retry-delay 1s --retry-limit 2 --timeout 5s -o json",
            "gwctl validate services.toml --allow-fault-injection",
            "gwctl policy validate -f policies -f -",
            "gwctl policy diff -f policies --prune",
            "gwctl policy apply -f policies --dry-run --reason rollout",
            "gwctl config view --show-origin",
            "gwctl config set -c prod endpoint http://h:1",
            "gwctl config use prod",
            "gwctl completion zsh",
            "gwctl docs man target/man",
            "gwctl get services --wait-for-ready -c prod",
            "gwctl auth token ci --role replica --role reader --service orders --address 10.0.0.0/8 --expires-in 90d",
            "gwctl auth check auth.toml",
            "gwctl auth whoami --token-file ci.token --ca-file ca.pem -e https://h:1",
            "gwctl top",
            "gwctl top orders --interval 2s --once -o json",
            "gwctl version",
            "gwctl -vv get services",
            "gwctl version --client -o json",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn bad_values_are_refused_with_the_rule_they_break() {
        for (line, why) in [
            ("gwctl get replicas Orders", "may hold only a-z"),
            ("gwctl describe replica orders", "is written SERVICE/REPLICA"),
            ("gwctl explain Orders", "may hold only a-z"),
            ("gwctl explain orders/", "is written SERVICE/REPLICA"),
            ("gwctl explain orders/r-1 --node dp-1 --data-plane http://h:1", "cannot be used with"),
            ("gwctl register orders 127.0.0.1", "has no port"),
            ("gwctl register orders 127.0.0.1:80 --label team", "is written KEY=VALUE"),
            ("gwctl register orders 127.0.0.1:80 --weight 0", "not in 1..=1000"),
            ("gwctl register orders 127.0.0.1:80 --ttl 5s --permanent", "cannot be used with"),
            ("gwctl drain orders", "is written SERVICE/REPLICA"),
            ("gwctl drain orders/r-1 --wait 1m --dry-run", "cannot be used with"),
            ("gwctl breaker open orders/r-1", "--reason <TEXT>"),
            ("gwctl breaker auto Orders", "may hold only a-z"),
            ("gwctl policy set orders", "<SETTING=VALUE>"),
            ("gwctl policy set orders breaker.windw=20s", "did you mean \"breaker.window\"?"),
            ("gwctl policy unset orders", "<SETTING>"),
            ("gwctl policy what-if orders", "<SETTING=VALUE>"),
            ("gwctl policy what-if orders breaker.windw=20s", "did you mean \"breaker.window\"?"),
            ("gwctl fault set orders --abort 503 --reason chaos", "--for <DURATION>"),
            ("gwctl fault set orders --abort 503 --for 10m", "--reason <TEXT>"),
            (
                "gwctl fault set orders --for 10m --reason chaos",
                "--delay <DURATION>|--abort <STATUS>|--reset",
            ),
            ("gwctl fault set orders --abort 503 --reset --for 10m --reason chaos", "cannot be used with"),
            ("gwctl policy get orders/r-1", "may hold only a-z"),
            ("gwctl route set shop", "<FIELD=VALUE>"),
            ("gwctl route set shop hots=a", "did you mean \"host\"?"),
            ("gwctl route get Shop", "may hold only a-z"),
            ("gwctl check --listen 127.0.0.1:80", "--pre"),
            ("gwctl check --pre --wait 3s", "cannot be used with"),
            ("gwctl wait", "<SERVICE[/REPLICA]>"),
            ("gwctl wait orders --for red", "is ready, drained, deleted"),
            ("gwctl policy apply", "--file <PATH>"),
            ("gwctl run --service orders", "<COMMAND>"),
            ("gwctl run --service orders --port 0 -- app", "is \"auto\" or a number in 1..=65535"),
            ("gwctl run --service orders --health udp -- app", "is tcp, http:/PATH"),
            ("gwctl run --service orders --replicas 101 -- app", "not in 1..=100"),
            ("gwctl run --service orders --no-restart --restart always -- app", "cannot be used with"),
            ("gwctl demo --rate 0", "not in 1..=1000"),
            ("gwctl dev --random-ports --port-offset 1", "cannot be used with"),
            ("gwctl get services -o xml", "is one of table, wide, json"),
            ("gwctl get services -o jsonpath={.a[}", "has no index before"),
            ("gwctl get services --timeout soon", "expected number"),
            ("gwctl get services --timeout 0s", "no call takes no time"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn the_origin_of_the_endpoint_is_known_wherever_the_flag_stands() {
        let origin = |line: &str| {
            let matches = Cli::command().get_matches_from(line.split_whitespace());
            Origin::of(&matches)
        };
        assert_eq!(origin("gwctl -e http://h:1 get services"), Origin::Flag);
        assert_eq!(origin("gwctl get services -e http://h:1"), Origin::Flag);
        assert_eq!(origin("gwctl get services"), Origin::Default);
    }

    /// The words behind `gwctl` in what is set as code within a line, as far as they may be names of commands.
    fn commands_in(document: &str) -> impl Iterator<Item = Vec<&str>> {
        let lines = document.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("gwctl "));
        lines.map(|line| {
            let words = line.split_whitespace();
            words
                .take_while(|word| {
                    word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
                })
                .collect()
        })
    }

    #[test]
    fn every_command_that_the_documents_name_is_there() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files: Vec<_> =
            std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
        files.push(root.join("README.md"));
        let (cli, mut count) = (<Cli as clap::CommandFactory>::command(), 0);
        for file in files {
            let document = std::fs::read_to_string(&file).unwrap();
            for words in commands_in(&document) {
                let mut command = &cli;
                for word in &words {
                    if !command.has_subcommands() {
                        break;
                    }
                    let found = command.find_subcommand(word);
                    command =
                        found.unwrap_or_else(|| panic!("{}: gwctl {}", file.display(), words.join(" ")));
                }
                count += 1;
            }
        }
        assert!(count > 50, "only {count} were found");
    }
}
